"""Moments that chance alone makes too seldom. A seed may play one of them when all else is over, in calm, on acceptors
that are new: what went before stays as it is."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from troth.core.register import changes
from troth.core.register.messages import Accept, Accepted, Ballot, Prepare, ReplyMessage, Scan
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.task import Outcome, Send, Task
from troth.errors import OutcomeUnknown, invariant
from troth.simulate.registers.oracle import append
from troth.simulate.registers.stage import AcceptorNode, ClientNode
from troth.simulate.rng import stream

if TYPE_CHECKING:
    from troth.simulate.registers.run import Simulation

FAR_AHEAD = 1000
"""So many rounds above all others is a ballot that nobody overtakes by chance."""
RIVAL_DELAYS = 2000
"""In so many message delays whoever meets a rival that never pauses has got its way."""


class Moments:
    """The moment that a seed plays, if any."""

    def __init__(self, simulation: "Simulation") -> None:
        self._sim = simulation
        self._rng = stream(simulation.plan.seed, "registers", "rarely")
        self._operator: ClientNode = simulation.operator()

    def play(self) -> None:
        """At most one; each claims what the module run.py does."""
        moments: dict[str, Callable[[], None]] = {
            "rival that never pauses": self._rival,
            "client dead in the middle": self._dead_client,
            "client back from before a deletion": self._late_client,
        }
        name = self._rng.choice(("", *moments))
        if not name:  # so that what other seeds play stays as it was
            moments = {"acceptors at other addresses": self._moved}
            name = self._rng.choice(("", *moments))
        if name:
            self._sim.counts[name] += 1
            moments[name]()

    def _rival(self) -> None:
        """Somebody near the acceptors changes a register again and again at ballots that it keeps."""
        sim, over = self._sim, False
        self._found(3)
        rival = sim.operator()
        sim.network.near.add(rival.number)

        def again(outcome: Outcome) -> None:
            del outcome
            if not over:
                rival.drive(rival.proposer.change(b"rival", changes.put(b"x")), again)

        again(Outcome())
        self._finish(
            sim.operator(),
            lambda client: client.proposer.change(b"rival", changes.put(b"y")),
            "a rival that never pauses is not overtaken",
            patience_us=RIVAL_DELAYS * sim.plan.delay_us,
        )
        over = True

    def _dead_client(self) -> None:
        """Its accept, at a high ballot, has reached one acceptor. Those that promised that ballot are slow to tell, and
        all leave while this one is away. When it comes back it must not undo what was chosen meanwhile."""
        sim, rng = self._sim, self._rng
        size, promises = rng.choice(((3, 2), (4, 3), (5, 3), (5, 2), (5, 2)))
        old = self._found(size, prepare=promises, accept=size + 1 - promises)
        away = rng.choice(old)
        asked = {node.id for node in rng.sample([node for node in old if node is not away], promises)}
        highest = max(node.acceptor.highest.round for node in sim.nodes.values())
        dead = sim.operator()
        dead.proposer.adopt(self._operator.proposer.config)
        dead.proposer.observe(Ballot(highest + FAR_AHEAD))

        def loses(send: Send, reply: ReplyMessage | None) -> bool:
            del reply
            match send.request:
                case Prepare():
                    return send.to not in asked
                case Accept():
                    return send.to != away.id
                case _:
                    return False

        dead.loses = loses
        key = "dead"
        tag = sim.tag(key)
        dead.drive(dead.proposer.change(key.encode(), append(tag)), lambda outcome: None)
        self._until(lambda: key.encode() in away.acceptor.slots)
        dead.alive = away.up = False
        slow = set(asked)

        def loses_first_scan(send: Send, reply: ReplyMessage | None) -> bool:
            if not isinstance(send.request, Scan) or send.to not in slow:
                return False
            slow.discard(send.to)
            return True

        self._operator.loses = loses_first_scan
        new = [away, sim.new_acceptor(), sim.new_acceptor()]
        self._change(new)
        tag = sim.tag(key)
        sim.oracle.on_append(
            key,
            tag,
            self._finish(sim.operator(), lambda client: client.proposer.change(key.encode(), append(tag))),
        )
        away.up, new[1].up = True, False
        seen = self._finish(sim.operator(), lambda client: client.proposer.read(key.encode()))
        new[1].up = True
        sim.oracle.on_final(key, None if seen.value is None else seen.value.decode())

    def _late_client(self) -> None:
        """It does not know what became of its change, which was seen, deleted and collected since; and there are other
        acceptors now, which have only the fence to tell it."""
        sim, key = self._sim, "late"
        name = key.encode()
        old = self._found(3)
        late = sim.operator()
        late.loses = lambda send, reply: isinstance(reply, Accepted)
        done: list[Outcome] = []
        process = sim.invoke("put", key, "v")
        patience_us = 10 * sim.calm_patience_us
        late.drive(late.proposer.change(name, changes.put(b"v")), done.append, patience_us=patience_us)
        self._until(lambda: all(name in node.acceptor.slots for node in old))
        late.loses = lambda send, reply: True
        self._recorded("get", key, lambda client: client.proposer.read(name))
        self._recorded("delete", key, lambda client: client.proposer.change(name, changes.delete()))
        self._finish(sim.operator(), lambda client: client.proposer.collect(name))

        def promised(client: ClientNode) -> Task:
            """What changes nothing leaves a promise."""
            return client.proposer.change(name, changes.delete())

        match self._rng.randrange(3):
            case 0:
                self._found(3)
            case 1:
                self._found_meanwhile(promised)
            case _:
                self._finish(self._member(), promised)
        late.loses = lambda send, reply: False
        self._until(lambda: bool(done))
        error = done[0].error
        if error is None:
            sim.history.ok(process, value="v", time=sim.world.now_us)
        else:
            note = sim.history.info if isinstance(error, OutcomeUnknown) else sim.history.fail
            note(process, error=str(error), time=sim.world.now_us)
        self._recorded("get", key, lambda client: client.proposer.read(name))

    def _moved(self) -> None:
        """The acceptors have other addresses, as when their machines do. They are the same ones, with all they hold."""
        sim, key = self._sim, "moved"
        nodes = self._found(3)
        process = sim.invoke("put", key, "v")
        self._finish(sim.operator(), lambda client: client.proposer.change(key.encode(), changes.put(b"v")))
        sim.history.ok(process, value="v", time=sim.world.now_us)
        seats = {node.id: f"{node.address}, elsewhere" for node in nodes}
        self._finish(self._operator, lambda client: Reconfiguration(client.proposer, seats))
        self._recorded("get", key, lambda client: client.proposer.read(key.encode()))

    # ---- steps --------------------------------------------------------------------------------------------

    def _found(self, size: int, *, prepare: int = 0, accept: int = 0) -> list[AcceptorNode]:
        """The acceptors are *size* new ones."""
        nodes = [self._sim.new_acceptor() for _ in range(size)]
        self._change(nodes, prepare=prepare, accept=accept)
        return nodes

    def _found_meanwhile(self, begin: Callable[[ClientNode], Task]) -> None:
        """The acceptors are three new ones; somebody else asks for something while old and new stand together."""
        sim, operator = self._sim, self._operator
        seats = {node.id: node.address for node in [sim.new_acceptor() for _ in range(3)]}
        done: list[Outcome] = []
        task = Reconfiguration(operator.proposer, seats)
        operator.drive(task, done.append, patience_us=10 * sim.calm_patience_us)
        self._until(lambda: operator.proposer.config.is_joint)
        operator.loses = lambda send, reply: True
        self._finish(self._member(), begin)
        operator.loses = lambda send, reply: False
        self._until(lambda: bool(done))
        invariant(done[0].error is None, "the acceptors can not be changed", outcome=done)

    def _member(self) -> ClientNode:
        """Somebody who knows the present acceptors."""
        client = self._sim.operator()
        client.proposer.adopt(self._operator.proposer.config)
        return client

    def _change(self, nodes: list[AcceptorNode], *, prepare: int = 0, accept: int = 0) -> None:
        seats = {node.id: node.address for node in nodes}
        self._finish(
            self._operator,
            lambda client: Reconfiguration(client.proposer, seats, prepare=prepare, accept=accept),
            "the acceptors can not be changed",
        )

    def _finish(
        self,
        client: ClientNode,
        begin: Callable[[ClientNode], Task],
        otherwise: str = "a request fails in calm",
        *,
        patience_us: int = 0,
    ) -> Outcome:
        return self._sim.finish(client, begin(client), otherwise, patience_us=patience_us)

    def _recorded(self, kind: str, key: str, begin: Callable[[ClientNode], Task]) -> None:
        sim = self._sim
        process = sim.invoke(kind, key, None)
        outcome = self._finish(sim.operator(), begin)
        held = outcome.value.decode() if kind == "get" and outcome.value is not None else None
        sim.history.ok(process, value=held, time=sim.world.now_us)

    def _until(self, stop: Callable[[], bool]) -> None:
        """Let time pass until *stop* says so."""
        world = self._sim.world
        passed = world.run_until(world.now_us + 10 * self._sim.calm_patience_us, stop=stop)
        invariant(passed, "a moment does not come")

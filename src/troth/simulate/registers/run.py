"""One seed: clients, faults, then calm; every answer is held against what may be said of linearizable registers.

Claims checked: at most one value a ballot; promises and accepted ballots never fall, restarts included; histories are
linearizable, key by key; a change happened once if the answer says so, at most once if it is unknown, never if the
error is `NotApplied`; what was decided stays; the registers serve again when the faults have ended.
"""

from collections import Counter
from dataclasses import dataclass, field

import xxhash

from troth.core.register import changes
from troth.core.register.messages import Configure, Group, Seat, founding, group_of
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.states import Change
from troth.core.register.task import Outcome, Task
from troth.errors import AlreadyDecided, InvariantViolation, OutcomeUnknown, invariant
from troth.simulate.registers.oracle import Oracle, append
from troth.simulate.registers.plan import Plan, draw
from troth.simulate.registers.rarely import Moments
from troth.simulate.registers.stage import AcceptorNode, ClientNode, Ledger, Network
from troth.simulate.rng import stream
from troth.simulate.world import World
from troth.verify.check import check
from troth.verify.recorder import Recorder
from troth.verify.verdict import Status

CHANGE_PATIENCE = 10
"""A change of the acceptors may take so many times what one request may take."""
COLLECTIONS_MAX = 3
"""So often a collection is tried."""
CALM_PATIENCE = 40
"""In calm a request may take so many times what it may take in chaos."""


@dataclass(slots=True, kw_only=True)
class Outcomes:
    """What came of a seed."""

    plan: Plan
    violation: str = ""
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    digest: int = 0

    @property
    def replay(self) -> str:
        """The command that runs this seed again."""
        return f"troth simulate registers {self.plan.seed} --ms {self.plan.chaos_us // 1000}"


class Simulation:
    """Acceptors, clients and faults of one seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World()
        self.counts: Counter[str] = Counter()
        self.rng = stream(plan.seed, "registers", "faults")
        self.work = stream(plan.seed, "registers", "work")
        self.ledger = Ledger()
        self.network = Network(self.world, plan, stream(plan.seed, "registers", "network"), self.counts)
        self._disk = stream(plan.seed, "registers", "disk")
        self._back = stream(plan.seed, "registers", "back")
        self.nodes: dict[str, AcceptorNode] = {}
        for _ in range(plan.acceptors + plan.spares):
            self.new_acceptor()
        seats = tuple(Seat(node.id, node.address) for node in list(self.nodes.values())[: plan.acceptors])
        self.first = founding(group_of(seats, prepare=plan.prepare, accept=plan.accept))
        for node in list(self.nodes.values())[: plan.acceptors]:
            node.on_request(node.id, Configure(self.first), lambda reply: None)
        self.history = Recorder()
        self.oracle = Oracle()
        self.stopped = False
        self.wiped = False
        self._processes = 0
        self._clients = 0
        self._tags = 0
        for _ in range(plan.clients):
            self._new_client()
        self._every(plan.partition_us, self._partition)
        self._every(plan.crash_us, self._crash)
        self._every(plan.compact_us, self._compact)
        self._every(plan.change_us, self._change_acceptors)

    def new_acceptor(self) -> AcceptorNode:
        """One more, empty and in no configuration."""
        address = f"a{len(self.nodes) + 1}"
        node = self.nodes[address] = AcceptorNode(self.world, self.plan, self._disk, self.ledger, address)
        return node

    # ---- clients ------------------------------------------------------------------------------------------

    def _new_client(self) -> ClientNode:
        self._clients += 1
        client = ClientNode(self.world, self.plan, self.work, self.network, self._clients, self.first)
        client.addresses = self.nodes
        for _ in range(self.plan.processes):
            self.world.after(self._gap(self.plan.think_us), self._step, client)
        if self.plan.client_crash_us:
            self.world.after(self._gap(2 * self.plan.client_crash_us), self._kill_client, client)
        return client

    def _kill_client(self, client: ClientNode) -> None:
        """A client dies with all it had under way; another takes its place, under another id."""
        if not self.stopped:
            client.alive = False
            self.counts["client crash"] += 1
            self._new_client()

    def _gap(self, mean_us: int) -> int:
        return int(self.work.random() * mean_us) + 1

    def _step(self, client: ClientNode) -> None:
        """One request, and when it is answered the next."""
        if self.stopped or not client.alive:
            return
        kind = self.work.choice(("put", "put", "get", "get", "cas", "append", "append", "propose", "delete"))
        if kind == "delete" and not self.plan.deletes:
            kind = "put"
        number = self.work.randrange(self.plan.keys)
        match kind:
            case "append":
                self._append(client, f"list{number}")
            case "propose":
                self._propose(client, f"once{number}")
            case _:
                self._register(client, kind, f"key{number}")

    def _next(self, client: ClientNode) -> None:
        self.world.after(self._gap(self.plan.think_us), self._step, client)

    def _tag(self) -> str:
        self._tags += 1
        return f"v{self._tags}"

    def tag(self, key: str) -> str:
        """A name for an append to *key*, which is counted from now on."""
        tag = self._tag()
        self.oracle.asked[tag] = key
        return tag

    def invoke(self, kind: str, key: str, argument: object) -> int:
        """A request begins; the number under which `history` is to hear of its end."""
        self._processes += 1
        self.history.invoke(self._processes, kind, key=key, value=argument, time=self.world.now_us)
        return self._processes

    def _register(self, client: ClientNode, kind: str, key: str) -> None:
        name = key.encode()
        value = self._tag()
        task: Task
        match kind:
            case "put":
                argument: object = value
                task = client.proposer.change(name, changes.put(value.encode()))
            case "get":
                argument = None
                task = client.proposer.read(name)
            case "delete":
                argument = None
                task = client.proposer.change(name, changes.delete())
            case _:
                expected = self.oracle.guess.get(key)
                argument = (expected, value)
                task = client.proposer.change(
                    name, changes.cas(None if expected is None else expected.encode(), value.encode())
                )
        process = self.invoke(kind, key, argument)

        def on_done(outcome: Outcome) -> None:
            self._next(client)
            self._maybe_collect(client, name, outcome)
            now = self.world.now_us
            if isinstance(outcome.error, OutcomeUnknown):
                self.counts["unknown"] += 1
                self.history.info(process, error=str(outcome.error), time=now)
                return
            if outcome.error is not None:
                self.counts["not applied"] += 1
                self.history.fail(process, error="refused", time=now)
                return
            self.counts["ok"] += 1
            held = None if outcome.value is None else outcome.value.decode()
            self.oracle.guess[key] = held  # also from a comparison that did not hold: the next one may
            told = held if kind == "get" else argument
            if kind == "cas" and not outcome.changed:
                self.counts["comparison refused"] += 1
                told = False  # an observation, which is judged as any other
            self.history.ok(process, value=told, time=now)

        client.drive(task, on_done)

    def _append(self, client: ClientNode, key: str) -> None:
        tag = self.tag(key)

        def on_done(outcome: Outcome) -> None:
            self._next(client)
            self.oracle.on_append(key, tag, outcome)
            self.counts["unknown" if isinstance(outcome.error, OutcomeUnknown) else "append"] += 1

        client.drive(client.proposer.change(key.encode(), append(tag)), on_done)

    def _propose(self, client: ClientNode, key: str) -> None:
        change: Change = changes.propose(self._tag().encode())
        if self.work.random() < 0.3:
            change = changes.put(self._tag().encode())

        def on_done(outcome: Outcome) -> None:
            self._next(client)
            if outcome.error is None and outcome.decided:
                self.oracle.on_decided(key, outcome)
                self.counts["decided"] += 1
            if isinstance(outcome.error, AlreadyDecided):
                self.counts["already decided"] += 1

        client.drive(client.proposer.change(key.encode(), change), on_done)

    def _maybe_collect(self, client: ClientNode, key: bytes, outcome: Outcome) -> None:
        if outcome.error is None and outcome.tombstone and not self.stopped:
            self.world.after(self._gap(4 * self.plan.delay_us), self._collect, client, key, COLLECTIONS_MAX)

    def _collect(self, client: ClientNode, key: bytes, tries: int) -> None:
        """One silent acceptor ends a collection, so it is tried a few times."""
        if not client.alive or self.stopped:
            return

        def on_done(outcome: Outcome) -> None:
            self.counts["collected" if outcome.error is None and outcome.tombstone else "not collected"] += 1
            if outcome.error is not None and tries > 1:
                self.world.after(self._gap(4 * self.plan.delay_us), self._collect, client, key, tries - 1)

        client.drive(client.proposer.collect(key), on_done)

    # ---- faults -------------------------------------------------------------------------------------------

    def _every(self, mean_us: int, fault: object) -> None:
        if mean_us:
            self.world.after(int(self.rng.random() * 2 * mean_us) + 1, self._strike, mean_us, fault)

    def _strike(self, mean_us: int, fault: object) -> None:
        if not self.stopped:
            fault()  # type: ignore[operator]
            self._every(mean_us, fault)

    def _for_a_while(self) -> int:
        return int(self.plan.patience_us * (0.1 + self.rng.random()))

    def _partition(self) -> None:
        pairs = [(number, address) for number in range(self._clients + 20) for address in self.nodes]
        share = self.rng.random()
        cut = {pair for pair in pairs if self.rng.random() < share}
        self.network.cut |= cut
        self.counts["partition"] += 1
        self.world.after(self._for_a_while(), self.network.cut.difference_update, cut)

    def _crash(self) -> None:
        nodes = list(self.nodes.values())
        hit = nodes if self.rng.random() * 1000 < self.plan.crash_all else [self.rng.choice(nodes)]
        for node in hit:
            if node.up:
                self.counts["crash"] += 1
                node.crash()
                self.world.after(self._for_a_while(), node.restart)

    def _compact(self) -> None:
        self.counts["compaction"] += 1
        self.rng.choice(list(self.nodes.values())).compact()

    def _change_acceptors(self) -> None:
        """An operator, who may die in the middle, moves the seats to other acceptors."""
        if self.plan.wipe and not self.wiped and self.rng.random() < 0.3:
            self.wiped = True
            self.counts["wipe"] += 1
            node = self.nodes[self.rng.choice(list(self.nodes)[: self.plan.acceptors])]
            node.crash()
            node.be_born()
        size = self.rng.randint(1 if not self.plan.wipe else 3, len(self.nodes))
        chosen = self.rng.sample(list(self.nodes.values()), size)
        operator = self.operator()
        flexible = self.rng.random() < 0.3 and not self.plan.wipe
        prepare = self.rng.randint(1, size) if flexible else 0
        accept = self.rng.randint(size + 1 - prepare, size) if flexible else 0
        seats = {node.id: node.address for node in chosen}
        if (old := self._group_to_go_back_to()) is not None:
            self.counts["change taken back"] += 1
            seats = {seat.acceptor: seat.address for seat in old.seats}
            prepare, accept = old.prepare, old.accept
        task = Reconfiguration(operator.proposer, seats, prepare=prepare, accept=accept)
        operator.drive(task, self._on_changed, patience_us=CHANGE_PATIENCE * self.plan.patience_us)
        if self.rng.random() < 0.3:
            self.world.after(self._for_a_while(), _die, operator)

    def _group_to_go_back_to(self) -> Group | None:
        """Where a change was left in the middle: sometimes the next operator takes it back."""
        configs = [node.acceptor.config for node in self.nodes.values() if node.acceptor.config is not None]
        newest = max(configs, key=lambda config: config.id.epoch)
        return newest.groups[0] if newest.is_joint and self._back.random() < 0.5 else None

    def operator(self) -> ClientNode:
        """One more client, which asks for nothing by itself."""
        self._clients += 1
        operator = ClientNode(self.world, self.plan, self.work, self.network, self._clients, self.first)
        operator.addresses = self.nodes
        return operator

    def _on_changed(self, outcome: Outcome) -> None:
        self.counts["acceptors changed" if outcome.error is None else "acceptors not changed"] += 1

    # ---- the run ------------------------------------------------------------------------------------------

    def run(self) -> Outcomes:
        """Both phases and all checks; a violation is in `Outcomes.violation`."""
        outcomes = Outcomes(plan=self.plan, counts=self.counts)
        try:
            self.world.run_until(self.plan.chaos_us)
            self.calm()
            self.judge()
        except InvariantViolation as violation:
            outcomes.violation = str(violation)
        outcomes.events = self.world.events
        outcomes.digest = hash_of(self.history)
        return outcomes

    def calm(self) -> None:
        """No faults: the set of acceptors is made one of living ones, and every register is read once more."""
        self.stopped = True
        self.network.calm = True
        self.network.cut.clear()
        for node in self.nodes.values():
            node.restart()
        # Until the last of the operators of before has given up too: it might undo what ours does.
        self.world.run_until(self.world.now_us + (CHANGE_PATIENCE + 1) * self.plan.patience_us)
        operator = self.operator()
        living = {node.id: node.address for node in list(self.nodes.values())[: self.plan.acceptors]}
        if self.plan.change_us:
            self.finish(operator, Reconfiguration(operator.proposer, living), "the acceptors can not be changed")
        for number in range(self.plan.keys):
            for key in (f"key{number}", f"list{number}", f"once{number}"):
                outcome = self.finish(operator, operator.proposer.read(key.encode()), "a register can not be read")
                held = None if outcome.value is None else outcome.value.decode()
                if key.startswith("key"):
                    self.history.ok(self.invoke("get", key, None), value=held, time=self.world.now_us)
                elif key.startswith("list"):
                    self.oracle.on_final(key, held)
                elif outcome.decided:
                    self.oracle.on_decided(key, outcome)
        for number in range(self.plan.keys):
            name = f"key{number}".encode()
            self.finish(
                operator, operator.proposer.change(name, changes.delete()), "a register can not be deleted"
            )
            left = self.finish(operator, operator.proposer.collect(name), "a tombstone can not be collected")
            if self.plan.change_us or left.value is not None:
                continue  # acceptors without a seat keep what they had; a put of unknown outcome may come true late
            for node in self.nodes.values():
                slot = node.acceptor.slots.get(name)
                invariant(slot is None or slot.state is None, "a collected register is still there", key=name)
        Moments(self).play()

    @property
    def calm_patience_us(self) -> int:
        """What a request may take in calm."""
        return CALM_PATIENCE * self.plan.patience_us

    def finish(self, client: ClientNode, task: Task, otherwise: str, *, patience_us: int = 0) -> Outcome:
        """Drive *task* to its end, in calm; *otherwise* says what is wrong if it fails."""
        done: list[Outcome] = []
        patience_us = patience_us or self.calm_patience_us
        client.drive(task, done.append, patience_us=patience_us)
        self.world.run_until(self.world.now_us + 2 * patience_us, stop=lambda: bool(done))
        invariant(bool(done) and done[0].error is None, otherwise, outcome=done[:1])
        return done[0]

    def judge(self) -> None:
        """The histories."""
        verdict = check(self.history.history(), "linearizable", "kv", configurations_max=200_000)
        invariant(verdict.status is not Status.ILLEGAL, "not linearizable", verdict=verdict.reason)
        self.counts["undecided histories"] += verdict.status is Status.UNKNOWN
        self.oracle.judge()


def _die(client: ClientNode) -> None:
    client.alive = False


def hash_of(history: Recorder) -> int:
    """Stands for all that the clients were told."""
    told = history.history().events()
    text = "\n".join(f"{each.type.value} {each.process} {each.f} {each.value} {each.time}" for each in told)
    return xxhash.xxh3_64_intdigest(text.encode())


def run_seed(seed: int, *, chaos_ms: int = 300) -> Outcomes:
    """Run one seed; never raises for a violation."""
    return Simulation(draw(seed, chaos_ms=chaos_ms)).run()

"""Acceptors and clients on virtual time: a disk that loses what was not synced, a network that loses what it likes."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from troth.core.register.codec import decode_answer, decode_ask, encode_answer, encode_ask
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    AcceptedRecord,
    Ballot,
    Configuration,
    ConfiguredRecord,
    Prepare,
    Promise,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
    State,
)
from troth.core.register.proposer import Proposer
from troth.core.register.task import Outcome, Send, Task
from troth.errors import invariant
from troth.ids import NodeId
from troth.simulate.registers.disks import AcceptorDisk, FileDisk, RecordDisk
from troth.simulate.registers.plan import Plan
from troth.simulate.world import World

BACK_OFF_DELAYS = 3
"""The pause of a proposer in mean message delays, doubled with each try."""


class Ledger:
    """What somebody who sees everything knows: the invariants of all acceptors together."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, bytes, Ballot], State] = {}
        self.counts: Counter[str] = Counter()

    def on_record(self, epoch_cluster: int, record: RecordMessage) -> None:
        """§2.1, lemma of all Paxos: at most one value is ever proposed at a ballot."""
        if isinstance(record, AcceptedRecord):
            known = self.values.setdefault((epoch_cluster, record.key, record.ballot), record.state)
            invariant(known == record.state, "two values at one ballot", key=record.key, ballot=record.ballot)


class Network:
    """Between clients and acceptors. `cut` holds (client, acceptor address) pairs that do not hear each other."""

    def __init__(self, world: World, plan: Plan, rng: random.Random, counts: Counter[str]) -> None:
        self.cut: set[tuple[int, str]] = set()
        self.near: set[int] = set()
        """Clients whose messages take an eighth of the time."""
        self.calm = False
        self._world = world
        self._plan = plan
        self._rng = rng
        self._counts = counts

    def carry(self, link: tuple[int, str], arrive: Callable[..., None], *what: Any, copies: bool = True) -> bool:
        """Put a message on its way; False when its sender is told that it is lost."""
        plan, draw = self._plan, self._rng.random
        lost = link in self.cut or (not self.calm and draw() * 1000 < plan.loss)
        if lost:
            self._counts["lost"] += 1
            return draw() * 1000 >= plan.told
        self._world.after(self._delay(link[0]), arrive, *what)
        if copies and not self.calm and draw() * 1000 < plan.duplicate:
            self._counts["duplicated"] += 1
            self._world.after(self._delay(link[0]), arrive, *what)
        return True

    def _delay(self, client: int) -> int:
        plan, draw = self._plan, self._rng.random
        delay = int(plan.delay_us * (0.5 + draw())) // (8 if client in self.near else 1)
        if not self.calm and draw() * 1000 < plan.delay_long:
            self._counts["late"] += 1
            delay += int(plan.patience_us * 3 * draw())
        return delay


class AcceptorNode:
    """One acceptor process with its disk. The pure acceptor says what to write; we decide what survives."""

    def __init__(self, world: World, plan: Plan, rng: random.Random, ledger: Ledger, address: str) -> None:
        self.address = address
        self.up = True
        self.births = 0
        self._world = world
        self._plan = plan
        self._rng = rng
        self._ledger = ledger
        self._boot = 0
        self._syncing = False
        self._waiting: list[Callable[[], None]] = []
        """Answers that leave with the next sync."""
        self._life = 0
        self._promised: dict[bytes, Ballot] = {}
        """The highest ballot promised or accepted in an answer that has left, by key."""
        self.be_born()

    def be_born(self) -> None:
        """An empty disk, and therefore another acceptor."""
        self.births += 1
        number = int(self.address.removeprefix("a"))
        self.id = NodeId(number * 100 + self.births)
        self.disk: AcceptorDisk
        if self._plan.real_storage:
            self.disk = FileDisk(self.id, self._rng)
        else:
            self.disk = RecordDisk(self.id, self._rng, self._plan.keep_unsynced)
        self._promised.clear()
        self.acceptor = self.disk.recover()
        self.up = True

    def on_request(self, to: NodeId, request: RequestMessage, answer: Callable[[ReplyMessage], None]) -> None:
        """A request has arrived; *answer* is called when what it promises is durable."""
        if not self.up or to != self.id:
            return
        _, received = decode_ask(encode_ask(1, request))
        reply, record = self.acceptor.on_request(received)
        if record is not None:
            self._note(record)
            self.disk.append(record)
        life = self._life
        self._waiting.append(lambda: self._leave(life, request, reply, answer))
        if not self._syncing:
            self._syncing = True
            self._world.after(self._plan.disk_us, self._on_synced, self._boot)

    def _note(self, record: RecordMessage) -> None:
        config = self.acceptor.config
        if config is not None:
            self._ledger.on_record(config.id.cluster, record)
        if isinstance(record, ConfiguredRecord) and record.begin_empty:
            self._promised.clear()
            self._life += 1

    def _on_synced(self, boot: int) -> None:
        """A sync is done; it covers all that was written before it ended."""
        if boot != self._boot:
            return
        self._syncing = False
        self.disk.sync()
        ready, self._waiting = self._waiting, []
        for leave in ready:
            leave()

    def _leave(
        self, life: int, request: RequestMessage, reply: ReplyMessage, answer: Callable[[ReplyMessage], None]
    ) -> None:
        match request, reply:
            case _ if life != self._life:
                pass  # promised in a seat that this acceptor has lost since
            case Prepare(), Promise():
                self._say(request.key, request.ballot)
            case Accept(), Accepted():
                self._say(request.key, max(request.ballot, request.next))
            case _:
                pass
        answer(decode_answer(encode_answer(1, reply))[1])

    def _say(self, key: bytes, ballot: Ballot) -> None:
        self._promised[key] = max(ballot, self._promised.get(key, ZERO))

    def crash(self) -> None:
        """The process and its machine die; what was not synced is there or not, in order."""
        self._boot += 1
        self.up = self._syncing = False
        self._waiting.clear()
        self.disk.lose()

    def restart(self) -> None:
        """Replay the disk. What was said must still hold."""
        if self.up:
            return
        self.acceptor = self.disk.recover()
        self.up = True
        for key, ballot in self._promised.items():
            held = self.acceptor.promised(key)
            invariant(held >= ballot or key < b"\1", "a promise was forgotten", key=key, said=ballot, held=held)

    def compact(self) -> None:
        """Replace the records by a snapshot, atomically."""
        if self.up and not self._waiting:
            self.acceptor.forget_promises()
            self.disk.compact(self.acceptor)


class ClientNode:
    """One client process: a proposer, and the tasks that it drives."""

    def __init__(
        self, world: World, plan: Plan, rng: random.Random, network: Network, number: int, config: Configuration
    ) -> None:
        self.number = number
        self.world = world
        self.plan = plan
        self.rng = rng
        self.network = network
        self.proposer = Proposer(rng.getrandbits(62) + 1, config)
        self.alive = True
        self.addresses: dict[str, AcceptorNode] = {}
        self.loses: Callable[[Send, ReplyMessage | None], bool] = lambda send, reply: False
        """Requests (no reply yet) and answers that are lost on their way, whatever else the network does."""

    def drive(self, task: Task, on_done: Callable[[Outcome], None], *, patience_us: int = 0) -> None:
        """Run *task* to its end; *on_done* is not called if this client dies."""
        call = _Call(self, task, on_done)
        self.world.after(patience_us or self.plan.patience_us, call.give_up)
        call.pump()


class _Call:
    def __init__(self, client: ClientNode, task: Task, on_done: Callable[[Outcome], None]) -> None:
        self._client = client
        self._task = task
        self._on_done = on_done
        self._over = False
        self._resting = False

    def pump(self) -> None:
        """Send what waits; notice a pause, or the end."""
        client, task = self._client, self._task
        if self._over or not client.alive:
            return
        lost: list[Send] = []
        while sends := task.take():
            lost += [send for send in sends if not self._leave(send)]
        for send in lost:
            client.world.after(1, self._on_lost, send)
        if task.outcome is not None:
            self._over = True
            self._on_done(task.outcome)
        elif task.pause and not self._resting:
            self._resting = True
            span = BACK_OFF_DELAYS * client.plan.delay_us * 2 ** min(task.pause, 6)
            client.world.after(int(span * client.rng.random()) + 1, self._resume)

    def _leave(self, send: Send) -> bool:
        client = self._client
        node = next((node for node in client.addresses.values() if node.id == send.to), None)
        if node is None:
            return False  # nobody has that id any more
        link = (client.number, node.address)

        def answer(reply: ReplyMessage) -> None:
            if not client.loses(send, reply):
                client.network.carry(link, self._on_reply, send, reply)

        client.world.after(client.plan.silence_us, self._on_lost, send)
        if client.loses(send, None):
            return True
        # A request is sent once, over a stream; what may come twice in this world are answers.
        return client.network.carry(link, node.on_request, send.to, send.request, answer, copies=False)

    def _on_reply(self, send: Send, reply: ReplyMessage) -> None:
        if self._client.alive and not self._over:
            self._task.on_reply(send, reply)
            self.pump()

    def _on_lost(self, send: Send) -> None:
        if self._client.alive and not self._over:
            self._task.on_lost(send)
            self.pump()

    def _resume(self) -> None:
        self._resting = False
        if self._client.alive and not self._over:
            self._task.resume()
            self.pump()

    def give_up(self) -> None:
        """The caller's time is over."""
        if self._client.alive and not self._over:
            self._task.give_up()
            self.pump()

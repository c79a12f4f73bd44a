"""A machine with one server on it, and what the monitors see of that server.

`Host` owns what outlives a process: disk, clock, name and addresses. `Seat` is one identity of a server (a data
directory that was wiped gives the next one), in the form that the invariants of troth/simulate know nodes in. It keeps
a shadow of the log, fed with what the engine gave to the disk and what the disk said to be durable: after each restart
the real log must hold all of it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from troth.core.engines import EngineConfig
from troth.core.interface import (
    NO_EFFECTS,
    Accepted,
    Effects,
    Engine,
    Entry,
    EntryId,
    HardState,
    Message,
    ProposeResult,
    Refused,
    SnapshotMeta,
    Trace,
)
from troth.errors import (
    IdentityLost,
    InvariantViolation,
    Removed,
    StorageError,
    WrongCluster,
    invariant,
)
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.rehearsal.loop import Clock, ProcessLoop
from troth.rehearsal.machine import (
    DatagramTransport,
    SimulatedClock,
    SimulatedDirectory,
    SimulatedMachine,
    is_message,
)
from troth.rehearsal.plan import Plan
from troth.replica.machine import Outcome
from troth.replica.protocol import Writes
from troth.server.config import ServerConfig
from troth.server.server import Server
from troth.simulate.core_node import AskedRead
from troth.simulate.journal import Journal, Stored, Write, chained, replayed
from troth.simulate.monitor import Monitor
from troth.simulate.paxos_view import PaxosView
from troth.simulate.rng import stream
from troth.simulate.view import EngineView, view_of

if TYPE_CHECKING:
    from troth.rehearsal.cluster import Cluster

COMPARE_EVERY = 25
"""Log indexes at which the states of servers are compared, if they stop there."""

CLIENT_PORT, PEER_PORT = 7001, 7101
INPUTS = ("change_membership", "unreachable", "snapshot_sent")
LOOKS = ("entry_id", "membership_at", "leader", "status", "asleep_until")


_encode = msgspec.msgpack.Encoder().encode


class WatchedEngine:
    """An engine whose seat sees every input and every effect."""

    def __init__(self, engine: Engine, seat: "Seat") -> None:
        self.node_id = engine.node_id
        self._engine = engine
        self._seat = seat
        self._monitor: Any = seat.monitor
        for name in INPUTS:
            setattr(self, name, self._watched(getattr(engine, name)))
        for name in LOOKS:
            setattr(self, name, getattr(engine, name))

    def _watched(self, action: Callable[..., Any]) -> Callable[..., Any]:
        after = self._seat.after_input

        def watched(*arguments: Any) -> Any:
            result = action(*arguments)
            after()
            return result

        return watched

    def propose(self, payload: bytes) -> ProposeResult:
        result = self._engine.propose(payload)
        if isinstance(result, Accepted):
            self._seat.on_accepted()
        self._seat.after_input()
        return result

    def receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        seat, monitor = self._seat, self._monitor
        if sender == self.node_id:
            # What a server says to itself never leaves it.
            monitor.on_sent(seat, sender, message)
        monitor.on_received(seat, sender, message, now)
        seat.handling = (sender, message)
        self._engine.receive(sender, message, now)
        monitor.on_input(seat)
        seat.handling = None

    def tick(self, now: Tick) -> None:
        self._engine.tick(now)
        self._monitor.on_tick(self._seat, now)
        self._monitor.on_input(self._seat)

    def read(self, context: int, now: Tick) -> None:
        self._seat.on_read(context)
        self._engine.read(context, now)
        self._seat.after_input()

    def suspect(self, peer: NodeId, now: Tick) -> None:
        self._seat.on_suspected(peer)
        self._engine.suspect(peer, now)
        self._seat.after_input()

    def transfer(self, target: NodeId) -> Refused | None:
        refused = self._engine.transfer(target)
        self._seat.on_transfer(refused)
        return refused

    def take_entries(self, taking: bool) -> None:
        self._engine.take_entries(taking)

    def restore_vote(self) -> None:
        self._engine.restore_vote()
        self._seat.lost = False
        self._seat.after_input()

    @property
    def commit_index(self) -> LogIndex:
        return self._engine.commit_index

    def take_effects(self) -> Effects:
        effects = self._engine.take_effects()
        if effects is not NO_EFFECTS:
            self._seat.on_effects(effects)
        return effects

    def applied(self, index: LogIndex) -> None:
        self._engine.applied(index)
        self._seat.on_applied(index)

    def compact(self, meta: SnapshotMeta, keep_from: LogIndex) -> None:
        self._seat.on_snapshot(meta)
        self._engine.compact(meta, keep_from)
        self._seat.after_compaction(meta)

    def snapshot_received(self, sender: NodeId, term: Term, meta: SnapshotMeta, now: Tick) -> bool:
        self._seat.on_snapshot(meta)
        result = self._engine.snapshot_received(sender, term, meta, now)
        self._seat.after_input()
        return result


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What invariants want to know of the plan: how the engine is set, and how often it is told the time."""

    config: EngineConfig
    tick_stride: int = 1


class Seat:
    """One identity of a server, as invariants see it; implements what they use of `simulate.core_node.CoreNode`."""

    def __init__(self, cluster: "Cluster", host: "Host", node_id: NodeId) -> None:
        self.node_id = node_id
        self.host = host
        self.up = False
        self.engine: Engine
        self.view: EngineView
        self.journal: Journal
        self.applied = EntryId(Term(0), LogIndex(0))
        self.digest = 0
        self.clock = host.ticks
        self.lost = False
        """Something that was durable is gone, and not everything has been made good."""
        self.handling: tuple[NodeId, Message] | None = None
        self.transfer_us = 0
        self.plan = EnginePlan(EngineConfig())
        self._reads: dict[int, AskedRead] = {}
        self._cluster = cluster
        self.monitor: Monitor = cluster.monitor
        self._known = False
        self._watches_batches = False
        self._pending: deque[Entry] = deque()
        self._unsynced: list[Write] = []

    # ---- life ------------------------------------------------------------------------------------------

    def begin(self, engine: Engine, *, damaged: bool) -> None:
        """A process has recovered *engine* from this identity's disk."""
        view = view_of(engine)
        self.engine, self.view = engine, view
        self.plan = EnginePlan(view.config)
        self.handling, self.transfer_us = None, 0
        self._reads.clear()
        base = EntryId(view.term_at(view.compacted_index) or Term(0), view.compacted_index)
        meta = SnapshotMeta(base, engine.membership_at(base.index))
        base_digest = self._cluster.digests.get(base.index, 0)
        stored = Stored(base=meta, base_digest=base_digest)
        stored.hard_state = HardState(view.term, view.voted_for)
        if isinstance(view, PaxosView):
            indexes = range(base.index + 1, view.last_index + 1)
            stored.accept(slot for index in indexes if (slot := view.slot(LogIndex(index))) is not None)
            stored.chosen = view.commit_index
        else:
            stored.write(view.entries(LogIndex(base.index + 1), LogIndex(view.last_index + 1)))
        if self._known and not self._has_all(stored):
            # Damage may have hit what nobody needs, or what was made good: then nothing is lost.
            invariant(
                damaged,
                "a restart has lost what was durable",
                node=self.node_id,
                durable=self.journal.durable.hard_state,
                durable_upto=self.journal.durable.last_index,
                recovered=stored.hard_state,
                recovered_upto=stored.last_index,
            )
            self.lost = True
        self.journal = Journal(meta.membership)
        self.journal.durable = stored
        self.journal.volatile = replayed(stored, ())
        self.journal.file, self.journal.file_digest = meta, base_digest
        self.applied, self.digest = base, base_digest
        self._pending.clear()
        self._watches_batches = False
        self._known = self.up = True
        self.monitor.nodes[self.node_id] = self  # type: ignore[assignment]
        self.monitor.on_booted(self)  # type: ignore[arg-type]

    def _has_all(self, stored: Stored) -> bool:
        """All that was durable is there, with or without later writes that had not been synced (in their order)."""
        durable = self.journal.durable
        return any(
            _holds(stored, replayed(durable, self._unsynced[:count])) for count in range(len(self._unsynced) + 1)
        )

    def end(self) -> None:
        """The process is gone."""
        if self.up:
            self.up = False
            self._unsynced = list(self.journal.unsynced)
            self.monitor.on_crashed(self)  # type: ignore[arg-type]

    # ---- what rules ask ----------------------------------------------------------------------------------

    def world_us(self) -> int:
        """The time of the world, which no server sees."""
        return self._cluster.world.now_us

    def has_work(self) -> bool:
        """Whether effects wait to be fetched, or writes to become durable."""
        server = self.host.serving
        return self.journal.synced < self.journal.written or server is None or server.node._turn_scheduled

    def asked_read(self, context: int) -> AskedRead | None:
        """The read that goes by *context* and waits for its index."""
        return self._reads.get(context)

    # ---- what the engine does ----------------------------------------------------------------------------

    def on_accepted(self) -> None:
        self.monitor.on_accepted(self)  # type: ignore[arg-type]

    def on_suspected(self, peer: NodeId) -> None:
        self.monitor.on_suspected(self, peer)  # type: ignore[arg-type]

    def on_read(self, context: int) -> None:
        leading = self.view.term if self.view.leads else Term(0)
        self._reads[context] = AskedRead(self.host.life, LogIndex(0), self.world_us(), leading)

    def on_transfer(self, refused: Refused | None) -> None:
        if refused is None:
            self.transfer_us = self.world_us()
        self.after_input()

    def after_input(self) -> None:
        self.monitor.on_input(self)  # type: ignore[arg-type]

    def on_effects(self, effects: Effects) -> None:
        monitor = self.monitor
        if effects.committed and not self._watches_batches:
            self._watches_batches = True
            self._watch_batches()
        if effects.persist is not None:
            snapshot = effects.persist.snapshot
            self.journal.append(
                effects.persist, self._cluster.digests.get(snapshot.last.index, 0) if snapshot else 0
            )
            monitor.on_written(self, effects.persist)  # type: ignore[arg-type]
        if effects.trace:
            monitor.on_trace(self, effects.trace)  # type: ignore[arg-type]
        if effects.install is not None:
            last = effects.install.last
            self._pending.clear()
            self.applied, self.digest = last, self._cluster.digests.get(last.index, 0)
            monitor.on_applied(self, self.applied, self.digest)  # type: ignore[arg-type]
        self._pending.extend(effects.committed)
        for state in effects.reads:
            monitor.on_read_point(self, state)  # type: ignore[arg-type]
            self._reads.pop(state.context, None)
        for context in effects.reads_refused:
            self._reads.pop(context, None)

    def on_applied(self, index: LogIndex) -> None:
        pending, digests = self._pending, self._cluster.digests
        while pending and pending[0].index <= index:
            entry = pending.popleft()
            self.digest = chained(self.digest, entry)
            self.applied = EntryId(entry.term, entry.index)
            digests.setdefault(entry.index, self.digest)
            self.monitor.on_applied(self, self.applied, self.digest)  # type: ignore[arg-type]
        self.after_input()
        if index % COMPARE_EVERY == 0:
            self.compare()

    def _watch_batches(self) -> None:
        """See what each batch of commands does to the store."""
        server = self.host.serving
        if server is None:
            return
        machine, on_batch = server.node.replica.machine, self.monitor.on_batch
        inner = machine._apply_writes

        def applied(batch: Writes, index: int) -> Outcome:
            before = machine.store.revision
            outcome = inner(batch, index)
            on_batch(self, LogIndex(index), (batch.session, batch.first_seq), before, machine.store.revision)
            return outcome

        machine._apply_writes = applied  # type: ignore[method-assign]

    def compare(self) -> None:
        """Let the state as it is be compared with that of others after the same entry."""
        server = self.host.serving
        if server is not None:
            machine = server.node.replica.machine
            store = machine.store
            sessions, next_session = machine.sessions.dump()
            fingerprint = (store.hash(0), store.revision, store.compact_revision, next_session, _encode(sessions))
            self.monitor.on_state(self, self.applied.index, fingerprint)

    def on_snapshot(self, meta: SnapshotMeta) -> None:
        """A snapshot is durable here."""
        self.journal.snapshot_saved(meta, self._cluster.digests.get(meta.last.index, 0))

    def after_compaction(self, meta: SnapshotMeta) -> None:
        self.journal.trim(meta, self._cluster.digests.get(meta.last.index, 0))
        self.after_input()


def _holds(stored: Stored, wanted: Stored) -> bool:
    """Whether *stored* has all of *wanted*."""
    hard, least = stored.hard_state, wanted.hard_state
    if hard.term < least.term or (hard.term == least.term and least.voted_for not in (0, hard.voted_for)):
        return False
    if wanted.slots or stored.slots:
        first = stored.base.last.index
        return all(
            index <= first or (index in stored.slots and stored.slots[index].ballot >= slot.ballot)
            for index, slot in wanted.slots.items()
        )
    if stored.last_index < wanted.last_index:
        return False
    first = max(stored.base.last.index, wanted.base.last.index)
    return all(
        stored.term_at(LogIndex(index)) == wanted.term_at(LogIndex(index))
        for index in range(first + 1, wanted.last_index + 1)
    )


class Host:
    """A machine: at most one process of a server runs on it."""

    def __init__(self, cluster: "Cluster", name: str, plan: Plan) -> None:
        self.cluster = cluster
        self.name = name
        self.plan = plan
        self.life = 0
        self.rng = stream(plan.seed, "host", name)
        self.chance = stream(plan.seed, "links", name)
        self.clock = Clock(cluster.world, self.rng.randrange(1, 60_000_000))
        self.ticks = SimulatedClock(self, plan.tick_ms)
        self.disk = SimulatedDirectory(stream(plan.seed, "disk", name, 0))
        self.registers = SimulatedDirectory(stream(plan.seed, "register disk", name, 0))
        """What the acceptor in this server keeps; it shares the disk's fate, but for faults of single writes."""
        self.disk_hangs = False
        self.disk_factor = 1
        self.loop: ProcessLoop | None = None
        self.server: Server | None = None
        self.seat: Seat | None = None
        self.joins = False
        """An operator starts it with --join: it is to become a member of the running cluster."""
        self.salvages = False
        self.trouble = ""
        """What was done to its disk, that may end its process or keep it from starting."""
        self.damaged = False
        """Something that was durable has been changed since the last start."""
        self.leaving = False
        """An operator is about to remove it from the cluster; until that is done it goes on as ever."""
        self.out_of_service = False
        """An operator is at work on it: nobody starts it meanwhile."""
        self.machine: SimulatedMachine
        self._disks = 0

    @property
    def up(self) -> bool:
        return self.loop is not None and self.loop.alive

    @property
    def client_address(self) -> str:
        return f"{self.name}:{CLIENT_PORT}"

    @property
    def peer_address(self) -> str:
        return f"{self.name}:{PEER_PORT}"

    @property
    def serving(self) -> Server | None:
        """The server, if it has got as far as to have a replica."""
        server = self.server
        return server if self.up and server is not None and hasattr(server, "node") else None

    # ---- life ------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the process from what the disk holds."""
        if self.up or self.out_of_service:
            return
        self.life += 1
        cluster = self.cluster
        cluster.network.host_is_back(self.name)
        loop = self.loop = ProcessLoop(cluster.world, cluster.network, self.name, self.clock, self._on_error)
        self.machine = SimulatedMachine(self, loop)
        loop.enter(self._start, loop)

    def _config(self) -> ServerConfig:
        plan = self.plan
        hosts = self.cluster.founders
        return ServerConfig(
            name=self.name,
            data_dir=self.name,
            client_address=self.client_address,
            peer_address=self.peer_address,
            initial_cluster={} if self.joins else {host.name: host.peer_address for host in hosts},
            join=tuple(host.client_address for host in self.cluster.hosts.values() if host is not self)
            if self.joins
            else (),
            insecure=True,
            consensus=plan.consensus,
            tick_ms=plan.tick_ms,
            heartbeat_ms=plan.heartbeat_ms,
            election_timeout_ms=plan.election_timeout_ms,
            lease_reads=plan.lease_reads,
            salvage=self.salvages,
            quota_bytes=plan.quota_bytes,
            snapshot_entries=plan.snapshot_entries,
        )

    def _start(self, loop: ProcessLoop) -> None:
        self.server = Server(self._config(), machine=self.machine, on_event=self._on_event)
        loop.create_task(self._live(loop, self.server))

    def _on_event(self, event: Trace) -> None:
        if event.name == "snapshot":
            # Told by the replica; what engines tell has been heard already.
            self.cluster.on_event(self, event)

    async def _live(self, loop: ProcessLoop, server: Server) -> None:
        try:
            await server.start()
            self.salvages = self.damaged = False
            await server.failed
        # The process ends with whatever it was; whether that was to be expected is judged outside of it.
        except Exception as error:  # noqa: BLE001
            self.cluster.world.after(0, self._exited, loop, error)

    def _exited(self, loop: ProcessLoop, error: Exception) -> None:
        if not loop.alive:
            return
        self._end(power=False)
        self.cluster.on_exit(self, error, expected=self._is_expected(error))

    def _is_expected(self, error: Exception) -> bool:
        if isinstance(error, Removed):
            return self.leaving or self.out_of_service
        if isinstance(error, IdentityLost | WrongCluster) and self.joins:
            return True
        return isinstance(error, StorageError) and bool(self.trouble)

    def _on_error(self, error: BaseException) -> None:
        self.cluster.violated(
            error
            if isinstance(error, InvariantViolation)
            else InvariantViolation(f"unexpected {type(error).__name__} on a server: {error} ({self.name})"),
            cause=error,
        )

    def kill(self) -> None:
        """The process ends without warning; the machine and its page cache live on."""
        if self.up:
            self._end(power=False)
            self.disk.crash()
            self.registers.crash()

    def lose_power(self) -> None:
        """The machine ends without warning; what was not synced may be gone."""
        if self.up:
            self._end(power=True)
        self.disk.power_loss()
        self.registers.power_loss()

    def _end(self, *, power: bool) -> None:
        loop = self.loop
        if loop is None or not loop.alive:
            return
        self.cluster.network.process_ended(loop, power=power)
        loop.kill()
        if not power:
            self.disk.crash()
            self.registers.crash()
        self.server = None
        if self.seat is not None:
            self.seat.end()
            self.seat = None

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        self._disks += 1
        self.disk = SimulatedDirectory(stream(self.plan.seed, "disk", self.name, self._disks))
        self.registers = SimulatedDirectory(stream(self.plan.seed, "register disk", self.name, self._disks))
        self.trouble = ""
        self.damaged = self.salvages = False

    # ---- for the machine ---------------------------------------------------------------------------------

    def disk_us(self) -> int:
        """How long the next sync takes."""
        draw = self.rng.random
        return (20 + int(draw() * draw() * 4 * self.plan.disk_us)) * self.disk_factor

    def watched(self, engine: Engine) -> Engine:
        """The engine of this process has just been made."""
        seat = self.cluster.seat(self, engine.node_id)
        self.seat = seat
        seat.begin(engine, damaged=self.damaged)
        self.damaged = False
        return WatchedEngine(engine, seat)  # type: ignore[return-value]

    def on_synced(self, count: int) -> None:
        seat = self.seat
        if seat is not None:
            seat.journal.sync_upto(seat.journal.synced + count)

    def on_sent(self, peer: NodeId, body: bytes) -> None:
        """A frame for *peer* leaves; what is in it was encoded just before."""
        seat = self.seat
        if seat is not None:
            on_sent = self.cluster.monitor.on_sent
            messages = self.machine.codecs[-1].last
            if self.cluster.on_tell is not None:
                self.cluster.sending = ", ".join(type(message).__name__ for message in messages)
            for message in messages:
                on_sent(seat, peer, message)  # type: ignore[arg-type]

    def on_datagram(self, sender: NodeId, to: NodeId, cluster_id: int, data: bytes, original: bytes) -> None:
        """A frame has arrived; a connection would have been refused by whoever is not meant."""
        server, loop = self.server, self.loop
        if server is None or loop is None or not loop.alive:
            return
        transport: object = getattr(server, "transport", None)
        if not isinstance(transport, DatagramTransport) or transport.node_id != to:
            return
        if transport.cluster_id != cluster_id:
            return
        if data is not original and data != original and is_message(self.machine.codecs[-1], data):
            # No checksum would let that pass (TCP's, TLS's): what decodes all the same is taken for lost.
            return
        loop.enter(transport.receive, sender, data)

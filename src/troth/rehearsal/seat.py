"""One identity of a server (a data directory that was wiped gives the next one), in the form that the invariants of
troth/simulate know nodes in.

It keeps a shadow of the log, fed with what the engine gave to the disk and what the disk said to be durable: after each
restart the real log must hold all of it.
"""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from troth.core.engines import EngineConfig
from troth.core.interface import (
    Effects,
    Engine,
    Entry,
    EntryId,
    HardState,
    Message,
    Refused,
    SnapshotMeta,
)
from troth.errors import invariant
from troth.ids import LogIndex, NodeId, Term
from troth.replica.machine import Outcome
from troth.replica.protocol import Writes
from troth.simulate.core_reads import AskedRead
from troth.simulate.journal import Journal, Stored, Write, chained, replayed
from troth.simulate.monitor import Monitor
from troth.simulate.paxos_view import PaxosView
from troth.simulate.view import EngineView, view_of

if TYPE_CHECKING:
    from troth.rehearsal.cluster import Cluster
    from troth.rehearsal.host import Host

COMPARE_EVERY = 25
"""Log indexes at which the states of servers are compared, if they stop there."""

_encode = msgspec.msgpack.Encoder().encode


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
        self._owed: list[Stored] = []
        """What was durable before each such loss."""
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
            self._owed.append(self.journal.durable)
        # One that votes says that it has all of it again, which may be the work of a life before.
        if not self._owed or (engine._may_vote and all(_holds(stored, owed) for owed in self._owed)):  # type: ignore[attr-defined]
            self.has_all_again()
        else:
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

    def has_all_again(self) -> None:
        """What was lost has been made good."""
        self.lost = False
        self._owed.clear()

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

    @property
    def is_loaded(self) -> bool:
        """Whether the state is that of `applied`: a snapshot that was installed may still be loaded."""
        server = self.host.serving
        return server is not None and server.node.replica._applied == self.applied.index

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
        if server is not None and self.is_loaded:
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

"""A process that runs a bare consensus engine: the four duties of `core.interface`, on a simulated disk and network.

It is the worst driver that the contract allows: effects are fetched after one input or after several, a sync takes
as long as the plan says, committed entries are applied late, a pause falls between reading the clock and using it,
and the numbers given to reads start at 1 in every life. The state machine is a digest of all that was applied.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from troth.core.engines import Start
from troth.core.interface import (
    NO_EFFECTS,
    Accepted,
    Effects,
    Entry,
    EntryId,
    Membership,
    MembershipChange,
    Message,
    ProposeResult,
    Refused,
    Send,
    SnapshotMeta,
)
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.journal import Journal, chained
from troth.simulate.monitor import Monitor
from troth.simulate.network import Network
from troth.simulate.plan import Plan
from troth.simulate.rng import stream
from troth.simulate.view import EngineView, view_of
from troth.simulate.world import LocalClock, World

SNAPSHOT_PATIENCE_TICKS = 100


@dataclass(frozen=True, slots=True)
class SnapshotTransfer:
    """A whole snapshot on its way; the layer above the engine moves it."""

    term: Term
    meta: SnapshotMeta
    digest: int


@dataclass(frozen=True, slots=True)
class SnapshotStored:
    """The answer: it is durable here."""

    last: EntryId


@dataclass(frozen=True, slots=True)
class AskedRead:
    """A read that was asked for, at `at_us` in the time of the world; `floor` was committed somewhere before that, and
    `term` is the one that this server led then, or 0."""

    life: int
    floor: LogIndex
    at_us: int
    term: Term
    recovers: bool = False
    """Asked by the server itself: when it is answered, the server has everything again that it had lost."""


class CoreNode:
    """One engine and its driver; implements `SimNode`."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        plan: Plan,
        monitor: Monitor,
        start: Start,
        node_id: NodeId,
        genesis: Membership,
    ) -> None:
        self.node_id = node_id
        self.up = False
        self.paused = False
        self.life = 0
        self.journal = Journal(genesis)
        self.disk_hangs = False
        self.rng = stream(plan.seed, "node", node_id)
        self._luck = stream(plan.seed, "crash", node_id)
        """What a crash leaves on the disk."""
        self._draw_disk = stream(plan.seed, "disk", node_id).random
        self._deferring = stream(plan.seed, "defer", node_id)
        self.clock = LocalClock(world, self.rng.randrange(0, 10_000_000))
        self.applied = EntryId(Term(0), LogIndex(0))
        self.digest = 0
        self.lost = False
        """A part of what was durable is gone: this server does not vote until it has caught up."""
        self.reads_answered = 0
        self.transfer_us = 0
        """When a transfer of leadership was last asked of this server."""
        self.handling: tuple[NodeId, Any] | None = None
        """The message that the engine was given last, while its outcome is looked at."""
        self.wants_snapshots = False
        """Set by the plan's compactions: take a snapshot at the next chance."""
        self._world = world
        self._network = network
        self.plan = plan
        self._monitor = monitor
        self._start = start
        self._disk_us = plan.disk_us
        self._defer = plan.defer

    # ---- life ----

    def boot(self) -> None:
        """Start the process from what the disk holds."""
        self.life += 1
        self.up, self.paused = True, False
        stored = self.journal.durable
        self.engine = self._start(
            node_id=self.node_id,
            config=self.plan.config,
            rng=stream(self.plan.seed, "engine", self.node_id, self.life),
            snapshot=stored.base,
            hard_state=stored.hard_state,
            entries=tuple(stored.entries),
            slots=tuple(stored.slots.values()),
            chosen=stored.chosen,
            now=self.clock.ticks(),
            may_vote=not self.lost,
        )
        self.view: EngineView = view_of(self.engine)
        self.applied, self.digest = stored.base.last, stored.base_digest
        self._outbox: deque[tuple[int, Send]] = deque()
        self._apply_queue: deque[Entry] = deque()
        self._applying = self._syncing = self._saving = self._pump_planned = False
        self._backlog: list[tuple[Tick, Callable[..., None], tuple[Any, ...]]] = []
        self._reads: dict[int, AskedRead] = {}
        self._reads_waiting: list[tuple[LogIndex, Tick, AskedRead]] = []
        self._next_context = 1
        self._received: dict[EntryId, int] = {}
        self._streaming: dict[NodeId, int] = {}
        self._streams = 0
        self._recovering = False
        self._recovered_at: int | None = None
        self._monitor.on_booted(self)
        self._world.after(self.rng.randrange(1, 10_000), self._tick, self.life)

    def crash(self) -> None:
        """End the process; unsynced writes are lost as the plan says."""
        if not self.up:
            return
        self.up = False
        self.life += 1
        self.journal.crash(self._luck, self.plan.keep_unsynced)
        self._monitor.on_crashed(self)

    def lose_end(self) -> bool:
        """The end of the log on this server's disk has become unreadable while it was down."""
        if not self.journal.lose_end(self._luck):
            return False
        self.lost = True
        # A connection that a new process opens takes the place of the old one's: nothing older comes behind it.
        self._network.forget_from(self.node_id)
        return True

    def pause(self, world_us: int) -> None:
        """Stop the process for a while; inputs wait in its sockets."""
        if self.up and not self.paused:
            self.paused = True
            self._world.after(world_us, self._resume, self.life)

    def _resume(self, life: int) -> None:
        if life != self.life:
            return
        self.paused = False
        backlog, self._backlog = self._backlog, []
        # The pause may have fallen between reading the clock and using it: the first input then has an old `now`.
        stale = bool(backlog) and self.rng.random() < 0.5
        for place, (arrived, handler, arguments) in enumerate(backlog):
            if self.up and not self.paused:
                handler(arrived if stale and place == 0 else self.clock.ticks(), *arguments)

    def now(self) -> Tick:
        return self.clock.ticks()

    def world_us(self) -> int:
        """The time of the world, which no node sees."""
        return self._world.now_us

    def has_work(self) -> bool:
        """Whether effects wait to be fetched, or writes to become durable."""
        return self._pump_planned or self.journal.synced < self.journal.written

    def asked_read(self, context: int) -> AskedRead | None:
        """The read that goes by *context* and waits for its index."""
        return self._reads.get(context)

    def calm_disk(self) -> None:
        """The disk goes on."""
        self.disk_hangs = False
        if self.up:
            self._maybe_sync()

    def calm(self) -> None:
        """The disk works well again (the second half of a run)."""
        self._disk_us = min(self._disk_us, 20_000)
        self.calm_disk()

    # ---- inputs ----

    def _input(self, handler: Callable[..., None], *arguments: Any) -> None:
        if not self.up:
            return
        if self.paused:
            self._backlog.append((self.clock.ticks(), handler, arguments))
        else:
            handler(self.clock.ticks(), *arguments)

    def on_message(self, sender: NodeId, message: Any) -> None:
        """A message has arrived."""
        if self.up and not self.paused:
            self._on_message(self.clock.ticks(), sender, message)
        else:
            self._input(self._on_message, sender, message)

    def on_peer_died(self, peer: NodeId) -> None:
        """A connection broke as if *peer* had died."""
        self._input(self._on_peer_died, peer)

    def on_unreachable(self, peer: NodeId) -> None:
        """A message to *peer* did not arrive, and the sender has noticed."""
        self._input(self._on_unreachable, peer)

    def read(self) -> None:
        """A client asks for a linearizable read."""
        self._input(self._read, self._monitor.ledger.highest)

    def propose(self, payload: bytes) -> ProposeResult | None:
        """A client writes; None when the process does not run."""
        if not self.up or self.paused:
            return None
        result = self.engine.propose(payload)
        if isinstance(result, Accepted):
            self._monitor.on_accepted(self)
        self._after_input()
        return result

    def change_membership(self, change: MembershipChange) -> ProposeResult | None:
        """An operator changes who decides."""
        if not self.up or self.paused:
            return None
        result = self.engine.change_membership(change)
        self._after_input()
        return result

    def transfer(self, target: NodeId) -> Refused | None:
        """An operator moves the leadership."""
        if not self.up or self.paused:
            return None
        result = self.engine.transfer(target)
        if result is None:
            self.transfer_us = self._world.now_us
        self._after_input()
        return result

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        if not self.paused:
            now = self.clock.ticks()
            self.engine.tick(now)
            self._monitor.on_tick(self, now)
            self._after_input()
            if self.lost and not self._recovering:
                self._recovering = True
                self._read(now, LogIndex(0), recovers=True)
            if self.wants_snapshots and not self._saving:
                self._save_snapshot()
        self._world.after(self.clock.world_us(self.plan.tick_stride), self._tick, life)

    def _on_message(self, now: Tick, sender: NodeId, message: Any) -> None:
        if isinstance(message, Message):
            self._receive(sender, message, now)
        elif isinstance(message, SnapshotTransfer):
            self._world.after(self._disk_time(), self._snapshot_stored, self.life, sender, message)
        elif isinstance(message, SnapshotStored):
            self._on_snapshot_answer(sender, message.last)

    def _receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        self._monitor.on_received(self, sender, message, now)
        self.handling = (sender, message)
        self.engine.receive(sender, message, now)
        self._after_input()
        self.handling = None

    def _on_peer_died(self, now: Tick, peer: NodeId) -> None:
        self._monitor.on_suspected(self, peer)
        self.engine.suspect(peer, now)
        self._after_input()

    def _on_unreachable(self, _now: Tick, peer: NodeId) -> None:
        self.engine.unreachable(peer)
        self._after_input()

    def _read(self, now: Tick, floor: LogIndex, *, recovers: bool = False) -> None:
        context, self._next_context = self._next_context, self._next_context + 1
        leading = self.view.term if self.view.leads else Term(0)
        self._reads[context] = AskedRead(self.life, floor, self._world.now_us, leading, recovers)
        self.engine.read(context, now)
        self._after_input()

    # ---- effects ----

    def _after_input(self) -> None:
        self._monitor.on_input(self)
        if self._pump_planned:
            return
        if self._defer and self._deferring.random() * 1000 < self._defer:
            self._pump_planned = True
            self._world.after(self._deferring.randrange(1, 20_000), self._pump_later, self.life)
        else:
            self._pump()

    def _pump_later(self, life: int) -> None:
        if life != self.life:
            return
        if self.paused:
            self._world.after(1_000, self._pump_later, life)
            return
        self._pump_planned = False
        self._pump()

    def _pump(self) -> None:
        more = True
        while more:
            effects = self.engine.take_effects()
            more = effects.more_committed
            if effects is not NO_EFFECTS:
                self._carry_out(effects)

    def _carry_out(self, effects: Effects) -> None:
        # Written first, so that invariants which look at a sent message see the log it speaks of.
        if effects.persist is not None:
            snapshot = effects.persist.snapshot
            self.journal.append(effects.persist, self._received[snapshot.last] if snapshot else 0)
            self._monitor.on_written(self, effects.persist)
        if effects.trace:
            self._monitor.on_trace(self, effects.trace)
        if effects.send:
            on_sent, network_send = self._monitor.on_sent, self._network.send
            for send in effects.send:
                on_sent(self, send.to, send.message)
                network_send(self.node_id, send.to, send.message)
        for send in effects.after_persist:
            self._outbox.append((self.journal.written, send))
        if effects.install is not None:
            self.applied, self.digest = effects.install.last, self._received[effects.install.last]
            self._apply_queue.clear()
            self._monitor.on_applied(self, self.applied, self.digest)
            self._release_reads()
        if effects.committed:
            self._apply_queue.extend(effects.committed)
            if not self.plan.apply_us:
                self._apply(self.life)
            elif not self._applying:
                self._applying = True
                self._world.after(self.rng.randrange(0, 2 * self.plan.apply_us), self._apply, self.life)
        for peer in effects.snapshots_wanted:
            self._stream_snapshot(peer)
        for state in effects.reads:
            self._monitor.on_read_point(self, state)
            asked = self._reads.pop(state.context, None)
            if asked is not None:
                self._reads_waiting.append((state.index, state.valid_until, asked))
        for context in effects.reads_refused:
            asked = self._reads.pop(context, None)
            if asked is not None and asked.recovers:
                self._recovering = False
        if self._reads_waiting:
            self._release_reads()
        if self._outbox:
            self._release_outbox()
        self._maybe_sync()

    # ---- disk ----

    def _disk_time(self) -> int:
        return 20 + int(self._draw_disk() * self._draw_disk() * 4 * self._disk_us)

    def _maybe_sync(self) -> None:
        if not self._syncing and not self.disk_hangs and self.journal.synced < self.journal.written:
            self._syncing = True
            self._world.after(self._disk_time(), self._synced, self.life, self.journal.written)

    def _synced(self, life: int, number: int) -> None:
        if life != self.life:
            return
        if self.disk_hangs:
            self._syncing = False
            return
        self.journal.sync_upto(number)
        self._syncing = False
        self._input(self._on_synced)
        self._maybe_sync()

    def _on_synced(self, _now: Tick) -> None:
        self._maybe_restore_vote()
        self._release_outbox()

    def _release_outbox(self) -> None:
        outbox = self._outbox
        life = self.life
        while outbox and outbox[0][0] <= self.journal.synced:
            send = outbox.popleft()[1]
            self._monitor.on_sent(self, send.to, send.message)
            if send.to == self.node_id:
                self._receive(self.node_id, send.message, self.clock.ticks())
                if life != self.life:
                    return
            else:
                self._network.send(self.node_id, send.to, send.message)

    # ---- state machine ----

    def _apply(self, life: int) -> None:
        if life != self.life:
            return
        self._applying = False
        queue = self._apply_queue
        if not queue:
            return
        while queue:
            entry = queue.popleft()
            self.digest = chained(self.digest, entry)
            self.applied = EntryId(entry.term, entry.index)
            self._monitor.on_applied(self, self.applied, self.digest)
        self.engine.applied(self.applied.index)
        self._monitor.on_input(self)
        self._release_reads()

    def _release_reads(self) -> None:
        still: list[tuple[LogIndex, Tick, AskedRead]] = []
        for index, valid_until, asked in self._reads_waiting:
            if index > self.applied.index:
                still.append((index, valid_until, asked))
            elif asked.recovers:
                self._recovered_at = self.journal.written
                self._maybe_restore_vote()
            elif not valid_until or self.clock.ticks() < valid_until:
                self.reads_answered += 1
                self._monitor.on_read(self, asked.floor, self.applied.index)
        self._reads_waiting = still

    def _maybe_restore_vote(self) -> None:
        """What was fetched again must be durable first."""
        if self._recovered_at is not None and self._recovered_at <= self.journal.synced:
            self._recovered_at, self.lost = None, False
            self.engine.restore_vote()

    # ---- snapshots ----

    def _save_snapshot(self) -> None:
        self.wants_snapshots = False
        if self.applied.index <= self.journal.file.last.index:
            return
        self._saving = True
        meta = SnapshotMeta(self.applied, self.engine.membership_at(self.applied.index))
        self._world.after(self._disk_time(), self._snapshot_saved, self.life, meta, self.digest)

    def _snapshot_saved(self, life: int, meta: SnapshotMeta, digest: int) -> None:
        if life != self.life:
            return
        self._saving = False
        self.journal.snapshot_saved(meta, digest)
        keep_from = max(1, meta.last.index + 1 - self.plan.keep_behind)
        self.engine.compact(meta, LogIndex(keep_from))
        self.journal.trim(meta, digest)
        self._monitor.on_input(self)

    def _stream_snapshot(self, peer: NodeId) -> None:
        self._streams += 1
        self._streaming[peer] = self._streams
        message = SnapshotTransfer(self.engine.leader()[0], self.journal.file, self.journal.file_digest)
        self._network.send(self.node_id, peer, message, extra_us=self.rng.randrange(0, 100_000))
        patience = self.clock.world_us(SNAPSHOT_PATIENCE_TICKS)
        self._world.after(patience, self._snapshot_overdue, self.life, peer, self._streams, message.meta)

    def _snapshot_overdue(self, life: int, peer: NodeId, number: int, meta: SnapshotMeta) -> None:
        if life == self.life and self._streaming.get(peer) == number:
            del self._streaming[peer]
            self.engine.snapshot_sent(peer, meta, False)
            self._after_input()

    def _snapshot_stored(self, life: int, sender: NodeId, message: SnapshotTransfer) -> None:
        if life != self.life:
            return
        if self.paused:
            self._world.after(1_000, self._snapshot_stored, life, sender, message)
            return
        self.journal.snapshot_saved(message.meta, message.digest)
        self._received[message.meta.last] = message.digest
        self.engine.snapshot_received(sender, message.term, message.meta, self.clock.ticks())
        self._after_input()
        self._network.send(self.node_id, sender, SnapshotStored(message.meta.last))

    def _on_snapshot_answer(self, peer: NodeId, last: EntryId) -> None:
        if self._streaming.pop(peer, None) is not None:
            self.engine.snapshot_sent(peer, SnapshotMeta(last, self.view.membership), True)
            self._after_input()


def payload_of(number: int) -> bytes:
    """A command that occurs once in a run."""
    return b"%d" % number

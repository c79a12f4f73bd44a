"""A process that runs a bare consensus engine: the four duties of `core.interface`, on a simulated disk and network.

It is the worst driver that the contract allows: effects are fetched after one input or after several, a sync takes
as long as the plan says, committed entries are applied late, a pause falls between reading the clock and using it,
and the numbers given to reads start at 1 in every life. The state machine is a digest of all that was applied.
"""

from collections import deque
from collections.abc import Callable
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
)
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.core_reads import AskedRead, Reads
from troth.simulate.core_snapshots import Snapshots, SnapshotStored, SnapshotTransfer
from troth.simulate.journal import Journal, chained
from troth.simulate.monitor import Monitor
from troth.simulate.network import Network
from troth.simulate.plan import Plan
from troth.simulate.rng import stream
from troth.simulate.view import EngineView, view_of
from troth.simulate.world import LocalClock, World


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
        self.reads = Reads(self)
        self.snapshots = Snapshots(self)
        self.transfer_us = 0
        """When a transfer of leadership was last asked of this server."""
        self.handling: tuple[NodeId, Any] | None = None
        """The message that the engine was given last, while its outcome is looked at."""
        self.world = world
        self.network = network
        self.plan = plan
        self.monitor = monitor
        self._start = start
        self._sync_us = plan.disk_us
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
        self._releasing = False
        self._apply_queue: deque[Entry] = deque()
        self._applying = self._syncing = self._pump_planned = False
        self._backlog: list[tuple[Tick, Callable[..., None], tuple[Any, ...]]] = []
        self.reads.begin()
        self.snapshots.begin()
        self.monitor.on_booted(self)
        self.world.after(self.rng.randrange(1, 10_000), self._tick, self.life)

    def crash(self) -> None:
        """End the process; unsynced writes are lost as the plan says."""
        if not self.up:
            return
        self.up = False
        self.life += 1
        self.journal.crash(self._luck, self.plan.keep_unsynced)
        self.monitor.on_crashed(self)

    def lose_end(self) -> bool:
        """The end of the log on this server's disk has become unreadable while it was down."""
        if not self.journal.lose_end(self._luck):
            return False
        self.lost = True
        # A connection that a new process opens takes the place of the old one's: nothing older comes behind it.
        self.network.forget_from(self.node_id)
        return True

    def pause(self, world_us: int) -> None:
        """Stop the process for a while; inputs wait in its sockets."""
        if self.up and not self.paused:
            self.paused = True
            self.world.after(world_us, self._resume, self.life)

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
        return self.world.now_us

    def has_work(self) -> bool:
        """Whether effects wait to be fetched, or writes to become durable."""
        return self._pump_planned or self.journal.synced < self.journal.written

    def asked_read(self, context: int) -> AskedRead | None:
        """The read that goes by *context* and waits for its index."""
        return self.reads.asked.get(context)

    def calm_disk(self) -> None:
        """The disk goes on."""
        self.disk_hangs = False
        if self.up:
            self._maybe_sync()

    def calm(self) -> None:
        """The disk works well again (the second half of a run)."""
        self._sync_us = min(self._sync_us, 20_000)
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
        self._input(self.reads.ask, self.monitor.ledger.highest)

    def propose(self, payload: bytes) -> ProposeResult | None:
        """A client writes; None when the process does not run."""
        if not self.up or self.paused:
            return None
        result = self.engine.propose(payload)
        if isinstance(result, Accepted):
            self.monitor.on_accepted(self)
        self.after_input()
        return result

    def change_membership(self, change: MembershipChange) -> ProposeResult | None:
        """An operator changes who decides."""
        if not self.up or self.paused:
            return None
        result = self.engine.change_membership(change)
        self.after_input()
        return result

    def transfer(self, target: NodeId) -> Refused | None:
        """An operator moves the leadership."""
        if not self.up or self.paused:
            return None
        result = self.engine.transfer(target)
        if result is None:
            self.transfer_us = self.world.now_us
        self.after_input()
        return result

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        if not self.paused:
            now = self.clock.ticks()
            self.engine.tick(now)
            self.monitor.on_tick(self, now)
            self.after_input()
            if self.lost:
                self.reads.maybe_recover(now)
            self.snapshots.maybe_save()
        self.world.after(self.clock.world_us(self.plan.tick_stride), self._tick, life)

    def _on_message(self, now: Tick, sender: NodeId, message: Any) -> None:
        if isinstance(message, Message):
            self._receive(sender, message, now)
        elif isinstance(message, SnapshotTransfer):
            self.snapshots.on_transfer(sender, message)
        elif isinstance(message, SnapshotStored):
            self.snapshots.on_stored(sender, message.last)

    def _receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        self.monitor.on_received(self, sender, message, now)
        self.handling = (sender, message)
        self.engine.receive(sender, message, now)
        self.after_input()
        self.handling = None

    def _on_peer_died(self, now: Tick, peer: NodeId) -> None:
        self.monitor.on_suspected(self, peer)
        self.engine.suspect(peer, now)
        self.after_input()

    def _on_unreachable(self, _now: Tick, peer: NodeId) -> None:
        self.engine.unreachable(peer)
        self.after_input()

    # ---- effects ----

    def after_input(self) -> None:
        self.monitor.on_input(self)
        if self._pump_planned:
            return
        if self._defer and self._deferring.random() * 1000 < self._defer:
            self._pump_planned = True
            self.world.after(self._deferring.randrange(1, 20_000), self._pump_later, self.life)
        else:
            self._pump()

    def _pump_later(self, life: int) -> None:
        if life != self.life:
            return
        if self.paused:
            self.world.after(1_000, self._pump_later, life)
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
            self.journal.append(effects.persist, self.snapshots.received[snapshot.last] if snapshot else 0)
            self.monitor.on_written(self, effects.persist)
        if effects.trace:
            self.monitor.on_trace(self, effects.trace)
        if effects.send:
            on_sent, network_send = self.monitor.on_sent, self.network.send
            for send in effects.send:
                on_sent(self, send.to, send.message)
                network_send(self.node_id, send.to, send.message)
        for send in effects.after_persist:
            self._outbox.append((self.journal.written, send))
        if effects.install is not None:
            self.applied, self.digest = effects.install.last, self.snapshots.received[effects.install.last]
            self._apply_queue.clear()
            self.monitor.on_applied(self, self.applied, self.digest)
            self.reads.release()
        if effects.committed:
            self._apply_queue.extend(effects.committed)
            if not self.plan.apply_us:
                self._apply(self.life)
            elif not self._applying:
                self._applying = True
                self.world.after(self.rng.randrange(0, 2 * self.plan.apply_us), self._apply, self.life)
        for peer in effects.snapshots_wanted:
            self.snapshots.stream(peer)
        if effects.reads or effects.reads_refused:
            self.reads.on_effects(effects)
        if self.reads.waiting:
            self.reads.release()
        if self._outbox:
            self._release_outbox()
        self._maybe_sync()

    # ---- disk ----

    def disk_us(self) -> int:
        return 20 + int(self._draw_disk() * self._draw_disk() * 4 * self._sync_us)

    def _maybe_sync(self) -> None:
        if not self._syncing and not self.disk_hangs and self.journal.synced < self.journal.written:
            self._syncing = True
            self.world.after(self.disk_us(), self._synced, self.life, self.journal.written)

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
        self.reads.maybe_restore_vote()
        self._release_outbox()

    def _release_outbox(self) -> None:
        if self._releasing:
            return  # our own message has led here: after it, the loop below goes on with what has come meanwhile
        outbox = self._outbox
        life = self.life
        self._releasing = True
        try:
            while outbox and outbox[0][0] <= self.journal.synced:
                send = outbox.popleft()[1]
                self.monitor.on_sent(self, send.to, send.message)
                if send.to == self.node_id:
                    self._receive(self.node_id, send.message, self.clock.ticks())
                    if life != self.life:
                        return
                else:
                    self.network.send(self.node_id, send.to, send.message)
        finally:
            self._releasing = False

    # ---- state machine ----

    def _apply(self, life: int) -> None:
        if life != self.life:
            return
        self._applying = False
        queue = self._apply_queue
        if not queue:
            return
        early = self.snapshots.on_early is not None
        while queue:
            entry = queue.popleft()
            self.digest = chained(self.digest, entry)
            self.applied = EntryId(entry.term, entry.index)
            self.monitor.on_applied(self, self.applied, self.digest)
            if early:
                self.snapshots.maybe_come_early()
        self.engine.applied(self.applied.index)
        self.monitor.on_input(self)
        self.reads.release()


def payload_of(number: int) -> bytes:
    """A command that occurs once in a run."""
    return b"%d" % number

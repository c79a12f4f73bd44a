"""One server's replica: consensus engine, state machine and clients, bound together without touching the world.

The life of a write: `on_client` takes a batch in and waits for the turn's end; `take_effects` puts all batches of the
turn into one log entry (or forwards them to the leader); the engine replicates it; once committed it is applied on
every replica, and the one that the client is connected to answers (writes.py). Order and durability are the engine's
business (core/interface.py); exactly-once is the state machine's (sessions.py). The life of a read: reads.py.

Everything is bounded: writes that wait, reads that wait, watches, snapshots in flight. Full means a refusal.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import assert_never

from troth.core.interface import NO_EFFECTS, Effects, Entry, EntryKind, Message, Send, SnapshotMeta, Trace
from troth.errors import NotLeader
from troth.ids import NodeId, Tick
from troth.kv.history import forget_steps
from troth.replica.effects import (
    NOTHING,
    ClearAmnesia,
    ClientId,
    LoadSnapshot,
    ReplicaEffects,
    StoreChunk,
)
from troth.replica.peers import (
    AskRevision,
    Forward,
    ForwardRefused,
    SnapshotAck,
    SnapshotChunk,
    TellRevision,
)
from troth.replica.protocol import (
    ChangeMembers,
    ClientMessage,
    CloseSession,
    Done,
    FetchSnapshot,
    GetStatus,
    HashState,
    LeaseIds,
    LeaseKeepAlive,
    LeaseList,
    LeaseTimeToLive,
    OpenSession,
    Ping,
    Reads,
    TransferLeadership,
    WatchCancel,
    WatchCreate,
    WatchProgress,
    Writes,
)
from troth.replica.reads import Waiting
from troth.replica.saving import SnapshotPath
from troth.replica.state import ReplicaStart

TURNS_MAX = 4
"""How often one `take_effects` asks the engine: commits free the way for writes that waited."""

_to_and_message: Callable[[Send], tuple[NodeId, Message]] = attrgetter("to", "message")


class Replica(SnapshotPath):
    """A pure state machine; see the module, and `ReplicaEffects` for what its driver owes it."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        self._known_leader = start.engine.leader()
        self._recovering = False

    # ---- inputs ----

    def client_connected(self, client: ClientId) -> None:
        """A client has connected; it is told at once who leads."""
        self._clients.add(client)
        self._reply(client, self._leader_notice())

    def client_gone(self, client: ClientId) -> None:
        """A client's connection has closed. What it proposed goes on; nobody is answered."""
        self._clients.discard(client)
        self._watcher_gone(client)

    def on_client(self, client: ClientId, message: ClientMessage, raw: bytes, now: Tick) -> None:
        """Handle one message of a client. *raw* is its encoded form: commands enter the log as they came."""
        self._now = now
        match message:
            case Writes():
                self._on_writes(client, message, raw)
            case Reads():
                self._on_reads(client, message)
            case OpenSession() | CloseSession():
                self._take_in(client, message, raw)
            case WatchCreate():
                self._on_watch_create(client, message)
            case WatchCancel():
                self._on_watch_cancel(client, message)
            case WatchProgress():
                self._progress_wanted.add(client)
            case LeaseKeepAlive():
                self._on_keep_alive(client, message)
            case LeaseTimeToLive():
                self._on_time_to_live(client, message)
            case LeaseList(call):
                self._at_point(
                    client, call, lambda _: self._list(client, LeaseIds(call, []), self.machine.store.lease_ids())
                )
            case GetStatus():
                self._reply(client, self.status(message.call))
            case ChangeMembers():
                self._on_change_members(client, message)
            case TransferLeadership():
                self._on_transfer(client, message)
            case HashState():
                self._on_hash(client, message)
            case FetchSnapshot(call):
                self._at_point(client, call, lambda _: self._begin_fetch(client, call))
            case Ping():
                self._reply(client, Done(message.call))
            case _:
                assert_never(message)

    def on_peer(self, sender: NodeId, messages: Sequence[Message], now: Tick) -> None:
        """Handle what another server sent, or what this one has addressed to itself once it was durable."""
        self._now = now
        for message in messages:
            match message:
                case Forward():
                    self._on_forward(sender, message)
                case ForwardRefused():
                    self._on_forward_refused(message)
                case SnapshotChunk():
                    done = self._receiver.on_chunk(sender, message, self.engine)
                    if isinstance(done, StoreChunk):
                        self._out.snapshot_work.append(done)
                    elif done is not None:
                        self._out.send.append((sender, done))
                case SnapshotAck():
                    if self._sender.on_ack(sender, message, now, self.engine):
                        self._doubtful |= message.last == self._snapshot.last
                        self._out.events.append(Trace(name="snapshot_doubtful", facts={"last": message.last}))
                case AskRevision():
                    self._on_ask_revision(sender, message)
                case TellRevision():
                    self._on_tell_revision(message)
                case _:
                    self.engine.receive(sender, message, now)

    def tick(self, now: Tick) -> None:
        """Let time pass up to *now*."""
        self._now = now
        self.engine.tick(now)
        # As in a turn: most ticks find nothing of these.
        if self._pending:
            self._expire_writes()
        if self._reads.count or self._questions:
            self._expire_reads()
        if self._transfers:
            self._expire_transfers()
        if self._fetches:
            self._continue_fetches()
        self.machine.store.scavenge()
        if self._leading:
            self._out.snapshot_work += self._sender.tick(now, self.engine)
            if self._loading is None:
                self._revoke_expired()
        if self._amnesia and not self._recovering:
            self._ask_recovery_point()

    def asleep_until(self) -> Tick:
        """`tick` changes nothing before this, unless something else comes in first; a time past: it may, any time."""
        if (
            self._pending
            or self._reads.count
            or self._questions
            or self._transfers
            or self._fetches
            or self._notified
            or self._amnesia
            or self.machine.store.has_garbage
        ):
            return self._now
        return self.engine.asleep_until()

    def suspect(self, peer: NodeId, now: Tick) -> None:
        """The driver has seen *peer*'s process die."""
        self._now = now
        self.engine.suspect(peer, now)

    def unreachable(self, peer: NodeId) -> None:
        """Messages to *peer* were dropped."""
        self.engine.unreachable(peer)

    # ---- snapshot work done by the driver ----

    def load(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """`LoadSnapshot`, all at once."""
        for _ in self.load_steps(meta, chunks):
            pass

    def load_steps(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> Iterator[None]:
        """`LoadSnapshot`, in short steps with turns in between: the state becomes that of *chunks*.

        At first the state is the old one, and nothing is applied; then reads that wait are answered from the new one,
        and watches go on. The last steps free the old one.
        """
        before = self.machine.store
        yield from self.machine.load_steps(chunks)
        self._hub.attach(self.machine.store)
        self._snapshot = meta
        self._log_bytes = 0
        self._lengths.clear()
        self._set_due()
        self._applied = meta.last.index
        self.engine.applied(meta.last.index)
        self._tell_alarms()
        if self._leading:
            self._lessor.reset(self.machine.store.granted_ttls_s(), self._now)
        if self._loading is not None and self._loading.last == meta.last:
            self._loading = None
            self._catch_up()
        yield from forget_steps(before.space)

    def _catch_up(self) -> None:
        if self._backlog:
            self._apply_all(self._take_backlog())

    def amnesia_cleared(self) -> None:
        """`ClearAmnesia` is done and durable."""
        self._amnesia = False
        self.engine.restore_vote()

    # ---- outcome ----

    def take_effects(self) -> ReplicaEffects:
        """Everything to be done since the last call."""
        if self._preparing is not None:
            self._prepare_more(self._preparing)
        # Most turns have nothing to do for most of these: that is asked here, for a call costs more than the answer.
        if self._unserved or self._keys_left <= 0:
            self._serve_rest()
        if self._making:
            self._make_more()
        if self._inbox and self.engine.leader() != self._known_leader:
            # Settle the old leader's affairs before anything new is proposed: the two must not be mixed up.
            self._absorb(self.engine.take_effects())
        for _ in range(TURNS_MAX):
            if self._inbox:
                self._propose_inbox(self._known_leader[1])
            if self._reads.new:
                context = self._reads.ask(self._now)
                if context is not None:
                    self.engine.read(context, self._now)
            self._absorb(self.engine.take_effects())
            if not (self._inbox and self._leading and self._may_propose()):
                break
        else:
            self._out.again = True
        if self._reads.count:
            self._reads.release(self._applied, self.machine.store.revision, self._now)
        if self._hub.count or self._progress_wanted:
            self._tell_watchers()
        if self._notified:
            self._notify_progress()
        if (
            self._log_bytes >= self._due_bytes
            or self._applied - self._snapshot.last.index >= self._due_entries
            or self._doubtful
        ):
            self._maybe_snapshot()
        out = self._out
        if not out:
            return NOTHING
        self._out = ReplicaEffects()
        return out

    def _absorb(self, effects: Effects) -> None:
        """Turn what the engine wants done into what the driver is asked to do."""
        if effects is NO_EFFECTS:
            if self.engine.leader() != self._known_leader:
                self._notice_leader()
            return
        out = self._out
        if effects.send:
            out.send += map(_to_and_message, effects.send)
        if effects.after_persist:
            out.after_persist += map(_to_and_message, effects.after_persist)
        if effects.persist is not None:
            out.persists.append(effects.persist)
        if effects.membership is not None:
            self._members = out.membership = effects.membership
        out.events += effects.trace
        out.again |= effects.more_committed
        if effects.install is not None:
            out.snapshot_work.append(LoadSnapshot(meta=effects.install))
            self._loading = effects.install
            self._preparing = None
            self._take_backlog()
            # What was handed on before may be covered by the snapshot; then it will never be seen being applied. What
            # is proposed from now on comes behind it, and is applied once that is loaded.
            self._leader_lost()
        if self._loading is not None or self._preparing is not None:
            if effects.committed:
                self._put_off(effects.committed)
        elif effects.committed:
            self._apply_all(effects.committed)
        # After applying: what has committed is answered, also by a leader that falls in this very turn.
        if self.engine.leader() != self._known_leader:
            self._notice_leader()
        for state in effects.reads:
            self._reads.on_confirmed(state)
        for context in effects.reads_refused:
            self._reads.on_refused(context, NotLeader.code, "the leader could not be confirmed; ask again")
        for peer in effects.snapshots_wanted:
            # One that is still loaded here is stored already, and the log goes on behind it, not behind the one before.
            out.snapshot_work += self._sender.begin(peer, self._loading or self._snapshot, self._now)

    def _apply_all(self, entries: Sequence[Entry]) -> None:
        for position, entry in enumerate(entries):
            if entry.kind == EntryKind.COMMANDS:
                self._preparing = self._prepare(entry)
                if self._preparing is not None:
                    self._put_off(entries[position:])
                    self._out.again = True
                    break
                self._apply(entry)
            self._applied = entry.index
        self.engine.applied(self._applied)
        self._tell_alarms()
        if self._changes:
            self._settle_changes()

    def _prepare_more(self, steps: Iterator[None]) -> None:
        """One step; time passes and everything else goes on between two."""
        for _ in steps:
            self._out.again = True
            return
        self._preparing = None
        self._catch_up()

    def _notice_leader(self) -> None:
        """Another term or leader: settle what depended on the old one, tell every client."""
        self._withdraw_own()
        _, before = self._known_leader
        self._known_leader = self.engine.leader()
        if before != self._leader or not self._leading:
            self._leader_lost()
            self._sender.stop_all()
            self._settle_leadership()
        if self._leading:
            self._lessor.reset(self.machine.store.granted_ttls_s(), self._now)
        notice = self._leader_notice()
        for client in sorted(self._clients):
            self._reply(client, notice)

    def _ask_recovery_point(self) -> None:
        """After a loss: a read point that a confirmed leader gives now lies behind everything this server may ever
        have acknowledged. When it is applied here, nothing is missing any more."""
        self._recovering = True

        def caught_up(_: int) -> None:
            self._out.snapshot_work.append(ClearAmnesia())

        def again(_code: str, _text: str) -> None:
            self._recovering = False

        self._reads.wait_point(Waiting(caught_up, again, Tick(self._now + self._config.read_timeout_ticks)))

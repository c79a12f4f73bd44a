"""The driver of one server: it owns the clock, the sockets and the disk, and decides nothing.

One turn of the event loop is one turn of the replica. Everything that arrived since the last poll (peers' frames,
clients' requests, finished writes) has been given to the replica by its callbacks; then a single `take_effects`
tells what to do, in this order:

1. messages that may leave now go to the peers' sockets, one frame for each peer (followers start to write);
2. log writes go to the storage thread, in order (our own disk starts);
3. answers go to the clients, one write for each connection;
4. messages that must wait for durability are put into the outbox with the number of the write they wait for.

When a turn writes nothing, 3 comes first: the followers then only learn how far commits have come, and clients wait.

The storage thread posts back how many writes are durable, which opens the outbox up to there: "durable before
visible", with the order decided in pure code and only carried out here.

A turn is scheduled once however many callbacks ask for it, and time also passes inside turns, so that a busy loop
still ticks. A replica for which the passing of time means nothing yet (a follower that waits for its leader) has no
turns for it; the clock is looked at all the same, so that a pause of this process is noticed. When little is under way
(`LONE_BYTES_MAX`), the first read in a round of the loop has its turn at once. Anything unexpected in an input or a
turn stops the server, and nothing that the replica has decided since leaves: one that has failed half way through an
input is not one to go on with.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from typing_extensions import override

from troth.core.interface import Membership, Message, RefusalReason, Trace
from troth.errors import NotLeader, Removed, Unavailable
from troth.ids import ClusterId, NodeId, Tick
from troth.replica.effects import NOTHING, ClientId, SnapshotWork
from troth.replica.peers import PeerCodec
from troth.replica.pieces import LongAnswer
from troth.replica.protocol import ClientMessage, ServerMessage, ServerStatus
from troth.replica.replica import Replica
from troth.runtime.clock import Clock
from troth.runtime.links import PeerSink
from troth.runtime.transport import PeerTransport
from troth.runtime.writer import LogWriter
from troth.wire.handshake import Rejected

BACKLOG_WRITES_MAX = 4096
"""Log writes that may wait for the disk. Above it entries that peers send are dropped, as a slow network would; the
engine's flow control keeps far below while the disk answers at all. Who leads and what others acknowledge is heard all
the same: this server's disk is slow, and not the others."""

STRANGERS_TICKS = 100
"""How often a leader looks whether somebody is connected who was removed, and who is silent."""

TOLD_LATE_MS = 1000
"""A pause of this process that is as long is worth a line in the log."""

LONE_BYTES_MAX = 4096
"""While no more bytes of commands than that are under way, a turn does not wait for company."""

LATE_TICKS = 5
"""A server that has not run for more ticks than that finds events waiting; they are heard before time is told."""

SLEEP_TICKS_MAX = LATE_TICKS - 1
"""So seldom at least the clock is looked at."""

_log = logging.getLogger("troth.node")


class ClientSink(Protocol):
    """Where answers go (the client port)."""

    def deliver(self, replies: Sequence[tuple[ClientId, ServerMessage | LongAnswer]]) -> None: ...


class SnapshotWorker(Protocol):
    """Who carries out snapshot work (runtime/snapshots.py)."""

    def start(self, work: SnapshotWork) -> None: ...


class NodeCounters:
    """What the metrics show of the driver."""

    def __init__(self) -> None:
        self.turns = 0
        self.peer_messages_refused = 0
        self.ticks_late_max = 0
        self.elections = 0
        self.leader_changes = 0


class Node(PeerSink):
    """Binds a replica to transport, storage thread and clients."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        name: str,
        cluster_id: ClusterId,
        replica: Replica,
        codec: PeerCodec,
        transport: PeerTransport,
        clock: Clock,
        on_event: Callable[[Trace], None],
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.cluster_id = cluster_id
        self.replica = replica
        self.counters = NodeCounters()
        self.clients: ClientSink | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Never has a result; its exception is why this server must stop."""
        self._codec = codec
        self._transport = transport
        self._clock = clock
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._writer: LogWriter | None = None
        self._snapshots: SnapshotWorker | None = None
        self._submitted = 0
        self._durable = 0
        self._outbox: deque[tuple[int, list[tuple[NodeId, Message]]]] = deque()
        self._turn_scheduled = False
        self._turn_due = False
        self._told = clock.now()
        """The time that the replica was told last."""
        self._ran_at = self._told
        """When this server was last seen to run."""
        self._heard_at = self._told
        """When the newest input came."""
        self._listened = False
        """Whether the sockets were read since this server noticed how late it is."""
        self._look_at = Tick(0)
        self._silent: set[NodeId] = set()
        """Whom this server does not hear as the leader, when it looked last."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = Tick(0)
        """When it looks at the clock."""
        self._stopped = False
        self.membership: Membership | None = None

    def start(self, *, writer: LogWriter, snapshots: SnapshotWorker) -> None:
        """Begin to tick. *writer*'s completions must come to `on_durable`, its failure to `fail`."""
        self._writer = writer
        self._snapshots = snapshots
        writer.start()
        self._on_timer()

    def stop(self) -> None:
        """No more turns; what is queued for the disk may still become durable."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    @property
    def backlog(self) -> int:
        """Log writes that are not durable yet."""
        return self._submitted - self._durable

    # -- what comes in ---------------------------------------------------------------------------------------

    @override
    def on_peer_frame(self, sender: NodeId, body: bytes) -> None:
        """All that one turn of *sender* had for us. Raises DecodeError."""
        now = self._heard_at = self._clock.now()
        messages = self._codec.decode(body)
        if self._submitted - self._durable > BACKLOG_WRITES_MAX:
            sent = len(messages)
            messages = [each for each in messages if not each.brings_entries()]
            self.counters.peer_messages_refused += sent - len(messages)
        try:
            self.replica.on_peer(sender, messages, now)
        except Exception as error:  # noqa: BLE001 - as in a turn, and before there is one
            self.fail(error)

    @override
    def on_heard(self) -> None:
        """One read of a socket is over. Under load the turn waits for what else there is to read; else it begins now,
        and once more for that."""
        if self._turn_scheduled or self.replica.pending_bytes > LONE_BYTES_MAX:
            self._wake()
        else:
            self._turn_scheduled = True
            self._loop.call_soon(self._scheduled_turn)
            self._turn(self._heard_at)

    @override
    def on_suspect(self, peer: NodeId) -> None:
        _log.info("the process of a peer is gone", extra={"facts": {"peer": f"{peer:x}"}})
        self._tell(self.replica.suspect, peer, self._clock.now())

    @override
    def on_unreachable(self, peer: NodeId) -> None:
        self._tell(self.replica.unreachable, peer)

    @override
    def on_removed(self, peer: NodeId, term: int, text: str) -> None:
        # A leader of our term or a later one has every membership that was ever committed before (thesis §3.6); one
        # of an earlier term may not have heard yet that we were added.
        if term >= self.replica.engine.leader()[0]:
            self.fail(Removed(text))

    def refuse_stranger(self, peer: NodeId) -> Rejected | None:
        """Why *peer* is no member of this cluster; None when it is one, or when this server can not know for sure."""
        term, leader = self.replica.engine.leader()
        if leader != self.node_id or not self.replica.was_removed(peer):
            return None
        text = (
            f"this server ({peer:x}) was removed from the cluster, says its leader {self.name} in term {term}. Its "
            "data directory is of no more use; to take part again, start with an empty one and --join or --await-add"
        )
        return Rejected(Removed.code, text, term)

    def client_opened(self, client: ClientId) -> None:
        self._tell(self.replica.client_connected, client)

    def on_client(self, client: ClientId, message: ClientMessage, raw: bytes) -> None:
        """A request; `on_heard` follows."""
        now = self._heard_at = self._clock.now()
        try:
            self.replica.on_client(client, message, raw, now)
        except Exception as error:  # noqa: BLE001 - as in a turn, and before there is one
            self.fail(error)

    def client_gone(self, client: ClientId) -> None:
        self._tell(self.replica.client_gone, client)

    def client_paused(self, client: ClientId, *, paused: bool) -> None:
        self._tell(self.replica.client_paused, client, paused)

    def on_durable(self, count: int) -> None:
        """*count* more writes are on the disk."""
        self._durable += count
        try:
            own = self._open_outbox()
        except Exception as error:  # noqa: BLE001 - as in a turn, and before there is one
            self.fail(error)
        else:
            if own:
                self.on_heard()

    def _tell(self, heard: Callable[..., None], *what: object) -> None:
        """Hand the replica something rare, and have a turn."""
        try:
            heard(*what)
        except Exception as error:  # noqa: BLE001 - as in a turn, and before there is one
            self.fail(error)
        else:
            self._wake()

    def after_work(self) -> None:
        """A piece of snapshot work was reported to the replica."""
        self._wake()

    def status(self) -> ServerStatus:
        return self.replica.status()

    def transfer(self, target: NodeId) -> None:
        """Begin to hand leadership to *target* (0: whoever is most up to date).

        Raises:
            NotLeader: this server does not lead.
            Unavailable: the target can not take over.
        """
        refused = self.replica.engine.transfer(target)
        if refused is not None:
            if refused.reason is RefusalReason.NOT_LEADER:
                raise NotLeader(refused.leader)
            raise Unavailable(": ".join(filter(None, (refused.reason.value, refused.detail))))
        self._wake()

    def fail(self, error: BaseException) -> None:
        """This server can not go on."""
        self.stop()
        if not self.failed.done():
            self.failed.set_exception(error)

    # -- turns -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._turn_due = True
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._turn_scheduled = False
        if self._turn_due:
            self._turn(self._clock.now())

    def _on_timer(self) -> None:
        if self._stopped:
            return
        now = self._clock.now()
        until = self.replica.asleep_until()
        if now < until and now - self._ran_at <= LATE_TICKS:
            self._ran_at = now
        else:
            self._wake()
        self._set_timer(now, until)

    def _set_timer(self, now: Tick, until: Tick) -> None:
        """Look at the clock again when the replica wants to know the time, *until* which it sleeps, and not long from
        *now* in any case."""
        ticks = min(max(until - now, 1), SLEEP_TICKS_MAX)
        self._timer_at = Tick(now + ticks)
        self._timer = self._loop.call_later(ticks * self._clock.tick_ms / 1000, self._on_timer)

    def _stay_awake(self, timer: asyncio.TimerHandle, now: Tick) -> None:
        """What a turn has brought may want to know the time before *timer* looks at the clock again."""
        until = self.replica.asleep_until()
        if until < self._timer_at:
            timer.cancel()
            self._set_timer(now, until)

    def _turn(self, now: Tick) -> None:
        self._turn_due = False
        if self._stopped:
            return
        try:
            late = now - self._ran_at
            if late > LATE_TICKS and not self._listened:
                # We were stopped or starved. What arrived meanwhile (a heartbeat, say) is still in the sockets: read
                # it before the replica hears how late it is, or each pause would look like a lost leader.
                self._listened = True
                self.counters.ticks_late_max = max(self.counters.ticks_late_max, late)
                if late * self._clock.tick_ms >= TOLD_LATE_MS:
                    seconds = round(late * self._clock.tick_ms / 1000, 1)
                    _log.warning("this process stood still", extra={"facts": {"seconds": seconds}})
                self._wake()
                return
            self._ran_at = now
            self._listened = False
            if now > self._told:
                self._told = now
                self.replica.tick(now)
                if now >= self._look_at:
                    self._look_at = Tick(now + STRANGERS_TICKS)
                    self._transport.close_strangers()
                    self._tell_silent()
            self._execute()
            if self._timer_at > now + 1 and self._timer is not None:
                self._stay_awake(self._timer, now)
        # The replica is in an unknown state: stop, whatever it was; the entry point tells why.
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    def _tell_silent(self) -> None:
        """Say whom this server, as the leader, no longer hears, and whom it hears again."""
        progress = self.replica.engine.status().progress
        silent = {node for node, seen in progress.items() if not seen.active}
        for node in sorted(silent ^ (self._silent & progress.keys())):
            text = "a peer is silent" if node in silent else "a peer is heard again"
            _log.info(text, extra={"facts": {"peer": f"{node:x}"}})
        self._silent = silent

    def _execute(self) -> None:
        self.counters.turns += 1
        effects = self.replica.take_effects()
        if effects is NOTHING:
            return
        writer = self._writer
        if not effects.persists and effects.replies and self.clients is not None:
            self.clients.deliver(effects.replies)
            effects.replies = []
        if effects.send and self._send(effects.send):
            self._wake()
        if effects.persists and writer is not None:
            for persist in effects.persists:
                writer.submit(persist)
            self._submitted += len(effects.persists)
        if effects.replies and self.clients is not None:
            self.clients.deliver(effects.replies)
        if effects.after_persist:
            self._put_out(effects.after_persist)
            if self._submitted == self._durable and self._open_outbox():
                self._wake()
        if effects.membership is not None:
            self._on_membership(effects.membership)
        for work in effects.snapshot_work:
            if self._snapshots is not None:
                self._snapshots.start(work)
        for event in effects.events:
            self._count_event(event)
            self._on_event(event)
        if effects.again:
            self._wake()

    def _send(self, messages: Sequence[tuple[NodeId, Message]]) -> bool:
        """One frame for each peer. What is for this very server goes back in; True: there was some."""
        by_peer: dict[NodeId, list[Message]] = {}
        for peer, message in messages:
            mine = by_peer.get(peer)
            if mine is None:
                by_peer[peer] = [message]
            else:
                mine.append(message)
        for peer, batch in by_peer.items():
            if peer != self.node_id:
                self._transport.send(peer, self._codec.encode(batch))
        own = by_peer.get(self.node_id)
        if own is not None:
            now = self._heard_at = self._clock.now()
            self.replica.on_peer(self.node_id, own, now)
        return own is not None

    def _put_out(self, messages: list[tuple[NodeId, Message]]) -> None:
        """Have *messages* wait for all that was submitted so far.

        While a disk hangs the same questions come again and again, and each gets the same answer; said once it is
        enough (a network might repeat it), and kept each time it would fill the memory.
        """
        if self._outbox and self._outbox[-1][0] == self._submitted:
            waiting = self._outbox[-1][1]
            waiting.extend(each for each in messages if each not in waiting)
        else:
            self._outbox.append((self._submitted, messages))

    def _open_outbox(self) -> bool:
        """Send what need not wait any longer; True: some of it was for this very server."""
        outbox = self._outbox
        ready: list[tuple[NodeId, Message]] = []
        while outbox and outbox[0][0] <= self._durable:
            ready.extend(outbox.popleft()[1])
        return bool(ready) and self._send(ready)

    def _on_membership(self, membership: Membership) -> None:
        self.membership = membership
        self._transport.set_peers(peer_addresses(membership, self.node_id))

    def _count_event(self, event: Trace) -> None:
        if event.name == "candidate":
            self.counters.elections += 1
        elif event.name == "leader":
            self.counters.leader_changes += 1


def peer_addresses(membership: Membership, own: NodeId) -> Mapping[NodeId, str]:
    """Where each other member is dialed."""
    return {
        node: membership.members[node].peer_address if node in membership.members else ""
        for node in membership.everyone()
        if node != own
    }

"""A cluster that speaks the real frames from inside the test's own event loop, and fails on command.

The data is one real `Store` (so everything is linearizable by construction); servers are listeners in front of it.
What servers do wrong is set on them: replies lost, connections cut, refusals, garbage, silence.
"""

import asyncio
import functools
import selectors
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from troth.core.interface import Member
from troth.errors import DecodeError
from troth.ids import ClusterId, NodeId
from troth.kv.requests import Failure, Result
from troth.kv.store import Store
from troth.kv.watch import WatchCreated as HubCreated
from troth.kv.watch import WatchHub, WatchRequest
from troth.models import LevelName
from troth.replica import protocol as p
from troth.wire.frames import FRAME_BYTES_MAX, FrameSplitter, frame
from troth.wire.handshake import Hello, Rejected, Welcome, decode_greeting, encode_greeting

CLUSTER = ClusterId(0xC1)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(p.ClientMessage).decode


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine function as a test, in a loop of its own, with nothing left running in it."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=FairLoop) as runner:
            runner.run(bounded())

    return run


class FairLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while a busy machine does something else.

    It counts the processor time of this process and what the loop asked to wait for, but not how much longer than asked
    the wait was. Client and servers share the loop, so no time-out passes only because both of them did not get to run.
    """

    def __init__(self) -> None:
        self._selector_slept = _CountingSelector()
        super().__init__(self._selector_slept)

    def time(self) -> float:
        return time.process_time() + self._selector_slept.slept_s


class _CountingSelector(selectors.DefaultSelector):
    """Sums up how long it was asked to wait and did."""

    # What is said inside one process is there at once: a longer wait for it was the machine's doing.
    EVENT_SECONDS_MAX = 0.005

    slept_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began_s = time.monotonic()
        found = super().select(timeout)
        took_s = time.monotonic() - began_s
        asked_s = self.EVENT_SECONDS_MAX if found or timeout is None else max(0.0, timeout)
        self.slept_s += min(took_s, asked_s)
        return found


def now_s() -> float:
    """The time of the running loop (`FairLoop`)."""
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* is true; the test's own time-out bounds it."""
    while not condition():  # noqa: ASYNC110  (it watches state that announces nothing)
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(count: int = 1, *, addresses: list[str] | None = None) -> "AsyncIterator[FakeCluster]":
    """A cluster of *count* servers, the first of which leads."""
    cluster = FakeCluster(count, addresses=addresses)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


class FakeCluster:
    """One store and the servers in front of it. `applied` lists every batch in the order it took effect."""

    def __init__(self, count: int = 1, *, addresses: list[str] | None = None) -> None:
        self.store = Store()
        self.hub = WatchHub(self.store)
        self.term = 0
        self.leader: FakeServer | None = None
        self.sessions: dict[int, dict[int, list[Result]]] = {}
        self.acked_below: dict[int, int] = {}
        self.nonces: dict[int, int] = {}
        self.applied: list[tuple[int, int]] = []
        self.lease_ttls_s: dict[int, int] = {}
        self.last_owner = 0
        self.servers = [
            FakeServer(self, f"n{number}", NodeId(number), (addresses or [])[number - 1 : number])
            for number in range(1, count + 1)
        ]

    @property
    def url(self) -> str:
        return "troth://" + ",".join(server.address for server in self.servers)

    async def start(self) -> None:
        for server in self.servers:
            await server.start()
        self.elect(self.servers[0])

    async def stop(self) -> None:
        for server in self.servers:
            server.kill()
        for _ in range(5):
            await asyncio.sleep(0)  # what was accepted last is made, and ended

    def elect(self, server: "FakeServer | None") -> None:
        """A new term, led by *server* (None: nobody yet). Every server that runs tells its clients."""
        self.term += 1
        self.leader = server
        for each in self.servers:
            each.tell_leader()

    def apply(self, message: p.Writes) -> list[Result] | None:
        """Results of the batch, applied now or before; None: the session is not known."""
        if message.session == 0:
            self.applied.append((0, message.first_seq))
            return self.store.apply_batch(message.commands)
        remembered = self.sessions.get(message.session)
        if remembered is None:
            return None
        for first_seq in [seq for seq in remembered if seq < message.acked_below]:
            del remembered[first_seq]
        assert message.first_seq >= self.acked_below.get(message.session, 0), "a batch came back after its ack"
        self.acked_below[message.session] = message.acked_below
        if message.first_seq not in remembered:
            self.applied.append((message.session, message.first_seq))
            remembered[message.first_seq] = self.store.apply_batch(message.commands)
        return remembered[message.first_seq]

    def tell_watchers(self) -> None:
        """Deliver what the last commands changed."""
        owners = {peer.owner: peer for server in self.servers for peer in server.peers}
        while self.hub.has_work:
            for batch in self.hub.poll():
                peer = owners.get(batch.owner)
                if peer is None:
                    continue
                if batch.canceled:
                    peer.send(p.WatchCanceled(batch.watch_id, batch.revision, batch.compact_revision, "compacted"))
                else:
                    peer.send(p.WatchEvents(batch.watch_id, batch.revision, batch.events))


class Served:
    """A fake cluster in a thread; `do` runs a function in its loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.cluster: FakeCluster
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._serve()))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        async with running(3) as self.cluster:
            self._ready.set()
            await self._over.wait()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self.loop.close()


class FakeServer:
    """One listener. The attributes below are what a test turns to make it fail."""

    def __init__(self, cluster: FakeCluster, name: str, node_id: NodeId, address: list[str]) -> None:
        self.cluster = cluster
        self.name = name
        self.node_id = node_id
        self.address = address[0] if address else ""
        self.cluster_id = CLUSTER
        self.peers: list[Peer] = []
        self.received: list[p.ClientMessage] = []
        self.rejection: Rejected | None = None
        self.is_stopped = False
        """As after SIGSTOP: connections stay, nothing is answered."""
        self.forwards = False
        """A follower passes writes on instead of refusing them."""
        self.lose_replies = 0
        """Apply this many batches, but cut the connection instead of answering."""
        self.cut_before = 0
        """Cut the connection at this many batches without applying them."""
        self.refusals: deque[tuple[str, str, str]] = deque()
        """(code, text, leader): answers to the next batches, reads and calls."""
        self.answer_after: asyncio.Event | None = None
        """Answers wait for this."""
        self.acceptor: dict[str, int] = {}
        """What its status tells of an acceptor."""
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self.address.startswith("unix:"):
            self._listener = await loop.create_unix_server(lambda: Peer(self), self.address.removeprefix("unix:"))
        else:
            port = int(self.address.rpartition(":")[2]) if self.address else 0
            self._listener = await loop.create_server(lambda: Peer(self), "127.0.0.1", port)
            self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    @property
    def is_running(self) -> bool:
        return self._listener is not None

    def kill(self) -> None:
        """As by SIGKILL: the listener and all connections are gone."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for peer in list(self.peers):
            peer.cut()

    def stop(self) -> None:
        """As by SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """As by SIGCONT: what arrived meanwhile is handled now."""
        self.is_stopped = False
        for peer in list(self.peers):
            peer.catch_up()

    def tell_leader(self) -> None:
        for peer in self.peers:
            if peer.is_greeted:
                peer.send(self._leader_changed())

    def _leader_changed(self) -> p.LeaderChanged:
        leader = self.cluster.leader
        if leader is None:
            return p.LeaderChanged(self.cluster.term, NodeId(0), "")
        return p.LeaderChanged(self.cluster.term, leader.node_id, leader.address)

    def writes(self) -> list[p.Writes]:
        """The batches received so far."""
        return [message for message in self.received if isinstance(message, p.Writes)]

    def reads(self) -> list[p.Reads]:
        """The read frames received so far."""
        return [message for message in self.received if isinstance(message, p.Reads)]


class Peer(asyncio.Protocol):
    """One client connection of a fake server."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.cluster = server.cluster
        self.cluster.last_owner += 1
        self.owner = self.cluster.last_owner
        self.is_greeted = False
        self._splitter = FrameSplitter()
        self._unread = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if not self.server.is_running:
            self._transport.abort()  # accepted in the moment of the kill
        self.server.peers.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.server.peers:
            self.server.peers.remove(self)
        self.cluster.hub.cancel_owner(self.owner)

    def cut(self) -> None:
        self._transport.abort()
        if self in self.server.peers:
            self.server.peers.remove(self)
        self.cluster.hub.cancel_owner(self.owner)

    def send(self, message: p.ServerMessage) -> None:
        if self.server.is_stopped:
            return
        gate = self.server.answer_after
        if gate is not None and not isinstance(message, p.LeaderChanged | p.Done):
            task = asyncio.get_running_loop().create_task(self._send_later(gate, message))
            task.add_done_callback(lambda _: None)
            return
        self._transport.write(frame(_encode(message)))

    async def _send_later(self, gate: asyncio.Event, message: p.ServerMessage) -> None:
        await gate.wait()
        self._transport.write(frame(_encode(message)))

    def send_raw(self, data: bytes) -> None:
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.server.is_stopped:
            self._unread += data
            return
        for body in self._splitter.feed(data):
            if self.is_greeted:
                self._handle(_decode(body))
            else:
                self._greet(body)

    def catch_up(self) -> None:
        unread, self._unread = self._unread, b""
        if unread:
            self.data_received(unread)

    def _greet(self, body: bytes) -> None:
        hello = decode_greeting(body)
        if not isinstance(hello, Hello):
            raise DecodeError("a client says Hello")
        answer: Rejected | Welcome = Welcome(1, self.server.cluster_id, self.server.node_id, self.server.name)
        if self.server.rejection is not None:
            answer = self.server.rejection
        elif hello.cluster_id not in (0, self.server.cluster_id):
            answer = Rejected("wrong_cluster", f"this is cluster {self.server.cluster_id:x}")
        self._transport.write(frame(encode_greeting(answer)))
        if isinstance(answer, Rejected):
            self._transport.close()
            return
        self.is_greeted = True
        self._splitter.limit = FRAME_BYTES_MAX
        if self.cluster.term:
            self.send(self.server._leader_changed())

    # ---- requests --------------------------------------------------------------------------------------

    def _handle(self, message: p.ClientMessage) -> None:
        self.server.received.append(message)
        refuse = self._refusal(message)
        if refuse is not None:
            refuse()
            return
        match message:
            case p.OpenSession():
                session = self.cluster.nonces.setdefault(message.nonce, 100 + len(self.cluster.nonces))
                self.cluster.sessions.setdefault(session, {})
                self.send(p.SessionOpened(message.call, session))
            case p.CloseSession():
                self.cluster.sessions.pop(message.session, None)
            case p.Writes():
                self._write(message)
            case p.Reads():
                results = [self.cluster.store.range(request) for request in message.requests]
                self.send(p.ReadResults(message.call, message.level.name, self.cluster.store.revision, results))
            case p.WatchCreate():
                self._watch(message)
            case p.WatchCancel():
                self.cluster.hub.cancel(self.owner, message.watch)
            case p.WatchProgress():
                self.send(p.WatchEvents(-1, self.cluster.store.revision, []))
            case p.LeaseKeepAlive():
                granted = self.cluster.store.granted_ttls_s()
                self.send(p.LeaseTtls(message.call, [granted.get(lease, -1) for lease in message.ids]))
            case p.LeaseTimeToLive():
                view = self.cluster.store.lease(message.id)
                if view is None:
                    self.send(p.LeaseView(message.call, message.id, -1, 0, []))
                else:
                    keys = list(view.keys) if message.keys else []
                    ttl_s = view.granted_ttl_s
                    self.send(p.LeaseView(message.call, message.id, ttl_s, ttl_s, keys))
            case p.LeaseList():
                self.send(p.LeaseIds(message.call, self.cluster.store.leases()))
            case p.GetStatus():
                self.send(self._status(message.call))
            case p.ChangeMembers() | p.TransferLeadership() | p.Ping():
                self.send(p.Done(message.call))
            case p.HashState():
                store = self.cluster.store
                self.send(p.StateHash(message.call, store.hash(), store.revision, store.compact_revision, 1))
            case p.FetchSnapshot():
                for part in range(3):
                    self.send(p.SnapshotPart(message.call, b"part%d" % part, part == 2))

    def _refusal(self, message: p.ClientMessage) -> Callable[[], None] | None:
        server, leader = self.server, self.cluster.leader
        if isinstance(message, p.Ping | p.GetStatus | p.WatchCreate | p.WatchCancel | p.CloseSession):
            return None
        if server.refusals and not isinstance(message, p.OpenSession):
            code, text, hint = server.refusals.popleft()
        else:
            needs_leader = isinstance(message, p.Writes | p.OpenSession) or (
                isinstance(message, p.Reads) and message.level.name is LevelName.LINEARIZABLE
            )
            if not needs_leader or leader is server or (server.forwards and leader is not None):
                return None
            code, text, hint = "not_leader", "not the leader", leader.address if leader else ""
        if isinstance(message, p.Writes):
            session, first_seq = message.session, message.first_seq
            return lambda: self.send(p.WritesRefused(session, first_seq, code, text, hint))
        call = getattr(message, "call", 0)
        return lambda: self.send(p.CallRefused(call, code, text, hint))

    def _write(self, message: p.Writes) -> None:
        if self.server.cut_before:
            self.server.cut_before -= 1
            self.cut()
            return
        results = self.cluster.apply(message)
        if results is None:
            self.send(p.WritesRefused(message.session, message.first_seq, "session_expired", "unknown session"))
            return
        if self.server.lose_replies:
            self.server.lose_replies -= 1
            self.cut()
        else:
            self.send(p.Results(message.session, message.first_seq, results))
        self.cluster.tell_watchers()

    def _watch(self, message: p.WatchCreate) -> None:
        request = WatchRequest(
            key=message.key,
            range_end=message.range_end,
            start_revision=message.start_revision,
            no_put=message.no_put,
            no_delete=message.no_delete,
            prev_kv=message.prev_kv,
            watch_id=message.watch,
        )
        created = self.cluster.hub.create(self.owner, request)
        if isinstance(created, Failure):
            self.send(p.WatchCanceled(message.watch, 0, 0, created.text, created.code))
            return
        assert isinstance(created, HubCreated)
        self.send(p.WatchCreated(message.watch, created.revision))
        self.cluster.tell_watchers()

    def _status(self, call: int) -> p.ServerStatus:
        cluster = self.cluster
        leader = NodeId(0) if cluster.leader is None else cluster.leader.node_id
        peers = [
            p.PeerView(
                server.node_id, Member(server.name, "", server.address), True, leader=server is cluster.leader
            )
            for server in cluster.servers
        ]
        return p.ServerStatus(
            call=call,
            node_id=self.server.node_id,
            name=self.server.name,
            cluster_id=self.server.cluster_id,
            version="0",
            role="leader" if cluster.leader is self.server else "follower",
            term=cluster.term,
            leader=leader,
            revision=cluster.store.revision,
            compact_revision=cluster.store.compact_revision,
            commit_index=1,
            applied_index=1,
            last_index=1,
            first_index=1,
            db_size_bytes=0,
            survives=0,
            joint=False,
            peers=peers,
            alarms=cluster.store.alarms,
            acceptor=self.server.acceptor,
        )

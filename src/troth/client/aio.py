"""The asyncio client. One object, any number of coroutines; everything else in this package is a part of it."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from typing_extensions import override

from troth.errors import TrothError, Unavailable, UsageError
from troth.ids import NodeId
from troth.kv.requests import (
    Alarm,
    AlarmMember,
    Command,
    Compact,
    Compare,
    DeleteRange,
    Operation,
    Put,
    Range,
    SortOrder,
    SortTarget,
)
from troth.models import ReadLevel, linearizable
from troth.replica.protocol import ClientMessage, GetStatus, HashState, PeerView, ServerStatus, StateHash

from .link import Connection, frame_of
from .operations import Text, Txn, as_bytes, span
from .reads import ReadPipeline
from .replies import Acknowledged, DeleteReply, GetReply, PutReply, RangeReply, TxnReply
from .router import ANY, LEADER, CallRequest, Router
from .url import parse_url
from .writes import WritePipeline

_encode = msgspec.msgpack.Encoder().encode


class Call(CallRequest):
    """One question with one answer, awaited through `future`."""

    __slots__ = ("_frame", "future", "server")

    def __init__(self, message: ClientMessage, call: int, target: str, deadline_s: float) -> None:
        super().__init__(call, target, deadline_s)
        self._frame = frame_of(message)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.server = ""

    @override
    def frame(self) -> bytes:
        return self._frame

    @override
    def fail(self, error: TrothError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    @override
    def answer(self, connection: Connection, message: Any) -> None:
        self.server = connection.server
        if not self.future.done():
            self.future.set_result(message)


class AsyncClient:
    """A client of one cluster. Made by `troth.aio.connect`.

    `put`, `get`, `range`, `delete` and `txn` return futures: all that are asked for in one turn of the event loop
    leave in one frame, so start many and await them together. Each ends with its reply or with a typed error
    (troth.errors), at the latest after `timeout` seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        session: bool = True,
        read_from: str = ANY,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare a client; see `troth.aio.connect` for the arguments. Call from a running event loop."""
        if timeout <= 0:
            raise UsageError(f"timeout={timeout}: a positive number of seconds is needed")
        parsed = parse_url(url)
        self.timeout_s = timeout
        self.router = Router(parsed.addresses, tls=tls or parsed.ssl_context(), timeout_s=timeout)
        self._writes = WritePipeline(self.router, use_session=session)
        self._reads = ReadPipeline(self.router, self._writes, read_from=read_from)
        self._is_closed = False

    # ---- reading and writing ---------------------------------------------------------------------------

    def put(
        self,
        key: Text,
        value: Text = b"",
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
    ) -> "asyncio.Future[PutReply]":
        """Write one key.

        Raises:
            NotApplied: it did not happen (its subclasses say why).
            OutcomeUnknown: it may have happened.
        """
        if type(key) is not bytes:
            key = as_bytes(key)
        if type(value) is not bytes:
            value = as_bytes(value)
        if self._is_closed:
            raise _closed()
        return self._writes.submit(
            Put(key, value, lease, prev_kv, ignore_value, ignore_lease), len(key) + len(value)
        )

    def get(self, key: Text, *, level: ReadLevel = linearizable, revision: int = 0) -> "asyncio.Future[GetReply]":
        """Read one key, now or as it stood at *revision*. An absent key is no error: `GetReply.kv` is None."""
        if type(key) is not bytes:
            key = as_bytes(key)
        if self._is_closed:
            raise _closed()
        request = Range(key, b"", 0, revision) if revision else Range(key)
        return self._reads.submit(request, level, GetReply)

    def range(
        self,
        key: Text = b"",
        range_end: Text | None = None,
        *,
        prefix: Text | None = None,
        limit: int = 0,
        revision: int = 0,
        sort_order: SortOrder = SortOrder.NONE,
        sort_target: SortTarget = SortTarget.KEY,
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        level: ReadLevel = linearizable,
    ) -> "asyncio.Future[RangeReply]":
        """Read a span of keys: ``range("a", "c")``, ``range(prefix="a/")``; ``range(prefix="")`` is everything."""
        start, end = span(key, range_end, prefix)
        if self._is_closed:
            raise _closed()
        request = Range(
            start,
            end,
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only,
            count_only,
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        )
        return self._reads.submit(request, level, RangeReply)

    def delete(
        self,
        key: Text = b"",
        range_end: Text | None = None,
        *,
        prefix: Text | None = None,
        prev_kv: bool = False,
    ) -> "asyncio.Future[DeleteReply]":
        """Delete one key, or a span of them. Deleting what is not there is no error."""
        start, end = span(key, range_end, prefix)
        return self.write(DeleteRange(start, end, prev_kv), len(start) + len(end))

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> "asyncio.Future[TxnReply]":
        """If all of *compare* hold do *success*, else *failure*, at one revision.

        ::

            await client.txn([troth.version("k") == 0], [troth.Put("k", "v")], [troth.Get("k")])
        """
        request = Txn(list(compare), list(success), list(failure))
        return self.write(request, len(_encode(request)))

    def write(self, command: Command, size_bytes: int = 0) -> "asyncio.Future[Any]":
        """Send any command of troth.kv.requests through the log; its reply is a class of client/replies.py."""
        if self._is_closed:
            raise _closed()
        return self._writes.submit(command, size_bytes)

    @property
    def seen_revision(self) -> int:
        """The newest revision that an answer to this client has named."""
        return self._writes.seen_revision

    # ---- the cluster -----------------------------------------------------------------------------------

    def call(
        self, make: Callable[..., ClientMessage], *args: Any, target: str = LEADER, within_s: float | None = None
    ) -> Call:
        """Ask ``make(call_number, *args)`` of *target*; await ``.future`` of what is returned."""
        if self._is_closed:
            raise _closed()
        number = self.router.next_call()
        deadline_s = self.router.loop.time() + (self.timeout_s if within_s is None else within_s)
        request = Call(make(number, *args), number, target, deadline_s)
        self.router.submit(request)
        return request

    async def status(self, server: str | None = None, *, within_s: float | None = None) -> list[ServerStatus]:
        """What each server that answers knows (or just *server*), also while there is no leader."""
        if server is not None:
            link = self.router.require(server)
            return [await self.call(GetStatus, target=link.address, within_s=within_s).future]
        connected = [link.address for link in self.router.links.values() if link.connection is not None]
        limit_s = min(1.0, self.timeout_s) if within_s is None else within_s
        calls = [self.call(GetStatus, target=address, within_s=limit_s).future for address in connected]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, ServerStatus)]

    async def members(self) -> list[PeerView]:
        """The members as the leader (or, while there is none, any server) sees them."""
        try:
            leader = self.router.leader
            target = LEADER if leader is None else leader.address
            status: ServerStatus = await self.call(GetStatus, target=target, within_s=1.0).future
        except Unavailable:
            status = await self.call(GetStatus, target=ANY).future
        return status.peers

    async def hash(self, server: str | None = None, *, revision: int = 0) -> dict[str, StateHash]:
        """The hash of the state on each server (or on *server*), by server name."""
        if server is not None:
            chosen = [self.router.require(server)]
        else:
            chosen = [link for link in self.router.links.values() if link.connection is not None]
        calls = [self.call(HashState, revision, target=link.address) for link in chosen]
        await asyncio.gather(*(call.future for call in calls))
        return {call.server: call.future.result() for call in calls}

    async def compact(self, revision: int) -> Acknowledged:
        """Give up history before *revision*; reads at older revisions fail with `Compacted` from then on."""
        reply: Acknowledged = await self.write(Compact(revision))
        return reply

    async def alarms(self) -> list[AlarmMember]:
        """The alarms that are raised, as the servers tell."""
        statuses = await self.status()
        newest = max(statuses, key=lambda status: status.applied_index, default=None)
        return [] if newest is None else newest.alarms

    async def disarm(self) -> list[AlarmMember]:
        """Clear all alarms (after the space has been made, say); returns those cleared."""
        cleared: list[AlarmMember] = []
        for alarm in await self.alarms():
            reply = await self.write(Alarm(False, alarm.member, alarm.alarm))
            cleared.extend(reply.alarms)
        return cleared

    @property
    def leader(self) -> NodeId:
        """Node id of the leader as far as this client knows; 0: none known."""
        return self.router.leader_id

    # ---- beginning and end -----------------------------------------------------------------------------

    async def wait_ready(self, within_s: float | None = None) -> None:
        """Until a server is reachable, and a leader known if there is one.

        Raises:
            Unavailable: no server answered in time.
            WrongCluster: the addresses belong to different clusters.
        """
        await self.router.wait_ready(self.timeout_s if within_s is None else within_s)

    async def close(self) -> None:
        """End the client. Whatever is outstanding fails: `OutcomeUnknown` for writes that were sent."""
        if not self._is_closed:
            self._is_closed = True
            self._writes.close()
            self._reads.close()
            self.router.close()
            # One turn, so that sockets are closed when this returns.
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _closed() -> UsageError:
    return UsageError("this client is closed")


async def connect(
    url: str,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109  (of the client's requests, not of this call alone)
    session: bool = True,
    read_from: str = ANY,
    tls: ssl.SSLContext | None = None,
) -> AsyncClient:
    """Connect to a cluster.

    Args:
        url: ``troth://host:port,host:port``, ``troth+tls://...?ca=..&cert=..&key=..`` or ``troth://unix:/path``.
            One reachable server is enough; the client finds the others.
        timeout: seconds after which a request fails.
        session: whether writes apply exactly once even when an answer was lost. Without a session a lost answer
            is an `OutcomeUnknown` error.
        read_from: where weaker reads go: ``"any"`` (one server, preferably a follower), ``"leader"``, or the name
            of a server, which then serves linearizable reads too.
        tls: what to make TLS connections with, instead of the URL's parameters.

    Raises:
        UsageError: the URL is wrong.
        Unavailable: no server answered in time.
        WrongCluster: the addresses belong to different clusters.
    """
    client = AsyncClient(url, timeout=timeout, session=session, read_from=read_from, tls=tls)
    try:
        await client.wait_ready()
    except BaseException:
        await client.close()
        raise
    return client

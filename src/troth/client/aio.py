"""The asyncio client. One object, any number of coroutines; everything else in this package is a part of it."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from troth.client import recording
from troth.client.cluster import ClusterCalls
from troth.client.lease import Lease, LeaseKeeper
from troth.client.link import checked_frame_of
from troth.client.opening import Opening
from troth.client.operations import Text, Txn, as_bytes, lease_id, span
from troth.client.reads import LONG_KEY_BYTES, ReadPipeline
from troth.client.replies import DeleteReply, GetReply, PutReply, RangeReply, TxnReply
from troth.client.request import ANY, LEADER
from troth.client.router import Router, check_seconds
from troth.client.session import Session
from troth.client.url import parse_url
from troth.client.watch import Watch, Watches
from troth.client.writes import WritePipeline
from troth.errors import UsageError
from troth.kv.requests import (
    Compare,
    DeleteRange,
    Operation,
    Put,
    Range,
    SortOrder,
    SortTarget,
)
from troth.models import ReadLevel, linearizable
from troth.replica.protocol import LeaseIds, LeaseList, Reads


class AsyncClient(ClusterCalls):
    """A client of one cluster. Made by `troth.aio.connect`.

    `put`, `get`, `range`, `delete` and `txn` return futures: all that are asked for in one turn of the event loop
    leave in one frame, so start many and await them together (they need no `asyncio.create_task`). Each ends with
    its reply or with a typed error (troth.errors), at the latest after `timeout` seconds.
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
        check_seconds(timeout)
        given: object = tls  # callers need not check types
        if given is not None and not isinstance(given, ssl.SSLContext):
            raise UsageError(f"tls= takes an ssl.SSLContext, not {given!r:.60}; or write troth+tls://...?ca=...")
        parsed = parse_url(url)
        router = Router(parsed.addresses, tls=tls or parsed.ssl_context(), timeout_s=timeout)
        super().__init__(router, WritePipeline(router, use_session=session))
        self._reads = ReadPipeline(self.router, self._writes, read_from=read_from)
        self._watches = Watches(self.router, read_from=read_from)
        self._leases = LeaseKeeper(self)
        self._number = next(recording.numbers)

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
        timeout: float | None = None,
    ) -> "asyncio.Future[PutReply]":
        """Write one key. *timeout*, here and elsewhere: seconds for this call alone, instead of the client's.

        Raises:
            NotApplied: it did not happen (its subclasses say why).
            OutcomeUnknown: it may have happened.
            AnswerLost: it has happened, and what it answered is not kept any more.
            UsageError: something is of a wrong type, or the client is closed.
        """
        if type(key) is not bytes:
            key = as_bytes(key)
        if type(value) is not bytes:
            value = as_bytes(value)
        if self.is_closed:
            self.require_open()
        if lease != 0 or prev_kv is not False or ignore_value is not False or ignore_lease is not False:
            future = self.write(Put(key, value, lease_id(lease), prev_kv, ignore_value, ignore_lease), timeout)
        else:
            future = self._writes.submit(Put(key, value), len(key) + len(value), timeout)
        if (recorder := recording.active) is not None and not ignore_value:
            recorder.put(self._number, key, value, lease, future)
        return future

    def get(
        self, key: Text, *, level: ReadLevel = linearizable, revision: int = 0, timeout: float | None = None
    ) -> "asyncio.Future[GetReply]":
        """Read one key, now or as it stood at *revision*. An absent key is no error: `GetReply.kv` is None.

        Raises:
            NotApplied: it was not read (its subclasses say why: `Compacted`, `Unavailable` and others).
            UsageError: something is of a wrong type, or the client is closed.
        """
        if type(key) is not bytes:
            key = as_bytes(key)
        if self.is_closed:
            self.require_open()
        request = Range(key)
        if revision != 0:
            request = self._checked(Range(key, b"", 0, revision), level)
        if timeout is None and len(key) <= LONG_KEY_BYTES:
            future = self._reads.submit(request, level, GetReply)
        else:
            future = self._reads.submit_apart(request, level, GetReply, timeout)
        if (recorder := recording.active) is not None and not revision:
            recorder.get(self._number, key, level, future)
        return future

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
        timeout: float | None = None,
    ) -> "asyncio.Future[RangeReply]":
        """Read a span of keys: ``range("a", "c")``, ``range(prefix="a/")``; ``range(prefix="")`` is everything.

        Raises:
            NotApplied: it was not read (its subclasses say why: `Compacted`, `Unavailable` and others).
            UsageError: something is of a wrong type, or the client is closed.
        """
        start, end = span(key, range_end, prefix)
        self.require_open()
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
        self._checked(request, level)
        if timeout is None and len(start) <= LONG_KEY_BYTES >= len(end):
            future = self._reads.submit(request, level, RangeReply)
        else:
            future = self._reads.submit_apart(request, level, RangeReply, timeout)
        if (recorder := recording.active) is not None:
            recorder.range(self._number, request, level, future)
        return future

    def delete(
        self,
        key: Text = b"",
        range_end: Text | None = None,
        *,
        prefix: Text | None = None,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> "asyncio.Future[DeleteReply]":
        """Delete one key, or a span of them. Deleting what is not there is no error.

        Raises:
            NotApplied, OutcomeUnknown, AnswerLost, UsageError: as of `put`.
        """
        start, end = span(key, range_end, prefix)
        future = self.write(DeleteRange(start, end, prev_kv), timeout)
        if (recorder := recording.active) is not None:
            recorder.delete(self._number, start, end, future)
        return future

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> "asyncio.Future[TxnReply]":
        """If all of *compare* hold do *success*, else *failure*, at one revision.

        ::

            create = await client.txn([troth.version("new") == 0], [troth.Put("new", "v")], [troth.Get("new")])
            assert create.succeeded

        Raises:
            NotApplied, OutcomeUnknown, AnswerLost, UsageError: as of `put`; all of it happens, or nothing.
        """
        request = Txn(compare, success, failure)
        future = self.write(request, timeout)
        if (recorder := recording.active) is not None:
            recorder.txn(self._number, request, future)
        return future

    def _checked(self, request: Range, level: ReadLevel) -> Range:
        checked_frame_of(Reads(0, level, (request,)))
        return request

    # ---- watches, leases, sessions ---------------------------------------------------------------------

    def watch(
        self,
        key: Text = b"",
        range_end: Text | None = None,
        *,
        prefix: Text | None = None,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
    ) -> Watch:
        """Follow the changes of one key, or of a span, from now on or from *start_revision* on.

        ::

            async with client.watch(prefix="jobs/") as watch:      # from here on nothing is missed
                await client.put("jobs/1", "sweep")
                async for events in watch:
                    for event in events:
                        assert (event.type.name, event.kv.key) == ("PUT", b"jobs/1")
                    break

        Events come once and in order, also over failing servers; see `Watch` for the errors. A watch that is not
        ended (``async with`` does it, or `Watch.close`) is kept up until the client is closed.
        """
        start, end = span(key, range_end, prefix)
        self.require_open()
        self.router.require_loop()
        self.router.require_one_cluster()
        watch = Watch(
            self._watches,
            start,
            end,
            start_revision=start_revision,
            floor_revision=self.seen_revision,
            prev_kv=prev_kv,
            no_put=no_put,
            no_delete=no_delete,
        )
        self._watches.add(watch)
        return watch

    def lease(
        self,
        ttl_s: int,
        id: int = 0,
        *,
        keep: bool = True,
        on_lost: Callable[[], Any] | None = None,
    ) -> Opening[Lease]:
        """Ask for a lease of *ttl_s* seconds: ``lease = await client.lease(10)`` or ``async with client.lease(10)``.

        Args:
            ttl_s: how long it lives without being renewed.
            id: its number; 0 lets the cluster choose.
            keep: renew it by itself until it is revoked, lost, or the client is closed.
            on_lost: called when it is lost (a function, or one that returns a coroutine), also by the closing of the
                client, which renews it no more.

        Raises:
            LeaseExists: there is one with this *id*.
            NotApplied, OutcomeUnknown, AnswerLost, UsageError: as of `put`.
        """
        self.require_open()
        return Opening(self._leases.grant(ttl_s, id, keep=keep, on_lost=on_lost))

    async def leases(self) -> list[int]:
        """The ids of all leases.

        Raises:
            Unavailable: nobody has answered in time.
        """
        answer: LeaseIds = await self.call(LeaseList).future
        return answer.ids

    def session(self, token: str | None = None) -> Session:
        """A session: its reads see what it wrote and read before, on any replica. See `Session.token`.

        Raises:
            UsageError: *token* is not what `Session.token` gives, or is one of another cluster.
        """
        self.require_open()
        return Session(self, token)

    # ---- beginning and end -----------------------------------------------------------------------------

    async def wait_ready(self, within_s: float | None = None) -> None:
        """Until a server is reachable, and a leader known if there is one.

        Raises:
            Unavailable: no server answered in time.
            MixedClusters: as of `troth.aio.connect`.
        """
        await self.router.wait_ready(self.router.timeout_s if within_s is None else within_s)

    async def close(self) -> None:
        """End the client. Whatever is outstanding fails: `OutcomeUnknown` for writes that were sent."""
        if not self.is_closed:
            self.router.require_loop()
            self.is_closed = True
            self._leases.close()
            self._watches.close()
            self._writes.close()
            self._reads.close()
            self.router.close()
            self.cancel_tasks()
            await self.router.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


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
        UsageError: the URL is wrong, or all servers are there and none is called *read_from*.
        Unavailable: no server answered in time.
        MixedClusters: the addresses belong to different clusters. This waits for the leader, not for all servers: where
            the second cluster answers later, whatever is asked from then on fails so, before it is sent, as long as
            the first has applied or granted nothing (then it is known which was meant: the other's servers are logged,
            and left alone).
    """
    client = AsyncClient(url, timeout=timeout, session=session, read_from=read_from, tls=tls)
    try:
        await client.wait_ready()
        if read_from not in (ANY, LEADER) and client.router.find(read_from) is None:
            await client.status()  # learns of all servers; one that is down may have this name
            if not any(client.servers().values()):
                client.router.require(read_from)
    except BaseException:
        await client.close()
        raise
    return client

"""The synchronous client: the asyncio client in a background thread, and calls that wait for it.

It may be shared by threads; what they ask for at the same time shares frames, as with coroutines. A call that is only
waited for is made of its asyncio twin by `blocking`, which keeps its arguments and its description.
"""

import ssl
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from troth.client.aio import AsyncClient
from troth.client.aio import connect as connect_async
from troth.client.background import Background, ClosingTwin, Twin, blocking
from troth.client.lease import Lease as AsyncLease
from troth.client.operations import Text
from troth.client.replies import TxnReply
from troth.client.request import ANY
from troth.client.session import Session as AsyncSession
from troth.client.watch import Watch as AsyncWatch
from troth.ids import NodeId
from troth.kv.requests import Compare, Event, Operation


class Client(ClosingTwin[AsyncClient]):
    """A client of one cluster. Made by `troth.connect`; see `AsyncClient` for what each call means."""

    def __init__(self, aio: AsyncClient, background: Background) -> None:
        """Wrap *aio*, which lives in the loop of *background*; this object owns both."""
        super().__init__(aio, background)
        self._closing = threading.Lock()

    # ---- reading and writing ---------------------------------------------------------------------------

    put = blocking(AsyncClient.put)
    get = blocking(AsyncClient.get)
    range = blocking(AsyncClient.range)
    delete = blocking(AsyncClient.delete)

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> TxnReply:
        """If all of *compare* hold do *success*, else *failure*, at one revision."""
        return self.background.run(self.aio.txn, compare, success, failure, timeout=timeout)

    @property
    def seen_revision(self) -> int:
        """The newest revision that an answer to this client has named."""
        return self.aio.seen_revision

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
    ) -> "Watch":
        """Follow the changes of one key, or of a span. When this returns the watch has begun; it is kept up until it is
        closed (``with`` does it), or the client.

        ::

            with client.watch(prefix="jobs/") as watch:
                client.put("jobs/1", "sweep")
                for events in watch:
                    assert [event.kv.value for event in events] == [b"sweep"]
                    break
        """

        async def begin() -> AsyncWatch:
            return await self.aio.watch(
                key,
                range_end,
                prefix=prefix,
                start_revision=start_revision,
                prev_kv=prev_kv,
                no_put=no_put,
                no_delete=no_delete,
            )

        return Watch(self.background.run(begin), self.background)

    def lease(
        self,
        ttl_s: int,
        id: int = 0,
        *,
        keep: bool = True,
        on_lost: Callable[[], Any] | None = None,
    ) -> "Lease":
        """Ask for a lease of *ttl_s* seconds, renewed by itself; a context manager that revokes it at the end.

        *on_lost* is called in the client's own thread: it must neither block nor use this client, and `sys.exit` in
        it ends nothing (`os._exit` ends the program).
        """
        told = None if on_lost is None else _without_exit(on_lost)
        lease = self.background.run(self.aio.lease, ttl_s, id, keep=keep, on_lost=told)
        return Lease(lease, self.background)

    leases = blocking(AsyncClient.leases)

    def session(self, token: str | None = None) -> "Session":
        """A session: its reads see what it wrote and read before, on any replica. See `Session.token`."""
        return Session(self.aio.session(token), self.background)

    # ---- the cluster -----------------------------------------------------------------------------------

    @property
    def leader(self) -> NodeId:
        """Node id of the leader as far as this client knows; 0: none known."""
        return self.aio.leader

    def servers(self) -> dict[str, str]:
        """Every server address known, with what is wrong with it; an empty text means connected."""
        return self.aio.servers()

    status = blocking(AsyncClient.status)
    members = blocking(AsyncClient.members)
    hash = blocking(AsyncClient.hash)
    add_member = blocking(AsyncClient.add_member)
    remove_member = blocking(AsyncClient.remove_member)
    promote_member = blocking(AsyncClient.promote_member)
    change_members = blocking(AsyncClient.change_members)
    transfer = blocking(AsyncClient.transfer)
    snapshot = blocking(AsyncClient.snapshot)
    compact = blocking(AsyncClient.compact)
    alarms = blocking(AsyncClient.alarms)
    disarm = blocking(AsyncClient.disarm)

    @override
    def close(self) -> None:
        """End the client. Calls of other threads that are outstanding fail. Closing twice is no error."""
        with self._closing:
            try:
                super().close()
            finally:
                self.background.stop()


def _without_exit(on_lost: Callable[[], Any]) -> Callable[[], Any]:
    """*on_lost* for the client's thread, which `sys.exit` would end instead of the program."""

    def call() -> Any:
        try:
            return on_lost()
        except SystemExit as error:
            raise RuntimeError("sys.exit in on_lost does not end the program, os._exit does") from error

    return call


class Watch(ClosingTwin[AsyncWatch]):
    """An iterator over lists of events; a context manager that ends the watch. See the asyncio `Watch`.

    A thread that waits in it when it is closed gets the end of the iteration.
    """

    @property
    def revision(self) -> int:
        """Everything up to this revision has been handed out."""
        return self.aio.revision

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Event]:
        events = self.background.run(self.aio.next_events)
        if events is None:
            raise StopIteration
        return events


class Lease(Twin[AsyncLease]):
    """A lease, renewed in the background; a context manager that revokes it. See the asyncio `Lease`."""

    def __init__(self, aio: AsyncLease, background: Background) -> None:
        super().__init__(aio, background)
        self.id = aio.id
        self.ttl_s = aio.ttl_s
        self.lost = threading.Event()

        async def tell() -> None:
            aio.on_lost(self.lost.set)

        background.run(tell)

    @property
    def is_alive(self) -> bool:
        """Whether the lease can be relied on at this moment."""
        return self.aio.is_alive

    @property
    def is_over(self) -> bool:
        """Whether it was revoked or lost."""
        return self.aio.is_over

    def on_lost(self, callback: Callable[[], Any]) -> None:
        """Have *callback* called when the lease is lost (at once, if it is), as of `Client.lease`."""

        async def note() -> None:
            self.aio.on_lost(_without_exit(callback))

        self.background.run(note)

    keep_alive = blocking(AsyncLease.keep_alive)
    revoke = blocking(AsyncLease.revoke)
    time_to_live = blocking(AsyncLease.time_to_live)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.background.run(self.aio.__aexit__, kind, error, trace)


class Session(Twin[AsyncSession]):
    """Reads your writes and never goes back, on any replica. See the asyncio `Session`."""

    @property
    def token(self) -> str:
        """A short text that stands for what the session has seen."""
        return self.aio.token

    @property
    def seen_revision(self) -> int:
        """The newest revision this session has seen."""
        return self.aio.seen_revision

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A session holds nothing that would have to be given back."""

    put = blocking(AsyncSession.put)
    get = blocking(AsyncSession.get)
    range = blocking(AsyncSession.range)
    delete = blocking(AsyncSession.delete)
    txn = blocking(AsyncSession.txn)


def connect(
    url: str,
    *,
    timeout: float = 5.0,
    session: bool = True,
    read_from: str = ANY,
    tls: ssl.SSLContext | None = None,
) -> Client:
    """Connect to a cluster; the arguments and errors are those of `troth.aio.connect`."""
    background = Background()
    try:
        client = background.run(connect_async, url, timeout=timeout, session=session, read_from=read_from, tls=tls)
    except BaseException:
        background.stop()
        raise
    return Client(client, background)

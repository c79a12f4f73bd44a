"""The synchronous client: the asyncio client in a background thread, and calls that wait for it.

It may be shared by threads; what they ask for at the same time shares frames, as with coroutines.
"""

import os
import ssl
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from troth.client.aio import AsyncClient
from troth.client.aio import connect as connect_async
from troth.client.background import Background
from troth.client.cluster import CHANGE_WITHIN_S
from troth.client.lease import Lease as AsyncLease
from troth.client.operations import Text
from troth.client.replies import Acknowledged, DeleteReply, GetReply, PutReply, RangeReply, TxnReply
from troth.client.request import ANY
from troth.client.session import Session as AsyncSession
from troth.client.watch import Watch as AsyncWatch
from troth.core.interface import MembershipChange
from troth.ids import NodeId
from troth.kv.requests import AlarmMember, Compare, Event, Operation, SortOrder, SortTarget
from troth.models import ReadLevel, linearizable
from troth.replica.protocol import LeaseView, PeerView, ServerStatus, StateHash


class Client:
    """A client of one cluster. Made by `troth.connect`; see `AsyncClient` for what each call means."""

    def __init__(self, client: AsyncClient, background: Background) -> None:
        """Wrap *client*, which lives in the loop of *background*; this object owns both."""
        self.aio = client
        """The asyncio client underneath; to be used in its own loop only."""
        self.background = background
        self._closing = threading.Lock()

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
    ) -> PutReply:
        """Write one key. *timeout*, here and elsewhere: seconds for this call alone, instead of the client's."""
        return self.background.run(
            self.aio.put,
            key,
            value,
            lease=lease,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
            timeout=timeout,
        )

    def get(
        self, key: Text, *, level: ReadLevel = linearizable, revision: int = 0, timeout: float | None = None
    ) -> GetReply:
        """Read one key, now or as it stood at *revision*."""
        return self.background.run(self.aio.get, key, level=level, revision=revision, timeout=timeout)

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
    ) -> RangeReply:
        """Read a span of keys: ``range("a", "c")``, ``range(prefix="a/")``; ``range(prefix="")`` is everything."""
        return self.background.run(
            self.aio.range,
            key,
            range_end,
            prefix=prefix,
            limit=limit,
            revision=revision,
            sort_order=sort_order,
            sort_target=sort_target,
            keys_only=keys_only,
            count_only=count_only,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            level=level,
            timeout=timeout,
        )

    def delete(
        self,
        key: Text = b"",
        range_end: Text | None = None,
        *,
        prefix: Text | None = None,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteReply:
        """Delete one key, or a span of them."""
        return self.background.run(
            self.aio.delete, key, range_end, prefix=prefix, prev_kv=prev_kv, timeout=timeout
        )

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
        """Follow the changes of one key, or of a span. When this returns the watch has begun.

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

        *on_lost* is called in the client's own thread: it must neither block nor use this client.
        """
        lease = self.background.run(self.aio.lease, ttl_s, id, keep=keep, on_lost=on_lost)
        return Lease(lease, self.background)

    def leases(self) -> list[int]:
        """The ids of all leases."""
        return self.background.run(self.aio.leases)

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

    def status(self, server: str | None = None, *, within_s: float | None = None) -> list[ServerStatus]:
        """What each server that answers knows (or just *server*), also while there is no leader."""
        return self.background.run(self.aio.status, server, within_s=within_s)

    def members(self) -> list[PeerView]:
        """The members as the leader (or, while there is none, the most informed server) sees them."""
        return self.background.run(self.aio.members)

    def hash(self, server: str | None = None, *, revision: int = 0) -> dict[str, StateHash]:
        """The hash of the state on each connected server (or on *server*), by server name."""
        return self.background.run(self.aio.hash, server, revision=revision)

    def add_member(
        self,
        *,
        peer_address: str,
        client_address: str,
        node_id: int = 0,
        name: str = "",
        promote: bool = True,
        within_s: float = CHANGE_WITHIN_S,
    ) -> NodeId:
        """Add a server that runs already, as a learner that is promoted by itself once it has caught up."""
        return self.background.run(
            self.aio.add_member,
            peer_address=peer_address,
            client_address=client_address,
            node_id=node_id,
            name=name,
            promote=promote,
            within_s=within_s,
        )

    def remove_member(self, member: str | int, *, within_s: float = CHANGE_WITHIN_S) -> None:
        """Remove a server, named by its name, an address, or its node id."""
        self.background.run(self.aio.remove_member, member, within_s=within_s)

    def promote_member(self, member: str | int, *, within_s: float = CHANGE_WITHIN_S) -> None:
        """Make a learner a voter now."""
        self.background.run(self.aio.promote_member, member, within_s=within_s)

    def change_members(self, change: MembershipChange, *, within_s: float = CHANGE_WITHIN_S) -> None:
        """Make any membership change and wait until it is complete."""
        self.background.run(self.aio.change_members, change, within_s=within_s)

    def transfer(self, target: str | int = 0) -> None:
        """Hand leadership to *target* (name, address or node id; 0: the server that is most up to date)."""
        self.background.run(self.aio.transfer, target)

    def snapshot(self, sink: "str | os.PathLike[str] | BinaryIO", *, server: str | None = None) -> int:
        """Save the whole state to a path, or to a file open for writing in binary. Returns the bytes."""
        return self.background.run(self.aio.snapshot, sink, server=server)

    def compact(self, revision: int) -> Acknowledged:
        """Give up history before *revision*."""
        return self.background.run(self.aio.compact, revision)

    def alarms(self) -> list[AlarmMember]:
        """The alarms that are raised."""
        return self.background.run(self.aio.alarms)

    def disarm(self) -> list[AlarmMember]:
        """Clear all alarms; returns those cleared."""
        return self.background.run(self.aio.disarm)

    # ---- beginning and end -----------------------------------------------------------------------------

    def close(self) -> None:
        """End the client. Calls of other threads that are outstanding fail. Closing twice is no error."""
        with self._closing:
            if self.background.is_running:
                try:
                    self.background.run(self.aio.close)
                finally:
                    self.background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Watch:
    """An iterator over lists of events; a context manager that ends the watch. See the asyncio `Watch`."""

    def __init__(self, watch: AsyncWatch, background: Background) -> None:
        self._watch = watch
        self._background = background

    @property
    def revision(self) -> int:
        """Everything up to this revision has been handed out."""
        return self._watch.revision

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Event]:
        events = self._background.run(self._watch.next_events)
        if events is None:
            raise StopIteration
        return events

    def close(self) -> None:
        """End the watch; a thread that waits in it gets the end of the iteration."""
        if self._background.is_running:
            self._background.run(self._watch.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lease:
    """A lease, renewed in the background; a context manager that revokes it. See the asyncio `Lease`."""

    def __init__(self, lease: AsyncLease, background: Background) -> None:
        self._lease = lease
        self._background = background
        self.id = lease.id
        self.ttl_s = lease.ttl_s
        self.lost = threading.Event()

        async def tell() -> None:
            lease.on_lost(self.lost.set)

        background.run(tell)

    @property
    def is_alive(self) -> bool:
        """Whether the lease can be relied on at this moment."""
        return self._lease.is_alive

    def keep_alive(self) -> int:
        """Renew now; returns the seconds it has. It is also renewed by itself."""
        return self._background.run(self._lease.keep_alive)

    def revoke(self) -> Acknowledged:
        """Give the lease up; its keys are deleted, all at one revision."""
        return self._background.run(self._lease.revoke)

    def time_to_live(self, *, keys: bool = False) -> LeaseView:
        """Seconds left (-1: gone), seconds granted, and with *keys* the keys attached."""
        return self._background.run(self._lease.time_to_live, keys=keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._background.run(self._lease.__aexit__, kind, error, trace)


class Session:
    """Reads your writes and never goes back, on any replica. See the asyncio `Session`."""

    def __init__(self, session: AsyncSession, background: Background) -> None:
        self._session = session
        self._background = background

    @property
    def token(self) -> str:
        """A short text that stands for what the session has seen."""
        return self._session.token

    @property
    def seen_revision(self) -> int:
        """The newest revision this session has seen."""
        return self._session.seen_revision

    def put(self, key: Text, value: Text = b"", **options: Any) -> PutReply:
        """Like `Client.put`."""
        return self._background.run(self._session.put, key, value, **options)

    def get(self, key: Text, *, revision: int = 0) -> GetReply:
        """Read one key from any replica that has all that this session has seen."""
        return self._background.run(self._session.get, key, revision=revision)

    def range(self, key: Text = b"", range_end: Text | None = None, **options: Any) -> RangeReply:
        """Like `Client.range`, from any replica that has all that this session has seen."""
        return self._background.run(self._session.range, key, range_end, **options)

    def delete(self, key: Text = b"", range_end: Text | None = None, **options: Any) -> DeleteReply:
        """Like `Client.delete`."""
        return self._background.run(self._session.delete, key, range_end, **options)

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnReply:
        """Like `Client.txn`."""
        return self._background.run(self._session.txn, compare, success, failure)


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

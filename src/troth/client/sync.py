"""The synchronous client: the asyncio client in a background thread, and calls that wait for it.

It may be shared by threads; what they ask for at the same time shares frames, as with coroutines.
"""

import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from troth.ids import NodeId
from troth.kv.requests import AlarmMember, Compare, Operation, SortOrder, SortTarget
from troth.models import ReadLevel, linearizable
from troth.replica.protocol import PeerView, ServerStatus, StateHash

from .background import Background
from .aio import AsyncClient
from .aio import connect as connect_async
from .operations import Text
from .replies import Acknowledged, DeleteReply, GetReply, PutReply, RangeReply, TxnReply
from .router import ANY


class Client:
    """A client of one cluster. Made by `troth.connect`; see `AsyncClient` for what each call means."""

    def __init__(self, client: AsyncClient, background: Background) -> None:
        """Wrap *client*, which lives in the loop of *background*; this object owns both."""
        self._client = client
        self._background = background

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
    ) -> PutReply:
        """Write one key."""
        return self._background.run(
            self._client.put,
            key,
            value,
            lease=lease,
            prev_kv=prev_kv,
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )

    def get(self, key: Text, *, level: ReadLevel = linearizable, revision: int = 0) -> GetReply:
        """Read one key, now or as it stood at *revision*."""
        return self._background.run(self._client.get, key, level=level, revision=revision)

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
    ) -> RangeReply:
        """Read a span of keys: ``range("a", "c")``, ``range(prefix="a/")``; ``range(prefix="")`` is everything."""
        return self._background.run(
            self._client.range,
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
        )

    def delete(
        self,
        key: Text = b"",
        range_end: Text | None = None,
        *,
        prefix: Text | None = None,
        prev_kv: bool = False,
    ) -> DeleteReply:
        """Delete one key, or a span of them."""
        return self._background.run(self._client.delete, key, range_end, prefix=prefix, prev_kv=prev_kv)

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnReply:
        """If all of *compare* hold do *success*, else *failure*, at one revision."""
        return self._background.run(self._client.txn, compare, success, failure)

    @property
    def seen_revision(self) -> int:
        """The newest revision that an answer to this client has named."""
        return self._client.seen_revision

    # ---- the cluster -----------------------------------------------------------------------------------

    def status(self, server: str | None = None, *, within_s: float | None = None) -> list[ServerStatus]:
        """What each server that answers knows (or just *server*), also while there is no leader."""
        return self._background.run(self._client.status, server, within_s=within_s)

    def members(self) -> list[PeerView]:
        """The members as the leader (or, while there is none, any server) sees them."""
        return self._background.run(self._client.members)

    def hash(self, server: str | None = None, *, revision: int = 0) -> dict[str, StateHash]:
        """The hash of the state on each server (or on *server*), by server name."""
        return self._background.run(self._client.hash, server, revision=revision)

    def compact(self, revision: int) -> Acknowledged:
        """Give up history before *revision*."""
        return self._background.run(self._client.compact, revision)

    def alarms(self) -> list[AlarmMember]:
        """The alarms that are raised."""
        return self._background.run(self._client.alarms)

    def disarm(self) -> list[AlarmMember]:
        """Clear all alarms; returns those cleared."""
        return self._background.run(self._client.disarm)

    @property
    def leader(self) -> NodeId:
        """Node id of the leader as far as this client knows; 0: none known."""
        return self._client.leader

    # ---- beginning and end -----------------------------------------------------------------------------

    def close(self) -> None:
        """End the client. Calls of other threads that are outstanding fail. Closing twice is no error."""
        if self._background.is_running:
            self._background.run(self._client.close)
            self._background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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

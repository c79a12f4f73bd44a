"""Sessions: reads that see what this session wrote and read before, on whatever replica they land.

(Session guarantees in the sense of Terry et al. 1994. The exactly-once session of writes.py is another thing.)
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

from troth.client.operations import Text
from troth.client.replies import DeleteReply, GetReply, PutReply, RangeReply, TxnReply
from troth.errors import UsageError
from troth.models import REVISION_MAX, LevelName, ReadLevel

FIRST_REVISION = 1


class Data(Protocol):
    """What a session does its work with: an `AsyncClient`."""

    @property
    def cluster_id(self) -> int: ...
    @property
    def put(self) -> Callable[..., Awaitable[PutReply]]: ...
    @property
    def get(self) -> Callable[..., Awaitable[GetReply]]: ...
    @property
    def range(self) -> Callable[..., Awaitable[RangeReply]]: ...
    @property
    def delete(self) -> Callable[..., Awaitable[DeleteReply]]: ...
    @property
    def txn(self) -> Callable[..., Awaitable[TxnReply]]: ...


class Session:
    """Reads your writes and never goes back, on any replica. `token` carries that to another process.

    ``client.session(token)`` goes on where the session that had this token stood.
    """

    def __init__(self, client: Data, token: str | None = None) -> None:
        self._client = client
        seen_revision = FIRST_REVISION if token is None else _parse(token, client.cluster_id)
        self._level = ReadLevel(LevelName.SESSION, seen_revision)

    @property
    def seen_revision(self) -> int:
        """The newest revision this session has seen."""
        return self._level.seen_revision

    @property
    def token(self) -> str:
        """A short text that stands for what the session has seen; it names the cluster, and holds no secret."""
        return f"{self._client.cluster_id:x}-{self.seen_revision:x}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A session holds nothing that would have to be given back."""

    async def put(self, /, key: Text, value: Text = b"", **options: Any) -> PutReply:
        """Like `AsyncClient.put`."""
        reply = await self._client.put(key, value, **options)
        self._saw(reply.revision)
        return reply

    async def get(self, key: Text, *, revision: int = 0, timeout: float | None = None) -> GetReply:  # noqa: ASYNC109
        """Like `AsyncClient.get`, from any replica that has all that this session has seen."""
        reply = await self._client.get(key, level=self._level, revision=revision, timeout=timeout)
        self._saw(reply.revision)
        return reply

    async def range(self, /, key: Text = b"", range_end: Text | None = None, **options: Any) -> RangeReply:
        """Like `AsyncClient.range`, from any replica that has all that this session has seen.

        Raises:
            UsageError: a *level* was given.
        """
        if "level" in options:
            raise UsageError("a session reads at a level of its own; read with the client to choose one")
        reply = await self._client.range(key, range_end, level=self._level, **options)
        self._saw(reply.revision)
        return reply

    async def delete(self, /, key: Text = b"", range_end: Text | None = None, **options: Any) -> DeleteReply:
        """Like `AsyncClient.delete`."""
        reply = await self._client.delete(key, range_end, **options)
        self._saw(reply.revision)
        return reply

    async def txn(self, *parts: Any, **named_parts: Any) -> TxnReply:
        """Like `AsyncClient.txn`."""
        reply = await self._client.txn(*parts, **named_parts)
        self._saw(reply.revision)
        return reply

    def _saw(self, revision: int) -> None:
        if revision > self.seen_revision:
            self._level = ReadLevel(LevelName.SESSION, revision)


def _parse(token: str, cluster_id: int) -> int:
    cluster, dash, revision = token.partition("-")
    try:
        numbers = int(cluster, 16), int(revision, 16)
    except ValueError:
        numbers = (0, 0)
    if not dash or not FIRST_REVISION <= numbers[1] <= REVISION_MAX:
        raise UsageError(f"{token!r} is not a session token; use the .token of a session")
    if numbers[0] != cluster_id:
        raise UsageError(f"this token belongs to cluster {numbers[0]:x}; this client talks to {cluster_id:x}")
    return numbers[1]

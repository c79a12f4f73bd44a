"""One transaction as a task has it: a thin cover over `Transaction`, whose work runs in greenlets of the loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from operator import methodcaller
from types import TracebackType
from typing import Any, Self, overload

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.util.concurrency import greenlet_spawn

from troth.errors import UsageError
from troth.transactions.aio_waiting import to_the_end
from troth.transactions.orm import BoundSession
from troth.transactions.outcome import Outcome
from troth.transactions.transaction import Transaction


def async_connection(participant: Any, connection: Any) -> AsyncConnection:
    engine = participant if isinstance(participant, AsyncEngine) else AsyncEngine(connection.engine)
    return AsyncConnection(engine, connection)


_STATEMENTS = frozenset({"execute", "scalar", "scalars", "exec_driver_sql", "run_sync", "get", "put", "delete"})
_AWAITED = _STATEMENTS | {"execution_options", "get_raw_connection", "commit", "rollback", "close", "invalidate"}
_ENTERED = frozenset({"stream", "stream_scalars", "begin_nested"})


class AsyncBranch:
    """One participant's connection in a transaction, opened when it is first used.

    What is awaited is AsyncConnection's: ``execute``, ``scalar``, ``scalars``, ``exec_driver_sql``, ``run_sync`` and
    others. So are ``stream``, ``stream_scalars`` and ``begin_nested``, to be awaited or entered with ``async with``. Of
    a troth cluster there are a `ClusterWork`'s ``get``, ``put`` and ``delete``. Everything else, attributes too, has
    the connection itself: ``await tx.connection(participant)``.
    """

    def __init__(self, transaction: "AsyncTransaction", participant: Any) -> None:
        self._transaction = transaction
        self._participant = participant

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _ENTERED:
            return partial(_Entered, self, name)
        if name not in _AWAITED:
            raise AttributeError(
                f"a branch has no {name!r} before its connection is open; take that:"
                " connection = await tx.connection(participant)"
            )

        async def call(*arguments: Any, **options: Any) -> Any:
            handle = await self._transaction.connection(self._participant)
            work = getattr(handle, name)
            if isinstance(handle, AsyncConnection):
                return await work(*arguments, **options)
            # To the end: half of it would still be going on when the transaction is rolled back.
            return await to_the_end(asyncio.to_thread(work, *arguments, **options))

        return call


class _Entered:
    """What AsyncConnection returns for a name of `_ENTERED`, of a connection that may have to be opened first."""

    def __init__(self, branch: AsyncBranch, name: str, *arguments: Any, **options: Any) -> None:
        self._branch = branch
        self._make = methodcaller(name, *arguments, **options)
        self._made: Any = None

    async def _of_connection(self) -> Any:
        return self._make(await self._branch._transaction.connection(self._branch._participant))

    def __await__(self) -> Generator[Any, Any, Any]:
        async def awaited() -> Any:
            return await (await self._of_connection())

        return awaited().__await__()

    async def __aenter__(self) -> Any:
        self._made = await self._of_connection()
        return await self._made.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._made.__aexit__(*error)


class AsyncTransaction:
    """A global transaction of one task; made by `AsyncTwoPhaseCommit.begin`. Attributes as `Transaction`."""

    def __init__(self, begin: Callable[[], Transaction]) -> None:
        self._begin = begin
        self._sync: Transaction | None = None
        self._opening = asyncio.Lock()

    @property
    def sync(self) -> Transaction:
        """The transaction itself, for what this class has no name for."""
        if self._sync is None:
            raise UsageError("enter it first: async with tpc.begin() as tx")
        return self._sync

    @property
    def gid(self) -> str:
        return self.sync.gid

    @property
    def outcome(self) -> Outcome | None:
        return self.sync.outcome

    @property
    def pending(self) -> tuple[str, ...]:
        return self.sync.pending

    @property
    def replayed(self) -> bool:
        return self.sync.replayed

    # What an `AsyncBranch` has of a database's connection is that connection's, and awaited in the same way.
    @overload
    def __getitem__(self, participant: AsyncEngine) -> AsyncConnection: ...

    @overload
    def __getitem__(self, participant: object) -> Any: ...

    def __getitem__(self, participant: Any) -> Any:
        return AsyncBranch(self, participant)

    @overload
    async def connection(self, participant: AsyncEngine) -> AsyncConnection: ...

    @overload
    async def connection(self, participant: object) -> Any: ...

    async def connection(self, participant: Any) -> Any:
        """The branch's AsyncConnection (or `ClusterWork`), opened if need be."""
        async with self._opening:  # asyncio.gather may touch branches at once, and each is opened once
            handle = await to_the_end(greenlet_spawn(self.sync.__getitem__, participant))
        return handle if not hasattr(handle, "exec_driver_sql") else async_connection(participant, handle)

    def session(self, *, binds: dict[Any, Any] | None = None, **options: Any) -> AsyncSession:
        """An AsyncSession inside of this transaction; its ``commit()`` flushes, the block's end commits."""
        engines = self.sync.engines
        if binds is None and len(engines) == 1:
            options = {"bind": AsyncEngine(engines[0]), **options}
        return AsyncSession(binds=binds, sync_session_class=BoundSession, transaction=self.sync, **options)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `Transaction.savepoint`."""
        manager = self.sync.savepoint()
        await greenlet_spawn(manager.__enter__)
        try:
            yield
        except BaseException as error:
            if not await to_the_end(greenlet_spawn(manager.__exit__, type(error), error, error.__traceback__)):
                raise
        else:
            await to_the_end(greenlet_spawn(manager.__exit__, None, None, None))

    async def commit(self) -> None:
        """See `Transaction.commit`. A cancellation that comes meanwhile is raised when the commit has ended."""
        await to_the_end(greenlet_spawn(self.sync.commit))

    async def rollback(self) -> None:
        """See `Transaction.rollback`."""
        await to_the_end(greenlet_spawn(self.sync.rollback))

    async def __aenter__(self) -> Self:
        self._sync = await greenlet_spawn(self._begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await to_the_end(greenlet_spawn(self.sync.__exit__, kind, error, trace))

"""Things that take a round trip to come into being: ``await x`` gives them, ``async with x`` also ends them."""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from typing_extensions import override


class Closable(Protocol):
    """What `Opening` can end."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


T = TypeVar("T", bound=Closable)


class Opening(Coroutine[Any, Any, T]):
    """A thing under way; a coroutine, so that it can be a task as well."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._opened: T | None = None

    @override
    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    @override
    def send(self, value: Any, /) -> Any:
        return self._coroutine.send(value)

    @override
    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    @override
    def close(self) -> None:
        self._coroutine.close()

    async def __aenter__(self) -> T:
        self._opened = await self._coroutine
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)

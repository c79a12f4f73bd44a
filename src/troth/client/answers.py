"""The future that a read or write of the asyncio client is."""

import asyncio
from typing import TypeVar

from typing_extensions import override

T = TypeVar("T")


class Answer(asyncio.Future[T]):
    """An answer under way. It is asked for already, so it is awaited, or kept and awaited later.

    It is no coroutine: `asyncio.wait` refuses those. What asyncio says to who makes a task of it holds this repr.
    """

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        if self.done():
            return super().__repr__()
        return (
            "an answer that is under way already: await it, now or later, or gather it with others; "
            "what wants a task gets asyncio.ensure_future(it)"
        )

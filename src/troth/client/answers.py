"""The futures that reads and writes of the asyncio client are."""

import asyncio
from typing import TypeVar

from typing_extensions import override

EXPLAINED_BATCHES = 100

T = TypeVar("T")


class Answer(asyncio.Future[T]):
    """An answer under way. It is asked for already, so it is awaited, or kept and awaited later.

    It is no coroutine: `asyncio.wait` refuses those. What asyncio says to who makes a task of it holds this repr.

    asyncio has a quick way for futures of its own class, which is worth a fifth of what a call costs the client. So
    only the first `EXPLAINED_BATCHES` of a client are of this one: what a program does wrong, it does then as well.
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

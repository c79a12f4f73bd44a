"""Ctrl-C at every place of a piece of work, one place after the other.

CPython runs the handlers of signals in the main thread: where a function begins, after each call, and where a loop goes
round. So a run is interrupted at the first such place that it comes to, the next run at the second, until one ends
uninterrupted. What a profile or trace function raises comes up as the exception of a signal handler does.

But for one place: where a generator is dropped before its end (``next(...)``, ``any(...)``) a profile function is
called, and what it raises there Python prints and forgets; no handler runs there. What is interrupted here keeps to
lists.
"""

import gc
import linecache
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """As KeyboardInterrupt, and certainly ours."""


class Interruption:
    """Counts the places that a run comes to in *modules*, and raises at one, or two, of them."""

    def __init__(self, at: int, *modules: str, again_after: int = 0) -> None:
        """*again_after*: so many places after the first interrupt comes a second one; 0: none."""
        self._at = at
        self._places = {at, at + again_after}
        self._modules = modules
        self._count = 0
        self.where: list[str] = []
        """Module and line of each that was raised."""
        self.on_raise: Callable[[], None] | None = None

    @property
    def came(self) -> bool:
        """Whether the run came as far as the first of them."""
        return self._count >= self._at

    def run(self, work: Callable[[], Any]) -> Any:
        """Do *work* in this thread; what it returns or raises."""
        gc.disable()  # or what another test has left would be collected, and interrupted, here
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        try:
            return work()
        finally:
            sys.setprofile(None)
            sys.settrace(None)
            gc.enable()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Where a loop goes round; and where the other one, which is switched off when it raises, is switched on."""
        if not self._is_ours(frame):
            return None
        if sys.getprofile() is None:
            sys.setprofile(self._profile)
        if event == "line" and _begins_a_loop(frame.f_code.co_filename, frame.f_lineno):
            self._come_to(frame)
        return self._trace

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_return") and self._is_ours(frame):
            self._come_to(frame)

    def _is_ours(self, frame: FrameType) -> bool:
        return frame.f_globals.get("__name__") in self._modules

    def _come_to(self, frame: FrameType) -> None:
        self._count += 1
        if self._count in self._places:
            if self._count == max(self._places):  # nothing is to be counted any more
                sys.settrace(None)
            self.where.append(f"{frame.f_globals['__name__']}:{frame.f_lineno}")
            if self.on_raise is not None:
                self.on_raise()
            raise Interrupted(self.where[-1])


@cache
def _begins_a_loop(file: str, line: int) -> bool:
    return linecache.getline(file, line).lstrip().startswith(("for ", "while "))


def everywhere(*modules: str, again_after: int = 0) -> Iterator[Interruption]:
    """An `Interruption` for each place in turn; ends after one to which the run did not come."""
    at = 0
    while True:
        at += 1
        interruption = Interruption(at, *modules, again_after=again_after)
        yield interruption
        if not interruption.came:
            return

"""A participant as recovery asks it: whoever does not answer keeps nobody waiting for longer than a bound.

A server that hangs, or a network that drops packets, answers nothing, and drivers wait for ever. So recovery, `outcome`
and the search for deadlocks ask in a thread (or task) apart, and go on without an answer. What was begun goes on by
itself, and may come to its end much later; all that is asked here may be done late, or twice.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

from typing_extensions import override

from troth.core.twophase.gid import Epoch
from troth.core.twophase.table import Finding
from troth.errors import RequestTimeout
from troth.transactions.participants.base import Facts, Participant, Prepared, Recovered, Wait
from troth.transactions.waiting import Flag, Waiting

T = TypeVar("T")

ANSWER_WITHIN_S: Final = 10.0
"""For one question, connecting included. SQLite's drivers say after 5 s that a file is locked."""
DOUBLINGS_MAX: Final = 3
"""So it is asked every 80 s at least."""
QUESTIONS_MAX: Final = 100
"""Of one participant, under way at a time; beyond that one waits for its turn, within the same bound."""


class Bounded(Recovered):
    """*participant*, within bounds; its methods raise RequestTimeout beside its own errors."""

    def __init__(self, participant: Participant, waiting: Waiting) -> None:
        self.participant = participant
        self.name = participant.name
        self.kind = participant.kind
        self.can_prepare = participant.can_prepare
        self._waiting = waiting
        self._under_way: set[_Question[Any]] = set()
        """Questions that have not come to an end."""
        self._missed = 0
        """So many in a row were not answered in time."""
        self._again_at = 0.0
        self._in_line: deque[Flag] = deque()
        """Of callers whose question may be asked when another has ended."""

    def _begin(self, work: Callable[[], T], within_s: float | None = None) -> Callable[[], T]:
        """Ask; the function that is returned waits for the answer. Whoever does not answer is asked ever more seldom: a
        question may hold a thread and a connection for good, and others wait for who asks."""
        self._await_turn()
        return _Question(self, work, ANSWER_WITHIN_S if within_s is None else within_s).answer

    def _has_missed(self, since: float, within_s: float) -> None:
        if self._again_at <= since:  # or it was asked together with one that has missed
            self._missed += 1
            self._again_at = since + within_s * 2 ** min(self._missed, DOUBLINGS_MAX)

    def _await_turn(self) -> None:
        """Wait for one's turn, where many ask at once."""
        self._may_be_asked()
        since = time.monotonic()
        until = since + ANSWER_WITHIN_S
        while len(self._under_way) >= QUESTIONS_MAX:
            turn = self._waiting.flag()
            self._in_line.append(turn)
            if len(self._under_way) >= QUESTIONS_MAX:  # or the last may have ended before this one stood in line
                turn.wait(until - time.monotonic())
            with suppress(ValueError):  # it was called
                self._in_line.remove(turn)
            if time.monotonic() >= until and len(self._under_way) >= QUESTIONS_MAX:
                self._has_missed(since, ANSWER_WITHIN_S)
                raise RequestTimeout(
                    f"{self.name} has not answered any of {QUESTIONS_MAX} questions within {ANSWER_WITHIN_S:g} s; it is"
                    " asked again later"
                )
            self._may_be_asked()

    def _may_be_asked(self) -> None:
        left_s = self._again_at - time.monotonic()
        if left_s > 0:
            raise RequestTimeout(
                f"{self.name} has not answered when it was asked last, so it was not asked now; it is asked again in"
                f" {left_s:.0f} s"
            )

    def _next_in_line(self) -> None:
        with suppress(IndexError):
            self._in_line.popleft().set()

    def fencing(self, is_closed: Callable[[Epoch], bool]) -> Callable[[], int]:
        """`fence`, begun; the function that is returned waits for it."""
        return self._begin(lambda: self.participant.fence(is_closed))

    def looking(self, within_s: float | None = None) -> Callable[[], Facts]:
        """`facts`, likewise; waited for as long as *within_s* says, if it does."""
        return self._begin(self.participant.facts, within_s)

    @override
    def facts(self) -> Facts:
        return self.looking()()

    @override
    def prepared(self) -> list[Prepared]:
        return self._begin(self.participant.prepared)()

    @override
    def finish(self, branch: str, *, commit: bool) -> Finding:
        return self._begin(lambda: self.participant.finish(branch, commit=commit))()

    @override
    def detach(self, branch: str) -> None:
        self._begin(lambda: self.participant.detach(branch))()

    @override
    def prove(self, proof: str) -> Finding:
        return self._begin(lambda: self.participant.prove(proof))()

    @override
    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        return self.fencing(is_closed)()

    @override
    def waits(self) -> list[Wait]:
        found = self._begin(self.participant.waits)()
        return [wait._replace(cancel=partial(self._cancel, wait)) for wait in found]

    def _cancel(self, wait: Wait) -> None:
        self._begin(wait.cancel)()

    @override
    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        return self._begin(lambda: self.participant.marker(gid, refuse=refuse))()

    @override
    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        self._begin(lambda: self.participant.prune(coordinator, needed))()


class _Question(Generic[T]):
    """One question to a database, from when it is asked until its answer."""

    def __init__(self, asked: Bounded, work: Callable[[], T], within_s: float) -> None:
        self._asked = asked
        self._work = work
        self._within_s = within_s
        self._since = time.monotonic()
        self._is_answered = False
        try:
            asked._under_way.add(self)
            self._wait = asked._waiting.apart(self._ask, within_s)
        except BaseException:
            # Ctrl-C: perhaps nobody asks, and it would count as under way for ever.
            self._has_ended()
            raise

    def _ask(self) -> T:
        """In the thread or task apart."""
        asked = self._asked
        try:
            answer = self._work()
        except Exception:
            self._has_answered()
            raise
        except BaseException:
            # A task that was given up has ended, and holds nothing any more.
            asked._missed, asked._again_at = 0, min(asked._again_at, self._since + 2 * self._within_s)
            raise
        else:
            self._has_answered()
            return answer
        finally:
            self._has_ended()

    def _has_ended(self) -> None:
        self._asked._under_way.discard(self)
        self._asked._next_in_line()

    def _has_answered(self) -> None:
        self._is_answered = True
        self._asked._missed, self._asked._again_at = 0, 0.0

    def answer(self) -> T:
        """Wait for it. Raises RequestTimeout."""
        try:
            return self._wait()
        except TimeoutError as error:
            if self._is_answered:
                raise  # that was the answer
            self._asked._has_missed(self._since, self._within_s)
            raise RequestTimeout(
                f"{self._asked.name} has not answered within {self._within_s:g} s; it is asked again later"
            ) from error

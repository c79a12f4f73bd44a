"""Making a red run small: the fewest faults and operations under which the same rule still breaks.

A run is a plan (numbers) and the list of what happened in it (choices.py). In this order, since each step makes the
next one cheaper: what comes after the violation goes; a simple relative is looked for (the same settings, one class of
faults, another seed), since in a run where a thousand packets are lost no single one can be spared; whole kinds of
faults and whole clients go, then halves, quarters and eighths of the rest; if that is still much, more relatives are
looked at. Then settings that are not needed go, the run ends sooner, and single operations and faults go, by delta
debugging (Zeller & Hildebrandt, "Simplifying and isolating failure-inducing input", TSE 2002). Every
candidate is run; only what happens counts.

No clock is read here: the caller says when time is up.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from troth.simulate.choices import Choice, faults_of, operations_of

P = TypeVar("P")

_COARSE = 8
_RELATIVES_FIRST = 8
"""Relatives that are tried before the run itself is looked at more closely, and the others after that."""
_FEW = 30
"""So many choices may be left for a run that needs no simpler relative."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one run: the violation (empty: none), what happened, and when it ended."""

    violation: str
    taken: Sequence[Choice]
    ended_us: int


@dataclass(frozen=True, slots=True)
class Shrunk(Generic[P]):
    """A red run that is small: *plan*, and of what could happen in it only *keep*."""

    plan: P
    keep: tuple[Choice, ...]
    violation: str
    runs: int

    @property
    def faults(self) -> int:
        """How many faults are left."""
        return len(faults_of(self.keep))

    @property
    def operations(self) -> int:
        """How many operations of clients are left."""
        return len(operations_of(self.keep))


def rule_of(violation: str) -> str:
    """What a violation is about, without the facts of one run."""
    return violation.partition("(")[0].partition(":")[0].strip()


class Shrinker(Generic[P]):
    """One attempt at one red run."""

    def __init__(
        self,
        run: Callable[[P, Sequence[Choice] | None], Trial],
        *,
        simpler: Callable[[P], Iterator[P]],
        relatives: Callable[[P], Iterator[P]] = lambda plan: iter(()),
        shorter: Callable[[P, int, bool], P],
        expired: Callable[[], bool],
    ) -> None:
        """Args:
        run: runs a plan with only those choices (None: all).
        simpler: plans that are a step simpler than the one given, boldest first.
        relatives: much simpler plans in which the same thing may happen to go wrong.
        shorter: a plan whose chaos ends after so many microseconds; with what comes after it or (False) without.
        """
        self._run = run
        self._simpler = simpler
        self._relatives = relatives
        self._shorter = shorter
        self._expired = expired
        self.runs = 0
        self._rule = ""
        self._plan: P
        self._keep: tuple[Choice, ...] = ()
        self._violation = ""
        self._ended_us = 0
        self._calm = True

    def shrink(self, plan: P, keep: Sequence[Choice] | None = None) -> Shrunk[P] | None:
        """The smallest run found that breaks the rule that *plan* breaks; None when it breaks none."""
        self._rule = ""
        if not self._try(plan, keep):
            return None
        self._rule = rule_of(self._violation)
        # What comes after the violation only costs time, above all in candidates that turn out to be green.
        for calm in (False, True):
            self._calm = calm
            if self._try(self._shorter(self._plan, self._ended_us, calm), self._keep):
                break
        relatives = self._relatives(self._plan)
        for count in (_RELATIVES_FIRST, None):
            if len(self._keep) > _FEW:
                any(self._expired() or self._try(relative, None) for relative in islice(relatives, count))
            self._drop_kinds()
            for part_of in (faults_of, operations_of):
                self._reduce(part_of, _COARSE)
        before: tuple[object, ...] = ()
        while before != (self._plan, self._keep) and not self._expired():
            before = (self._plan, self._keep)
            self._simplify()
            self._shorten()
            for part_of in (operations_of, faults_of):
                self._reduce(part_of)
        return Shrunk(self._plan, self._keep, self._violation, self.runs)

    def _try(self, plan: P, keep: Sequence[Choice] | None) -> bool:
        """Run it; when it breaks the same rule, it is the best so far."""
        self.runs += 1
        trial = self._run(plan, keep)
        if not trial.violation or (self._rule and rule_of(trial.violation) != self._rule):
            return False
        self._plan, self._violation, self._ended_us = plan, trial.violation, trial.ended_us
        self._keep = tuple(trial.taken)
        return True

    def _drop_kinds(self) -> None:
        """Leave out all faults of a kind, all operations of a client; what there is most of first."""
        for kind, _ in Counter(kind for kind, _ in self._keep).most_common():
            if self._expired():
                return
            self._try(self._plan, [choice for choice in self._keep if choice[0] != kind])

    def _simplify(self) -> None:
        again = True
        while again and not self._expired():
            again = False
            for place, plan in enumerate(self._simpler(self._plan)):
                if self._expired():
                    return
                # Other settings make another run, in which other choices come up; the boldest step may have them all.
                if self._try(plan, self._keep) or (place == 0 and self._try(plan, None)):
                    again = True
                    break

    def _shorten(self) -> None:
        """End the chaos sooner, by halves."""
        for _ in range(8):
            plan = self._shorter(self._plan, self._ended_us // 2, self._calm)
            if self._expired() or not self._try(plan, self._keep):
                break

    def _reduce(self, part_of: Callable[[Sequence[Choice]], list[Choice]], pieces_max: int = 1 << 30) -> None:
        """Delta debugging of one part of the choices, the rest stays; in pieces not smaller than 1/*pieces_max*."""
        pieces = 2
        while not self._expired():
            part = part_of(self._keep)
            if not part:
                return
            in_part = set(part)
            others = [choice for choice in self._keep if choice not in in_part]
            if pieces == 2 and self._try(self._plan, others):
                return
            size = max(1, -(-len(part) // pieces))
            for start in range(0, len(part), size):
                if self._expired():
                    return
                if self._try(self._plan, [*others, *part[:start], *part[start + size :]]):
                    pieces = max(2, pieces - 1)
                    break
            else:
                if size == 1 or pieces >= pieces_max:
                    return
                pieces = min(len(part), pieces * 2)

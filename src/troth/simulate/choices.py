"""Which of the things that could happen in a run do happen: the list that a run can be shrunk by.

Everything that the world does on purpose (a fault, one lost packet, one operation of a client) asks here first, under
the name of its kind; the n-th of a kind is the same question in every run of a seed, as long as the runs are alike. A
run without a list says yes to everything and writes down what it said yes to.
"""

from collections.abc import Collection, Mapping
from typing import TypeAlias

Choice: TypeAlias = tuple[str, int]
"""(kind, which of that kind, counted from 0)."""

OPERATION = "op"
"""How the kinds of what clients do begin (``op c1``); all other kinds are faults."""


class Choices:
    """`taken` is what happened, in order."""

    def __init__(self, keep: Collection[Choice] | None = None) -> None:
        """*keep*: only these happen; None: all."""
        self.taken: list[Choice] = []
        self._asked: dict[str, int] = {}
        self._keep: Mapping[str, set[int]] | None = None
        if keep is not None:
            by_kind: dict[str, set[int]] = {}
            for kind, number in keep:
                by_kind.setdefault(kind, set()).add(number)
            self._keep = by_kind

    def take(self, kind: str) -> bool:
        """Whether the next thing of *kind* happens."""
        number = self._asked.get(kind, 0)
        self._asked[kind] = number + 1
        if self._keep is not None and number not in self._keep.get(kind, ()):
            return False
        self.taken.append((kind, number))
        return True


def faults_of(choices: Collection[Choice]) -> list[Choice]:
    """Those that are faults."""
    return [choice for choice in choices if not choice[0].startswith(OPERATION)]


def operations_of(choices: Collection[Choice]) -> list[Choice]:
    """Those that are operations of clients."""
    return [choice for choice in choices if choice[0].startswith(OPERATION)]

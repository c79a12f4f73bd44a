"""The same to many branches at once, and what is kept of those that fail."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from troth.core.twophase.table import State
from troth.transactions.participants.base import Branch
from troth.transactions.participants.bounded import ANSWER_WITHIN_S
from troth.transactions.participants.sql import was_lost

if TYPE_CHECKING:
    from troth.transactions.core import Core


class Fan:
    """A half of `Owner`, which sets what is named here."""

    _core: "Core"
    _state: State
    _timeout_s: float | None
    _why: BaseException | None
    """The first error, and whose it was: `_where`."""
    _where: str
    _interrupt: BaseException | None
    """What is no error of a branch, and is raised when all are settled: Ctrl-C, a cancelled task."""
    _lost: set[int]
    """Branches whose connection is gone, or in an unknown state."""
    _untold: set[int]
    """Branches that did not do what they were told last."""

    def _fan(
        self,
        work: Sequence[tuple[Branch, Callable[[], Callable[[], object]]]],
        between: str = "",
        first: str = "",
    ) -> bool:
        """Start all of *work*, then wait for all. True if all went well; else `_why`, `_untold`, `_lost` say more."""
        if self._timeout_s is not None:
            # A vote may have to wait for a lock (a deferred constraint), which is for as long as its statements may.
            until = time.monotonic() + self._timeout_s + ANSWER_WITHIN_S
            for branch, _ in work:
                branch.answer_by(until)
        finishes: list[tuple[Branch, Callable[[], object]]] = []
        went_well = True
        on_step = self._core.on_step
        for place, (branch, start) in enumerate(work):
            if place == 1 and between:
                on_step(between)
            try:
                finishes.append((branch, start()))
            except BaseException as error:  # noqa: BLE001  (kept, and raised when all branches are settled)
                went_well = self._failed(branch, error)
        if self._state is State.VOTING:
            self._core.company.votes_sent()
        # The last to be asked is, most likely, the last to answer: by then the others have.
        for place, (branch, finish) in enumerate(reversed(finishes)):
            try:
                finish()
            except BaseException as error:  # noqa: BLE001  (kept, and raised when all branches are settled)
                went_well = self._failed(branch, error)
            if place == 0 and first:
                on_step(first)
        return went_well

    def _failed(self, branch: Branch, error: BaseException) -> bool:
        if not isinstance(error, Exception):
            self._interrupt = error
        if self._why is None:
            self._why, self._where = error, branch.participant.name
        self._untold.add(branch.number)
        if self._state is State.VOTING:
            self._core.metrics.refusals[branch.participant.name] += 1
        if was_lost(error):
            self._lost.add(branch.number)
        return False

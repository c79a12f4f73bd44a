"""When a second phase begins that nobody waits for (``wait="decided"``).

A database writes its journal for one caller after the other. COMMIT PREPARED sent right behind the decision would be
there first, and the next transaction's PREPARE, for which somebody does wait, would wait for its sync too. Sent right
behind that PREPARE, it is on the disk while the next decision is: the next transaction waits for two syncs instead
of three, and these databases are told no later than a sync's time after the decision.
"""

from collections.abc import Callable

from troth.transactions.waiting import Flag

WAIT_MAX_S = 0.01
"""The longest wait for company, however slow the disk is: rows stay locked meanwhile."""


class Company:
    """Second phases that wait for the next votes of their coordinator."""

    def __init__(self, flag: Callable[[], Flag]) -> None:
        """*flag* makes what waits."""
        self._flag = flag
        # One operation on a set is atomic, so this needs no lock.
        self._waiting: set[Flag] = set()

    def expect(self) -> Flag:
        """Votes that are sent from now on will be noticed by `wait`."""
        flag = self._flag()
        self._waiting.add(flag)
        return flag

    def wait(self, flag: Flag, seconds_max: float) -> None:
        """Until votes have been sent since `expect`, but not for long."""
        flag.wait(min(seconds_max, WAIT_MAX_S))
        self._waiting.discard(flag)

    def votes_sent(self) -> None:
        """All votes of a transaction have just left."""
        while self._waiting:
            try:
                self._waiting.pop().set()
            except KeyError:
                return  # emptied by another thread

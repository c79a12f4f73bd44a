"""How long a client of registers waits: for a call, for an acceptor, for a rival."""

import asyncio

from troth.client.router import check_seconds

TIMEOUT_S = 5.0
"""A call's, unless the caller says otherwise."""

SLOW_WITHIN_S = 60.0
"""The same, of calls that go through all registers: `collect` and `set_acceptors`."""

WITHIN_MAX_S = 1e6
"""Eleven days. "For ever" is spelled as an infinity; a lock does not take that, nor a socket a month."""

STARTED_WITHIN_S = 20.0
"""Acceptors that were just started become a set in no less, whatever a call may take."""

RETRY_FOUNDING_S = 0.02
DESCRIBE_WITHIN_S = 2.0
"""Who an acceptor is, is asked again after the first and for no longer than the second."""

COLLECT_WITHIN_S = 5.0
COLLECT_HOLDS_S = 0.5
"""A change of a key waits no longer for its collection: only where an acceptor falls silent in the middle of it."""

REST_S = 0.02
REST_MAX_S = 0.5
"""Of an acceptor to which no connection could be made: the shortest rest, and the longest."""

PAUSE_S = 0.0005
PAUSE_MAX_S = 0.1
"""Of a proposer that was refused: the shortest, and the longest."""


def now_s() -> float:
    """The time of the loop that we run on, which may be a simulated one."""
    return asyncio.get_running_loop().time()


def seconds(within_s: float) -> float:
    """How long a call may take: no longer than a thread can wait, whatever is asked for.

    Raises:
        UsageError: no number above 0.
    """
    check_seconds(within_s)
    return min(within_s, WITHIN_MAX_S)


def pause_s(tries: int, chance: float) -> float:
    """How long a proposer that was refused stays out of the way, the *tries*-th time; *chance* in [0, 1) is the jitter.

    From nothing to all of it, since proposers that duel must come back at different moments.
    """
    longest = min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(tries, 10))
    return longest * chance


class Rest:
    """After a connection could not be made requests fail at once until `until_s`, of whatever clock the caller has.

    Each failure that follows doubles how long that is.
    """

    __slots__ = ("_failures", "until_s")

    def __init__(self) -> None:
        self._failures = 0
        self.until_s = 0.0

    def begin(self, now_s: float) -> None:
        """A connection could not be made."""
        self.until_s = now_s + min(REST_MAX_S, REST_S * 2 ** min(self._failures, 9))
        self._failures += 1

    def end(self) -> None:
        """One was made."""
        self._failures = 0
        self.until_s = 0.0

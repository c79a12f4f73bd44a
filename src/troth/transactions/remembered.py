"""What one process remembers of its transactions that stands in no log, or not yet."""

import threading
from collections import OrderedDict
from typing import Any

from troth.core.twophase.gid import Gid, parse_gid
from troth.core.twophase.records import Commit
from troth.transactions.metrics import Metrics
from troth.transactions.participants.base import Branch, Participant

UNFINISHED_MAX = 10_000
"""Of each kind. Of what was dropped the highest number is kept: up to there nothing is certain."""


class Remembered:
    """A half of `Core`: which transactions are open, and how those ended that the log does not know."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._lock = threading.Lock()
        # One operation on a set is atomic, so this needs no lock.
        self._open: set[str] = set()
        self._committed_alone: OrderedDict[str, None] = OrderedDict()
        self._only_read: OrderedDict[str, None] = OrderedDict()
        self._in_doubt: OrderedDict[str, Commit] = OrderedDict()
        self._unproved: OrderedDict[str, tuple[Participant, str]] = OrderedDict()
        """Of a lone writer that was lost with its connection: whom to ask, and for what."""
        # Up to these numbers, some of ours have ended so of which nothing more is kept.
        self._doubted_up_to = self._alone_up_to = 0

    def ended(self, gid: str, outcome: str, *, alone: bool = False, only_read: bool = False) -> None:
        """*gid* is over, as far as its block goes. What one database committed alone, and what only read, is not in the
        log: kept here, each for itself, since the readers may be many."""
        with self._lock:
            if alone or only_read:
                kept = self._committed_alone if alone else self._only_read
                kept[gid] = None
                self._alone_up_to = max(self._alone_up_to, _shorten(kept))
            if gid in self._open:  # or it is said again, since Ctrl-C may have cut the first time short
                self.metrics.outcomes[outcome] += 1
                self._open.discard(gid)

    def dropped(self, gid: str) -> None:
        """The last one who knew *gid* has let go of it: it is over, if it was not. The collector calls this at any
        moment, also while this thread has the lock, so it takes none."""
        self._open.discard(gid)

    def leave_in_doubt(self, gid: str, record: Commit) -> None:
        """The owner was not answered; recovery goes on. Kept in memory: after a crash the log knows enough."""
        with self._lock:
            self._in_doubt[gid] = record
            self._doubted_up_to = max(self._doubted_up_to, _shorten(self._in_doubt))

    def keep_proof(self, gid: str, branch: Branch) -> None:
        """How *gid* ended, only the database of *branch* knows, its one writer: `outcome` asks there."""
        with self._lock:
            self._unproved[gid] = (branch.participant, branch.proof)
            _shorten(self._unproved)

    def may_be_in_doubt(self, gid: Gid) -> bool:
        """Whether its owner, which is this process, may have been left without an answer."""
        with self._lock:
            return str(gid) in self._in_doubt or gid.sequence <= self._doubted_up_to

    def all_in_doubt(self) -> list[tuple[str, Commit]]:
        with self._lock:
            return list(self._in_doubt.items())

    def settled(self, gid: str) -> None:
        with self._lock:
            self._in_doubt.pop(gid, None)


def _shorten(kept: "OrderedDict[str, Any]") -> int:
    """Drop the oldest transactions; the highest number of those, or 0."""
    dropped = 0
    while len(kept) > UNFINISHED_MAX:
        found = parse_gid(kept.popitem(last=False)[0])
        dropped = max(dropped, found[0].sequence if found else 0)
    return dropped

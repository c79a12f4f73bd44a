"""Deadlocks across databases, which no single database can see.

Every second each PostgreSQL says which of its sessions wait for which (their names carry the transaction, so that the
transactions of all processes are seen), and each MariaDB or MySQL which of this process's sessions do, or of all
where its performance schema notes whose they are. The edges, named by transactions, are joined; the youngest
transaction of each cycle has its waiting statement cancelled, and so fails with its database's own error. A cycle is
cancelled only when two looks in a row have seen it: the looks at different databases are not of one moment, and a
wait may have ended in between.
"""

import logging
import threading
from collections.abc import Iterable, Mapping

from troth.core.twophase.gid import parse_gid
from troth.transactions.core import Core
from troth.transactions.participants.base import Wait
from troth.transactions.report import UNREACHABLE

LOOK_EVERY_S = 1.0

_log = logging.getLogger("troth.transactions")


def cycles(edges: Iterable[tuple[str, str]]) -> list[frozenset[str]]:
    """The sets of transactions that wait for each other in a circle.

    >>> cycles([("a", "b"), ("b", "a"), ("c", "a")])
    [frozenset({'a', 'b'})]
    """
    waits_for: dict[str, set[str]] = {}
    for waiter, holder in edges:
        if waiter != holder:
            waits_for.setdefault(waiter, set()).add(holder)
    reached = {each: _reached(waits_for, each) for each in sorted(waits_for)}
    found: list[frozenset[str]] = []
    for start, others in reached.items():
        circle = frozenset(each for each in others if start in reached.get(each, ()))
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached(waits_for: Mapping[str, set[str]], start: str) -> set[str]:
    """Whom *start* waits for, directly or through others; itself only if in a circle."""
    seen: set[str] = set()
    todo = list(waits_for.get(start, ()))
    while todo:
        each = todo.pop()
        if each not in seen:
            seen.add(each)
            todo += waits_for.get(each, ())
    return seen


def youngest(cycle: Iterable[str]) -> str:
    """The transaction that began last, as far as names tell: the highest epoch, then the highest sequence."""

    def age(gid: str) -> tuple[int, int, str]:
        found = parse_gid(gid)
        return (found[0].epoch, found[0].sequence, gid) if found else (0, 0, gid)

    return max(cycle, key=age)


class Detector:
    """A thread that looks; see the module."""

    def __init__(self, core: Core, *, every_s: float = LOOK_EVERY_S) -> None:
        self._core = core
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="troth 2pc deadlocks", daemon=True)
        self._suspects: set[frozenset[str]] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self.look()
            except Exception:  # noqa: BLE001  (logged; without this thread nobody would look again)
                _log.exception("a look for deadlocks failed; the next one tries again")

    def look(self) -> list[str]:
        """One look; the transactions whose statement was cancelled."""
        waits: list[Wait] = []
        for participant in self._core.participants.asked:
            try:
                waits += participant.waits()
            except UNREACHABLE:
                continue  # it has no say in this look
        seen = set(cycles((wait.waiter, wait.holder) for wait in waits))
        victims = [youngest(cycle) for cycle in seen & self._suspects]
        self._suspects = seen
        for wait in waits:
            if wait.waiter in victims:
                try:
                    wait.cancel()
                except UNREACHABLE:
                    pass  # the next look tries again
        return victims

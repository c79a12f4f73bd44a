"""Deadlocks across databases, which no single database can see.

Every second each database says who waits for whom; the edges, named by transactions, are joined, and the youngest
transaction of a cycle has its waiting statement cancelled. Its block fails with the database's error for that.
"""

from troth.transactions.core import Core


class Detector:
    """A thread that looks; see the module."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def start(self) -> None: ...

    def stop(self) -> None: ...

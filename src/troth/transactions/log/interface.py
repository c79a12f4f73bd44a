"""What a decision log promises to the coordinator and to recovery, whoever keeps it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Epoch, Gid
from troth.core.twophase.records import Abort, Commit, Heuristic, Member
from troth.errors import TrothError

PLACES_MAX = 4096
"""Coordinators that live at the same time, in one log."""


class Decided(NamedTuple):
    """The answer to a Commit that was handed in.

    `gid` is the transaction that the verdict is about: another one than the record's when its key was taken.
    """

    verdict: Verdict
    gid: str


class Coordinator(NamedTuple):
    """One coordinator that the log knows."""

    name: str
    epoch: int
    """Its newest epoch; 0 if it never opened one."""
    is_alive: bool
    """Whether it holds its place as far as can be seen. A hint for recovery, never a reason to decide."""
    problem: str = ""
    """Why its part of the log cannot be read; what is told of it is then what was read before."""


class DecisionLog(Protocol):
    """Write-once cells named by transactions, and epochs that fence their writers.

    Every call is safe from any thread. Calls raise StorageError (a file) or RequestError (a cluster) when the log
    cannot be used; after an OutcomeUnknown a decision may stand in it.
    """

    @property
    def log_id(self) -> str:
        """The log's own name, drawn when it was created: part of every transaction's name."""

    @property
    def epoch(self) -> Epoch:
        """The epoch that this process opened."""

    def renew(self) -> Epoch:
        """Our epoch was closed by somebody: open another one. What was begun in the old one is aborted."""

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        """Write each Commit into its cell, durably, with one sync for all; answers in the same order.

        An error in place of an answer is of that Commit alone; the decision may stand (OutcomeUnknown).
        A Commit wins if its epoch is open, its cell is empty and its key is free. On return the answer is durable.
        """

    def note_applied(self, gids: Sequence[str]) -> None:
        """These are done in every branch. Not forced: it may be lost, and recovery then looks once more."""

    def verdict(self, gid: Gid) -> Verdict:
        """What the cell of *gid* says now (a linearizable read)."""

    def commit_of(self, gid: Gid) -> Commit | None:
        """The Commit in the cell of *gid*, while it is kept."""

    def holder_of(self, key: str) -> str | None:
        """The transaction that has committed under *key*, or was delegated under it."""

    def note_refused(self, gid: str) -> None:
        """The last resource refused *gid*: its cell says abort now, and its key is free. Not forced."""

    def abort(self, record: Abort) -> Verdict:
        """Try to win the cell for abort; the verdict that stands then, durably."""

    def coordinators(self) -> list[Coordinator]:
        """All coordinators of this log, this one included."""

    def close_epoch(self, coordinator: str, *, even_if_alive: bool = False) -> bool:
        """Make sure that none of *coordinator*'s transactions can be decided any more; durable on return.

        False, and nothing done, if it is alive and *even_if_alive* is not said, or it is this process's own.
        """

    def unapplied(self, unread: dict[str, str] | None = None) -> list[Commit]:
        """All decisions that are not noted as applied, of all coordinators, now.

        Silence means that there are none: where that cannot be known, it is raised. Who can go on with the others
        gives *unread*: there it is said of each coordinator whose decisions are left out why they are, at once, without
        waiting for whoever is just taking it over. When this process's own cannot be read, that is raised all the same.
        """

    def register(self, members: Sequence[Member]) -> None:
        """Keep what tells the participants apart, durably, so that any process can check that it talks to the same."""

    def members(self) -> dict[str, dict[str, Member]]:
        """For each coordinator, what the names of participants mean in its transactions, as far as can be read."""

    def note_heuristic(self, record: Heuristic) -> bool:
        """Keep what was found, durably, until `forget`. False if it is no news: it was noted before, and perhaps dealt
        with since."""

    def heuristics(self) -> list[Heuristic]:
        """All that were noted and not forgotten."""

    def forget(self, gid: str, by: str) -> bool:
        """An operator, *by*, has dealt with *gid*'s heuristic outcomes that are noted now. False if there are none.

        That holds for their participants. What another one turns out to have done is noted, and to be dealt with.

        Who it was is for a person who reads the log later, if it keeps what is past: a file does until it is compacted,
        a cluster does not.
        """

    def close(self) -> None:
        """Give up the epoch's place. Transactions under way are left to recovery."""

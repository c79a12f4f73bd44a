"""What the owner of a transaction and recovery ask of a participant."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

from troth.core.twophase.gid import Epoch, Gid
from troth.core.twophase.table import Finding


class Begun(NamedTuple):
    """What a branch has to know about its transaction."""

    gid: str
    timeout_s: float | None
    """How long a statement may wait for a lock; None: as the database is set up."""
    engine: Any = None
    """The participant's SQLAlchemy engine with options of its own, if the branch was named by such a one."""


class Prepared(NamedTuple):
    """One branch that a database lists as prepared."""

    gid: Gid
    branch: str
    """As the database wants to be told it (`BranchRef.branch`)."""
    age_s: float
    """Seconds since it was prepared; 0 where the database does not say."""


class Wait(NamedTuple):
    """One transaction waits for another one in one database."""

    waiter: str
    holder: str
    cancel: Callable[[], None]
    """Cancel the statement that waits."""


def nothing_to_await() -> None:
    """What a method of `Branch` returns when all has been done, and answered, already."""


class Facts(NamedTuple):
    """What a participant says about itself."""

    identity: str
    """Tells its database from any other, also from a restored copy under another address where possible. Empty: it has
    none yet, or there is no such database; see `Participant.identify`."""
    problems: tuple[str, ...]
    """Why it can not take part, each with what to set."""
    warnings: tuple[str, ...] = ()
    formerly: str = ""
    """What older versions have told it by, and logs may know it as; empty: nothing else."""


class Branch(Protocol):
    """One participant's part of one transaction, in the hands of the transaction's owner (one thread).

    A method that returns a function has sent its statement; the function waits for the answer. They raise
    sqlalchemy.exc.DBAPIError (or the troth error of a cluster); `was_lost` tells a refusal from a lost connection.
    """

    number: int
    wrote: bool | None
    """None: not known without asking."""

    @property
    def participant(self) -> "Participant": ...

    @property
    def name(self) -> str:
        """The branch's name in its database."""

    @property
    def proof(self) -> str:
        """After `prepare` or `ask`: see `BranchRef.proof`."""

    @property
    def handle(self) -> Any:
        """What the caller works with: a sqlalchemy Connection, or a `ClusterWork`."""

    def answer_by(self, until: float) -> None:
        """What it is told from now on is answered when the clock (time.monotonic) says *until*, or its connection
        counts as lost. Before `release`."""

    def ask(self) -> Callable[[], None]:
        """Find out whether it has written; sets `wrote`."""

    def others_wrote(self) -> None:
        """Another branch has written. Where reading locks nothing, what was read has to be held by a vote: then
        this one counts as a writer too."""

    def prepare(self) -> Callable[[], None]:
        """Vote. Raises when the vote is no; a failed transaction must raise too."""

    def commit_alone(self) -> Callable[[], None]:
        """Commit as an ordinary transaction."""

    def commit_prepared(self) -> Callable[[], object]: ...

    def roll_back(self) -> Callable[[], object]:
        """Roll back, prepared or not. Finding.ABSENT: it was prepared, and is not there any more; `proof` tells why."""

    def release(self, *, broken: bool) -> None:
        """Give the connection back; *broken*: close it, without a word to the database about the transaction."""

    def savepoint(self) -> Any:
        """A context manager: a savepoint that is rolled back if its block fails."""

    def leave_to_parent(self) -> None:
        """This process was forked off the one whose branch it is: say nothing to the database, now or ever. Done twice
        it comes to the same."""


class LastResourceBranch(Branch, Protocol):
    """A branch of the one participant that can not prepare."""

    def commit_with_marker(self) -> None:
        """The decision: commit, with the marker that tells recovery of it."""


class WithoutExtras:
    """What a participant says to recovery about things that it does not have; each kind overrides what it has."""

    def detach(self, branch: str) -> None:
        """No session holds it."""

    def prove(self, proof: str) -> Finding:
        return Finding.UNPROVEN

    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        return 0

    def waits(self) -> list[Wait]:
        return []

    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        return None

    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        """It keeps no markers."""

    def identify(self) -> str:
        return ""


class Recovered(Protocol):
    """What any process asks of a database, at any time, and as often as it likes."""

    name: str
    kind: str
    can_prepare: bool

    def facts(self) -> Facts:
        """Ask the database whether it can take part. Raises its own error if it does not answer."""

    def prepared(self) -> list[Prepared]:
        """All branches of any troth transaction that are prepared here."""

    def finish(self, branch: str, *, commit: bool) -> Finding:
        """Tell a prepared branch. FINISHED, ABSENT, ATTACHED or UNREACHED; or its own error, which says why not."""

    def detach(self, branch: str) -> None:
        """End the session that still holds *branch*."""

    def prove(self, proof: str) -> Finding:
        """What became of a branch that is not there: PROVED_COMMITTED, PROVED_ABORTED, UNPROVEN or UNREACHED."""

    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        """End the sessions of closed epochs, so that nothing of theirs can become prepared later. How many. Only a
        database that shows whose its sessions are (PostgreSQL) can; elsewhere a later pass finds what became so."""

    def waits(self) -> list[Wait]:
        """Which global transactions wait here for which now."""

    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        """Of a last resource: True committed, False refused, None neither; with *refuse*, None is made False."""

    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        """Of a last resource: drop old markers of committed transactions whose names begin with *coordinator*, but for
        those *needed*. A refusal is kept for ever: its owner may be paused for as long as it likes."""


class Participant(Recovered, Protocol):
    """One database."""

    @property
    def given(self) -> Any:
        """What callers may name it by in ``tx[...]``, beside its name."""

    def identify(self) -> str:
        """The identity that is kept in the database itself, from now on if there was none; empty: it is known by what
        `facts` say. To be called once no decision is left that another database under its name may have to answer."""

    def open(self, number: int, begun: Begun) -> Branch:
        """Begin branch *number* of a transaction."""

    def close(self) -> None:
        """Release what recovery holds."""

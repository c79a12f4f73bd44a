"""Two-phase commit as two tables: what the owner of a transaction may do, and what a recoverer may do with a branch.

The owner is the coordinator that began the transaction. A recoverer is anybody else, at any time, any number of them
at once. Both obey one rule: *the decision is a write-once cell in the log, named by the transaction; who wants commit
or abort must win that cell, and nobody decides from elapsed time or from what participants look like.* The real
coordinator, the real recovery loop and the simulation are driven by these tables and by nothing else.

Presumed abort (Mohan, Lindsay, Obermarck, "Transaction Management in the R* Distributed Database Management System",
TODS 1986, section 3): an owner's abort is not logged, unless its Commit may still arrive in the log. No cell, and the
epoch of the name closed: aborted. Diverges: there, participants ask the coordinator; here databases cannot ask, so the
closing of the epoch (a log record) makes "no cell" final, and recoverers push the outcome.

The last resource (a database that cannot prepare) takes the decision in its own commit: the cell then says only
`delegated`, and a marker row in that database, under a primary key, is the write-once cell.
"""

from enum import Enum
from typing import Final, NamedTuple

from troth.errors import InvariantViolation

# ---- the owner ---------------------------------------------------------------------------------------------


class _Named(Enum):
    """Members are looked up by what they are; Enum's own hash, of the name, is many times slower."""

    __hash__ = object.__hash__


class State(_Named):
    """Where a transaction stands, for its owner."""

    ACTIVE = "work is being done in its branches"
    VOTING = "branches are asked what they wrote, and to prepare"
    ONE_PHASE = "its only writing branch is told to commit; no log is needed"
    DECIDING = "all prepared; the decision has been handed to the log, and may stand there"
    DELEGATED = "all others prepared; the last resource is told to commit, and may have"
    COMMITTING = "decided: commit; prepared branches are told"
    ABORTING = "decided: abort; branches are told"
    IN_DOUBT = "the log (or the last resource) did not answer; branches stay as they are, for recovery"
    COMMITTED = "committed in every branch"
    ABORTED = "rolled back in every branch"


class Event(_Named):
    """What can happen to the owner."""

    COMMIT_ASKED = "the caller's block ended well"
    ABORT_ASKED = "the caller's block failed, ran out of time, or was rolled back"
    NO_WRITER = "no branch has written: there is nothing to decide"
    LONE_WRITER = "one branch has written, and no key has to be kept"
    VOTED_YES = "every writing branch is prepared"
    VOTED_NO = "a branch refused, or was lost before its vote was read"
    CELL_COMMIT = "the log says: commit"
    CELL_ABORT = "the log says: abort (our epoch was closed, or the key belongs to another transaction)"
    CELL_DELEGATED = "the log says: the last resource decides"
    LOG_REFUSED = "the log certainly did not take the decision"
    LOG_SILENT = "the log did not answer in time; the decision may stand there or not"
    RESOURCE_COMMITTED = "the deciding commit of a single database succeeded"
    RESOURCE_REFUSED = "the deciding commit of a single database certainly failed"
    RESOURCE_SILENT = "the deciding commit of a single database was not answered"
    BRANCHES_DONE = "every branch has been told, and has answered"
    BRANCH_LOST = "a branch could not be told"


class Action(_Named):
    """What the owner does about it."""

    ASK_BRANCHES = "find the writing branches, and have them prepare; readers keep their locks"
    COMMIT_ALONE = "commit the one branch that wrote (or those that read) as an ordinary transaction"
    SUBMIT = "hand the decision to the log"
    COMMIT_LAST_RESOURCE = "commit the last resource together with its marker"
    COMMIT_BRANCHES = "tell prepared branches to commit; then readers, whose locks have guarded them until here"
    LET_READERS_GO = "end the branches that only read"
    ROLL_BACK_BRANCHES = "tell branches to roll back"
    LEAVE = "touch nothing; the recovery loop finishes it when it can"
    NOTE_APPLIED = "note that nobody needs the decision any more"
    NOTHING = "nothing"


class Transition(NamedTuple):
    state: State
    action: Action


class Refused(NamedTuple):
    """This event cannot happen in this state; if it does, that is our bug."""

    why: str


S, E, A = State, Event, Action

_ALLOWED: Final[dict[tuple[State, Event], Transition]] = {
    (S.ACTIVE, E.COMMIT_ASKED): Transition(S.VOTING, A.ASK_BRANCHES),
    (S.ACTIVE, E.ABORT_ASKED): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    (S.VOTING, E.NO_WRITER): Transition(S.COMMITTED, A.COMMIT_ALONE),
    (S.VOTING, E.LONE_WRITER): Transition(S.ONE_PHASE, A.COMMIT_ALONE),
    (S.VOTING, E.VOTED_YES): Transition(S.DECIDING, A.SUBMIT),
    (S.VOTING, E.VOTED_NO): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    # Interrupted (Ctrl-C, a cancelled task) before anything was handed to the log: abort is still ours to say.
    (S.VOTING, E.ABORT_ASKED): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    (S.ONE_PHASE, E.RESOURCE_COMMITTED): Transition(S.COMMITTED, A.LET_READERS_GO),
    (S.ONE_PHASE, E.RESOURCE_REFUSED): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    (S.ONE_PHASE, E.RESOURCE_SILENT): Transition(S.IN_DOUBT, A.LEAVE),
    (S.DECIDING, E.CELL_COMMIT): Transition(S.COMMITTING, A.COMMIT_BRANCHES),
    (S.DECIDING, E.CELL_ABORT): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    (S.DECIDING, E.CELL_DELEGATED): Transition(S.DELEGATED, A.COMMIT_LAST_RESOURCE),
    (S.DECIDING, E.LOG_REFUSED): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    (S.DECIDING, E.LOG_SILENT): Transition(S.IN_DOUBT, A.LEAVE),
    (S.DELEGATED, E.RESOURCE_COMMITTED): Transition(S.COMMITTING, A.COMMIT_BRANCHES),
    (S.DELEGATED, E.RESOURCE_REFUSED): Transition(S.ABORTING, A.ROLL_BACK_BRANCHES),
    (S.DELEGATED, E.RESOURCE_SILENT): Transition(S.IN_DOUBT, A.LEAVE),
    (S.COMMITTING, E.BRANCHES_DONE): Transition(S.COMMITTED, A.NOTE_APPLIED),
    (S.COMMITTING, E.BRANCH_LOST): Transition(S.COMMITTING, A.LEAVE),
    (S.ABORTING, E.BRANCHES_DONE): Transition(S.ABORTED, A.NOTHING),
    (S.ABORTING, E.BRANCH_LOST): Transition(S.ABORTING, A.LEAVE),
    # Here the owner stops, whatever else interrupts it. What was decided recovery finds out.
    (S.IN_DOUBT, E.LOG_SILENT): Transition(S.IN_DOUBT, A.LEAVE),
}

_SUBMITTED: Final = (S.DECIDING, S.DELEGATED, S.ONE_PHASE, S.IN_DOUBT)


def _why_refused(state: State, event: Event) -> str:
    if state in (S.COMMITTED, S.ABORTED):
        return "it is over"
    if event is E.ABORT_ASKED and state in _SUBMITTED:
        return "the decision may already stand: it has to be read, not made again (cockroachdb/cockroach#75601)"
    if event in (E.CELL_COMMIT, E.CELL_ABORT, E.CELL_DELEGATED, E.LOG_SILENT) and state in (S.ACTIVE, S.VOTING):
        return "nothing has been handed to the log yet"
    if state is S.IN_DOUBT:
        return "its owner has left it to recovery, which reads the cell"
    if event in (E.CELL_ABORT, E.ABORT_ASKED) and state is S.COMMITTING:
        return "a decision does not change (AC2)"
    if event in (E.CELL_COMMIT, E.COMMIT_ASKED) and state is S.ABORTING:
        return "a decision does not change (AC2)"
    return f"a transaction that is {state.name} does not wait for this"


TABLE: Final[dict[tuple[State, Event], Transition | Refused]] = {
    (state, event): _ALLOWED.get((state, event)) or Refused(_why_refused(state, event))
    for state in State
    for event in Event
}
"""Every pair of state and event: what follows, or why it cannot be."""


def step(state: State, event: Event) -> Transition:
    """What follows when *event* happens in *state*.

    Raises:
        InvariantViolation: the table refuses the pair.
    """
    row = TABLE[state, event]
    if isinstance(row, Refused):
        raise InvariantViolation(f"two-phase commit: {event.name} in {state.name}: {row.why}")
    return row


# ---- a recoverer -------------------------------------------------------------------------------------------


class Case(_Named):
    """Where one branch stands, for a recoverer that has found it prepared or named by a decision in the log."""

    FOUND = "prepared in a database"
    EXPECTED = "decided commit in the log, and not known to be applied"
    COMMITTING = "told to commit"
    ROLLING_BACK = "told to roll back"
    PROVING = "not there any more: the database is asked what became of it"
    DONE = "as the log says"
    LEFT = "not ours to touch now; the next pass looks again"
    ORPHAN = "nobody's: reported, never touched"
    HEURISTIC = "finished by somebody against the decision: reported, kept until an operator forgets it"


class Finding(_Named):
    """What a recoverer can learn."""

    CELL_COMMIT = "the log (or the marker it points to) says: commit"
    CELL_ABORT = "the log says: abort; or it has no cell, and the epoch is closed"
    EPOCH_OPEN = "no cell, and its owner may still write one"
    LOG_SILENT = "the log, or the last resource that it points to, cannot be read"
    NOT_OURS = "another log's name, or one that this log has forgotten"
    FINISHED = "the database has done it"
    ABSENT = "the database does not know the branch"
    ATTACHED = "the session that prepared it still holds it"
    PROVED_COMMITTED = "the database says that its transaction committed"
    PROVED_ABORTED = "the database says that its transaction was rolled back"
    UNPROVEN = "the database keeps no such knowledge"
    UNREACHED = "the database did not answer"


class Step(_Named):
    """What a recoverer does about it."""

    COMMIT = "tell the branch to commit"
    ROLL_BACK = "tell the branch to roll back"
    DETACH = "end the session that holds the branch, then tell it again"
    PROVE = "ask what became of it"
    NOTE_APPLIED = "note that this branch is done"
    NOTE_HEURISTIC = "write down what was found, durably"
    REPORT = "tell the operator"
    NOTHING = "nothing"


class Move(NamedTuple):
    case: Case
    step: Step


C, F, T = Case, Finding, Step

_MOVES: Final[dict[tuple[Case, Finding], Move]] = {
    (C.FOUND, F.CELL_COMMIT): Move(C.COMMITTING, T.COMMIT),
    (C.FOUND, F.CELL_ABORT): Move(C.ROLLING_BACK, T.ROLL_BACK),
    (C.FOUND, F.EPOCH_OPEN): Move(C.LEFT, T.NOTHING),
    (C.FOUND, F.LOG_SILENT): Move(C.LEFT, T.NOTHING),
    (C.FOUND, F.NOT_OURS): Move(C.ORPHAN, T.REPORT),
    (C.EXPECTED, F.CELL_COMMIT): Move(C.COMMITTING, T.COMMIT),
    (C.EXPECTED, F.ABSENT): Move(C.PROVING, T.PROVE),
    (C.EXPECTED, F.CELL_ABORT): Move(C.ROLLING_BACK, T.ROLL_BACK),
    (C.EXPECTED, F.LOG_SILENT): Move(C.LEFT, T.NOTHING),
    (C.EXPECTED, F.UNREACHED): Move(C.LEFT, T.NOTHING),
    (C.COMMITTING, F.FINISHED): Move(C.DONE, T.NOTE_APPLIED),
    # Another recoverer, or the owner, may have been faster. "Does not exist" is not "committed": ask.
    (C.COMMITTING, F.ABSENT): Move(C.PROVING, T.PROVE),
    (C.COMMITTING, F.ATTACHED): Move(C.COMMITTING, T.DETACH),
    (C.COMMITTING, F.UNREACHED): Move(C.LEFT, T.NOTHING),
    (C.ROLLING_BACK, F.FINISHED): Move(C.DONE, T.NOTHING),
    (C.ROLLING_BACK, F.ABSENT): Move(C.DONE, T.NOTHING),
    (C.ROLLING_BACK, F.ATTACHED): Move(C.ROLLING_BACK, T.DETACH),
    (C.ROLLING_BACK, F.UNREACHED): Move(C.LEFT, T.NOTHING),
    (C.PROVING, F.PROVED_COMMITTED): Move(C.DONE, T.NOTE_APPLIED),
    (C.PROVING, F.PROVED_ABORTED): Move(C.HEURISTIC, T.NOTE_HEURISTIC),
    (C.PROVING, F.UNPROVEN): Move(C.DONE, T.NOTE_APPLIED),
    (C.PROVING, F.UNREACHED): Move(C.LEFT, T.NOTHING),
}


def _why_no_move(case: Case, finding: Finding) -> str:
    if case in (C.DONE, C.LEFT, C.ORPHAN, C.HEURISTIC):
        return "this pass has finished with it"
    if (case is C.COMMITTING and finding is F.CELL_ABORT) or (case is C.ROLLING_BACK and finding is F.CELL_COMMIT):
        return "a cell is written once (AC2)"
    return f"a branch that is {case.name} does not wait for this"


MOVES: Final[dict[tuple[Case, Finding], Move | Refused]] = {
    (case, finding): _MOVES.get((case, finding)) or Refused(_why_no_move(case, finding))
    for case in Case
    for finding in Finding
}


def move(case: Case, finding: Finding) -> Move:
    """What a recoverer does when it learns *finding* about a branch in *case*.

    Raises:
        InvariantViolation: the table refuses the pair.
    """
    row = MOVES[case, finding]
    if isinstance(row, Refused):
        raise InvariantViolation(f"recovery: {finding.name} about a branch that is {case.name}: {row.why}")
    return row

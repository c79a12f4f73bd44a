"""Atomic commitment: no participant commits what another one aborts.

Source: Bernstein, Hadzilacos, Goodman, "Concurrency Control and Recovery in Database Systems", 1987, section 7.3.
Each participant is a process; the transaction is the operation's key. Operations: ``vote`` (its result, or else its
argument, is true, "yes", "commit" or "prepared"; or false, "no" or "abort"), ``commit``, ``abort``; a ``commit`` or
``abort`` that is ok is a decision reached by that process. A commit beside a vote that was not recorded is unknown.

===  ===============================================================================================
AC1  all participants that reach a decision reach the same one
AC2  a participant does not reverse its decision
AC3  commit is decided only if every participant voted yes: before the commit returned, and not by a vote that failed
AC4  if every participant voted yes and nothing failed, the decision is commit
===  ===============================================================================================

AC5 (in the end everybody decides) is about liveness: participants left undecided are named in the reason, not a
violation.
"""

from typing import Final

from troth.errors import UsageError
from troth.verify.history import EventType, History, Operation, Process, Value, counted, show
from troth.verify.verdict import Counterexample, Part, Status, Verdict, combine

_DECISIONS: Final = frozenset({"commit", "abort"})
_YES: Final = (True, "yes", "commit", "prepared")
_NO: Final = (False, "no", "abort")


def check_atomic_commit(history: History) -> Verdict:
    """Check AC1 to AC4 for every transaction.

    Raises:
        UsageError: a vote is neither yes nor no.
    """
    transactions: dict[Value, list[Operation]] = {}
    for op in history.operations:
        if op.f in _DECISIONS or op.f == "vote":
            transactions.setdefault(op.key, []).append(op)
    parts: list[Part] = []
    first: Counterexample | None = None
    anomalies: list[str] = []
    undecided = 0
    calm = not history.faults
    for key, operations in transactions.items():
        anomaly, example = _transaction(operations, calm=calm)
        status = Status.OK if example is None else Status.ILLEGAL
        reason = "" if example is None else f"transaction {show(key)}: {anomaly}: {example.reason}"
        if example is None and (unsaid := _unsaid(operations)) is not None:
            status = Status.UNKNOWN
            reason = (
                f"transaction {show(key)}: it was committed, and how process {unsaid.process} voted is not known"
            )
        if example is not None:
            anomalies.append(anomaly)
            first = first or example
        decided = {op.process for op in operations if op.f in _DECISIONS and op.outcome is EventType.OK}
        undecided += len({op.process for op in operations} - decided)
        parts.append(
            Part(
                key=key,
                status=status,
                algorithm="decisions",
                cost="linear",
                events_done=len(operations),
                events=len(operations),
                reason=reason,
            )
        )
    status = combine([part.status for part in parts])
    reason = next((part.reason for part in parts if part.status is status), "")
    if not reason and undecided:
        reason = f"{counted(undecided, 'participant')} had not decided when the history ended"
    return Verdict(
        status,
        history=history,
        model="atomic-commit",
        object="transaction",
        reason=reason,
        parts=parts,
        counterexample=first,
        anomalies=tuple(dict.fromkeys(anomalies)),
    )


def _transaction(operations: list[Operation], *, calm: bool) -> tuple[str, Counterexample | None]:
    decided: dict[Process, Operation] = {}
    commit: Operation | None = None
    abort: Operation | None = None
    for op in operations:
        if op.f not in _DECISIONS or op.outcome is not EventType.OK:
            continue
        before = decided.setdefault(op.process, op)
        if before.f != op.f:
            return "AC2", _example(op, before, f"process {op.process} had decided {before.f}")
        if op.f == "commit":
            commit = commit or op
        else:
            abort = abort or op
    if commit is not None and abort is not None:
        late, early = (commit, abort) if commit.invoked > abort.invoked else (abort, commit)
        return "AC1", _example(late, early, f"process {early.process} decided {early.f}")
    votes = [op for op in operations if op.f == "vote" and op.outcome is EventType.OK]
    refusals = [op for op in votes if _vote(op) in _NO]
    if commit is not None and refusals:
        return "AC3", _example(commit, refusals[0], f"process {refusals[0].process} voted no")
    if commit is not None and (unheard := _unheard(operations)) is not None:
        return "AC3", unheard
    failed = [op for op in operations if op.outcome is not EventType.OK]
    if abort is not None and votes and all(_vote(op) in _YES for op in votes) and not failed and calm:
        voted = {op.process for op in votes}
        if all(op.process in voted for op in operations):
            return "AC4", _example(abort, votes[-1], "every participant voted yes and nothing failed")
    return "", None


def _unheard(operations: list[Operation]) -> Counterexample | None:
    """A commit that returned before some participant can have voted yes."""
    commits = [op for op in operations if op.f == "commit" and op.outcome is EventType.OK]
    first = min(commits, key=lambda op: op.completed)
    asked: dict[Process, Operation] = {}
    heard: set[Process] = set()
    for op in operations:
        if op.f == "vote":
            asked.setdefault(op.process, op)
            if op.outcome is not EventType.FAIL and op.invoked < first.completed:
                heard.add(op.process)
    for process, vote in asked.items():
        if process not in heard:
            why = "had not voted when it returned" if vote.outcome is not EventType.FAIL else "never voted"
            return _example(first, vote, f"process {process} {why}")
    return None


def _unsaid(operations: list[Operation]) -> Operation | None:
    """A vote of which nobody knows what it was, should there be a commit."""
    if not any(op.f == "commit" and op.outcome is EventType.OK for op in operations):
        return None
    votes = (op for op in operations if op.f == "vote" and op.outcome is EventType.OK)
    return next((op for op in votes if _vote(op) is None), None)


def _vote(op: Operation) -> Value:
    vote = op.result if op.result is not None else op.argument
    if vote is not None and vote not in (*_YES, *_NO):
        raise UsageError(
            f"[{op.index}] {op.describe()}: a vote is true, yes, commit or prepared, or it is false, no or abort"
        )
    return vote


def _example(op: Operation, other: Operation, reason: str) -> Counterexample:
    return Counterexample(operation=op.index, reason=reason, involved=tuple(sorted((op.index, other.index))))

"""AWDIT's text form of transactional histories (dbcop-like).

One operation a line, ``w KEY VALUE`` or ``r KEY VALUE``; a line of dashes ends a transaction, a line of equals signs
ends a session. Initial writes are written out as transactions like any other. There is no real time in it: sessions
are independent, so every transaction of one session is concurrent with all of the others.

PolySI and Plume write ``r(KEY,VALUE,SESSION,TRANSACTION)`` and ``w(...)``, an operation a line and no other lines.
There every key starts as 0, which a session of -1 may write out.

Each session becomes a process whose operations are ``txn`` with values ``(("w", k, v), ("r", k, v), ...)``.
"""

import re
from typing import Final

from troth.errors import DecodeError
from troth.verify.history import EventType, History, Operation, Reading

_OPERATION: Final = re.compile(r"\s*([wrWR])[\s(]+([^\s,()]+)[\s,]+([^\s,()]+)\s*\)?\s*")
_NUMBERED: Final = re.compile(r"\s*([rw])\(\s*([^\s,()]+)\s*,\s*([^\s,()]+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\)\s*")
_NOTHING: Final = re.compile(r"\s*(?:[#;]|$)")
"""A line that is empty, or a comment."""
_NUMBER: Final = re.compile(r"-?\d+")


def read(text: str) -> History:
    """Read AWDIT text, or PolySI's.

    Raises:
        DecodeError: a line that is neither an operation nor a separator.
    """
    if _NUMBERED.match(next((line for line in text.split("\n") if not _NOTHING.match(line)), "")):
        return read_numbered(text)
    sessions: list[list[tuple[int, tuple[object, ...]]]] = [[]]
    transaction: list[object] = []
    begun = 0

    def commit() -> None:
        if transaction:
            sessions[-1].append((begun, tuple(transaction)))
            transaction.clear()

    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if _NOTHING.match(line):
            continue
        if set(bare) == {"-"}:
            commit()
        elif set(bare) == {"="}:
            commit()
            sessions.append([])
        else:
            found = _OPERATION.fullmatch(line)
            if found is None:
                column = len(line) - len(line.lstrip()) + 1
                raise DecodeError(
                    f"line {number}, column {column}: found {bare[:40]!r}, expected 'w KEY VALUE', 'r KEY VALUE', "
                    f"a line of dashes or a line of equals signs"
                )
            if not transaction:
                begun = number
            transaction.append((found[1].lower(), _atom(found[2]), _atom(found[3])))
    commit()
    sessions = [session for session in sessions if session]
    return _concurrent(sessions)


def read_numbered(text: str) -> History:
    """Read the text of PolySI and Plume, in which every line names its session and its transaction.

    Raises:
        DecodeError: a line that is no such operation, or a transaction of two sessions.
    """
    transactions: dict[int, tuple[int, int, list[object]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if _NOTHING.match(line):
            continue
        found = _NUMBERED.fullmatch(line)
        if found is None:
            raise DecodeError(
                f"line {number}, column 1: found {line.strip()[:40]!r}, expected 'w(KEY,VALUE,SESSION,TRANSACTION)' or "
                f"'r(KEY,VALUE,SESSION,TRANSACTION)'"
            )
        session, name = int(found[4]), int(found[5])
        if session < 0 and found[1] == "w" and found[3] == "0":
            continue
        entry = transactions.setdefault(name, (session, number, []))
        if entry[0] != session:
            raise DecodeError(
                f"line {number}, column 1: transaction {name} in session {session}, expected session {entry[0]} as in "
                f"line {entry[1]}"
            )
        entry[2].append((found[1], _atom(found[2]), _atom(found[3])))
    sessions: dict[int, list[tuple[int, tuple[object, ...]]]] = {}
    for session, line_number, micros in transactions.values():
        sessions.setdefault(session, []).append((line_number, tuple(micros)))
    return _concurrent(list(sessions.values())).with_reading(Reading(initial=0))


def _atom(text: str) -> object:
    if _NUMBER.fullmatch(text):
        return int(text)
    return None if text in ("nil", "null", "None") else text


def _concurrent(sessions: list[list[tuple[int, tuple[object, ...]]]]) -> History:
    """Place the n-th transactions of all sessions so that transactions of different sessions always overlap.

    A history orders events totally, so "no real-time order at all" cannot be said; positions follow the file, and
    `History.reading` does not pretend otherwise: checks that use real time must not be asked of this format.
    """
    operations: list[Operation] = []
    position = 0
    for process, session in enumerate(sessions):
        for line, transaction in session:
            operations.append(
                Operation(
                    index=len(operations),
                    process=process,
                    f="txn",
                    key=None,
                    argument=transaction,
                    result=transaction,
                    outcome=EventType.OK,
                    invoked=position,
                    completed=position + 1,
                    line=line,
                )
            )
            position += 2
    return History.of(operations, format="awdit")

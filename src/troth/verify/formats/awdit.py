"""AWDIT's text form of transactional histories (dbcop-like).

One operation a line, ``w KEY VALUE`` or ``r KEY VALUE``; a line of dashes ends a transaction, a line of equals signs
ends a session. Initial writes are written out as transactions like any other. There is no real time in it: sessions
are independent, so every transaction of one session is concurrent with all of the others.

Each session becomes a process whose operations are ``txn`` with values ``(("w", k, v), ("r", k, v), ...)``.
"""

import re
from typing import Final

from troth.errors import DecodeError
from troth.verify.history import EventType, History, Operation

_OPERATION: Final = re.compile(r"\s*([wrWR])[\s(]+([^\s,()]+)[\s,]+([^\s,()]+)\s*\)?\s*")
_NUMBER: Final = re.compile(r"-?\d+")


def read(text: str) -> History:
    """Read AWDIT text.

    Raises:
        DecodeError: a line that is neither an operation nor a separator.
    """
    sessions: list[list[tuple[int, tuple[object, ...]]]] = [[]]
    transaction: list[object] = []
    begun = 0

    def commit() -> None:
        if transaction:
            sessions[-1].append((begun, tuple(transaction)))
            transaction.clear()

    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith(("#", ";")):
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

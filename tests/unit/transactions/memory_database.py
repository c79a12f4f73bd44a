"""A database that is none: branches in memory."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from troth.transactions.participants.base import Begun


class Branch:
    """One that votes yes, does what it is told, and notes it."""

    wrote = True
    proof = ""
    handle = None

    def __init__(self, participant: "Database", number: int, begun: Begun) -> None:
        self.participant = participant
        self.number = number
        self.name = f"{begun.gid}.{number}"

    def ask(self) -> Callable[[], None]:
        return lambda: None

    roll_back = ask

    def others_wrote(self) -> None: ...

    def prepare(self) -> Callable[[], None]:
        self.participant.told.append(f"prepare {self.name[-3:]}")
        return lambda: None

    def commit_prepared(self) -> Callable[[], None]:
        self.participant.told.append(f"commit {self.name[-3:]}")
        return lambda: None

    def release(self, *, broken: bool) -> None: ...

    def savepoint(self) -> Any:
        return nullcontext()


class Database:
    """A participant that always answers."""

    kind = "memory"
    can_prepare = True
    given = None

    def __init__(self, name: str, told: list[str] | None = None) -> None:
        """*told*: where its branches note what they are told."""
        self.name = name
        self.told = [] if told is None else told

    def open(self, number: int, begun: Begun) -> Branch:
        return Branch(self, number, begun)

    def close(self) -> None: ...

"""What a branch in PostgreSQL makes of the server's answers."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.errors import Aborted  # noqa: E402
from troth.transactions.channels.interface import Answer  # noqa: E402
from troth.transactions.participants.base import Begun  # noqa: E402
from troth.transactions.participants.postgresql import PostgresBranch  # noqa: E402

GID = "T1.log.0.1.1"
PREPARED = Answer("PREPARE TRANSACTION", None)


class Server:
    """Gives *answers*, one after the other, whatever it is told."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.told: list[str] = []
        self.bounds: list[float | None] = []

    def start(self, statements: Sequence[str], bound: Any) -> Callable[[], list[Answer]]:
        self.told += statements
        self.bounds.append(bound.until)
        return lambda: [self._answers.pop(0) for _ in statements]

    def roll_back(self, bound: Any) -> None:
        self.told.append("ROLLBACK")
        self.bounds.append(bound.until)

    def is_busy(self) -> bool:
        return False


def branch_at(server: Server) -> PostgresBranch:
    branch: Any = object.__new__(PostgresBranch)
    branch.name = f"{GID}.0"
    branch.participant = SimpleNamespace(name="left")
    branch.handle = SimpleNamespace(closed=False, invalidated=False, tell_rolled_back=lambda: None)
    branch.channel = server
    branch._transaction = SimpleNamespace(is_active=True)
    branch._begun = Begun(GID, None)
    return branch  # type: ignore[no-any-return]


@pytest.mark.parametrize("xid", [None, "7"])
@pytest.mark.parametrize("name", ["", "psql", "T1.log.0.1.2"])
def test_a_vote_of_another_transaction_is_a_no_and_is_rolled_back(name: str, xid: str | None) -> None:
    """Behind a SELECT, PREPARE finds a transaction also where none was begun: the message's own, which is empty."""
    server = Server(Answer("SELECT 1", (xid, name)), PREPARED, Answer("ROLLBACK PREPARED", None))
    branch = branch_at(server)
    voted = branch.prepare()
    with pytest.raises(Aborted, match="left: the transaction was ended inside of its block"):
        voted()
    assert branch.is_over
    branch.roll_back()()
    assert server.told[-1] == f"ROLLBACK PREPARED '{GID}.0'"


def test_a_transaction_that_is_another_one_when_it_is_asked_has_not_written_what_was_asked_for() -> None:
    branch = branch_at(Server(Answer("SELECT 1", (None, ""))))
    answered = branch.ask()
    with pytest.raises(Aborted, match="ended inside of its block"):
        answered()


def test_the_vote_of_ones_own_is_a_yes_with_a_proof_in_one_message() -> None:
    server = Server(Answer("SELECT 1", ("7", GID)), PREPARED)
    branch = branch_at(server)
    branch.prepare()()
    assert branch.proof == "7"
    assert [told.split()[0] for told in server.told] == ["SELECT", "PREPARE"]


def test_what_has_been_asked_already_is_not_asked_again_for_the_vote() -> None:
    server = Server(Answer("SELECT 1", ("7", GID)), PREPARED)
    branch = branch_at(server)
    branch.ask()()
    assert branch.wrote
    branch.prepare()()
    assert [told.split()[0] for told in server.told] == ["SELECT", "PREPARE"]


def test_what_is_told_is_answered_within_the_bound_of_its_own_transaction() -> None:
    """The connection of a branch that was closed may be another transaction's by now."""
    asked = Answer("SELECT 1", ("7", GID))
    server = Server(asked, asked, PREPARED, Answer("COMMIT PREPARED", None), Answer("COMMIT", None))
    one, another, lone = branch_at(server), branch_at(server), branch_at(server)
    for branch in (one, another, lone):
        branch.handle.tell_committed = lambda: None  # type: ignore[method-assign]
    one.answer_by(742.0)
    another.ask()()
    one.prepare()()
    one.commit_prepared()()
    lone.answer_by(7.0)
    lone.commit_alone()()
    assert server.bounds == [None, 742.0, 742.0, 7.0]


@pytest.mark.parametrize("until", [None, 742.0])
def test_a_rollback_with_a_bound_is_told_and_then_sqlalchemy_has_nothing_to_tell(until: float | None) -> None:
    server, heard = Server(), []
    branch: Any = branch_at(server)
    branch.handle.tell_rolled_back = lambda: heard.append("listeners")
    branch._transaction.rollback = lambda: heard.append("over" if branch.is_over else "open")
    if until is not None:
        branch.answer_by(until)
    branch.roll_back()()
    assert (server.told, server.bounds) == (([], []) if until is None else (["ROLLBACK"], [742.0]))
    assert heard == (["open"] if until is None else ["listeners", "over"])

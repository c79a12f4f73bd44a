"""ORM sessions inside of a global transaction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session
from typing_extensions import override

if TYPE_CHECKING:
    from troth.transactions.transaction import Transaction


class BoundSession(Session):
    """Works in the branches of one transaction: where another session would check out a connection, it takes theirs."""

    def __init__(self, transaction: "Transaction", **options: Any) -> None:
        # commit() of the session is a flush, rollback() ends the branches: the transaction's own block commits.
        super().__init__(join_transaction_mode="rollback_only", **options)
        self._troth_transaction = transaction

    @override
    def get_bind(self, *args: Any, **options: Any) -> Any:
        found = super().get_bind(*args, **options)
        return self._troth_transaction[found] if isinstance(found, Engine) else found


def bound_session(
    transaction: "Transaction", engines: Sequence[Engine], binds: dict[Any, Any] | None, options: dict[str, Any]
) -> Session:
    """A session over *binds* (classes or tables to engines), or over the one engine there is."""
    if binds is None and len(engines) == 1:
        return BoundSession(transaction, bind=engines[0], **options)
    return BoundSession(transaction, binds=binds or {}, **options)

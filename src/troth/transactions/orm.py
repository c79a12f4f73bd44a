"""ORM sessions inside of a global transaction."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
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
        self._savepoints = 0
        """So many of the transaction's are open around what is done now."""
        transaction.joined_by(self)

    @override
    def get_bind(self, *args: Any, **options: Any) -> Any:
        found = super().get_bind(*args, **options)
        return self._troth_transaction[found] if isinstance(found, Engine) else found

    @override
    def commit(self) -> None:
        if self._savepoints:
            self.flush()  # a commit would end what the savepoint's end has still to undo, or to keep
        else:
            super().commit()

    @override
    def close(self) -> None:
        if self._savepoints and self.in_transaction():
            self.expunge_all()  # its transaction has savepoints of its own, which end in their turn
        else:
            super().close()

    def join(self, connections: Sequence[Any]) -> None:
        """Take part in their transactions before there is a savepoint, which would be taken for one of them."""
        if self.in_transaction():
            for connection in connections:
                if isinstance(connection, Connection):
                    self.connection(bind_arguments={"bind": connection})

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What its objects are is undone with the savepoints around it, as by its own ``begin_nested()``."""
        mode = self.join_transaction_mode
        with ExitStack() as stack:
            if self.in_transaction():
                stack.push(self.begin_nested())
            else:
                # What it begins in the savepoint has to end in it, and must not end that.
                self.join_transaction_mode = "create_savepoint"
                stack.push(self._end_begun)
            self._savepoints += 1
            try:
                yield
            finally:
                self._savepoints -= 1
                self.join_transaction_mode = mode

    def _end_begun(self, kind: type[BaseException] | None, *_: object) -> None:
        """End a transaction of its own that has begun in the savepoint."""
        if kind is not None or not self.is_active:
            self.rollback()
            return
        # Nobody has asked for a commit, after which objects are loaded again.
        expires, self.expire_on_commit = self.expire_on_commit, False
        try:
            super().commit()
        finally:
            self.expire_on_commit = expires


def bound_session(
    transaction: "Transaction", engines: Sequence[Engine], binds: dict[Any, Any] | None, options: dict[str, Any]
) -> Session:
    """A session over *binds* (classes or tables to engines), or over the one engine there is."""
    if binds is None and len(engines) == 1:
        return BoundSession(transaction, **{"bind": engines[0], **options})
    return BoundSession(transaction, binds=binds or {}, **options)

"""ORM sessions inside of a global transaction."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.orm import Session, SessionTransaction, make_transient
from typing_extensions import override

if TYPE_CHECKING:
    from troth.transactions.transaction import Transaction


class BoundSession(Session):
    """Works in the branches of one transaction: where another session would check out a connection, it takes theirs."""

    def __init__(self, transaction: "Transaction", **options: Any) -> None:
        # commit() of the session is a flush, rollback() ends the branches: the transaction's own block commits.
        super().__init__(join_transaction_mode="rollback_only", **options)
        self._troth_transaction = transaction
        self._nesting = transaction._nesting
        self._savepoints = 0
        """So many of the transaction's are open around what is done now."""
        self._was_idle = False
        """Whether this session had no transaction when the innermost of them began."""
        self._ending: SessionTransaction | None = None
        """The transaction that the session has begun inside of that savepoint, and that ends with it."""
        self._inserted: weakref.WeakSet[Any] = weakref.WeakSet()
        """The states of objects (which may have no hash), since then."""
        self._nesting.add_session(self)

    @override
    def get_bind(self, *args: Any, **options: Any) -> Any:
        found = super().get_bind(*args, **options)
        if not isinstance(found, Engine):
            return found
        connection = self._troth_transaction[found]
        if self._was_idle:
            # In a savepoint of the caller's, which ends when the caller likes, it makes none of its own.
            is_ours = self._nesting.has_made(connection.get_nested_transaction())
            self.join_transaction_mode = "create_savepoint" if is_ours else "rollback_only"
        return connection

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

    def join(self, connections: Iterable[Connection]) -> None:
        """Take part in their transactions before there is a savepoint, which would be taken for one of them; or, in
        one, make its savepoints now: made at the first use they may be in one of the caller's, and end with it."""
        if self.in_transaction():
            for connection in connections:
                self.connection(bind_arguments={"bind": connection})

    @contextmanager
    def savepoint(self, connections: Iterable[Connection]) -> Iterator[None]:
        """What its objects are is undone with the savepoints around it, as by its own ``begin_nested()``."""
        around = self._savepoints, self._was_idle, self._inserted, self.join_transaction_mode
        try:
            self._savepoints += 1
            self._was_idle, self._inserted = not self.in_transaction(), weakref.WeakSet()
            if self._was_idle:
                try:
                    yield
                except BaseException:
                    self._forget()
                    raise
            else:
                with self.begin_nested():
                    self.join(connections)
                    yield
            around[2].update(self._inserted)
        finally:
            self._savepoints, self._was_idle, self._inserted, self.join_transaction_mode = around

    def has_begun(self, transaction: SessionTransaction, connection: Connection) -> None:
        """What it begins in a savepoint has to end in it, before what has begun earlier, and must not end that."""
        if not self._was_idle:
            return
        if self.join_transaction_mode == "create_savepoint":
            self._nesting.note_made(connection.get_nested_transaction())
        if self._ending is not transaction:
            self._nesting.end_with_innermost(self._end_begun)
            self._ending = transaction

    def _end_begun(self, kind: type[BaseException] | None, *_: object) -> None:
        """End a transaction of its own that has begun in the savepoint."""
        self._ending = None
        if not self.is_active:
            self.rollback()
            return
        if kind is not None:
            self._forget()
            transaction = self.get_transaction()
            if transaction is not None:
                transaction.close()  # a rollback() would also be one of the caller's savepoint, which is over
            return
        if not self.in_transaction():
            return
        # Nobody has asked for a commit, after which objects are loaded again.
        expires, self.expire_on_commit = self.expire_on_commit, False
        try:
            super().commit()
        finally:
            self.expire_on_commit = expires

    def _forget(self) -> None:
        """What was done in the savepoint is undone: load objects again, and have none that is not there."""
        for each in [*self.new, *self.deleted]:
            self.expunge(each)
        for state in self._inserted:
            each = state.obj()
            if each is not None and each in self:
                make_transient(each)
        self._inserted.clear()
        self.expire_all()


@event.listens_for(BoundSession, "after_begin")
def _has_begun(session: BoundSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        session.has_begun(transaction, connection)


@event.listens_for(BoundSession, "pending_to_persistent")
def _has_inserted(session: BoundSession, made: object) -> None:
    session._inserted.add(inspect(made))


def bound_session(
    transaction: "Transaction", engines: Sequence[Engine], binds: dict[Any, Any] | None, options: dict[str, Any]
) -> Session:
    """A session over *binds* (classes or tables to engines), or over the one engine there is."""
    if binds is None and len(engines) == 1:
        return BoundSession(transaction, **{"bind": engines[0], **options})
    return BoundSession(transaction, binds=binds or {}, **options)

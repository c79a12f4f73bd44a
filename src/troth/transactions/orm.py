"""ORM sessions inside of a global transaction."""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.orm import Session, SessionTransaction, make_transient
from sqlalchemy.orm.exc import FlushError
from typing_extensions import override

from troth.core.twophase.table import State
from troth.transactions.objects import Objects

if TYPE_CHECKING:
    from troth.transactions.transaction import Transaction

_log = logging.getLogger("troth.transactions")

FLUSHES_MAX = 100
"""As many does SQLAlchemy make before a commit, while listeners of one leave something for the next."""


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
        self._objects = Objects()
        """Since the transaction began."""
        self._committed: SessionTransaction | None = None
        """The last that it has committed by itself, of which its listeners hear when the outcome is there."""
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
        self._objects.has_left(inspect(each) for each in self.identity_map.values())
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
        committed = self._committed
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
        except BaseException:
            self._committed = committed
            raise
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
                self._objects.has_undone(state)
        self._inserted.clear()
        self.expire_all()

    # ---- the end of the transaction ----------------------------------------------------------------------

    def before_end(self) -> None:
        """It is about to commit: listeners may still add to what there is."""
        if self.in_transaction() and self.is_active:
            self.dispatch.before_commit(self)

    def flush_all(self) -> None:
        """Also what listeners of a flush add."""
        for _ in range(FLUSHES_MAX):
            self.flush()
            if not (self.new or self.dirty or self.deleted):
                return
        raise FlushError(
            f"over {FLUSHES_MAX} flushes at the end of the block: does a listener create new objects?"
        )

    def has_ended(self, is_committed: bool) -> None:
        """The databases are told; the objects follow. What is in doubt is not *is_committed*: who takes a row that is
        there for new is told so by the database, and who takes one for old that is not there has lost it."""
        if not is_committed:
            self._objects.undo(self._is_ours)
            for each in [*self.new, *self.deleted]:
                self.expunge(each)
            self.expire_all()

    def _is_ours(self, session: Session | None) -> bool:
        return session is None or (
            isinstance(session, BoundSession) and session._troth_transaction is self._troth_transaction
        )

    def tell_committed(self) -> None:
        """Its listeners, if there was anything to commit."""
        if self._end_own() is not None:
            self._tell("committed", self.dispatch.after_commit, self)

    def tell_rolled_back(self) -> None:
        """Its listeners, if there was anything to roll back that it has not rolled back itself."""
        ended = self._end_own()
        if ended is not None:
            self._tell("rolled back", self.dispatch.after_rollback, self)
            self._tell("rolled back", self.dispatch.after_soft_rollback, self, ended)

    def _end_own(self) -> SessionTransaction | None:
        """What it has begun itself is over too, or its ``rollback()`` would still undo what is done."""
        transaction = self.get_transaction()
        if transaction is not None and not self._savepoints and self.get_nested_transaction() is None:
            transaction.close()
        return transaction or self._committed

    def commit_own(self, transaction: SessionTransaction, _to_root: bool = False) -> None:
        """Commit *transaction*, the session's own, whatever is made of the one that it is part of: the listeners of
        `after_commit` are told at the end of that."""
        self.before_end()
        self.flush_all()

        def committed(_: Session) -> None:
            self._committed = transaction
            if self.expire_on_commit:
                self._objects.keep_values()

        # There is nothing left for listeners to add; and SQLAlchemy has no other way to commit and not to say so.
        events: Any = self.dispatch
        listeners = events.before_commit, events.after_commit
        events.before_commit, events.after_commit = _nothing, committed
        try:
            SessionTransaction.commit(transaction, _to_root)
        finally:
            events.before_commit, events.after_commit = listeners

    def _tell(self, what: str, listeners: Callable[..., object], *arguments: object) -> None:
        try:
            listeners(*arguments)
        except Exception:  # noqa: BLE001  (what has happened stays so)
            _log.exception("a listener failed when it was told that a transaction has %s in a session", what)


@event.listens_for(BoundSession, "after_begin")
def _has_begun(session: BoundSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        session.has_begun(transaction, connection)


@event.listens_for(BoundSession, "pending_to_persistent")
def _has_inserted(session: BoundSession, made: object) -> None:
    state = inspect(made)
    session._inserted.add(state)
    session._objects.has_inserted(state)


@event.listens_for(BoundSession, "persistent_to_transient")
def _has_undone(session: BoundSession, made: object) -> None:
    session._objects.has_undone(inspect(made))


@event.listens_for(BoundSession, "persistent_to_deleted")
def _has_deleted(session: BoundSession, gone: object) -> None:
    session._objects.has_deleted(inspect(gone))


def _nothing(_: Session) -> None:
    """Of what is told elsewhere."""


@event.listens_for(BoundSession, "after_transaction_create")
def _has_made(session: BoundSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        transaction.commit = partial(session.commit_own, transaction)  # type: ignore[method-assign]


def end_sessions(sessions: Sequence[BoundSession], state: State) -> None:
    """Their transaction has ended, or is left, in *state*."""
    is_committed = state in (State.COMMITTED, State.COMMITTING)
    for session in sessions:
        session.has_ended(is_committed)
    for session in sessions:
        if is_committed:
            session.tell_committed()
        elif state in (State.ABORTED, State.ABORTING):
            session.tell_rolled_back()


def bound_session(
    transaction: "Transaction", engines: Sequence[Engine], binds: dict[Any, Any] | None, options: dict[str, Any]
) -> Session:
    """A session over *binds* (classes or tables to engines), or over the one engine there is."""
    if binds is None and len(engines) == 1:
        return BoundSession(transaction, **{"bind": engines[0], **options})
    return BoundSession(transaction, binds=binds or {}, **options)

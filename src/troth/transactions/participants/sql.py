"""What all participants behind a SQLAlchemy engine share: an ordinary Connection in an ordinary transaction.

The pool, events, the ORM and savepoints see nothing unusual. Two things are watched: a statement that has certainly
changed rows spares us the question "did this branch write?"; and ``connection.commit()`` in the middle of a global
transaction is refused, since it would commit one branch alone.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import NullPool

from troth.core.twophase.gid import Epoch
from troth.core.twophase.table import Finding
from troth.errors import Aborted, NotApplied, UsageError
from troth.transactions.channels import Channel, open_channel
from troth.transactions.participants.base import Begun, Branch, Facts, Prepared, Wait

BRANCH: Final = "troth.branch"
"""Where a pooled connection's `info` keeps the branch that it works for."""
_WATCHED: Final = "_troth_is_watched"
_CHANGES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLAC"})


def watch(engine: Engine) -> None:
    """Listen to *engine*, once."""
    if getattr(engine, _WATCHED, False):
        return
    setattr(engine, _WATCHED, True)
    event.listen(engine, "after_cursor_execute", _after_execute)
    event.listen(engine, "commit", _before_commit)
    event.listen(engine, "handle_error", _on_error)
    event.listen(engine, "savepoint", _on_savepoint)
    event.listen(engine, "rollback_savepoint", _on_savepoint_undone)


def _after_execute(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    branch = connection.info.get(BRANCH)
    if branch is None or branch.wrote or cursor.rowcount <= 0:
        return
    if statement.lstrip()[:6].upper() in _CHANGES:
        branch.wrote = True


def _before_commit(connection: Connection) -> None:
    branch = connection.info.get(BRANCH)
    if branch is not None and not branch.is_ending:
        raise UsageError(
            "commit() inside of a global transaction would commit this database alone: leave the tx block instead. To"
            " undo a part of the work use tx.savepoint()"
        )


def _on_error(context: Any) -> None:
    if context.connection is not None and not context.connection.closed:
        branch = context.connection.info.get(BRANCH)
        if branch is not None:
            branch.last_error = context.sqlalchemy_exception or context.original_exception


def _on_savepoint(connection: Connection, name: str) -> None:
    branch = connection.info.get(BRANCH)
    if branch is not None:
        branch.errors_before[name] = branch.last_error


def _on_savepoint_undone(connection: Connection, name: str, context: None) -> None:
    branch = connection.info.get(BRANCH)
    if branch is not None:
        branch.last_error = branch.errors_before.pop(name, None)


def was_lost(error: BaseException) -> bool:
    """Whether *error* leaves open what the database did: anything but the database's own refusal."""
    if isinstance(error, exc.DBAPIError):
        # SQLite says of these that the transaction stands as it was; of an I/O error it says nothing.
        name = getattr(error.orig, "sqlite_errorname", None)
        if name is not None:
            return not str(name).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CONSTRAINT", "SQLITE_FULL"))
        return error.connection_invalidated
    return not isinstance(error, NotApplied)


class SqlBranch:
    """The common half of a branch; `begin` and the verbs are each database's own."""

    def __init__(self, participant: "SqlParticipant", number: int, begun: Begun) -> None:
        self.participant = participant
        self.number = number
        self.wrote: bool | None = None
        self.is_ending = False
        self._is_over = False
        """The database has certainly ended the transaction."""
        self.last_error: BaseException | None = None
        """Of a statement that failed, and was not undone by a savepoint: then there is no commit."""
        self.errors_before: dict[str, BaseException | None] = {}
        self.proof = ""
        self._begun = begun
        self.handle: Connection = participant.engine.connect()
        try:
            self._pooled = self.handle.connection
            self._info = self.handle.info
            self.channel: Channel = open_channel(participant.engine.dialect, self._pooled)
            self._transaction = self.handle.begin()
            self.begin(begun)
            self._info[BRANCH] = self
        except BaseException:
            self.handle.invalidate()
            self.handle.close()
            raise

    @property
    def name(self) -> str:
        raise NotImplementedError

    def begin(self, begun: Begun) -> None:
        """Before the first statement of the caller."""

    def ask(self) -> Callable[[], None]:
        """A kind of database that can not tell is taken to have written."""
        if self.wrote is None:
            self.wrote = True
        return _done

    def check_whole(self) -> None:
        """Raise Aborted unless the transaction that was begun is still the one that is open."""
        if not self._transaction.is_active or self.handle.closed or self.handle.invalidated:
            raise Aborted(
                f"{self.participant.name}: the branch was rolled back (or its connection was lost) before the commit",
                self._begun.gid,
                self.participant.name,
            ) from self.last_error
        if self.last_error is not None:
            # PostgreSQL would say so too; others go on after an error as if nothing had been asked of them.
            raise Aborted(
                f"{self.participant.name}: a statement had failed, and the error was not raised; to go on after"
                " one, use tx.savepoint()",
                self._begun.gid,
                self.participant.name,
            ) from self.last_error

    def end_here(self) -> None:
        """The database has ended the transaction: so has SQLAlchemy, without sending anything that matters."""
        self.is_ending = True
        if self._transaction.is_active:
            self._transaction.commit()
        self._is_over = True

    def roll_back_here(self) -> None:
        """Roll back what was never prepared. A connection that is gone has taken its transaction with it."""
        self.is_ending = True
        if self.handle.closed or self.handle.invalidated:
            return
        if self._transaction.is_active:
            self._transaction.rollback()
        elif not self._is_over:
            # SQLAlchemy holds it for over (a refused commit(), for one), and would give it back to the pool as it is.
            self.participant.engine.dialect.do_rollback(self._pooled)
        self._is_over = True

    def commit_alone(self) -> Callable[[], None]:
        self.check_whole()
        self.end_here()
        return _done

    def release(self, *, broken: bool) -> None:
        self.is_ending = True
        # SQLAlchemy takes a transaction whose commit() failed, or was refused, for over, and would put the connection
        # back into the pool with the transaction still open in it, for the next one to commit.
        broken = broken or not self._is_over
        if self._info.get(BRANCH) is self:  # the caller may have closed it: then it may be another's by now
            del self._info[BRANCH]
        try:
            if broken and not self.handle.closed and not self.handle.invalidated:
                self.handle.invalidate()
            self.handle.close()
        except exc.DBAPIError:
            pass  # the connection is gone either way, and what it was for has been settled

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with self.handle.begin_nested():
            yield


def _done() -> None:
    """Nothing is left to wait for."""


class SqlParticipant:
    """The common half of a participant behind an engine."""

    kind = ""
    can_prepare = True

    def __init__(self, name: str, engine: Engine, key: Any) -> None:
        self.name = name
        self.engine = engine
        self.key = key
        watch(engine)
        # Recovery must work while the application has every pooled connection in use, so it opens its own.
        self._own = create_engine(
            engine.url,
            creator=engine.pool._creator,
            poolclass=NullPool,
            hide_parameters=engine.hide_parameters,
            _is_async=engine.dialect.is_async,
        )

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection of recovery's own, in which each statement is a transaction."""
        with self._own.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def facts(self) -> Facts:
        raise NotImplementedError

    def open(self, number: int, begun: Begun) -> Branch:
        raise NotImplementedError

    def prepared(self) -> list[Prepared]:
        return []

    def finish(self, branch: str, *, commit: bool) -> Finding:
        return Finding.ABSENT

    def detach(self, branch: str) -> None:
        """Nothing holds it."""

    def prove(self, proof: str) -> Finding:
        return Finding.UNPROVEN

    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        return 0

    def waits(self) -> list[Wait]:
        return []

    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        return None

    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        """It keeps no markers."""

    def close(self) -> None:
        self._own.dispose()


def autocommit_problem(engine: Engine, name: str) -> str | None:
    """What to say about an engine whose every statement is its own transaction."""
    level = engine.get_execution_options().get("isolation_level") or getattr(
        engine.dialect, "_on_connect_isolation_level", None
    )
    if str(level).upper() == "AUTOCOMMIT":
        return (
            f"{name}: its engine is in AUTOCOMMIT mode, where nothing can be undone. Make it without"
            " isolation_level='AUTOCOMMIT'"
        )
    return None

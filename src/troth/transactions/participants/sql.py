"""What all participants behind a SQLAlchemy engine share: an ordinary Connection in an ordinary transaction.

The pool, events, the ORM and savepoints see nothing unusual. Two things are watched: a statement that has changed rows
spares us the question "did this branch write?"; and ``connection.commit()`` in the middle of a global transaction is
refused, since it would commit one branch alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, exc
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from troth.core.twophase.table import Finding
from troth.errors import Aborted, NotApplied, RequestTimeout
from troth.transactions import forks
from troth.transactions.channels.choose import channel_of
from troth.transactions.channels.interface import Channel
from troth.transactions.participants.base import Begun, Branch, Facts, Prepared, WithoutExtras, nothing_to_await
from troth.transactions.participants.connection import BranchConnection

_CHANGES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLAC"})


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
    """The common half of a branch; `set_up`, `begin` and the verbs are each database's own."""

    name: str
    """Set by `begin`."""
    wrote: bool | None = None
    is_ending = False
    is_over = False
    """The database has certainly ended the transaction."""
    last_error: BaseException | None = None
    """Of a statement that failed, and was not undone by a savepoint: then there is no commit."""
    proof = ""
    until: float | None = None
    """Its answers are waited for until then (`channels.interface.Bounded`)."""
    unanswered: Callable[[], object] | None = None
    """Waits for the answer to what `begin` has sent; None: nothing is outstanding."""

    def __init__(self, participant: "SqlParticipant", number: int, begun: Begun) -> None:
        self.participant = participant
        self.number = number
        self.errors_before: dict[str, BaseException | None] = {}
        self._begun = begun
        self.handle = BranchConnection(begun.engine or participant.engine)
        self._pooled = self.handle.connection
        try:
            self._info = self._pooled.info
            self.channel: Channel = channel_of(participant.engine.dialect, self._pooled)
            self.set_up(begun)
            self._transaction = self.handle.begin()
            self.begin(begun)
            self.handle.branch = self
        except BaseException as error:
            if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
                # As SQLAlchemy does: what the pool has from before is most likely gone as well.
                participant.engine.pool._invalidate(self._pooled, error)
            self.handle.invalidate()
            self.handle.close()
            raise

    def set_up(self, begun: Begun) -> None:
        """Before there is a transaction."""

    def begin(self, begun: Begun) -> None:
        """Before the first statement of the caller."""

    def settle(self) -> None:
        """Take the answer to what `begin` has sent; the database has had the caller's time to give it."""
        finish, self.unanswered = self.unanswered, None
        if finish is not None:
            try:
                finish()
            except exc.DBAPIError:
                raise
            except BaseException:
                # Interrupted: what of the answer has been read nobody knows, and who waits for more waits for ever.
                self.handle.invalidate()
                raise

    def answer_by(self, until: float) -> None:
        self.until = until

    def saw(self, context: Any) -> None:
        """A statement was executed. One that has changed rows spares us the question of `ask`; and so does one of which
        nobody knows how many: of the cursor of an INSERT that SQLAlchemy has made it has let go by now (-1)."""
        if context.rowcount and context.statement.lstrip()[:6].upper() in _CHANGES:
            self.wrote = True

    def ask(self) -> Callable[[], None]:
        """A kind of database that can not tell is taken to have written."""
        if self.wrote is None:
            self.wrote = True
        return nothing_to_await

    def others_wrote(self) -> None:
        """What was read is locked, as far as the caller has asked for it, until this branch ends: after all writers."""

    def aborted(self, why: str) -> Aborted:
        """The transaction is rolled back, for a reason of this branch's."""
        return Aborted(f"{self.participant.name}: {why}", self._begun.gid, self.participant.name)

    def check_whole(self) -> None:
        """Raise Aborted unless the transaction that was begun is still the one that is open."""
        if self.unanswered is not None:
            self.settle()
        if not self._transaction.is_active or self.handle.closed or self.handle.invalidated:
            how = "the branch was rolled back (or its connection was lost) before the commit"
            if self.handle.closed:
                how += "; close() of its connection, also by leaving `with tx[...] as ...`, rolls it back"
            raise self.aborted(how) from self.last_error
        if self.last_error is not None:
            # PostgreSQL would say so too; others go on after an error as if nothing had been asked of them.
            raise self.aborted(
                "a statement had failed, and the error was not raised; to go on after one, use tx.savepoint()"
            ) from self.last_error
        if self.channel.is_busy():
            raise self.aborted(
                "a streamed result (or a COPY) was left open: read it to its end, or close it, before the block ends;"
                " or this is inside of a pipeline of the driver's: end that before commit()"
            )

    def ended_below(self, unless: str = "") -> Aborted:
        """What to say when somebody has ended the transaction in SQL, or on the driver's connection; *unless*: what
        else may have been done."""
        return self.aborted(
            "the transaction was ended inside of its block, by a COMMIT or ROLLBACK below SQLAlchemy; so"
            f" {self.participant.name} has committed, or rolled back, alone what was done until then{unless}. The rest"
            " is rolled back"
        )

    def end_here(self) -> None:
        """The database has said that the transaction has ended, perhaps by a vote. What it came to, SQLAlchemy's
        listeners are told by `tell_committed` or `tell_rolled_back`; the driver, where it does not know, by `release`:
        what goes wrong there is no answer of the database."""
        self.is_ending = self.is_over = True

    def commit_here(self) -> None:
        """Commit through SQLAlchemy. Raises DBAPIError."""
        self.is_ending = True
        self._transaction.commit()
        self.is_over = True

    def roll_back_here(self) -> None:
        """Roll back what was never prepared. A connection that is gone has taken its transaction with it."""
        self.is_ending = True
        if self.handle.closed or self.handle.invalidated:
            return
        self.settle()
        if self.channel.is_busy():
            self.handle.invalidate()
            return
        if self._transaction.is_active and not self.is_over:
            self.undo()
        else:
            if not self.is_over:
                # SQLAlchemy holds it for over (a refused commit(), for one), and would give it back as it is.
                self.roll_driver_back()
            self.handle.tell_rolled_back()
        self.is_over = True

    def undo(self) -> None:
        """Roll back through SQLAlchemy."""
        self._transaction.rollback()

    def roll_driver_back(self) -> None:
        """Whatever the driver, SQLAlchemy or the database hold for over. Drivers have no bound, so that with one it
        goes through the channel."""
        if self.until is None:
            self.participant.engine.dialect.do_rollback(self._pooled)
        else:
            try:
                self.channel.roll_back(self)
            except BaseException:
                self.handle.invalidate()  # or else the pool would try it once more
                raise

    def roll_back_for_caller(self) -> bool:
        """The caller gives up this branch, and so all of them, by rollback() or close() of its connection. False: do
        what is done to any connection."""
        return False

    def commit_alone(self) -> Callable[[], None]:
        self.check_whole()
        self.commit_here()
        self.handle.tell_committed()
        return nothing_to_await

    def release(self, *, broken: bool) -> None:
        self.is_ending = True
        # SQLAlchemy takes a transaction whose commit() failed, or was refused, for over, and would put the connection
        # back into the pool with the transaction still open in it, for the next one to commit.
        broken = broken or not self.is_over
        try:
            if broken and not self.handle.closed and not self.handle.invalidated:
                self.handle.invalidate()
            self.handle.close()
        except (exc.DBAPIError, RequestTimeout):
            # What it was for has been settled; what state it is in nobody knows.
            if not self.handle.closed:
                self.handle.invalidate()
                self.handle.close()
        self.handle.branch = None

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with self.handle.begin_nested():
            yield

    def leave_to_parent(self) -> None:
        """The pool rolls back what is let go of without a word; drivers take their leave of the server, and SQLite
        undoes in the file what is open."""
        if self._pooled is not None:
            forks.keep_for_ever(self._pooled)


class _Unpooled(OptionEngine):
    """An engine with the events, the options and the dialect of another one, and none of its connections."""

    pool: Any = None

    def __init__(self, engine: Engine) -> None:
        pool = engine.pool
        self.pool = NullPool(pool._creator, dialect=engine.dialect)
        # The very one: of a copy each `first_connect` would be the first, and who listens later would not be told.
        self.pool.dispatch = pool.dispatch  # type: ignore[misc]
        super().__init__(engine, {})


class SqlParticipant(WithoutExtras, ABC):
    """The common half of a participant behind an engine."""

    kind = ""
    can_prepare = True
    is_forked = False
    """Whether this process has it from its parent, to whom its open branches belong."""

    def __init__(self, name: str, engine: Engine, given: Any) -> None:
        self.name = name
        self.engine = engine
        self.given = given
        forks.watch(self)
        # Recovery must work while the application has every pooled connection in use, so it opens its own.
        self._own = create_engine(
            engine.url,
            creator=engine.pool._creator,
            poolclass=NullPool,
            hide_parameters=engine.hide_parameters,
            isolation_level="AUTOCOMMIT",
            _is_async=engine.dialect.is_async,
        )

    def on_forked(self) -> None:
        self.is_forked = True

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection of recovery's own, in which each statement is a transaction."""
        connection = self._own.connect()
        try:
            yield connection
        finally:
            # Thrown away in any case. close() would first have the database undo what was never begun; and what goes
            # wrong there, behind the answers, is none of the one who asked.
            connection.invalidate()
            connection.close()

    def unpooled(self, engine: Engine | None = None) -> Engine:
        """The application's engine (or *engine*, made of it) in all but its pool: its connections see what the
        application's do."""
        return _Unpooled(engine or self.engine)

    @abstractmethod
    def facts(self) -> Facts: ...

    @abstractmethod
    def open(self, number: int, begun: Begun) -> Branch: ...

    @abstractmethod
    def prepared(self) -> list[Prepared]: ...

    @abstractmethod
    def finish(self, branch: str, *, commit: bool) -> Finding: ...

    def close(self) -> None:
        self._own.dispose()


def engine_problems(engine: Engine, name: str) -> list[str]:
    """What to say about an engine whose connections hold no transaction, or several at once."""
    found = []
    if isinstance(engine.pool, StaticPool | SingletonThreadPool):
        whose = "threads and tasks" if isinstance(engine.pool, StaticPool) else "that a thread does"
        found.append(
            f"{name}: its engine has a {type(engine.pool).__name__}, with one connection for all {whose}, whose"
            " transactions would be mixed up; make it with another poolclass"
        )
    level = engine.get_execution_options().get("isolation_level") or getattr(
        engine.dialect, "_on_connect_isolation_level", None
    )
    if str(level).upper() == "AUTOCOMMIT":
        found.append(
            f"{name}: its engine is in AUTOCOMMIT mode, where nothing can be undone. Make it without"
            " isolation_level='AUTOCOMMIT'"
        )
    return found

"""One database that cannot prepare (SQLite): the last resource, whose own commit is the decision.

All others prepare; the log's cell says `delegated`; then this database commits the work together with a row of
``troth_decision`` whose primary key is the transaction's name. That row is the write-once cell: recovery that finds
none writes one that says "refused", and whichever of the two comes first wins by the primary key. So the owner, however
late it wakes up, cannot commit what recovery has rolled back.

What it is worth: atomic through any crash as long as this file survives; while it is out of reach, the others wait. At
most one such participant in a transaction, and its file needs ``synchronous=FULL``, which is set.

A file without the row of what it has committed is told from the one that has it by an id, drawn once and kept in the
table: of a file that is made anew, because its volume is not there, say, recovery would take "no row" for "refused".
"""

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, exc
from typing_extensions import override

from troth.core.twophase.table import Finding
from troth.errors import PreflightFailed, StorageError
from troth.transactions.channels.blocking import BlockingStatements
from troth.transactions.participants.base import Begun, Facts, Prepared, nothing_to_await
from troth.transactions.participants.sql import SqlBranch, SqlParticipant, engine_problems

TABLE = "troth_decision"
KEPT = 10_000
NEEDED_MAX = 500
MARKER_WAIT_MS = 500
LEGACY = -1
"""sqlite3.LEGACY_TRANSACTION_CONTROL, the default, of Python 3.12 and newer; before there is no other way."""
_UNSAFE = ("off", "memory")
_CREATE = f"CREATE TABLE IF NOT EXISTS {TABLE} (gid TEXT PRIMARY KEY, committed INTEGER NOT NULL)"
_MARK = f"INSERT INTO {TABLE} (gid, committed) VALUES (?, ?)"
_HAS_TABLE = f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'"
_ID = f"SELECT gid FROM {TABLE} WHERE gid GLOB 'file.*'"
"""The file's own id; no name of a transaction begins so, and what is not committed is never pruned."""
_DRAW = f"INSERT INTO {TABLE} (gid, committed) SELECT ?, 0 WHERE NOT EXISTS ({_ID})"
_NUMBERS: Final = ("schema_version", "user_version", "application_id")
_FILES = (
    "SELECT v.*, u.*, a.*, f.name FROM pragma_schema_version v, pragma_user_version u, pragma_application_id a,"
    " pragma_database_list f WHERE f.name <> 'temp'"
)
"""The numbers of the main file, and each file that is attached."""
_HERE = "troth_begun"
"""The savepoint at the beginning of a branch: it is gone when its transaction is, though another one may have begun."""
_JOURNAL = "troth.journal"
"""Where a pooled connection's `info` keeps its journal mode."""
_OLD = f"{TABLE} WHERE committed = 1 AND gid GLOB ? AND rowid < (SELECT max(rowid) FROM {TABLE}) - {KEPT}"


class LastResource:
    """Marks *engine* as the participant that decides by its own commit: ``{"local": LastResource(engine)}``.

    SQLite engines are taken for one without it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


def _journal_problem(mode: object, name: str) -> str | None:
    journal = str(mode).lower()
    return f"{name}: journal_mode={journal} survives no crash; use WAL or DELETE" if journal in _UNSAFE else None


class SqliteBranch(SqlBranch):
    """The last resource's part of a transaction. See the module."""

    _busy_ms_before: int | None = None

    @override
    def set_up(self, begun: Begun) -> None:
        if begun.timeout_s is not None:
            self._busy_ms_before = self._pragma("busy_timeout")
            self._pragma(f"busy_timeout = {int(begun.timeout_s * 1000)}")
        self._pragma("synchronous = FULL")
        if _JOURNAL not in self._info:
            # What the engine's own events have set; `facts` is asked by a connection without them.
            self._info[_JOURNAL] = self._pragma("journal_mode")
            participant = cast(Sqlite, self.participant)
            if participant.id and not self._has_id(participant.id):
                del self._info[_JOURNAL]
                raise PreflightFailed([participant.not_the_one()])
        problem = _journal_problem(self._info[_JOURNAL], self.participant.name)
        if problem:
            raise PreflightFailed([problem])

    def _has_id(self, identity: str) -> bool:
        try:
            row = self._below(_ID)
        except exc.DBAPIError:
            return False  # no such table
        return row is not None and row[0] == identity

    def _pragma(self, pragma: str) -> Any:
        """Below SQLAlchemy, for which a transaction would begin with it; and in this thread."""
        row = self._below(f"PRAGMA {pragma}")
        return row and row[0]

    def _below(self, statement: str) -> Any:
        return cast(BlockingStatements, self.channel).run([statement])[0].row

    @override
    def begin(self, begun: Begun) -> None:
        self.name = begun.gid
        raw = self._raw
        if not raw.in_transaction:
            # The driver would begin at the first change only, and leave out the reads before it. IMMEDIATE: of two that
            # have read and then want to write, SQLite refuses one at once; so they queue at the beginning.
            self.handle.exec_driver_sql("BEGIN IMMEDIATE")
        self._below(f"SAVEPOINT {_HERE}")
        self._before = self._written()

    @property
    def _raw(self) -> Any:
        return self._pooled.driver_connection

    @override
    def ask(self) -> Callable[[], None]:
        self.check_whole()
        if not self.wrote:
            self.wrote = self._written() != self._before
        return nothing_to_await

    def _written(self) -> tuple[Any, ...]:
        """What a change changes; one of the schema, or of a file's own numbers, counts as no change of a row."""
        (main, *attached) = self.handle.exec_driver_sql(_FILES).all()
        written = (self._raw.total_changes, *main)
        for *_, file in attached:
            quoted = file.replace('"', '""')
            written += (file, *(self._pragma(f'"{quoted}".{number}') for number in _NUMBERS))
        return written

    @override
    def release(self, *, broken: bool) -> None:
        if self._busy_ms_before is not None and self.is_over and not broken:
            try:
                self._pragma(f"busy_timeout = {self._busy_ms_before}")
            except exc.DBAPIError:
                broken = True
        super().release(broken=broken)

    def prepare(self) -> Callable[[], None]:
        raise self.aborted("this database can not prepare")

    def _check_begun(self) -> None:
        """`check_whole`, with the last look before the commit."""
        self.check_whole()
        try:
            self._below(f"RELEASE {_HERE}")
        except exc.DBAPIError as error:
            raise self.ended_below() from error

    @override
    def commit_alone(self) -> Callable[[], None]:
        self._check_begun()
        return super().commit_alone()

    def commit_with_marker(self) -> None:
        """The decision. Raises DBAPIError: the database refused it, certainly, unless `was_lost`."""
        self._check_begun()
        try:
            self.handle.exec_driver_sql(_MARK, (self._begun.gid, 1))
        except exc.IntegrityError as error:
            raise self.aborted("recovery has refused this transaction") from error
        self.commit_here()
        self.handle.tell_committed()

    def commit_prepared(self) -> Callable[[], None]:
        return nothing_to_await

    def roll_back(self) -> Callable[[], None]:
        self.roll_back_here()
        return nothing_to_await


class Sqlite(SqlParticipant):
    """One SQLite file."""

    kind = "sqlite"
    can_prepare = False
    id = ""
    """Of the file that this process has begun with; empty: `identify` was not called."""

    def not_the_one(self) -> str:
        """What is wrong when `id` is not found."""
        return (
            f"{self.name}: its file {self.engine.url.database or ''} is not there, or is another one than this process"
            " has begun with; what that one has committed it alone knows, so the others wait for it: bring it back"
        )

    def _is_missing(self) -> bool:
        """Whether to connect would make its file. Of an engine with a creator of its own nobody knows which that is."""
        named = self.engine.url.database or ":memory:"
        creator = getattr(self.engine.pool._creator, "__qualname__", "")
        if named.startswith(("file:", ":memory:")) or not creator.startswith("create_engine."):
            return False
        file = Path(named)
        return file.parent.exists() and not file.exists()

    @override
    def facts(self) -> Facts:
        problems = engine_problems(self.engine, self.name)
        if self._is_missing():
            return Facts("", tuple([*problems, self.not_the_one()] if self.id else problems))
        with self.connected() as connection:
            # Not the URL: an engine with a creator may have none.
            file = next(row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main")
            if not file:
                problems.append(
                    f"{self.name}: a database in memory is gone with its process; name a file (sqlite:///path.db)"
                )
                return Facts(f"sqlite:{self.name}", tuple(problems))
            raw: Any = connection.connection.driver_connection
            if getattr(raw, "autocommit", LEGACY) != LEGACY:
                problems.append(
                    f"{self.name}: connect_args has autocommit={raw.autocommit}, of which SQLAlchemy knows nothing, so"
                    " that commits would be lost; leave it out"
                )
                return Facts(f"sqlite:{file}", tuple(problems))
            problem = _journal_problem(connection.exec_driver_sql("PRAGMA journal_mode").scalar(), self.name)
            if problem:
                problems.append(problem)
            has_table = bool(connection.exec_driver_sql(_HAS_TABLE).scalar())
            found = connection.exec_driver_sql(_ID).scalar() if has_table else None
        if self.id and found != self.id:
            problems.append(self.not_the_one())
        # Older versions have told it by its path, but worked with no file without giving it the table.
        return Facts(_identity(found), tuple(problems), formerly=f"sqlite:{file}" if has_table else "")

    @override
    def identify(self) -> str:
        with self.connected() as connection:
            connection.exec_driver_sql("PRAGMA synchronous = FULL")
            connection.exec_driver_sql(_CREATE)
            connection.exec_driver_sql(_DRAW, (f"file.{secrets.token_hex(8)}",))
            # Another process may have been first.
            self.id = connection.exec_driver_sql(_ID).scalar_one()
        return _identity(self.id)

    @contextmanager
    def _the_one(self) -> Iterator[Connection]:
        """A connection to the file that this process has begun with.

        Raises:
            StorageError: it is another one, or gone.
        """
        if self._is_missing():
            raise StorageError(self.not_the_one())
        with self.connected() as connection:
            has_table = connection.exec_driver_sql(_HAS_TABLE).scalar()
            if self.id and not (has_table and connection.exec_driver_sql(_ID).scalar() == self.id):
                raise StorageError(self.not_the_one())
            yield connection

    @override
    def open(self, number: int, begun: Begun) -> SqliteBranch:
        return SqliteBranch(self, number, begun)

    @override
    def prepared(self) -> list[Prepared]:
        return []

    @override
    def finish(self, branch: str, *, commit: bool) -> Finding:
        return Finding.ABSENT

    @override
    def prune(self, coordinator: str, needed: Collection[str]) -> None:
        if len(needed) > NEEDED_MAX:
            return
        keep = f"{_OLD} AND gid NOT IN ({','.join('?' * len(needed))})"
        with self._the_one() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {MARKER_WAIT_MS}")
            # Seldom: deleting locks the file.
            old = connection.exec_driver_sql(
                f"SELECT count(*) FROM {keep}", (f"{coordinator}*", *needed)
            ).scalar_one()
            if old > KEPT:
                connection.exec_driver_sql(f"DELETE FROM {keep}", (f"{coordinator}*", *needed))

    @override
    def marker(self, gid: str, *, refuse: bool) -> bool | None:
        with self._the_one() as connection:
            connection.exec_driver_sql("PRAGMA synchronous = FULL")
            # A paused owner may hold the file for ever; recovery has others to finish, and comes back.
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {MARKER_WAIT_MS}")
            if refuse:
                try:
                    connection.exec_driver_sql(_MARK, (gid, 0))
                except exc.IntegrityError:
                    pass  # the owner was first; or another recoverer
            found = connection.exec_driver_sql(f"SELECT committed FROM {TABLE} WHERE gid = ?", (gid,)).scalar()
        return None if found is None else bool(found)


def _identity(found: str | None) -> str:
    return f"sqlite:{found.removeprefix('file.')}" if found else ""

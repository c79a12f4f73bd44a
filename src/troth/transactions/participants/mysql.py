"""MariaDB and MySQL (PyMySQL, mysqlclient, asyncmy, aiomysql): XA.

* XA START comes before the work: there is no late decision to use two phases. A lone writer ends with
  ``XA COMMIT ... ONE PHASE``, which costs what a plain COMMIT costs.
* MariaDB answers "no such transaction" (XAER_NOTA) to a session that wants to finish a branch which another live
  session prepared, although XA RECOVER lists it. So recovery ends that session first. Its number would not do to name
  it: after a restart of the server somebody else has it. So each session holds a user lock of a name that was drawn for
  it, which the branch's name carries, and ``KILL IS_USED_LOCK(...)`` ends whoever holds that, or nobody.
  MySQL from 8.0.29 lets go of a branch when it is prepared (xa_detach_on_prepare).
* XAER_NOTA for a branch that is not listed proves nothing about its outcome; the server keeps no such knowledge.
* The list of prepared branches is the whole server's, and so is the right to finish them.
"""

import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

from sqlalchemy import Connection, Engine, event, exc
from typing_extensions import override

from troth.core.twophase.gid import FORMAT, Gid, parse_gid
from troth.core.twophase.table import Finding
from troth.transactions.channels.interface import may_have_been_sent
from troth.transactions.participants.base import Begun, Facts, Prepared, Wait, nothing_to_await
from troth.transactions.participants.sql import SqlBranch, SqlParticipant, engine_problems

FORMAT_ID = 0x54524F54
"""``TROT``: with it, other programs' branches are never taken for ours."""
_SESSION = "troth.session"
"""Where a pooled connection's `info` keeps its `Session`."""
_BQUAL: Final = re.compile(r"(?:0|[1-9][0-9]*)\.([0-9a-f]{16})")
"""What follows the transaction's name in a branch's: its number, and its session's name. Whoever may use the server may
call branches of his own whatever he likes, also with `FORMAT_ID`."""
_WAIT = "troth.lock_wait_s"
_WAIT_BEFORE = "troth.lock_wait_before"
_NOTA = 1397
_OUTSIDE = 1400
_NO_SUCH_THREAD = 1094
_WAITS = (
    "SELECT w.trx_mysql_thread_id, h.trx_mysql_thread_id FROM {table} l"
    " JOIN information_schema.innodb_trx w ON w.trx_id = l.{waiter}"
    " JOIN information_schema.innodb_trx h ON h.trx_id = l.{holder}"
)
_WAITS_OF_MARIADB: Final = _WAITS.format(
    table="information_schema.innodb_lock_waits", waiter="requesting_trx_id", holder="blocking_trx_id"
)
_WAITS_OF_MYSQL: Final = _WAITS.format(
    table="performance_schema.data_lock_waits",
    waiter="requesting_engine_transaction_id",
    holder="blocking_engine_transaction_id",
)
_AT_WORK: Final = (
    "SELECT t.processlist_id, e.xid_gtrid, e.xid_bqual FROM performance_schema.events_transactions_current e"
    " JOIN performance_schema.threads t ON t.thread_id = e.thread_id"
    f" WHERE e.state = 'ACTIVE' AND e.xid_format_id = {FORMAT_ID} AND t.processlist_id IS NOT NULL"
)
"""Whose each session is, of all processes: empty unless the server notes that (MariaDB does not by default)."""
_PLAIN_TABLES: Final = (
    "SELECT t.table_name FROM information_schema.tables t JOIN information_schema.engines e ON e.engine = t.engine"
    " WHERE t.table_schema = DATABASE() AND t.table_type = 'BASE TABLE' AND COALESCE(e.xa, 'NO') <> 'YES'"
    " ORDER BY t.table_name LIMIT 5"
)
"""Some of the tables whose engine (MyISAM, Aria, MEMORY, ...) takes no part in XA transactions."""
_opening: ContextVar[bool] = ContextVar("troth.opening", default=False)
"""Whether it is for a branch that a connection is taken from the pool."""


def _restore_lock_wait(dbapi: Any, record: Any, _: Any) -> None:
    """Restore the application's own lock wait time-out when it takes a connection that a transaction of ours used
    before.

    Not earlier: so the next of ours pays for no round trip, and the application for one, if it comes next.
    """
    if record.info.get(_WAIT) is None or _opening.get():
        return
    try:
        cursor = dbapi.cursor()
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {record.info[_WAIT_BEFORE]}")
        cursor.close()
    except Exception as error:
        raise exc.DisconnectionError(str(error)) from error  # the pool makes another one
    record.info[_WAIT] = None


class Session(NamedTuple):
    """One session of the server."""

    number: int
    """Until the server is started again."""
    name: str
    """For ever: nobody else holds its lock."""

    @property
    def lock(self) -> str:
        """An expression of SQL that takes the lock; who has it already has it once more."""
        return f"GET_LOCK('troth.{self.name}', 0)"

    @property
    def holder(self) -> str:
        """An expression of SQL: the number of the session, while it lives, or else NULL."""
        return f"IS_USED_LOCK('troth.{self.name}')"


class Phase(Enum):
    """Where a branch stands in XA."""

    ACTIVE = "begun; XA END is still to come"
    PREPARED = "XA PREPARE was answered"
    ENDED = "committed or rolled back"


class MySqlBranch(SqlBranch):
    """A branch in MariaDB or MySQL. See the module."""

    participant: "MySql"
    _phase: Phase

    @override
    def release(self, *, broken: bool) -> None:
        self.participant.sessions.pop(self._session.number, None)
        super().release(broken=broken)

    @override
    def set_up(self, begun: Begun) -> None:
        """XA START is refused where something was executed before, as listeners of the engine's `begin` may."""
        self._session = self._info.get(_SESSION) or self._named()
        self.name = f"'{begun.gid}','{self.number}.{self._session.name}',{FORMAT_ID}"
        start = f"XA START {self.name}"
        try:
            self.channel.start([*self._lock_wait(begun.timeout_s), start], self)()
        except exc.DBAPIError as error:
            if _number(error.orig) != _OUTSIDE:
                raise
            # Listeners of `checkout` were before us; what they began, nobody else would end.
            self.channel.start(["ROLLBACK", start], self)()
        self._phase = Phase.ACTIVE

    @override
    def begin(self, begun: Begun) -> None:
        self.participant.sessions[self._session.number] = (begun.gid, self._session)

    def _lock_wait(self, timeout_s: float | None) -> list[str]:
        """How to have locks waited for as long as this transaction may. Each time: the application may have reset what
        the one before has set."""
        wait_s = None if timeout_s is None else max(1, round(timeout_s))
        if wait_s is None and self._info.get(_WAIT) is None:
            return []
        if _WAIT_BEFORE not in self._info:
            self._info[_WAIT_BEFORE] = self._first("SELECT @@innodb_lock_wait_timeout")
        set_s = self._info[_WAIT_BEFORE] if wait_s is None else wait_s
        self._info[_WAIT] = wait_s
        return [f"SET SESSION innodb_lock_wait_timeout = {set_s}"]

    def _named(self) -> Session:
        name = secrets.token_hex(8)
        number = self._first(f"SELECT IF({Session(0, name).lock}, CONNECTION_ID(), NULL)")
        session = self._info[_SESSION] = Session(int(number), name)
        return session

    def _first(self, query: str) -> Any:
        row = self.channel.start([query], self)()[0].row
        return row and row[0]

    def prepare(self) -> Callable[[], None]:
        self.check_whole()
        # The lock of the session's name once more: the application may have let all go (RELEASE_ALL_LOCKS, a reset).
        finish = self.channel.start(
            [f"SELECT {self._session.lock}", f"XA END {self.name}", f"XA PREPARE {self.name}"], self
        )

        def voted() -> None:
            finish()
            self._phase = Phase.PREPARED

        return voted

    @override
    def commit_alone(self) -> Callable[[], None]:
        self.check_whole()
        try:
            finish = self._told(
                [f"XA END {self.name}", f"XA COMMIT {self.name} ONE PHASE"], self.handle.tell_committed
            )
        except exc.DBAPIError as error:
            self._refuse(error)

        def told() -> None:
            try:
                finish()
            except exc.DBAPIError as error:
                self._refuse(error)

        return told

    def _refuse(self, error: exc.DBAPIError) -> NoReturn:
        """Raise *error* of the only commit; if that was not sent, there is no doubt."""
        if may_have_been_sent(error) or not error.connection_invalidated:
            raise error
        raise self.aborted("the connection was lost before the commit was sent") from error

    def commit_prepared(self) -> Callable[[], None]:
        return self._told([f"XA COMMIT {self.name}"], self.handle.tell_committed)

    def roll_back(self) -> Callable[[], None]:
        if self.handle.closed or self.handle.invalidated or self._phase is Phase.ENDED:
            return nothing_to_await
        if self._phase is Phase.ACTIVE:
            if self.channel.is_busy():
                self.handle.invalidate()  # what was not prepared ends with its session
                return nothing_to_await
            self._leave_off()
        return self._told([f"XA ROLLBACK {self.name}"], self.handle.tell_rolled_back)

    @override
    def roll_back_for_caller(self) -> bool:
        """What has begun with XA START takes no ROLLBACK."""
        if self._phase is not Phase.ACTIVE:
            return False
        self._leave_off()
        self.channel.start([f"XA ROLLBACK {self.name}"], self)()
        self._phase = Phase.ENDED
        self.is_over = True
        self.handle.tell_rolled_back()
        return True

    def _leave_off(self) -> None:
        """XA END is refused when it was sent before, or when a deadlock has ended the branch: XA ROLLBACK counts."""
        try:
            self.channel.start([f"XA END {self.name}"], self)()
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                raise

    def _told(self, statements: list[str], tell: Callable[[], None]) -> Callable[[], None]:
        finish = self.channel.start(statements, self)

        def told() -> None:
            finish()
            self._phase = Phase.ENDED
            self.end_here()
            tell()

        return told


class _Asked(NamedTuple):
    """What a server has said of itself, and `plain`: tables of an engine without transactions; `may_list`: whether our
    user is shown what is prepared."""

    version: str
    is_mariadb: bool
    database: str
    settings: dict[str, str]
    plain: list[str]
    may_list: bool


class MySql(SqlParticipant):
    """One database of a MariaDB or MySQL server."""

    kind = "mysql"

    def __init__(self, name: str, engine: Engine, given: Any) -> None:
        super().__init__(name, engine, given)
        self.sessions: dict[int, tuple[str, Session]] = {}
        """The server's number of a session -> the transaction of this process that it works for."""
        self._waits = _WAITS_OF_MARIADB
        if not event.contains(engine, "checkout", _restore_lock_wait):
            event.listen(engine, "checkout", _restore_lock_wait)

    @override
    def facts(self) -> Facts:
        asked = self._asked()
        self._waits = _WAITS_OF_MARIADB if asked.is_mariadb else _WAITS_OF_MYSQL
        problems = engine_problems(self.engine, self.name) + self._problems(asked)
        server = asked.settings.get("server_uid") or asked.settings.get("server_uuid")
        server = server or ":".join(str(asked.settings.get(name)) for name in ("hostname", "port", "datadir"))
        return Facts(f"mysql:{server}:{asked.database}", tuple(problems), tuple(self._warnings(asked)))

    def _asked(self) -> "_Asked":
        with self.connected() as connection:
            version, comment, database = connection.exec_driver_sql(
                "SELECT VERSION(), @@version_comment, DATABASE()"
            ).one()
            settings: dict[str, str] = dict(
                connection.exec_driver_sql(
                    "SHOW VARIABLES WHERE Variable_name IN ('server_uid','server_uuid','wsrep_on',"
                    "'xa_detach_on_prepare','hostname','port','datadir','innodb_flush_log_at_trx_commit')"
                ).all()
            )
            plain = [str(name) for (name,) in connection.exec_driver_sql(_PLAIN_TABLES).all()]
            try:
                connection.exec_driver_sql("XA RECOVER").all()
                may_list = True
            except exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise
                may_list = False
        is_mariadb = "mariadb" in f"{version} {comment}".lower()
        return _Asked(version, is_mariadb, database, settings, plain, may_list)

    def _problems(self, asked: "_Asked") -> list[str]:
        problems = []
        numbers = tuple(int(part) for part in asked.version.split("-")[0].split(".")[:3])
        if not asked.may_list:
            problems.append(
                f"{self.name}: this user may not list what is prepared (XA RECOVER), so recovery could not finish it:"
                f" GRANT XA_RECOVER_ADMIN ON *.* TO {self.engine.url.username or 'the user'}"
            )
        if asked.is_mariadb and numbers < (10, 5, 2):
            problems.append(
                f"{self.name}: MariaDB {asked.version} rolls back prepared branches when their session ends (MDEV-742):"
                " upgrade to 10.5.2 or newer"
            )
        if not asked.is_mariadb and numbers < (8, 0, 29):
            problems.append(
                f"{self.name}: MySQL {asked.version} is too old for recovery; 8.0.29 or newer is needed"
            )
        if not asked.is_mariadb and asked.settings.get("xa_detach_on_prepare", "ON") != "ON":
            problems.append(
                f"{self.name}: SET GLOBAL xa_detach_on_prepare = ON, or nobody else can finish a branch"
            )
        if asked.settings.get("wsrep_on", "OFF") == "ON":
            problems.append(f"{self.name}: Galera refuses XA (MDEV-26575); name a server outside of the cluster")
        return problems

    def _warnings(self, asked: "_Asked") -> list[str]:
        warnings = []
        if asked.settings.get("innodb_flush_log_at_trx_commit", "1") != "1":
            warnings.append(
                f"{self.name}: innodb_flush_log_at_trx_commit is not 1, so a power cut may forget a vote; set it to 1"
            )
        if asked.plain:
            warnings.append(
                f"{self.name}: what is written in {', '.join(asked.plain)} is there at once and is not undone, since"
                " the engine of such a table takes no part in transactions: ALTER TABLE ... ENGINE = InnoDB"
            )
        return warnings

    @override
    def open(self, number: int, begun: Begun) -> MySqlBranch:
        before = _opening.set(True)
        try:
            return MySqlBranch(self, number, begun)
        finally:
            _opening.reset(before)

    @override
    def prepared(self) -> list[Prepared]:
        with self.connected() as connection:
            rows = connection.exec_driver_sql("XA RECOVER").all()
        found = []
        for format_id, gtrid_bytes, _, data in rows:
            named = data.decode("ascii", "replace") if isinstance(data, bytes) else str(data)
            gtrid, bqual = named[: int(gtrid_bytes)], named[int(gtrid_bytes) :]
            gid = _named_by_us(gtrid, bqual) if int(format_id) == FORMAT_ID and named.startswith(FORMAT) else None
            if gid is not None:
                found.append(Prepared(gid, f"'{gtrid}','{bqual}',{FORMAT_ID}", 0.0))
        return found

    @override
    def finish(self, branch: str, *, commit: bool) -> Finding:
        verb = "COMMIT" if commit else "ROLLBACK"
        try:
            with self.connected() as connection:
                connection.exec_driver_sql(f"XA {verb} {branch}")
        except exc.DBAPIError as error:
            if _number(error.orig) != _NOTA:
                raise
            is_listed = branch in {prepared.branch for prepared in self.prepared()}
            return Finding.ATTACHED if is_listed else Finding.ABSENT
        return Finding.FINISHED

    @override
    def detach(self, branch: str) -> None:
        named = _BQUAL.fullmatch(branch.split("','")[1].split("'")[0])
        if named is not None:
            self._kill("KILL", Session(0, named[1]))

    def _kill(self, verb: str, session: Session) -> None:
        try:
            with self.connected() as connection:
                connection.exec_driver_sql(f"{verb} {session.holder}")
        except exc.DBAPIError as error:
            if _number(error.orig) != _NO_SUCH_THREAD:
                raise

    def _cancel(self, number: int, working: tuple[str, Session]) -> None:
        """End the statement of a session that was *working* for a transaction, if it still is: KILL QUERY hits whatever
        runs there, and the next transaction may have the connection."""
        found = self.sessions.get(number)
        if found is None:
            with self.connected() as connection:
                found = _at_work(connection).get(number)
        if found == working:
            self._kill("KILL QUERY", working[1])

    @override
    def waits(self) -> list[Wait]:
        with self.connected() as connection:
            rows = connection.exec_driver_sql(self._waits).all()
            sessions = dict(self.sessions)
            if any(number not in sessions for row in rows for number in row):
                sessions = _at_work(connection) | sessions
        return [
            Wait(sessions[waiter][0], sessions[holder][0], partial(self._cancel, waiter, sessions[waiter]))
            for waiter, holder in rows
            if waiter in sessions and holder in sessions
        ]


def _at_work(connection: Connection) -> dict[int, tuple[str, Session]]:
    """As `MySql.sessions`, of all processes, where the server knows."""
    try:
        rows = connection.exec_driver_sql(_AT_WORK).all()
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return {}  # not allowed here
    return {
        number: (gtrid, Session(number, bqual.partition(".")[2]))
        for number, gtrid, bqual in rows
        if gtrid and bqual and _named_by_us(gtrid, bqual)  # what is empty is told as NULL
    }


def _named_by_us(gtrid: str, bqual: str) -> Gid | None:
    """The transaction of a branch with a name such as we give: of another one nothing goes into a statement."""
    found = parse_gid(gtrid)
    return found[0] if found is not None and not found[1] and _BQUAL.fullmatch(bqual) else None


def _number(error: Any) -> int:
    return error.args[0] if error is not None and error.args and isinstance(error.args[0], int) else 0

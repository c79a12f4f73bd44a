"""PostgreSQL (psycopg 3, psycopg2, asyncpg): PREPARE TRANSACTION.

* The tag decides: a failed transaction answers ``ROLLBACK`` to PREPARE, without an error.
* ``SET LOCAL application_name`` goes with our BEGIN: it names the session while the transaction lasts, for fencing and
  for the search for deadlocks, and is gone when somebody has ended the transaction below us. So the server is asked
  for it together with the id, and another name is a no. The tag would not do: behind a SELECT in the same message even
  a PREPARE outside of any transaction finds one, the message's own, which is empty. Nor would what the driver was told
  of the setting: a proxy may have kept that from it, or another process have read it.
* A transaction without a transaction id has written nothing; COMMIT of it costs no sync, PREPARE would cost two.
* A prepared branch belongs to no session, so any session of the same database may finish it, of a superuser or of the
  role that it was prepared in; that may be one that the transaction had taken (SET ROLE).
* ``pg_xact_status`` tells afterwards what became of a transaction id. So "does not exist" need not be believed.
* The list of prepared transactions is the whole server's; finishing works from the branch's own database only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from sqlalchemy import Connection, exc, text
from typing_extensions import override

from troth.core.twophase.gid import FORMAT, Epoch, parse_epoch, parse_gid
from troth.core.twophase.table import Finding
from troth.errors import Aborted, PreflightFailed
from troth.transactions.channels.interface import Answer
from troth.transactions.participants.base import Begun, Facts, Prepared, Wait
from troth.transactions.participants.sql import SqlBranch, SqlParticipant, engine_problems, was_lost

_NAME = "application_name"
_ASK = f"SELECT pg_current_xact_id_if_assigned(), current_setting('{_NAME}')"
_UNDEFINED_OBJECT = "42704"
_NOT_ALLOWED = "42501"
_FAILED_TRANSACTION = "25P02"
_INVALID_PARAMETER = "22023"


class PostgresBranch(SqlBranch):
    """A branch in PostgreSQL. See the module."""

    _may_be_prepared = False

    @override
    def begin(self, begun: Begun) -> None:
        self.name = f"{begun.gid}.{self.number}"
        lock_ms = None if begun.timeout_s is None else max(1, int(begun.timeout_s * 1000))
        dialect = self.participant.engine.dialect
        # No SELECT, which would take the snapshot of a transaction that may still want another isolation level.
        settings = [f"SET LOCAL {_NAME} = '{begun.gid}'"]
        if lock_ms is not None:
            settings.append(f"SET LOCAL lock_timeout = {lock_ms}")
        start = getattr(self._pooled.dbapi_connection, "_get_tx_start_command", None)
        if dialect.driver == "psycopg" and not dialect.is_async and start is not None:
            # psycopg 3 takes the BEGIN from us, and nobody waits for its answer before there is something to execute.
            self.unanswered = self.channel.start([start().decode(), *settings], self)
            return
        if getattr(self._pooled.dbapi_connection, "autocommit", False):
            raise PreflightFailed(
                [f"{self.participant.name}: an event of its engine sets AUTOCOMMIT, where nothing can be undone"]
            )
        together = "; ".join(settings)
        if dialect.driver == "asyncpg":
            self.channel.start(["BEGIN", together], self)()
        else:
            self.handle.exec_driver_sql(together)

    @override
    def ask(self) -> Callable[[], None]:
        self.check_whole()
        finish = self.channel.start([_ASK], self)

        def answered() -> None:
            try:
                answer = finish()[0]
            except exc.DBAPIError as error:
                self._refuse(error)
            self._hear(answer)
            # What wrote in a foreign table has no id here, and would commit there at once.
            self.wrote = self.wrote or bool(self.proof)

        return answered

    def _hear(self, answer: Answer) -> None:
        """The answer to `_ASK`: the transaction's id, and whether it is ours.

        Raises:
            Aborted: it is not.
        """
        xid, name = answer.row or (None, "")
        # As text: drivers differ in what they make of an xid8.
        self.proof = "" if xid is None else str(xid)
        if name != self._begun.gid:
            raise self.ended_below(
                f" (unless {_NAME}, by which its session is known, was set in it, or RESET ALL done: then nothing has"
                " been committed)"
            )

    def prepare(self) -> Callable[[], None]:
        self.check_whole()
        vote = f"PREPARE TRANSACTION '{self.name}'"
        finish = self.channel.start([vote] if self.proof else [_ASK, vote], self)
        self._may_be_prepared = True

        def voted() -> None:
            try:
                answers = finish()
            except exc.DBAPIError as error:
                self._may_be_prepared = was_lost(error)
                self._refuse(error)
            self.end_here()
            # If so it has to be told, whether or not it is ours, or has an id.
            self._may_be_prepared = is_prepared = answers[-1].tag == "PREPARE TRANSACTION"
            if len(answers) > 1:
                self._hear(answers[0])
            if not is_prepared:
                raise self._failed_before()

        return voted

    @override
    def commit_alone(self) -> Callable[[], None]:
        """Through the channel: a failed transaction answers ROLLBACK to COMMIT too, and SQLAlchemy does not look."""
        self.check_whole()
        finish = self.channel.start(["COMMIT"], self)

        def told() -> None:
            try:
                answer = finish()[0]
            except exc.DBAPIError as error:
                self._refuse(error)
            self.end_here()
            if answer.tag != "COMMIT":
                raise self._failed_before()
            self.handle.tell_committed()

        return told

    def _refuse(self, error: exc.DBAPIError) -> NoReturn:
        """Raise *error*; that the transaction has failed before is told with the reason."""
        if sqlstate(error.orig) == _FAILED_TRANSACTION:
            raise self._failed_before() from error
        raise error

    def _failed_before(self) -> Aborted:
        """Of an error that SQLAlchemy has seen, `check_whole` tells."""
        return self.aborted("a statement had failed, so the database rolled the transaction back instead")

    def _told(self, verb: str) -> Callable[[], None]:
        """Tell it, prepared, to COMMIT or to ROLLBACK."""
        finish = self.channel.start([f"{verb} PREPARED '{self.name}'"], self)

        def told() -> None:
            try:
                finish()
            except exc.DBAPIError as error:
                # Prepared in a role that this session had until then (SET LOCAL ROLE).
                if sqlstate(error.orig) != _NOT_ALLOWED:
                    raise
                if self.participant.finish(self.name, commit=verb == "COMMIT") is not Finding.FINISHED:
                    raise

        return told

    def commit_prepared(self) -> Callable[[], None]:
        finish = self._told("COMMIT")

        def told() -> None:
            finish()
            self.handle.tell_committed()

        return told

    @override
    def undo(self) -> None:
        if self.until is not None:  # SQLAlchemy's way has none
            self.roll_driver_back()
            self.is_over = True
            self.handle.tell_rolled_back()
        super().undo()

    def roll_back(self) -> Callable[[], object]:
        if not self._may_be_prepared:
            self.roll_back_here()
            return lambda: None
        finish = self._told("ROLLBACK")

        def told() -> Finding:
            found = Finding.FINISHED
            try:
                finish()
            except exc.DBAPIError as error:
                if sqlstate(error.orig) != _UNDEFINED_OBJECT or not self.proof:
                    raise
                found = Finding.ABSENT
            self._may_be_prepared = False
            self.handle.tell_rolled_back()
            return found

        return told


class Postgres(SqlParticipant):
    """One database of a PostgreSQL server."""

    kind = "postgresql"

    @override
    def facts(self) -> Facts:
        with self.connected() as connection:
            slots, version, database, is_standby, sessions = connection.execute(
                text(
                    "SELECT current_setting('max_prepared_transactions')::int,"
                    " current_setting('server_version_num')::int,"
                    " (SELECT oid FROM pg_database WHERE datname = current_database())::text, pg_is_in_recovery(),"
                    " current_setting('max_connections')::int"
                )
            ).one()
            try:
                system = connection.scalar(text("SELECT system_identifier::text FROM pg_control_system()"))
            except exc.DBAPIError:
                # Not allowed here: the address has to do, which does not tell a restored copy from the original.
                url = self.engine.url
                system = f"{url.host}:{url.port}"
        problems = engine_problems(self.engine, self.name)
        warnings = []
        if version < 130000:
            problems.append(f"{self.name}: PostgreSQL {version // 10000} is too old; 13 or newer is needed")
        if slots == 0:
            problems.append(
                f"{self.name}: max_prepared_transactions is 0, so PREPARE TRANSACTION is switched off. Run: ALTER"
                f" SYSTEM SET max_prepared_transactions = {sessions}; then restart the server"
            )
        elif slots < sessions:
            warnings.append(
                f"{self.name}: max_prepared_transactions is {slots} and max_connections {sessions}: with more than"
                f" {slots} transactions preparing at once the others are aborted"
            )
        if is_standby:
            problems.append(f"{self.name}: this server is a standby; name the primary")
        return Facts(f"pg:{system}:{database}", tuple(problems), tuple(warnings))

    @override
    def open(self, number: int, begun: Begun) -> PostgresBranch:
        return PostgresBranch(self, number, begun)

    @override
    def prepared(self) -> list[Prepared]:
        with self.connected() as connection:
            rows = connection.execute(
                text(
                    "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts"
                    " WHERE database = current_database() AND gid LIKE :prefix"
                ),
                {"prefix": f"{FORMAT}.%"},
            ).all()
        parsed = ((parse_gid(branch), branch, age_s) for branch, age_s in rows)
        return [Prepared(found[0], branch, age_s) for found, branch, age_s in parsed if found is not None]

    @override
    def finish(self, branch: str, *, commit: bool) -> Finding:
        told = f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED {_quoted(branch)}"
        try:
            with self.connected() as connection:
                try:
                    connection.exec_driver_sql(told)
                except exc.DBAPIError as error:
                    if sqlstate(error.orig) != _NOT_ALLOWED:
                        raise
                    self._become_owner(connection, branch)
                    connection.exec_driver_sql(told)
        except exc.DBAPIError as error:
            if sqlstate(error.orig) == _UNDEFINED_OBJECT:
                return Finding.ABSENT
            raise  # in use: another recoverer is at it. Anything else: the next pass tries again
        return Finding.FINISHED

    def _become_owner(self, connection: Connection, branch: str) -> None:
        """Take the role that *branch* was prepared in, if there is such a branch."""
        owner = connection.execute(
            text(
                "SELECT quote_ident(owner) FROM pg_prepared_xacts WHERE gid = :gid AND database = current_database()"
            ),
            {"gid": branch},
        ).scalar()
        if owner is not None:
            connection.exec_driver_sql(f"SET ROLE {owner.replace('%', '%%')}")

    @override
    def prove(self, proof: str) -> Finding:
        if not proof:
            return Finding.UNPROVEN
        try:
            with self.connected() as connection:
                status = connection.execute(
                    text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))"), {"xid": proof}
                ).scalar()
        except exc.DBAPIError as error:
            # An id from the future of this server: it was restored from an older copy.
            return Finding.PROVED_ABORTED if sqlstate(error.orig) == _INVALID_PARAMETER else Finding.UNREACHED
        match status:
            case "committed":
                return Finding.PROVED_COMMITTED
            case "aborted":
                return Finding.PROVED_ABORTED
            case None:
                return Finding.UNPROVEN
            case _:
                return Finding.UNREACHED

    @override
    def fence(self, is_closed: Callable[[Epoch], bool]) -> int:
        with self.connected() as connection:
            rows = connection.execute(
                text(
                    "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND application_name LIKE :prefix"
                ),
                {"prefix": f"{FORMAT}.%"},
            ).all()
            ended = 0
            for pid, named in rows:
                epoch = parse_epoch(named)
                if epoch is not None and is_closed(epoch):
                    ended += _terminated(connection, pid, named)
        return ended

    @override
    def waits(self) -> list[Wait]:
        with self.connected() as connection:
            rows = connection.execute(
                text(
                    "SELECT w.pid, w.application_name, h.application_name FROM pg_stat_activity w"
                    " CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)"
                    " JOIN pg_stat_activity h ON h.pid = b.pid"
                    " WHERE w.datname = current_database() AND w.wait_event_type = 'Lock'"
                    " AND w.application_name LIKE :prefix AND h.application_name LIKE :prefix"
                ),
                {"prefix": f"{FORMAT}.%"},
            ).all()
        return [
            Wait(waiter, holder, partial(self._cancel, pid, waiter))
            for pid, waiter, holder in rows
            if parse_gid(waiter) and parse_gid(holder)
        ]

    def _cancel(self, pid: int, named: str) -> None:
        with self.connected() as connection:
            connection.execute(
                text(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND application_name = :name"
                ),
                {"pid": pid, "name": named},
            )


def _terminated(connection: Connection, pid: int, named: str) -> bool:
    """End the session *pid*, if it is called *named* still and is at work.

    It is looked at in the same statement: the pid may belong to somebody else by now. An idle session has no
    transaction that could become prepared, and may lie in the pool of a program that has just opened its next epoch.
    What a paused owner begins on it later is found by a later pass.
    """
    end = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid = :pid AND application_name = :name AND state IS DISTINCT FROM 'idle'"
    )
    return bool(connection.execute(end, {"pid": pid, "name": named}).scalar())


def sqlstate(error: Any) -> str:
    """The five characters of SQLSTATE, under the name that each driver has for them."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""


def _quoted(branch: str) -> str:
    return "'" + branch.replace("'", "''").replace("%", "%%") + "'"

"""What MariaDB and MySQL are asked, where they differ: MySQL itself is not among the servers that tests start."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")
pytest.importorskip("pymysql")

from troth.core.twophase.table import Finding  # noqa: E402
from troth.transactions.participants.mysql import FORMAT_ID, MySql, MySqlBranch, Phase, Session  # noqa: E402

MYSQL = ("8.0.36", "MySQL Community Server - GPL", "ledger")
MARIADB = ("10.11.6-MariaDB-0+deb12u1", "Debian 12", "ledger")


class Rows:
    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = list(rows)

    def one(self) -> Any:
        (row,) = self._rows
        return row

    def all(self) -> list[Any]:
        return self._rows


class Server:
    """Answers by what a query begins with, or raises it."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def exec_driver_sql(self, query: str) -> Rows:
        self.asked.append(query)
        for begin, answer in self._answers.items():
            if query.startswith(begin):
                if isinstance(answer, Exception):
                    raise answer
                return Rows(answer)
        return Rows(())


def participant(server: Server) -> MySql:
    @contextmanager
    def connected() -> Iterator[Server]:
        yield server

    engine = sa.create_engine("mysql+pymysql://user@host/ledger")
    found = MySql("ledger", engine, engine)
    found.connected = connected  # type: ignore[method-assign,assignment]
    return found


def denied() -> Exception:
    error = sa.exc.OperationalError("XA RECOVER", None, Exception(1401, "XAER_RMERR: Fatal error occurred"))
    return error


@pytest.mark.parametrize("version", [MYSQL, MARIADB], ids=["mysql", "mariadb"])
def test_preflight_finds_out_whether_recovery_may_list_what_is_prepared(version: tuple[str, ...]) -> None:
    """MySQL 8 wants a privilege for XA RECOVER. Without it a branch of the dead would stay prepared for ever."""
    asked = Server({"SELECT VERSION()": [version], "XA RECOVER": ()})
    assert participant(asked).facts().problems == ()
    (problem,) = participant(Server({"SELECT VERSION()": [version], "XA RECOVER": denied()})).facts().problems
    assert "GRANT XA_RECOVER_ADMIN ON *.* TO" in problem


def test_a_server_that_is_lost_while_it_is_asked_lacks_no_right() -> None:
    lost = denied()
    lost.connection_invalidated = True  # type: ignore[attr-defined]
    with pytest.raises(sa.exc.OperationalError):
        participant(Server({"SELECT VERSION()": [MYSQL], "XA RECOVER": lost})).facts()


@pytest.mark.parametrize("listed", [True, False])
def test_a_branch_that_a_session_does_not_know_is_absent_if_it_is_certainly_not_listed(listed: bool) -> None:
    """Of an absent one that is to commit it is noted that it is done."""
    branch = f"'T1.logname0.c.1.1','0.0123456789abcdef',{FORMAT_ID}"
    unknown = sa.exc.OperationalError("XA COMMIT", None, Exception(1397, "XAER_NOTA: Unknown XID"))
    rows = [(FORMAT_ID, 17, 18, "T1.logname0.c.1.10.0123456789abcdef")] if listed else []
    known = participant(Server({"XA COMMIT": unknown, "XA RECOVER": rows}))
    assert known.finish(branch, commit=True) is (Finding.ATTACHED if listed else Finding.ABSENT)
    silent = participant(Server({"XA COMMIT": unknown, "XA RECOVER": denied()}))
    with pytest.raises(sa.exc.OperationalError, match="XAER_RMERR"):
        silent.finish(branch, commit=True)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_branch_that_was_left_off_before_is_rolled_back_and_one_that_is_lost_is_not(is_lost: bool) -> None:
    error = sa.exc.OperationalError("XA END", None, Exception(1399, "XAER_RMFAIL"), connection_invalidated=is_lost)
    branch = object.__new__(MySqlBranch)
    sent: list[str] = []

    class Connection:
        def is_busy(self) -> bool:
            return False

        def start(self, statements: Sequence[str], bound: Any) -> Any:
            sent.extend(statements)
            if statements[0].startswith("XA END"):
                raise error
            return list

    branch.channel, branch.name, branch._phase = Connection(), "'a','0',1", Phase.ACTIVE  # type: ignore[assignment]
    branch.handle = SimpleNamespace(closed=False, invalidated=False, tell_rolled_back=None)  # type: ignore[assignment]
    if is_lost:
        with pytest.raises(sa.exc.OperationalError):
            branch.roll_back()
        assert sent == ["XA END 'a','0',1"]
    else:
        branch.roll_back()
        assert sent == ["XA END 'a','0',1", "XA ROLLBACK 'a','0',1"]


@pytest.mark.parametrize(
    ("version", "settings", "problem"),
    [
        (("10.5.1-MariaDB", "Debian", "ledger"), [], "10.5.2 or newer"),
        (("10.5.2-MariaDB", "Debian", "ledger"), [], None),
        (("8.0.28", "MySQL", "ledger"), [], "8.0.29 or newer"),
        (("8.0.29", "MySQL", "ledger"), [], None),
        (MYSQL, [("xa_detach_on_prepare", "OFF")], "xa_detach_on_prepare"),
        (MYSQL, [("xa_detach_on_prepare", "ON")], None),
        (MARIADB, [("wsrep_on", "ON")], "Galera"),
        (MARIADB, [("wsrep_on", "OFF")], None),
    ],
)
def test_preflight_refuses_what_loses_or_keeps_prepared_branches(
    version: tuple[str, ...], settings: list[tuple[str, str]], problem: str | None
) -> None:
    server = Server({"SELECT VERSION()": [version], "SHOW VARIABLES": settings, "XA RECOVER": ()})
    found = participant(server).facts().problems
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_tables_that_no_rollback_undoes_are_named() -> None:
    server = Server({"SELECT VERSION()": [MARIADB], "SELECT t.table_name": [("hits",), ("words",)]})
    found = participant(server).facts()
    assert found.problems == (), "an application may have them, and keep them out of its transactions"
    (warning,) = found.warnings
    assert "hits, words" in warning and "ENGINE = InnoDB" in warning


def test_a_server_is_known_by_the_id_that_it_has_drawn_and_not_by_where_it_stands() -> None:
    """In containers hostname, port and datadir are often the same for all, and another one after each start."""

    def identity(version: tuple[str, ...], **settings: str) -> str:
        return (
            participant(Server({"SELECT VERSION()": [version], "SHOW VARIABLES": settings.items()}))
            .facts()
            .identity
        )

    for version, name in ((MYSQL, "server_uuid"), (MARIADB, "server_uid")):
        here, elsewhere = {"hostname": "db", "port": "3306", "datadir": "/data"}, {"hostname": "db2"}
        assert identity(version, **{name: "one"}, **here) == identity(version, **{name: "one"}, **elsewhere)
        assert identity(version, **{name: "one"}, **here) != identity(version, **{name: "another"}, **here)
    assert identity(MARIADB, **here) != identity(MARIADB, **elsewhere)


def test_a_server_that_may_forget_a_vote_is_warned_of() -> None:
    server = Server({"SELECT VERSION()": [MARIADB], "SHOW VARIABLES": [("innodb_flush_log_at_trx_commit", "2")]})
    (warning,) = participant(server).facts().warnings
    assert "innodb_flush_log_at_trx_commit" in warning


@pytest.mark.parametrize(
    ("version", "table"),
    [(MYSQL, "performance_schema.data_lock_waits"), (MARIADB, "information_schema.innodb_lock_waits")],
    ids=["mysql", "mariadb"],
)
def test_who_waits_for_whom_is_asked_where_the_server_keeps_it(version: tuple[str, ...], table: str) -> None:
    server = Server({"SELECT VERSION()": [version], "SELECT w.": [(7, 8), (7, 99)]})
    ledger = participant(server)
    ledger.facts()
    ledger.sessions[7] = ("T1.log.0.1.2", Session(7, "0123456789abcdef"))
    ledger.sessions[8] = ("T1.log.0.1.3", Session(8, "fedcba9876543210"))
    (wait,) = ledger.waits()
    assert (wait.waiter, wait.holder) == ("T1.log.0.1.2", "T1.log.0.1.3")
    assert table in server.asked[-2], "and then whose 99 is"
    wait.cancel()
    assert server.asked[-1] == "KILL QUERY IS_USED_LOCK('troth.0123456789abcdef')"


def test_a_wait_that_has_ended_is_not_cancelled_on_whoever_has_its_connection_now() -> None:
    """KILL QUERY names a connection, not a transaction."""
    server = Server({"SELECT w.trx_mysql_thread_id": [(7, 8)]})
    ledger = participant(server)
    waiting, holding, next_one = (f"T1.logname0.c.1.{number}" for number in (1, 2, 3))
    session = Session(7, "0123456789abcdef")
    ledger.sessions = {7: (waiting, session), 8: (holding, Session(8, "fedcba9876543210"))}
    (wait,) = ledger.waits()
    assert (wait.waiter, wait.holder) == (waiting, holding)
    ledger.sessions[7] = (next_one, session)
    wait.cancel()
    assert not any(query.startswith("KILL") for query in server.asked)
    ledger.sessions[7] = (waiting, session)
    wait.cancel()
    assert server.asked[-1] == f"KILL QUERY {session.holder}"


def test_whose_the_sessions_of_other_processes_are_is_told_by_the_server_if_it_notes_that() -> None:
    own, other = "T1.logname0.c.1.1", "T1.logname0.d.1.2"
    at_work = [(7, other, "0.0123456789abcdef"), (8, "T1.logname0.c.1.9", "0.00000000000000ff")]
    answers: dict[str, Any] = {"SELECT w.": [(7, 8)], "SELECT t.processlist_id": at_work}
    server = Server(answers)
    ledger = participant(server)
    ledger.sessions[8] = (own, Session(8, "fedcba9876543210"))
    (wait,) = ledger.waits()
    assert (wait.waiter, wait.holder) == (other, own), "of its own each process knows better"
    wait.cancel()
    assert server.asked[-1] == "KILL QUERY IS_USED_LOCK('troth.0123456789abcdef')"
    answers["SELECT t.processlist_id"] = [(7, "T1.logname0.d.1.3", "0.0123456789abcdef")]
    server.asked.clear()
    wait.cancel()
    assert not any(query.startswith("KILL") for query in server.asked), "it works for another one"
    answers["SELECT t.processlist_id"] = denied()
    assert ledger.waits() == []
    lost = denied()
    lost.connection_invalidated = True  # type: ignore[attr-defined]
    answers["SELECT t.processlist_id"] = lost
    with pytest.raises(sa.exc.OperationalError):
        ledger.waits()


def test_what_is_told_is_answered_within_the_bound_of_its_own_transaction() -> None:
    bounds: list[float | None] = []

    class Connection:
        def is_busy(self) -> bool:
            return False

        def start(self, statements: Sequence[str], bound: Any) -> Any:
            bounds.append(bound.until)
            return list

    branch: Any = object.__new__(MySqlBranch)
    branch.channel, branch.name, branch._phase = Connection(), "'a','0',1", Phase.ACTIVE
    branch._session, branch._transaction = Session(7, "0"), SimpleNamespace(is_active=True)
    branch.handle = SimpleNamespace(closed=False, invalidated=False, tell_committed=None, tell_rolled_back=None)
    branch.answer_by(742.0)
    branch.prepare()
    branch.commit_prepared()
    branch.commit_alone()
    branch.roll_back()
    assert bounds == [742.0] * 5, "and XA END before XA ROLLBACK"


@pytest.mark.parametrize(
    ("gtrid", "bqual"),
    [
        ("T1.logname0.d.1.2", "0.a') OR SLEEP(2) OR ('1"),
        ("T1.logname0.d.1.2", "0.0123456789abcdef') OR SLEEP(2) OR ('1"),
        ("T1.logname0.d.1.2", None),  # as an empty one is told
        (None, None),
        ("T1.logname0.d.1.2.x", "0.0123456789abcdef"),
        ("T1.x", "0.0123456789abcdef"),
    ],
)
def test_branches_that_others_call_as_they_like_are_passed_over(gtrid: str | None, bqual: str | None) -> None:
    """Also with our number of a format: any user of the server can, and it goes into no statement."""
    ours = "T1.logname0.c.1.1"
    named = (gtrid or "") + (bqual or "")
    answers = {
        "SELECT w.": [(7, 8), (9, 8)],
        "SELECT t.processlist_id": [(7, gtrid, bqual), (9, "T1.logname0.e.1.2", "1.0123456789abcdef")],
        "XA RECOVER": [(FORMAT_ID, len(gtrid or ""), len(bqual or ""), named)],
    }
    server = Server(answers)
    ledger = participant(server)
    ledger.sessions[8] = (ours, Session(8, "fedcba9876543210"))
    assert [(wait.waiter, wait.holder) for wait in ledger.waits()] == [("T1.logname0.e.1.2", ours)]
    assert ledger.prepared() == []
    server.asked.clear()
    if bqual is not None and "SLEEP" in bqual:
        ledger.detach(f"'{gtrid}','{bqual.replace(chr(39), '')}',{FORMAT_ID}")
        assert server.asked == []

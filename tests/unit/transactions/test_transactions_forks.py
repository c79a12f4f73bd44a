"""What a forked child is told, and that what is gone is kept by nobody for that."""

import gc
import os
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.errors import UsageError  # noqa: E402
from troth.transactions.barrier import Barrier  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.core import Core  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402
from troth.transactions.owner import Owner  # noqa: E402
from troth.transactions.steps import nothing  # noqa: E402
from troth.transactions.transaction import Transaction  # noqa: E402


def do_in_child(work: Callable[[], object]) -> None:
    """Have a forked child do *work*, and no more."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  (told by the code)
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def rows(engine: Any) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT x FROM t")))


def test_what_is_gone_leaves_nothing_that_a_child_would_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may make one TwoPhaseCommit after the other; Python never drops what it is to call after a fork."""
    given: list[Callable[[], None]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: given.append(after_in_child))
    core = Core([], FileLog(tmp_path), barrier=Barrier(None), on_step=nothing)
    core.close()
    found = weakref.ref(core)
    del core
    gc.collect()
    assert found() is None
    assert given == []


def uses(tx: Transaction, engine: Any, connection: Any) -> None:
    connection.exec_driver_sql("INSERT INTO t VALUES ('child')")


def names_a_branch(tx: Transaction, engine: Any, connection: Any) -> None:
    tx[engine]


def works_with_the_driver(tx: Transaction, engine: Any, connection: Any) -> None:
    connection.connection.driver_connection.rollback()


def rolls_back(tx: Transaction, engine: Any, connection: Any) -> None:
    tx.rollback()


def commits(tx: Transaction, engine: Any, connection: Any) -> None:
    tx.commit()


def opens_a_session(tx: Transaction, engine: Any, connection: Any) -> None:
    tx.session()


def makes_a_savepoint(tx: Transaction, engine: Any, connection: Any) -> None:
    with tx.savepoint():
        pass


def leaves_the_block(tx: Transaction, engine: Any, connection: Any) -> None:
    tx.__exit__(None, None, None)


@pytest.mark.parametrize(
    "does",
    [
        uses,
        names_a_branch,
        works_with_the_driver,
        rolls_back,
        commits,
        opens_a_session,
        makes_a_savepoint,
        leaves_the_block,
    ],
)
def test_a_transaction_is_none_of_a_childs_that_was_forked_inside_of_it(
    does: Callable[[Transaction, Any, Any], None], tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin() as tx:
            tx[engine].exec_driver_sql("INSERT INTO t VALUES ('parent')")

            def work() -> None:
                with pytest.raises(UsageError, match="the parent goes on with it"):
                    does(tx, engine, tx._branches[0].handle)

            do_in_child(work)
        assert tx.outcome is Outcome.COMMITTED
    assert rows(engine) == ["parent"]


def by_an_error(tx: Transaction, connection: Any) -> None:
    with pytest.raises(SystemExit), tx:
        raise SystemExit


def by_closing_its_connection(tx: Transaction, connection: Any) -> None:
    with pytest.raises(SystemExit), connection:
        raise SystemExit
    assert connection.engine.pool.checkedout() == 1, "or the child's next would work on it"


def by_rolling_its_connection_back(tx: Transaction, connection: Any) -> None:
    connection.rollback()


def by_forgetting_it(tx: Transaction, connection: Any) -> None:
    Owner.__del__(tx)
    tx._branches.clear()
    tx._held.clear()
    tx._by_name.clear()


@pytest.mark.parametrize(
    "leaves", [by_an_error, by_closing_its_connection, by_rolling_its_connection_back, by_forgetting_it]
)
def test_a_child_that_leaves_the_block_and_ends_leaves_all_to_its_parent(
    leaves: Callable[[Transaction, Any], None], tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    with TwoPhaseCommit([engine], log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin() as tx:
            tx[engine].exec_driver_sql("INSERT INTO t VALUES ('parent')")

            def work() -> None:
                leaves(tx, tx._branches[0].handle)
                gc.collect()
                for finalize in list(weakref.finalize._registry):  # type: ignore[attr-defined]
                    if finalize.atexit:  # as at the end of a child that ends of itself
                        finalize()

            do_in_child(work)
        assert tx.outcome is Outcome.COMMITTED
    assert rows(engine) == ["parent"]

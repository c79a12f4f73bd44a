"""``key=`` says "done" of what has committed only; and who is interrupted in a batch leaves nobody waiting."""

import asyncio
import errno
import gc
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.core.twophase.cells import Verdict  # noqa: E402
from troth.core.twophase.records import Abort, Commit  # noqa: E402
from troth.core.twophase.table import Finding, State  # noqa: E402
from troth.errors import (  # noqa: E402
    Aborted,
    NotApplied,
    OutcomeUnknown,
    Overloaded,
    RequestTimeout,
    StorageError,
    TransactionInDoubt,
    UsageError,
)
from troth.transactions import remembered  # noqa: E402
from troth.transactions.coordinator import TwoPhaseCommit  # noqa: E402
from troth.transactions.log.file import FileLog  # noqa: E402
from troth.transactions.log.group import GroupCommit  # noqa: E402
from troth.transactions.log.interface import Decided, DecisionLog  # noqa: E402
from troth.transactions.log.replicated import ReplicatedLog  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402
from troth.transactions.waiting import InThreads  # noqa: E402


def place(tmp_path: Path) -> Any:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/last.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS work (done INTEGER)")
    return engine


def work(tpc: TwoPhaseCommit) -> Any:
    with tpc.begin(key="order-1") as tx:
        tx["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
    return tx


def rows(engine: Any) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM work").scalar_one())


def test_a_key_whose_holder_is_not_decided_is_not_said_to_be_done(tmp_path: Path) -> None:
    """The holder dies between its record (delegated) and the commit of its last resource; the retry comes at once."""
    engine = place(tmp_path)

    def die(step: str) -> None:
        if step == "before_last_resource":
            raise KeyboardInterrupt

    dying = TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None, on_step=die)
    with pytest.raises(KeyboardInterrupt):
        work(dying)
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        with pytest.raises(Aborted, match="order-1"):
            work(tpc)
        assert rows(engine) == 0
        dying.close()
        tpc.recover()
        again = work(tpc)
        assert (again.outcome, again.replayed, rows(engine)) == (Outcome.COMMITTED, False, 1)
        assert work(tpc).replayed
        assert rows(engine) == 1


def test_a_key_whose_holder_was_refused_is_free_though_nobody_has_noted_that(tmp_path: Path) -> None:
    """A recoverer dies between the refusal in the last resource and its note in the log."""
    engine = place(tmp_path)

    def die(step: str) -> None:
        if step == "before_last_resource":
            raise KeyboardInterrupt

    dying = TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None, on_step=die)
    with pytest.raises(KeyboardInterrupt):
        work(dying)
    (holder,) = dying.log.unapplied()
    dying.close()
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        assert tpc.participants[0].marker(holder.gid, refuse=True) is False
        assert work(tpc).replayed is False
        assert rows(engine) == 1


def test_a_decision_that_the_log_never_heard_of_is_settled_by_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is prepared anywhere, since its only writer cannot prepare."""
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        with monkeypatch.context() as silent:
            silent.setattr(tpc.log, "decide", lambda commits: [OutcomeUnknown("no answer") for _ in commits])
            with pytest.raises(TransactionInDoubt) as caught:
                work(tpc)
        assert tpc.outcome(caught.value.gid) is Outcome.OPEN
        tpc.recover()
        assert tpc.outcome(caught.value.gid) is Outcome.ABORTED
        assert work(tpc).replayed is False


def test_recovery_says_nothing_of_a_lone_writer_that_was_interrupted(tmp_path: Path) -> None:
    """It may have committed, without the log."""
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:

        def interrupted() -> None:
            tx._branches[0].commit_here()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), tpc.begin() as tx:
            tx["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
            tx._branches[0].commit_alone = interrupted
        tpc.recover()
        assert tpc.outcome(tx.gid) is not Outcome.ABORTED


def test_a_lone_writer_interrupted_in_its_commit_is_asked_after_in_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two statements, where no answer is waited for: it has no cell, and was "open" for ever."""
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:

        def interrupted(work: object, *steps: str) -> bool:
            if work and tx._state is State.ONE_PHASE:
                raise KeyboardInterrupt
            return True

        with pytest.raises(KeyboardInterrupt), tpc.begin() as tx:
            tx["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
            tx._branches[0].proof = "7"
            monkeypatch.setattr(tx, "_fan", interrupted)
        asked: list[str] = []

        def prove(proof: str) -> Finding:
            asked.append(proof)
            return Finding.PROVED_ABORTED

        monkeypatch.setattr(tpc.participants[0], "prove", prove)
        assert (tpc.outcome(tx.gid), asked) == (Outcome.ABORTED, ["7"])


def test_work_for_later_is_done_at_once_after_the_end() -> None:
    waiting, done = InThreads(), threading.Event()
    waiting.later(done.set)
    assert done.wait(5)
    waiting.close(lambda: None)
    by: list[int] = []
    waiting.later(lambda: by.append(threading.get_ident()))
    assert by == [threading.get_ident()]


def test_a_begin_that_the_log_refuses_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:

        def silent(key: str) -> str | None:
            raise StorageError("out of reach")

        monkeypatch.setattr(tpc.log, "holder_of", silent)
        with pytest.raises(StorageError):
            tpc.begin(key="order-1")
        assert not tpc._core._open


def test_an_interrupt_after_a_batch_leaves_nobody_waiting() -> None:
    """Ctrl-C in the writer, while it tells the log what is applied: the others of its batch have their answers."""
    begun, go = threading.Event(), threading.Event()

    class Slow:
        def decide(self, commits: Sequence[Commit]) -> list[Decided]:
            begun.set()
            go.wait()
            return [Decided(Verdict.COMMIT, commit.gid) for commit in commits]

    batches: list[int] = []

    def interrupted(size: int) -> None:
        batches.append(size)
        if len(batches) == 1:
            raise KeyboardInterrupt

    group = GroupCommit(cast(DecisionLog, Slow()), interrupted)
    caught: list[BaseException] = []

    def leader() -> None:
        try:
            group.decide(Commit("a", ()))
        except KeyboardInterrupt as error:
            caught.append(error)

    answers: list[Decided] = []
    first = threading.Thread(target=leader, daemon=True)
    first.start()
    begun.wait()
    second = threading.Thread(target=lambda: answers.append(group.decide(Commit("b", ()))), daemon=True)
    second.start()
    while not group._queue:
        second.join(0.001)
    go.set()
    first.join(5)
    second.join(5)
    assert (len(caught), answers) == (1, [Decided(Verdict.COMMIT, "b")])


def test_a_replayed_transaction_is_over_however_its_block_ends(tmp_path: Path) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        done = work(tpc)
        with tpc.begin(key="order-1") as untouched:
            pass
        with pytest.raises(ZeroDivisionError), tpc.begin(key="order-1") as failed:
            raise ZeroDivisionError
        assert {untouched.outcome, failed.outcome, tpc.outcome(done.gid)} == {Outcome.COMMITTED}
        assert not tpc._core._open
        assert tpc.metrics.outcomes["replayed"] == 2


def test_a_replayed_transaction_ends_its_own_block_not_one_inside_of_it(tmp_path: Path) -> None:
    """The inner one has work of its own, and is rolled back: its block did not end well."""
    engine = place(tmp_path)
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        work(tpc)
        with tpc.begin(key="order-1") as outer, tpc.begin() as inner:
            inner["last"].exec_driver_sql("INSERT INTO work VALUES (2)")
            outer["last"].exec_driver_sql("INSERT INTO work VALUES (3)")
        assert (inner.outcome, rows(engine)) == (Outcome.ABORTED, 1)


def test_tasks_that_find_their_work_done_end_the_block(tmp_path: Path) -> None:
    """A TaskGroup raises a group, also of one."""
    engine = place(tmp_path)
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        done = work(tpc)

        async def touch(tx: Any) -> None:
            tx["last"]

        async def fail() -> None:
            raise ZeroDivisionError

        async def again(*others: Any) -> Any:
            with tpc.begin(key="order-1") as tx:
                async with asyncio.TaskGroup() as tasks:
                    for each in (touch(tx), *others):
                        tasks.create_task(each)
            return tx

        assert asyncio.run(again()).gid == done.gid
        with pytest.raises(BaseExceptionGroup) as failed:
            asyncio.run(again(fail()))
        assert failed.value.subgroup(ZeroDivisionError), "what else has failed is not swallowed"


@pytest.mark.parametrize("fails", ["in the block", "in a task", "at its end"])
def test_who_comes_second_with_a_key_is_replayed_whatever_its_own_try_ran_into(fails: str, tmp_path: Path) -> None:
    """The first commits while the second is at work, which then cannot do the same once more."""
    engine = place(tmp_path)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE UNIQUE INDEX once ON work (done)")
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin(key="order-1") as second:
            first = work(tpc)
            if fails == "at its end":
                with pytest.raises(sa.exc.IntegrityError):
                    second["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
            elif fails == "in a task":
                try:
                    second["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
                except sa.exc.IntegrityError as error:
                    raise ExceptionGroup("tasks", [error]) from error
            else:
                second["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
        assert (second.replayed, second.gid, second.outcome) == (True, first.gid, Outcome.COMMITTED)
        assert rows(engine) == 1
        assert not tpc._core._open


def test_who_fails_while_another_has_its_key_fails_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that no database gave; or nobody has committed, or itself; or that cannot be read."""
    engine = place(tmp_path)
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        with pytest.raises(sa.exc.DBAPIError), tpc.begin(key="order-1") as tx:
            tx["last"].exec_driver_sql("INSERT INTO nothing VALUES (1)")
        assert not tx.replayed
        with pytest.raises(ZeroDivisionError), tpc.begin(key="order-1"):
            work(tpc)
            raise ZeroDivisionError

        with pytest.raises(sa.exc.DBAPIError), tpc.begin(key="order-3") as tx:
            tx["last"].exec_driver_sql("INSERT INTO work VALUES (3)")
            tx.commit()
            with engine.connect() as connection:
                connection.exec_driver_sql("INSERT INTO nothing VALUES (1)")
        assert (tx.replayed, tx.outcome) == (False, Outcome.COMMITTED), "it is its own key"

        def unreadable(_: str) -> str:
            raise StorageError("as asked")

        with pytest.raises(sa.exc.DBAPIError), tpc.begin(key="order-2") as tx:
            monkeypatch.setattr(tpc.log, "holder_of", unreadable)
            tx["last"].exec_driver_sql("INSERT INTO nothing VALUES (1)")


def test_ctrl_c_in_a_rollback_is_not_swallowed(tmp_path: Path) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:

        def interrupted() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), tpc.begin() as tx:
            tx["last"].exec_driver_sql("INSERT INTO work VALUES (2)")
            tx._branches[0].roll_back = interrupted
            raise ZeroDivisionError


def test_a_vote_no_is_counted(tmp_path: Path) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        with pytest.raises(Aborted), tpc.begin() as tx:
            with pytest.raises(sa.exc.DBAPIError):
                tx["last"].exec_driver_sql("INSERT INTO nothing VALUES (2)")
        assert tpc.metrics.refusals == {"last": 1}


def test_what_is_applied_may_be_told_by_two_threads_at_once(tmp_path: Path) -> None:
    """Recovery and the writer of a batch: whoever comes second finds nothing left to tell."""
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:

        class Emptied(deque[str]):
            def __bool__(self) -> bool:
                return True  # as it was, a moment ago

        tpc._core._applied = Emptied()
        assert tpc._core.unapplied() == []


def test_the_silence_of_a_log_is_waited_for_once_in_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def silent(self: ReplicatedLog, record: Abort) -> Verdict:
        asked.append(record.gid)
        raise RequestTimeout("no answer")

    monkeypatch.setattr(ReplicatedLog, "abort", silent)
    log = object.__new__(ReplicatedLog)
    monkeypatch.setattr(log, "_lock", threading.Lock(), raising=False)
    monkeypatch.setattr(log, "_done", [], raising=False)
    monkeypatch.setattr(log, "_client", _SilentClient(), raising=False)
    answers = log.decide([Commit(str(number), ()) for number in range(_SilentClient.count)])
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * _SilentClient.count
    assert set(asked) == {"0"}


def test_a_decision_that_lost_its_cell_to_its_own_question_is_no_sign_of_a_closed_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever believes its epoch closed opens another one, and all that are under way would be aborted with it."""
    asked = []

    def won(self: ReplicatedLog, record: Abort) -> Verdict:
        asked.append(record.gid)
        return Verdict.ABORT if record.gid != "1" else Verdict.COMMIT

    monkeypatch.setattr(ReplicatedLog, "abort", won)
    log = object.__new__(ReplicatedLog)
    monkeypatch.setattr(log, "_lock", threading.Lock(), raising=False)
    monkeypatch.setattr(log, "_done", [], raising=False)
    refused = Overloaded("too much")
    client = _SilentClient((RequestTimeout("no answer"), RequestTimeout("no answer"), refused))
    monkeypatch.setattr(log, "_client", client, raising=False)
    lost, stands, never = log.decide([Commit(str(number), ()) for number in range(3)])
    assert isinstance(lost, NotApplied) and not isinstance(lost, OutcomeUnknown)
    assert stands == Decided(Verdict.COMMIT, "1")
    assert never is refused, "what was never done needs no question"
    assert asked == ["0", "1"]


class _SilentClient:
    count = 32
    background = property(lambda self: self)

    def __init__(self, replies: Sequence[Exception] = ()) -> None:
        self._replies = list(replies) or [RequestTimeout("no answer")] * self.count

    def run(self, work: object) -> list[Exception]:
        return self._replies


def test_a_paused_holder_of_the_keys_stops_only_work_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.transactions.log.directory.KEYS_WAIT_S", 0.01)
    paused, log = FileLog(tmp_path / "log"), FileLog(tmp_path / "log")
    with paused._directory.keys_held() as is_held:
        assert is_held
        plain, keyed = (Commit(f"{log.epoch.prefix}{number}", (), key) for number, key in ((1, ""), (2, "k")))
        first, second = log.decide([keyed, plain])
    assert "paused" in str(first)
    assert second == Decided(Verdict.COMMIT, plain.gid)
    assert log.decide([keyed]) == [Decided(Verdict.COMMIT, keyed.gid)]
    paused.close()
    log.close()


def test_a_question_that_may_wait_outlasts_a_log_that_does_not_answer_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        gid = work(tpc).gid
        heuristics, silences = tpc.log.heuristics, [RequestTimeout("no answer")]

        def silent_once() -> Any:
            if silences:
                raise silences.pop()
            return heuristics()

        monkeypatch.setattr(tpc.log, "heuristics", silent_once)
        assert tpc.outcome(gid, wait=5) is Outcome.COMMITTED


def test_a_closed_coordinator_begins_nothing(tmp_path: Path) -> None:
    """Its branches would be prepared, and stay so until somebody recovers."""
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        pass
    with pytest.raises(UsageError, match="is closed"):
        tpc.begin()


@pytest.mark.parametrize("key", ["", "order-1"])
def test_one_that_only_read_is_told_to_be_committed_whoever_asks(key: str, tmp_path: Path) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin(key=key) as tx:
            tx["last"].exec_driver_sql("SELECT count(*) FROM work")
        with tpc.begin() as untouched:
            pass
        with pytest.raises(ZeroDivisionError), tpc.begin() as undone:
            tx_rows = undone["last"].exec_driver_sql("SELECT count(*) FROM work")
            tx_rows.scalar_one() / 0
        for each, outcome in ((tx, Outcome.COMMITTED), (untouched, Outcome.COMMITTED), (undone, Outcome.ABORTED)):
            assert each.outcome is outcome
            assert tpc.outcome(each.gid) is outcome


def test_readers_do_not_push_out_what_is_known_of_lone_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "UNFINISHED_MAX", 2)
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        with tpc.begin() as writer:
            writer["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
        readers = []
        for _ in range(4):
            with tpc.begin() as reader:
                reader["last"].exec_driver_sql("SELECT count(*) FROM work")
            readers.append(reader)
        assert tpc.outcome(writer.gid) is Outcome.COMMITTED
        assert [tpc.outcome(each.gid) for each in readers[-2:]] == [Outcome.COMMITTED] * 2
        assert tpc.outcome(readers[0].gid) is Outcome.UNRECORDED, "what is not known any more is not said"


def test_what_a_broken_log_was_never_told_is_rolled_back_and_not_left_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One decision meets a full disk; who was on the way to the log at that moment need not keep its locks."""
    engine = place(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        under_way = tpc.begin(key="order-2")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(TransactionInDoubt):
                work(tpc)
        with pytest.raises(Aborted, match="No space left"), under_way as tx:
            tx["last"].exec_driver_sql("INSERT INTO work VALUES (2)")
        assert tx.outcome is Outcome.ABORTED
        with pytest.raises(StorageError, match="Make room"):
            tpc.begin()
    assert rows(engine) == 0


def test_a_transaction_that_is_dropped_without_an_end_is_over(tmp_path: Path) -> None:
    """Its connection goes back to the pool, rolled back; and nobody waits for it to decide."""
    engine = place(tmp_path)
    with TwoPhaseCommit({"last": engine}, log=tmp_path / "log", recover_every=None) as tpc:
        tx = tpc.begin()
        tx["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
        gid = tx.gid
        assert tpc.outcome(gid) is Outcome.OPEN
        del tx
        gc.collect()
        assert tpc.outcome(gid) is Outcome.ABORTED
        assert not tpc._core._open
        assert rows(engine) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_begins_nothing_with_what_its_parent_has_made(tmp_path: Path) -> None:
    """Its branches would prepare, and nobody could decide: the log is the parent's."""
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        child = os.fork()
        if not child:
            code = 1
            try:
                tpc.begin()
            except UsageError as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with tpc.begin():
            pass


@pytest.mark.parametrize("key", [None, 5, b"x", True, "\ud800", "x" * 1025, "é" * 513])
def test_a_key_that_no_log_can_keep_is_refused_before_there_is_anything_to_decide(
    key: Any, tmp_path: Path
) -> None:
    with TwoPhaseCommit({"last": place(tmp_path)}, log=tmp_path / "log", recover_every=None) as tpc:
        with pytest.raises(UsageError, match="at most 1024 bytes of UTF-8"):
            tpc.begin(key=key)
        for good in ("x" * 1024, "\u0000", "a/b"):
            with tpc.begin(key=good) as tx:
                tx["last"].exec_driver_sql("INSERT INTO work VALUES (1)")
            assert tx.outcome is Outcome.COMMITTED

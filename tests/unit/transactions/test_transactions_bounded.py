"""A database that hangs keeps nobody waiting but itself."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

sa = pytest.importorskip("sqlalchemy")

from interrupting import Interrupted, everywhere  # noqa: E402
from recovering import Database, Place, name, prepared  # noqa: E402
from sqlalchemy.util.concurrency import await_only, greenlet_spawn  # noqa: E402
from typing_extensions import override  # noqa: E402

from troth import TwoPhaseCommit  # noqa: E402
from troth.core.twophase.table import Finding  # noqa: E402
from troth.errors import RequestTimeout  # noqa: E402
from troth.transactions.aio_waiting import InTasks  # noqa: E402
from troth.transactions.outcome import Outcome  # noqa: E402
from troth.transactions.participants import bounded  # noqa: E402
from troth.transactions.participants.bounded import Bounded  # noqa: E402
from troth.transactions.participants.named import Participants  # noqa: E402
from troth.transactions.waiting import InThreads  # noqa: E402

T = TypeVar("T")


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What hangs waits for this."""
    monkeypatch.setattr(bounded, "ANSWER_WITHIN_S", 0.05)
    woken = threading.Event()
    yield woken
    woken.set()


def hang(woken: threading.Event) -> Callable[..., Any]:
    def asked(*arguments: Any, **named: Any) -> Any:
        assert woken.wait(30)
        return []

    return asked


@pytest.mark.parametrize("question", ["fence", "prepared"])
def test_one_that_hangs_stops_neither_the_recovery_of_the_others_nor_its_end(
    question: str, place: Place, wakes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = name(place.other)
    one, two = prepared(gid, place.bank, place.stock)
    place.die()
    monkeypatch.setattr(place.bank, question, hang(wakes))
    is_over = threading.Event()
    place.core.on_step = lambda step: is_over.set() if step == "resolved" else None
    place.recovery.start(lambda: 60.0)
    assert is_over.wait(10)
    place.recovery.stop()
    assert (place.bank.states[one], place.stock.states[two]) == ("prepared", "rolled back")
    assert "bank has not answered" in place.run().unreachable["bank"]


class Silent(InThreads):
    """Nobody answers; what was begun and waited for is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    @override
    def apart(self, work: Callable[[], T], within_s: float) -> Callable[[], T]:
        def wait() -> T:
            self.done.append("wait")
            raise TimeoutError

        self.done.append("begin")
        return wait


def test_those_that_hang_are_waited_for_at_the_same_time(place: Place) -> None:
    waiting = Silent()
    databases: list[Any] = [place.bank, place.stock]
    place.core.participants = Participants(databases, waiting)
    report = place.run()
    assert waiting.done[:4] == ["begin", "begin", "wait", "wait"]
    assert sorted(report.unreachable) == ["bank", "stock"]


def test_one_that_hangs_is_asked_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else each pass would leave a thread and a connection behind."""
    now, waiting = [100.0], Silent()
    monkeypatch.setattr(bounded.time, "monotonic", lambda: now[0])
    asked = Bounded(Database("bank"), waiting)  # type: ignore[arg-type]
    begun = []
    for _ in range(100):
        with pytest.raises(RequestTimeout):
            asked.prepared()
        begun.append(waiting.done.count("begin"))
        now[0] += bounded.ANSWER_WITHIN_S
    assert begun[:9] == [1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert begun[-1] - begun[-9] == 1, "but every 80 s at least"


def test_one_that_hangs_for_days_holds_no_more_than_a_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "QUESTIONS_MAX", 2)
    monkeypatch.setattr(bounded, "ANSWER_WITHIN_S", 0.001)
    asked = Bounded(Database("bank"), Silent())  # type: ignore[arg-type]
    for _ in range(5):
        asked._again_at = 0.0
        with pytest.raises(RequestTimeout):
            asked.prepared()
    assert len(asked._under_way) == 2
    with pytest.raises(RequestTimeout, match=r"was not asked now; it is asked again in \d+ s"):
        asked._again_at += 10
        asked.prepared()


def test_of_more_than_may_ask_at_once_each_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "QUESTIONS_MAX", 2)
    bank, answers, line_is_long = Database("bank"), list[object](), threading.Event()

    def answer() -> list[Any]:
        assert line_is_long.wait(5) and len(asked._under_way) <= 2
        return []

    monkeypatch.setattr(bank, "prepared", answer)
    asked = Bounded(bank, InThreads())  # type: ignore[arg-type]
    asking = [threading.Thread(target=lambda: answers.append(asked.prepared()), daemon=True) for _ in range(5)]
    for number, thread in enumerate(asking, 1):
        thread.start()
        while len(asked._under_way) + len(asked._in_line) < number:
            threading.Event().wait(0.001)
    line_is_long.set()
    for thread in asking:
        thread.join(5)
    assert answers == [[]] * 5 and not asked._in_line


def test_who_waited_for_a_turn_does_not_ask_one_that_has_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "QUESTIONS_MAX", 1)
    asked = Bounded(Database("bank"), Silent())  # type: ignore[arg-type]
    first = asked._begin(list)
    raised: list[BaseException] = []

    def ask() -> None:
        with pytest.raises(RequestTimeout, match="was not asked now") as caught:
            asked.prepared()
        raised.append(caught.value)

    second = threading.Thread(target=ask, daemon=True)
    second.start()
    while not asked._in_line:
        threading.Event().wait(0.001)
    with pytest.raises(RequestTimeout):
        first()
    asked._under_way.clear()
    asked._next_in_line()
    second.join(5)
    assert raised


def test_many_that_are_not_answered_at_once_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded.time, "monotonic", lambda: 100.0)
    asked = Bounded(Database("bank"), Silent())  # type: ignore[arg-type]
    for wait in [asked._begin(list) for _ in range(5)]:
        with pytest.raises(RequestTimeout):
            wait()
    assert asked._again_at == 100 + 2 * bounded.ANSWER_WITHIN_S


def test_one_that_answers_again_is_asked_at_once(wakes: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, ended = Database("bank"), threading.Event()

    def late() -> list[Any]:
        assert wakes.wait(30)
        return []

    asked = Bounded(bank, InThreads())  # type: ignore[arg-type]
    monkeypatch.setattr(bank, "prepared", late)
    with pytest.raises(RequestTimeout, match="bank has not answered"):
        asked.prepared()
    wakes.set()
    while asked._under_way:
        ended.wait(0.001)
    assert asked.prepared() == []


def test_a_time_out_that_the_database_itself_tells_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Database("bank")

    def refused() -> list[Any]:
        raise TimeoutError("connect timed out")

    monkeypatch.setattr(bank, "prepared", refused)
    with pytest.raises(TimeoutError, match="connect timed out"):
        Bounded(bank, InThreads()).prepared()  # type: ignore[arg-type]


def test_a_program_over_a_database_that_hangs_does_not_begin(tmp_path: Path, wakes: threading.Event) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db", creator=hang(wakes))
    with pytest.raises(RequestTimeout, match=r"bank has not answered within 0.05 s"):
        TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None, connect_timeout=0.05)


def test_a_program_waits_as_long_as_it_says_for_a_database_that_wakes_up(
    tmp_path: Path, wakes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect() -> Any:
        threading.Event().wait(0.1)
        return sqlite3.connect(tmp_path / "bank.db", check_same_thread=False)

    engine = sa.create_engine(f"sqlite:///{tmp_path}/bank.db", creator=connect)
    TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None, connect_timeout=None).close()


def test_how_a_lone_writer_ended_is_open_while_its_database_hangs(
    place: Place, wakes: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        participant, proof = place.bank, "7"

    gid = place.core.next_gid()
    place.core.keep_proof(gid, Lost())  # type: ignore[arg-type]
    place.core.ended(gid, "in_doubt")
    monkeypatch.setattr(place.bank, "prove", hang(wakes))
    assert place.core.outcome(gid) is Outcome.OPEN
    monkeypatch.setattr(place.bank, "prove", lambda proof: Finding.PROVED_COMMITTED)
    wakes.set()
    while place.core.participants.find_asked("bank")._under_way:
        threading.Event().wait(0.001)
    assert place.core.outcome(gid) is Outcome.COMMITTED


def test_a_task_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        waiting, is_over = InTasks(), asyncio.Event()

        async def for_ever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                is_over.set()

        hanging = Bounded(Database("bank"), waiting)  # type: ignore[arg-type]
        monkeypatch.setattr(bounded, "ANSWER_WITHIN_S", 0.01)
        # However slow this machine is, it is not yet asked again.
        monkeypatch.setattr(bounded, "time", SimpleNamespace(monotonic=lambda: 0.0))

        def asked() -> str:
            hanging.participant.prepared = lambda: await_only(for_ever())  # type: ignore[method-assign]
            with pytest.raises(RequestTimeout):
                hanging.prepared()
            hanging.participant.prepared = list  # type: ignore[method-assign]
            with pytest.raises(RequestTimeout):
                hanging.prepared()  # that its task was given up is no answer
            for _ in range(5):
                hanging.participant.prepared = lambda: await_only(for_ever())  # type: ignore[method-assign]
                hanging._again_at = 0.0
                with pytest.raises(RequestTimeout):
                    hanging.prepared()
                await_only(asyncio.sleep(0))
                while hanging._under_way:
                    await_only(asyncio.sleep(0))
                assert hanging._missed == 0, "it holds nothing any more, so it is asked again soon"
            hanging.participant.prepared = list  # type: ignore[method-assign]
            with pytest.raises(TimeoutError):
                waiting.apart(lambda: await_only(for_ever()), 0.01)()
            waiting.apart(lambda: 1 / 0, 30)  # nobody waits for that one
            return waiting.apart(lambda: "answer", 30)()

        assert await greenlet_spawn(asked) == "answer"
        await is_over.wait()
        waiting.end()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_question_that_is_interrupted_anywhere_does_not_count_as_under_way_for_ever() -> None:
    """After a hundred of them the database, which is well, would not be asked again."""

    class Joining(InThreads):
        @override
        def apart(self, work: Callable[[], T], within_s: float) -> Callable[[], T]:
            answers: list[T] = []
            thread = threading.Thread(target=lambda: answers.append(work()))
            thread.start()
            thread.join()
            return answers.pop

    asked = Bounded(Database("bank"), Joining())  # type: ignore[arg-type]
    runs = 0
    for interruption in everywhere("troth.transactions.participants.bounded"):
        try:
            interruption.run(asked.prepared)
        except Interrupted:
            pass
        assert not asked._under_way, interruption.where
        runs += 1
    assert runs > 8

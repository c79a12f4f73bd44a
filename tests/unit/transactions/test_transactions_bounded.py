"""A database that hangs keeps nobody waiting but itself."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

sa = pytest.importorskip("sqlalchemy")

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
    place.core.asked = [Bounded(each, waiting) for each in (place.bank, place.stock)]  # type: ignore[arg-type]
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
    asked = Bounded(Database("bank"), Silent())  # type: ignore[arg-type]
    for _ in range(5):
        asked._again_at = 0.0
        with pytest.raises(RequestTimeout):
            asked.prepared()
    assert len(asked._under_way) == 2


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
    with pytest.raises(RequestTimeout, match="bank has not answered"):
        TwoPhaseCommit({"bank": engine}, log=tmp_path / "log", recover_every=None)


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
    while place.core.asked_of("bank")._under_way:
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

        def asked() -> str:
            hanging.participant.prepared = lambda: await_only(for_ever())  # type: ignore[method-assign]
            with pytest.raises(RequestTimeout):
                hanging.prepared()
            hanging.participant.prepared = list  # type: ignore[method-assign]
            with pytest.raises(RequestTimeout):
                hanging.prepared()  # that its task was given up is no answer
            with pytest.raises(TimeoutError):
                waiting.apart(lambda: await_only(for_ever()), 0.01)()
            waiting.apart(lambda: 1 / 0, 30)  # nobody waits for that one
            return waiting.apart(lambda: "answer", 30)()

        assert await greenlet_spawn(asked) == "answer"
        await is_over.wait()
        waiting.end()

    asyncio.run(asyncio.wait_for(main(), 10))

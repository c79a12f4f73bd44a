"""Threads that take turns: in their order, within their time, and whenever one of them is interrupted."""

import dis
import functools
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest

from troth.client.registers import turns
from troth.client.registers.turns import Places, Turns
from troth.errors import Overloaded, Unavailable

LONG_S = 600.0
"""A call that takes so long is one that hangs."""

SOON_S = 5.0
"""What is not to wait for its time has happened by then: where it does, the test fails and does not hang."""

LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD")
"""Behind instructions that begin so CPython looks whether somebody has pressed Ctrl-C."""


def soon() -> float:
    return time.monotonic() + SOON_S


def come_true(what: Callable[[], bool]) -> None:
    deadline = soon()
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0)


def test_a_key_is_held_by_one_and_forgotten_when_nobody_wants_it() -> None:
    keys = Turns()

    def work() -> None:
        with pytest.raises(Unavailable, match="used up the time"):
            keys.run(b"k", 0.0, lambda: None)
        keys.run(b"j", 0.0, lambda: seen.append(set(keys._queues._queues)))
        seen.append(set(keys._queues._queues))

    seen: list[set[bytes]] = []
    keys.run(b"k", soon(), work)
    assert seen == [{b"k", b"j"}, {b"k"}]
    assert not keys._queues._queues


def test_who_leaves_takes_no_queue_away_but_its_own() -> None:
    """Two have left a queue; the first has taken it away, and a third has begun another, before the second looks."""
    keys = Turns()

    def work() -> None:
        keys._queues._on_left(b"k", {})
        with pytest.raises(Unavailable):
            keys.run(b"k", 0.0, lambda: None)

    keys.run(b"k", soon(), work)


def test_who_came_first_is_let_in_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before one that has just left and comes again: it would have the place back before the others wake up."""
    monkeypatch.setattr(turns, "CALLS_MAX", 2)
    monkeypatch.setattr(turns, "LOOK_AGAIN_S", LONG_S)  # they are woken
    places = Places()
    order: list[object] = []
    threads: list[threading.Thread] = []

    def come(name: int) -> None:
        queued = len(places._queues._queues[b""])
        threads.append(threading.Thread(target=places.run, args=(soon(), lambda: order.append(name)), daemon=True))
        threads[-1].start()
        come_true(lambda: len(places._queues._queues[b""]) > queued)

    def others_come() -> None:
        places.run(soon(), lambda: list(map(come, range(3))))
        places.run(soon(), lambda: order.append("again"))

    deadline = soon()
    places.run(deadline, others_come)
    assert time.monotonic() < deadline, "whoever is woken does not wait for the end of its time"
    for thread in threads:
        thread.join(SOON_S)
    assert order == [0, 1, 2, "again"]


def test_a_place_is_waited_for_no_longer_than_the_call_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "CALLS_MAX", 1)
    places = Places()

    def work() -> None:
        with pytest.raises(Overloaded, match="calls of this client"):
            places.run(time.monotonic() + 0.001, lambda: None)

    places.run(0.0, work)
    assert places.run(0.0, lambda: 5) == 5


def test_whoever_is_interrupted_before_it_wakes_others_does_not_leave_them_asleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Turns()
    let_in = threading.Event()
    long = time.monotonic() + LONG_S
    waiter = threading.Thread(target=keys.run, args=(b"k", long, let_in.set), daemon=True)

    def interrupted(key: bytes, queue: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    def work() -> None:
        waiter.start()
        come_true(lambda: len(keys._queues._queues[b"k"]) == 2)
        monkeypatch.setattr(keys._queues, "_on_left", interrupted)

    with pytest.raises(KeyboardInterrupt):
        keys.run(b"k", soon(), work)
    assert let_in.wait(SOON_S)
    waiter.join(SOON_S)


def test_whoever_waits_for_long_looks_again_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds that wait for an acceptor that hangs cost nothing; and no time but its own ends a wait."""
    keys = Turns()
    looks: list[float] = []

    class Bell:
        def acquire(self, timeout: float = 0.0) -> None:
            looks.append(timeout)

    def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(turns, "threading", SimpleNamespace(Lock=Bell))
            patch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: sum(looks)))
            with pytest.raises(Unavailable, match="used up the time"):
                keys.run(b"k", LONG_S, lambda: None)

    keys.run(b"k", soon(), work)
    waits = looks[1:]  # the bell is new: it was taken at once
    assert waits[0] <= 0.1 and max(waits) <= 5.0 and len(waits) < LONG_S / 3
    assert sum(waits) == pytest.approx(LONG_S)


@functools.cache
def handlers(code: CodeType) -> list[Any]:
    return dis._parse_exception_table(code)  # type: ignore[attr-defined,no-any-return]


def handler(code: CodeType, offset: int) -> int | None:
    return next((each.target for each in handlers(code) if each.start <= offset < each.end), None)


@functools.cache
def opname_at(code: CodeType, offset: int) -> str:
    return next(each.opname for each in dis.get_instructions(code) if each.offset == offset)


def interrupted_at(point: int, work: Callable[[], object]) -> bool:
    """Do *work* with Ctrl-C pressed the *point*-th time that turns.py lets CPython look for it; False: it ends before.

    An interrupt is handled where the instruction is that looks for it. A trace function can only raise before the next
    one, so where that is handled elsewhere is no such point.
    """
    met = 0
    last: dict[FrameType, int] = {}

    def local(frame: FrameType, event: str, _: object) -> Any:
        nonlocal met
        before, now, code = last.get(frame), frame.f_lasti, frame.f_code
        if event == "opcode":
            last[frame] = now
            if (
                before is not None
                and opname_at(code, before).startswith(LOOKS)
                and handler(code, before) == handler(code, now)
            ):
                met += 1
                if met == point:
                    raise KeyboardInterrupt
        return local

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_globals.get("__name__") != turns.__name__:
            return None
        frame.f_trace_opcodes = True
        return local

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    except Unavailable:
        pass
    finally:
        sys.settrace(tracing)
    return False


def test_a_key_is_free_again_whenever_the_one_who_had_it_is_interrupted() -> None:
    keys = Turns()
    point = 1
    while interrupted_at(point, lambda: keys.run(b"k", soon(), lambda: None)):
        assert keys.run(b"k", 0.0, lambda: True), point
        assert not keys._queues._queues
        point += 1
    assert point > 10


def test_a_key_is_free_again_whenever_one_that_waited_is_interrupted() -> None:
    keys = Turns()
    point = 1

    def waits() -> bool:
        return interrupted_at(point, lambda: keys.run(b"k", time.monotonic() + 0.001, lambda: None))

    while keys.run(b"k", soon(), waits):
        assert keys.run(b"k", 0.0, lambda: True), point
        assert not keys._queues._queues
        point += 1
    assert point > 10

"""Cycles of waits, and who has to give way."""

from functools import partial
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from troth.transactions.deadlocks import Detector, cycles, youngest
from troth.transactions.participants.base import Wait


def test_a_circle_over_two_databases_is_found() -> None:
    assert cycles([("a", "b"), ("b", "a"), ("c", "a")]) == [frozenset("ab")]
    assert cycles([("a", "b"), ("b", "c"), ("c", "a"), ("x", "y")]) == [frozenset("abc")]
    assert cycles([("a", "b"), ("b", "c")]) == []
    assert cycles([("a", "a")]) == []


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=20))
def test_without_one_of_each_circle_no_circle_is_left(edges: list[tuple[str, str]]) -> None:
    gone: set[str] = set()
    while True:
        left = [(a, b) for a, b in edges if not {a, b} & gone]
        found = cycles(left)
        if not found:
            break
        gone |= {min(circle) for circle in found}
    # Whoever waits for nobody can be taken away; at last nobody is left.
    waiting = {a for a, b in left if a != b}
    while waiting:
        free = {a for a in waiting if not any(b in waiting and b != a for w, b in left if w == a)}
        assert free
        waiting -= free


def test_the_youngest_is_named_by_epoch_then_sequence() -> None:
    assert youngest(["T1.logname0.c.2.1", "T1.logname0.c.1.zz"]) == "T1.logname0.c.2.1"
    assert youngest(["T1.logname0.c.2.z", "T1.logname0.c.2.10"]) == "T1.logname0.c.2.10"


def test_a_circle_is_broken_when_two_looks_in_a_row_have_seen_it() -> None:
    """The looks at different databases are not of one moment: a circle seen once may never have been one."""
    old, young = (f"T1.abcdefgh.0.1.{number}" for number in (1, 2))
    edges: list[tuple[str, str]] = []
    cancelled: list[str] = []

    def waits() -> list[Wait]:
        return [Wait(waiter, holder, partial(cancelled.append, waiter)) for waiter, holder in edges]

    core: Any = SimpleNamespace(participants=SimpleNamespace(asked=[SimpleNamespace(waits=waits)]))
    detector = Detector(core)
    circle = [(old, young), (young, old)]
    for seen, victims in ((circle, []), ([], []), (circle, []), (circle, [young])):
        edges[:] = seen
        assert detector.look() == victims
    assert cancelled == [young]


def test_what_cannot_be_asked_or_cancelled_keeps_no_other_circle_from_being_broken() -> None:
    gids = [f"T1.abcdefgh.0.1.{number}" for number in (1, 2, 3, 4)]
    cancelled: list[str] = []

    def away() -> list[Wait]:
        raise OSError("as asked")

    def waits() -> list[Wait]:
        edges = [(gids[0], gids[1]), (gids[1], gids[0]), (gids[2], gids[3]), (gids[3], gids[2])]
        return [
            Wait(waiter, holder, away if waiter == gids[1] else partial(cancelled.append, waiter))  # type: ignore[arg-type]
            for waiter, holder in edges
        ]

    core: Any = SimpleNamespace(
        participants=SimpleNamespace(asked=[SimpleNamespace(waits=away), SimpleNamespace(waits=waits)])
    )
    detector = Detector(core)
    detector.look()
    assert set(detector.look()) == {gids[1], gids[3]}
    assert cancelled == [gids[3]]

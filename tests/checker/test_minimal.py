"""The smallest illegal part: illegal by itself, really smaller, and made by leaving out only what may be left out."""

import random
from collections.abc import Sequence

import pytest
from msgspec import structs

from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History
from troth.verify.linearizability import Budget, check_linearizable
from troth.verify.linearizability.minimal import cut, removable_calls, shrink, unseen
from troth.verify.models import Call, Model, MultiRegister, Register
from troth.verify.verdict import Status

from .brute import linearizable
from .random_histories import OBJECTS, random_history

SMOKE, DEEP = 120, 4000
COUNTS = [
    pytest.param(0, SMOKE, id="smoke"),
    pytest.param(2_000_000, DEEP, id="deep", marks=[pytest.mark.campaign, pytest.mark.timeout(3600)]),
]


def left_out(history: History, model: Model, rng: random.Random) -> History:
    """*history* without some of what the object says may be left out."""
    every = range(len(history))
    if isinstance(model, Register):
        primitives = [model.primitive(op, history.reading) for op in history.operations]
        groups: Sequence[tuple[int, ...]] = unseen(primitives, every)
    else:
        groups = removable_calls(model, model.calls(history))(every)
    gone = {index for group in groups if rng.random() < 0.5 for index in group}
    return history.where(set(every) - gone)


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", OBJECTS)
def test_leaving_out_what_may_be_left_out_keeps_a_legal_history_legal(name: str, start: int, count: int) -> None:
    smaller = 0
    for seed in range(start, start + count):
        history, model = random_history(name, seed, operations=8)
        if not linearizable(history, model):
            continue
        less = left_out(history, model, random.Random(seed))
        smaller += len(less) < len(history)
        assert linearizable(less, model), (name, seed)
    assert smaller > count // 20


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", OBJECTS)
def test_the_smallest_part_is_illegal_by_itself(name: str, start: int, count: int) -> None:
    """As the oracle says, with what was still open at the failure taken as crashed."""
    shown = smaller = 0
    for seed in range(start, start + count):
        history, model = random_history(name, seed, operations=9)
        verdict = check_linearizable(history, model, budget=Budget(configurations_max=20_000))
        if verdict.status is not Status.ILLEGAL:
            continue
        example = verdict.counterexample
        assert example is not None and example.operation in example.minimal, (name, seed)
        part = history.where(example.minimal)
        assert not linearizable(part, model), (name, seed)
        shown += 1
        smaller += len(part) < len(history)
    assert smaller >= shown // 3


@pytest.mark.parametrize(
    ("name", "values", "decided"), [("queue", [1, 0, 0], "queue-order"), ("stack", [0, 1, 1], "jit-model")]
)
def test_what_was_refused_for_what_comes_later_is_shown_with_it(
    name: str, values: list[int], decided: str
) -> None:
    """Enqueue 1, enqueue 0, dequeue 0, and 0 once more, so that only a search decides: the first may not even enter."""
    rows = [("enqueue", values[0], None), ("enqueue", values[1], None), ("dequeue", None, 0)]
    rows += [("enqueue", values[2], None)]
    events = [
        Event(type=kind, process=0, f=f, value=argument if kind is EventType.INVOKE else result)
        for f, argument, result in rows
        for kind in (EventType.INVOKE, EventType.OK)
    ]
    verdict = check(pair(events), object=name)
    assert verdict.status is Status.ILLEGAL and verdict.algorithms == (decided,)
    example = verdict.counterexample
    assert example is not None and example.minimal == (0, 1, 2)


def test_a_write_may_not_go_while_a_failed_cas_looks_at_what_it_overwrote() -> None:
    """write 1, write 2, failed cas from 1: without the second write the cas could not have failed."""
    history, _ = random_history("cas-register", 0)
    rows = [("write", 1, 1, EventType.OK), ("write", 2, 2, EventType.OK), ("cas", (1, 3), None, EventType.FAIL)]
    operations = [
        structs.replace(
            history.operations[0], index=at, process=at, f=f, argument=argument, result=result, outcome=outcome,
            invoked=2 * at, completed=2 * at + 1, error=None,
        )
        for at, (f, argument, result, outcome) in enumerate(rows)
    ]  # fmt: skip
    whole = History.of(operations, reading=structs.replace(history.reading, failed="observed"))
    primitives = [Register().primitive(op, whole.reading) for op in whole.operations]
    assert sorted(unseen(primitives, range(3))) == [(0,), (2,)]
    assert unseen(primitives, range(2)) == [(0,), (1,)]


def test_a_transaction_may_not_go_while_a_failed_cas_looks_at_what_it_overwrote() -> None:
    """The same of registers that are written together."""
    writes = {at: Call(f="txn", argument=(("w", "x", at),), result=(("w", "x", at),)) for at in (1, 2)}
    refused = Call(f="txn", argument=(("unless", "x", (1, 3)),), result=(("unless", "x", (1, 3)),))
    assert MultiRegister().removable(writes) == [(1,), (2,)]
    assert MultiRegister().removable({**writes, 3: refused}) == [(3,)]
    elsewhere = Call(f="txn", argument=(("unless", "y", (1, 3)),), result=(("unless", "y", (1, 3)),))
    assert MultiRegister().removable({**writes, 3: elsewhere}) == [(1,), (2,), (3,)]


def test_an_unobserved_write_may_not_go_where_what_follows_would_be_seen() -> None:
    """A failed cas from "b" after write "b", append "b"; and an append onto what was deleted."""
    assert unseen([(2, "b", None, False), (4, "b", None, False), (1, "b", None, False)], range(3)) == [(2,)]
    assert unseen([(2, None, None, False), (4, "x", None, False), (0, "x", None, False)], range(3)) == [(2,)]
    # Nobody looks: then both may go, and of a read its own prefixes may not.
    assert unseen([(2, "b", None, False), (4, "c", None, False)], range(2)) == [(0,), (1,)]
    assert unseen([(2, "a", None, False), (4, "q", None, False), (0, "ab", None, False)], range(3)) == [(2,), (1,)]


def test_what_is_open_at_the_end_of_a_part_has_crashed() -> None:
    """A read that has not returned says nothing; a write may still happen."""
    primitives = [(0, 1, None, False), (2, 1, None, False), (2, 2, None, False)]
    assert cut(primitives, [0, 2, 4, 5]) == [None, (2, 1, None, True), (2, 2, None, False)]


def test_shrinking_stops_at_its_bound() -> None:
    """What is found by then is kept; it is never empty."""
    tried = []

    def illegal(timeline: Sequence[int]) -> bool:
        tried.append(len(timeline))
        return any(code >> 1 == 7 for code in timeline)

    timeline = [code for index in range(100) for code in (2 * index, 2 * index + 1)]
    assert shrink(timeline, lambda left: [(index,) for index in left], illegal) == [7]
    tried.clear()
    assert 7 in shrink(timeline, lambda left: [(index,) for index in left], illegal, events_max=150)
    assert len(tried) <= 3


def test_the_text_draws_the_smallest_part() -> None:
    """One line an operation, bars where they were open."""
    for seed in range(200):
        history, model = random_history("cas-register", seed, operations=20)
        verdict = check(history, object=model)
        if verdict.status is Status.ILLEGAL:
            text = verdict.text(lines_max=60)
            example = verdict.counterexample
            assert example is not None
            assert f"the smallest illegal part, {len(example.minimal)} of {len(history)} operations" in text
            bars = [line for line in text.splitlines() if "|=" in line]
            assert len(bars) == len(example.minimal)
            return
    raise AssertionError("no illegal history was made")


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_the_smallest_part_without_real_time(start: int, count: int) -> None:
    """Sequential consistency: illegal by itself, too, as the oracle says."""
    shown = smaller = 0
    names = list(OBJECTS)
    for seed in range(start, start + 3 * count):
        history, model = random_history(names[seed % len(names)], seed, operations=8)
        verdict = check(history, "sequential", model)
        if verdict.status is not Status.ILLEGAL or verdict.counterexample is None:
            continue
        kept = verdict.counterexample.minimal
        if kept:
            assert not linearizable(history.where(kept), model, realtime=False), seed
            shown += 1
            smaller += len(kept) < len(history)
    assert smaller > shown // 2 > 0

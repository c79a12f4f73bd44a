"""Transactions whose answer was lost, and with it which branch ran: against oracles that try every way."""

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from msgspec import structs

from troth.verify.branches import WAYS_MAX, flat, is_unsaid, ways
from troth.verify.check import check
from troth.verify.history import EventType, History, Operation, Value
from troth.verify.linearizability import Budget, check_linearizable
from troth.verify.models import MultiRegister
from troth.verify.transactions import check_transactions
from troth.verify.verdict import Status

from .brute import linearizable, replays
from .random_histories import random_history
from .test_transactions_differential import expected as models_expected
from .transactions_brute import REGISTER, random_transactions

DEEP = int(os.environ.get("TROTH_FUZZ", "3000"))
COUNTS = [
    pytest.param(0, 300, id="smoke"),
    pytest.param(1_000_000, DEEP, id="deep", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]


def with_operations(history: History, changed: dict[int, Operation]) -> History:
    operations = [changed.get(op.index, op) for op in history.operations]
    return History(operations, timeline=history.timeline, reading=history.reading, length=history.length)


def crashed(history: History) -> list[Operation]:
    return [op for op in history.operations if op.f == "txn" and op.outcome is EventType.INFO]


def forked(history: History, rng: random.Random, values: tuple[Value, ...]) -> History:
    """*history*, in which what crashed may have done something else instead, which stands in either branch."""
    changed: dict[int, Operation] = {}
    for op in crashed(history):
        asked: tuple[Value, ...] = op.argument if isinstance(op.argument, tuple) else ()
        other = tuple(("w", rng.choice("xy"), rng.choice(values)) for _ in range(rng.randrange(3)))
        if rng.random() < 0.5:
            # It was not asked for what somebody saw.
            asked = tuple(("w", rng.choice("xy"), rng.choice(values)) for _ in range(rng.randrange(3)))
        if rng.random() < 0.3:
            inner = (("w", rng.choice("xy"), rng.choice(values)),)
            asked = (*asked, ("either", inner, other)) if rng.random() < 0.5 else (("either", inner, asked),)
        pair = (asked, other) if rng.random() < 0.5 else (other, asked)
        before = asked[:1] if rng.random() < 0.2 else ()
        changed[op.index] = structs.replace(op, argument=(*before, ("either", *pair)))
    return with_operations(history, changed)


def every_way(value: Value) -> Iterator[tuple[Value, ...]]:
    """The same as `ways`, from the definition."""
    assert isinstance(value, tuple)
    if not value:
        yield ()
        return
    first, *rest = value
    assert isinstance(first, tuple)
    heads = [*every_way(first[1]), *every_way(first[2])] if first[0] == "either" else [(first,)]
    for head in heads:
        for tail in every_way(tuple(rest)):
            yield (*head, *tail)


def resolved(history: History) -> Iterator[History]:
    """*history* for every choice of a way for everything that crashed."""
    crashes = crashed(history)
    for chosen in itertools.product(*(list(every_way(op.argument)) for op in crashes)):
        asked = zip(crashes, chosen, strict=True)
        yield with_operations(history, {op.index: structs.replace(op, argument=way) for op, way in asked})


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_what_may_have_gone_either_way_is_judged_as_by_trying_both(start: int, count: int) -> None:
    seen = Counter[Status]()
    for seed in range(start, start + 4 * count):
        name = ("multi-register", "multi-register, all operations")[seed % 2]
        history, model = random_history(name, seed, operations=9)
        if not crashed(history):
            continue
        history = forked(history, random.Random(seed), (0, 1, 2, None))
        verdict = check_linearizable(history, model, budget=Budget(configurations_max=20_000))
        legal = any(linearizable(way, model) for way in resolved(history))
        assert verdict.status is (Status.OK if legal else Status.ILLEGAL), seed
        if verdict:
            assert verdict.witness is not None and replays(history, model, verdict.witness) == "", seed
        else:
            assert verdict.counterexample is not None, seed
            if minimal := verdict.counterexample.minimal:
                assert not any(linearizable(way, model) for way in resolved(history.where(minimal))), seed
        if seed % 3 == 0:
            alone = check(history, "sequential", model)
            in_order = any(linearizable(way, model, realtime=False) for way in resolved(history))
            assert alone.status is (Status.OK if in_order else Status.ILLEGAL), seed
        seen[verdict.status] += 1
    assert min(seen[Status.OK], seen[Status.ILLEGAL]) > count // 12


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_what_is_not_known_to_have_done_anything_decides_nothing(start: int, count: int) -> None:
    """A transaction that crashed and did not say what it would write may have written anything, or nothing."""
    seen = Counter[Status]()
    anything = tuple(
        tuple(("w", key, value) for key, value in zip("xy", chosen, strict=True) if value != "stays")
        for chosen in itertools.product(("stays", None, 0, 1), repeat=2)
    )
    for seed in range(start, start + 4 * count):
        history, model = random_history("multi-register, all operations", seed, operations=9)
        lost = crashed(history)[:2]
        if not lost:
            continue
        history = with_operations(history, {op.index: structs.replace(op, argument=None) for op in lost})
        for realtime, asked in ((True, "linearizable"), (False, "sequential")):
            verdict = check(history, asked, model)
            if verdict.status is not Status.UNKNOWN or realtime:
                # Further values that somebody read would change nothing: nobody else writes them.
                legal = any(
                    linearizable(
                        with_operations(
                            history,
                            {op.index: structs.replace(op, argument=w) for op, w in zip(lost, way, strict=True)},
                        ),
                        model,
                        realtime=realtime,
                    )
                    for way in itertools.product(anything, repeat=len(lost))
                )
                assert verdict.status is not Status.OK or legal, seed
                assert verdict.status is not Status.ILLEGAL or not legal, seed
                seen[verdict.status] += 1
    assert min(seen[Status.OK], seen[Status.ILLEGAL], seen[Status.UNKNOWN]) > count // 200


@pytest.mark.parametrize(
    "count", [100, pytest.param(300, marks=pytest.mark.slow), pytest.param(DEEP, marks=pytest.mark.campaign)]
)
def test_models_of_transactions_take_the_way_that_was_read(count: int) -> None:
    seen = Counter[tuple[Status, bool]]()
    for seed in range(count):
        history = random_transactions(seed, REGISTER, count=5)
        if not 0 < len(crashed(history)) < 3:
            continue
        fresh = tuple(range(100, 103))
        rng = random.Random(seed)
        history = forked(history, rng, fresh[:1] if rng.random() < 0.5 else fresh)
        told = [models_expected(way, REGISTER) for way in resolved(history)]
        for model in told[0]:
            verdict = check_transactions(history, REGISTER, model)
            if verdict.status is Status.UNKNOWN or any(model not in each for each in told):
                continue
            legal = any(each[model] for each in told)
            assert verdict.status is (Status.OK if legal else Status.ILLEGAL), (seed, model)
            for ruled_out in (*verdict.not_, *verdict.also_not):
                assert not any(each.get(ruled_out, False) for each in told), (seed, model, ruled_out)
            seen[verdict.status, model == "serializable"] += 1
    assert min(seen[Status.OK, True], seen[Status.ILLEGAL, True]) > count // 60


def operation(outcome: EventType, argument: Value) -> Operation:
    return Operation(
        index=0,
        process=0,
        f="txn",
        key=None,
        argument=argument,
        result=None,
        outcome=outcome,
        invoked=0,
        completed=1,
    )


def test_ways_are_counted_before_they_are_made() -> None:
    fork = ("either", (("w", "x", 1),), (("w", "x", 2),))
    assert ways((fork, ("w", "y", 0))) == [
        (("w", "x", 1), ("w", "y", 0)),
        (("w", "x", 2), ("w", "y", 0)),
    ]
    assert ways((fork,) * 7) is not None and len(ways((fork,) * 7) or ()) == 128
    assert len(ways((fork,) * 8) or ()) == WAYS_MAX
    assert ways((fork,) * 9) is None
    assert ways((("either", (fork,) * 9, ()),)) is None
    assert is_unsaid(operation(EventType.INFO, (fork,) * 9)) and not is_unsaid(
        operation(EventType.INFO, (fork,) * 8)
    )
    assert is_unsaid(operation(EventType.INFO, None)) and not is_unsaid(operation(EventType.FAIL, None))
    assert list(flat((fork, ("w", "y", 0)))) == [("w", "x", 1), ("w", "x", 2), ("w", "y", 0)]
    assert MultiRegister().unsaid(operation(EventType.INFO, None))

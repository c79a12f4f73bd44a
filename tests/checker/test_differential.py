"""Every checker against an oracle that tries all orders, on many small random histories.

The default run is a smoke test; ``TROTH_FUZZ=20000 pytest -m slow tests/checker`` takes that many histories each.
"""

import os
from collections import Counter

import pytest

from troth.verify.accesses import accesses_of
from troth.verify.check import check
from troth.verify.linearizability import Budget, check_linearizable, generic
from troth.verify.linearizability.register import search
from troth.verify.models import Kv, Register, UnorderedQueue
from troth.verify.staleness import RememberingRegister
from troth.verify.verdict import Status

from .brute import linearizable, replays
from .brute_weak import convergent, others_guarantee, own_guarantee, views
from .random_histories import OBJECTS, crowded_bag, crowded_register, crowded_texts, random_history
from .strange_histories import STRANGE, strange_history
from .weak_histories import weak_history

SMOKE = 400
DEEP = int(os.environ.get("TROTH_FUZZ", "3000"))
COUNTS = [
    pytest.param(0, SMOKE, id="smoke"),
    pytest.param(1_000_000, DEEP, id="deep", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]


def expected(legal: bool) -> Status:
    return Status.OK if legal else Status.ILLEGAL


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", OBJECTS)
def test_linearizable_as_the_oracle_says(name: str, start: int, count: int) -> None:
    """Same verdict; every witness replays; every counterexample names an operation that says something."""
    seen = set()
    unknown = 0
    for seed in range(start, start + count):
        # The oracle tries crashed enqueues in every order, so there must be few.
        history, model = random_history(name, seed, operations=9 if name == "queue, unique values" else 12)
        verdict = check_linearizable(history, model, budget=Budget(configurations_max=20_000))
        if verdict.status is Status.UNKNOWN:
            # Allowed, but rare: crashed enqueues in any order, for example.
            unknown += 1
            continue
        assert verdict.status is expected(linearizable(history, model)), (name, seed)
        seen.add(verdict.status)
        if verdict:
            assert verdict.witness is not None
            assert replays(history, model, verdict.witness) == "", (name, seed)
        else:
            example = verdict.counterexample
            assert example is not None and example.reason, (name, seed)
            # What is called the longest legal order must be one.
            place = {index: at for at, index in enumerate(sorted(example.prefix))}
            order = tuple(place[index] for index in example.prefix)
            assert replays(history.where(example.prefix), model, order) == "", (name, seed)
    assert unknown <= count // 100
    assert seen == {Status.OK, Status.ILLEGAL}


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_repeated_values_are_told_apart_as_a_search_says(start: int, count: int) -> None:
    """Reads and writes of few values by many clients, some of which crash: too long for the oracle."""
    seen = set()
    for seed in range(start, start + count):
        history = crowded_register(seed)
        verdict = check_linearizable(history, Register())
        primitives = [Register().primitive(op, history.reading) for op in history.operations]
        searched = search(primitives, history.timeline, initial=None)
        assert verdict.status.value == searched.status, seed
        seen.add((verdict.status, *verdict.algorithms))
        if verdict:
            assert verdict.witness is not None
            assert replays(history, Register(), verdict.witness) == "", seed
    assert {(Status.OK, "chains"), (Status.ILLEGAL, "chains")} <= seen


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_repeated_texts_are_told_apart_as_a_search_says(start: int, count: int) -> None:
    """The same with appends, where what was read must be taken apart first."""
    seen = set()
    for seed in range(start, start + count):
        history = crowded_texts(seed)
        verdict = check_linearizable(history, Kv())
        primitives = [Kv().primitive(op, history.reading) for op in history.operations]
        searched = search(primitives, history.timeline, initial=history.reading.initial)
        assert verdict.status.value == searched.status, seed
        repeated = len({op.argument for op in history.operations if op.f != "get"})
        if repeated < sum(op.f != "get" for op in history.operations):
            seen.add((verdict.status, *verdict.algorithms))
        if verdict:
            assert verdict.witness is not None
            assert replays(history, Kv(), verdict.witness) == "", seed
    assert {(Status.OK, "chains"), (Status.OK, "jit"), (Status.ILLEGAL, "jit")} <= seen


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_equal_elements_of_unordered_queues_are_told_apart_as_a_search_says(start: int, count: int) -> None:
    seen: Counter[tuple[Status, str]] = Counter()
    bag, budget = UnorderedQueue(), Budget(configurations_max=20_000)
    for seed in range(start, start + count):
        history = crowded_bag(seed)
        verdict = check_linearizable(history, bag, budget=budget)
        searched = generic.search(bag, bag.calls(history), history.timeline, budget=budget)
        if "unknown" not in (verdict.status.value, searched.status):
            assert verdict.status.value == searched.status, seed
        seen.update((verdict.status, algorithm) for algorithm in verdict.algorithms)
        if verdict:
            assert verdict.witness is not None
            assert replays(history, bag, verdict.witness) == "", seed
        elif verdict.status is Status.ILLEGAL and not seed % 10:
            example = verdict.counterexample
            assert example is not None
            if example.minimal:
                part = history.where(example.minimal)
                again = generic.search(bag, bag.calls(part), part.timeline)
                assert again.status == "illegal", seed
    # Few are left to the search.
    assert seen[Status.OK, "queue-order"] > 50 * seen[Status.OK, "jit-model"]
    assert seen[Status.ILLEGAL, "queue-order"] > count // 20


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("object", STRANGE)
def test_nothing_strange_misleads(object: str, start: int, count: int) -> None:
    """Verdict, witness and longest legal order of histories that no store would record."""
    seen = set()
    for seed in range(start, start + count // 8 if start == 0 else start + count):
        history, model = strange_history(object, seed)
        verdict = check_linearizable(history, model, budget=Budget(configurations_max=20_000))
        assert verdict.status is expected(linearizable(history, model)), (object, seed)
        seen.add(verdict.status)
        if verdict:
            witness = verdict.witness
            assert witness is not None
            # An append of nothing says nothing, wherever it may stand.
            silent = [op.index for op in history.operations if op.f == "append" and not op.argument]
            kept = [op.index for op in history.operations if op.index not in silent or op.index in witness]
            place = {index: at for at, index in enumerate(kept)}
            order = tuple(place[index] for index in witness)
            assert replays(history.where(kept), model, order) == "", (object, seed)
        else:
            example = verdict.counterexample
            assert example is not None and example.reason, (object, seed)
            place = {index: at for at, index in enumerate(sorted(example.prefix))}
            order = tuple(place[index] for index in example.prefix)
            assert replays(history.where(example.prefix), model, order) == "", (object, seed)
    assert seen == {Status.OK, Status.ILLEGAL}


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_sequential_as_the_oracle_says(start: int, count: int) -> None:
    """For every object in turn, and for replicated registers."""
    names = list(OBJECTS)
    seen = set()
    for seed in range(start, start + 2 * count):
        if seed % 3:
            history, model = random_history(names[seed % len(names)], seed, operations=9)
        else:
            history, model = weak_history(seed), Register()
        verdict = check(history, "sequential", model)
        assert verdict.status is expected(linearizable(history, model, realtime=False)), seed
        seen.add(verdict.status)
        if verdict:
            assert verdict.witness is not None
            assert replays(history, model, verdict.witness, realtime=False) == "", seed
    assert seen == {Status.OK, Status.ILLEGAL}


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", ["register", "register, unique values", "cas-register", "kv"])
def test_versions_behind_as_the_oracle_says(name: str, start: int, count: int) -> None:
    """k versions behind; with k = 0 it is linearizability."""
    for seed in range(start, start + count):
        history, model = random_history(name, seed, operations=9)
        behind = seed % 3
        remembering = RememberingRegister(model.reading(history.reading).init(), behind=behind)
        verdict = check(history, "bounded", model, versions_behind_max=behind)
        assert verdict.status is expected(linearizable(history, remembering)), (name, seed)
        if behind == 0:
            assert verdict.status is check(history, "linearizable", model).status, (name, seed)


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_weak_models_as_the_oracles_say(start: int, count: int) -> None:
    """PRAM, causal, causal+ and the four session guarantees; and what implies what."""
    seen = set()
    for seed in range(start, start + 4 * count):
        history = weak_history(seed)
        accesses = accesses_of(history, "test")
        sessions = range(len(accesses.sessions))
        real = accesses.thin_air is None
        legal = {
            "pram": views(accesses, through_reads=False),
            "causal": views(accesses, through_reads=True),
            "causal+": convergent(accesses),
        }
        for guarantee in ("read-your-writes", "monotonic-reads"):
            legal[guarantee] = real and all(own_guarantee(accesses, session, guarantee) for session in sessions)
        for guarantee in ("monotonic-writes", "writes-follow-reads"):
            legal[guarantee] = real and all(others_guarantee(accesses, session, guarantee) for session in sessions)
        for model, fine in legal.items():
            verdict = check(history, model)
            assert verdict.status is expected(fine), (model, seed)
            seen.add((model, fine))
        if legal["pram"]:
            assert check(history, "session"), seed
            assert check(history, "monotonic-writes"), seed
        if legal["causal"]:
            assert check(history, "session-guarantees") and check(history, "causal-weak"), seed
        if check(history, "sequential", Register()):
            assert legal["causal"] and legal["causal+"], seed
    assert {model for model, fine in seen if not fine} == set(legal)

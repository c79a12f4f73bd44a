"""The searches by themselves, and in their rare turns, against an oracle that tries all orders."""

import os

import pytest

from troth.verify.history import History
from troth.verify.linearizability import Budget, check_linearizable, generic, pairing, pending, placing, register
from troth.verify.linearizability.foresight import foreseeing
from troth.verify.linearizability.presence import Presence
from troth.verify.models import Model, Queue, Register, Stack
from troth.verify.primitives import APPEND, CAS, READ
from troth.verify.verdict import Status

from .brute import linearizable, replays
from .tangled_histories import TANGLED, tangled_history

DEEP = int(os.environ.get("TROTH_FUZZ", "3000"))
COUNTS = [
    pytest.param(0, 200, id="smoke"),
    pytest.param(1_000_000, DEEP, id="deep", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]
REGISTERS = tuple(name for name in TANGLED if name.startswith(("register", "cas-register", "kv")))


def decisions(history: History, model: Model) -> dict[str, str]:
    """What every way of deciding that fits says of *history*."""
    budget = Budget(configurations_max=20_000)
    found = {"whole": check_linearizable(history, model, budget=budget).status.value}
    reading = history.reading
    if len(history.all_keys()) == 1 or not model.keyed:
        calls = model.calls(history)
        found["generic"] = generic.search(model, calls, history.timeline, budget=budget).status
        if type(model) in (Queue, Stack):
            ahead = foreseeing(model, calls, history.timeline)
            found["foreseeing"] = generic.search(ahead, calls, history.timeline, budget=budget).status
        if type(model) is Queue and pairing.told_apart(calls, history.timeline).certain:
            found["pairing"] = "illegal"
        if isinstance(model, Register):
            primitives = [model.primitive(op, reading) for op in history.operations]
            found["register"] = register.search(
                primitives, history.timeline, initial=model.init(), budget=budget
            ).status
    return found


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", TANGLED)
def test_every_way_of_deciding_says_what_the_oracle_says(name: str, start: int, count: int) -> None:
    seen = set()
    for seed in range(start, start + count):
        history, model = tangled_history(name, seed)
        legal = linearizable(history, model)
        for way, status in decisions(history, model).items():
            assert status == ("ok" if legal else "illegal"), (name, seed, way)
        verdict = check_linearizable(history, model)
        if verdict:
            assert verdict.witness is not None and replays(history, model, verdict.witness) == "", (name, seed)
        seen.add(verdict.status)
    assert seen == {Status.OK, Status.ILLEGAL}


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", TANGLED)
def test_rare_turns_of_the_search_change_no_verdict(
    name: str, start: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One configuration followed at a time, one placement tried, one place kept to go back to, and no patience with
    states that nobody looks at."""
    monkeypatch.setattr(placing, "_COLLAPSE_FROM", 2)
    monkeypatch.setattr(pending, "_CHECKPOINTS_MAX", 2)
    for module in (generic, register):
        monkeypatch.setattr(module, "_BEAM", 1)
        monkeypatch.setattr(module, "_STEPS_MAX", 1)
        monkeypatch.setattr(module, "_WIDER", 2)
    monkeypatch.setattr(generic, "_CHECKPOINTS_MAX", 2)
    for seed in range(start, start + count):
        history, model = tangled_history(name, seed)
        legal = linearizable(history, model)
        for way, status in decisions(history, model).items():
            assert status == ("ok" if legal else "illegal"), (name, seed, way)


@pytest.mark.parametrize(("start", "count"), COUNTS)
@pytest.mark.parametrize("name", REGISTERS)
def test_what_is_refuted_without_search_has_no_place(name: str, start: int, count: int) -> None:
    refuted = 0
    for seed in range(start, start + count):
        history, model = tangled_history(name, seed)
        assert isinstance(model, Register)
        primitives = [model.primitive(op, history.reading) for op in history.operations]
        if len(history.all_keys()) > 1 or any(primitive and primitive[0] == APPEND for primitive in primitives):
            continue
        presence = Presence(primitives, history.timeline)
        for place, code in enumerate(history.timeline):
            primitive, op = primitives[code >> 1], history.operations[code >> 1]
            if not code & 1 or primitive is None or primitive[0] not in (READ, CAS):
                continue
            if presence.refutes(primitive[1], op.index, place, model.init()):
                assert not linearizable(history, model), (name, seed, op.index)
                refuted += 1
                break
    assert refuted > count // 100 or name.startswith("kv")


@pytest.mark.parametrize("seed", [10_005_583, 10_007_369, 10_011_390])
def test_a_crashed_cas_may_look_at_a_state_at_any_later_time(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read looks at what it goes on from, and yet that state is not given up."""
    monkeypatch.setattr(placing, "_COLLAPSE_FROM", 2)
    history, model = tangled_history("cas-register", seed, operations=10)
    assert isinstance(model, Register)
    primitives = [model.primitive(op, history.reading) for op in history.operations]
    assert register.search(primitives, history.timeline, initial=model.init()).status == "ok"
    assert linearizable(history, model)

"""Schedules repeat; the shapes of partitions are what they are called."""

import random
from itertools import pairwise

import pytest
from torture_memory import MemorySystem

from troth.errors import UsageError
from troth.torture import NEMESES, schedule
from troth.torture.nemesis import SHAPES, bridge, halves, isolated, ring
from troth.torture.system import Power

EVERYTHING = frozenset(Power)


def test_the_same_seed_is_the_same_schedule() -> None:
    assert schedule(5, 60, powers=EVERYTHING) == schedule(5, 60, powers=EVERYTHING)
    assert schedule(5, 60, powers=EVERYTHING) != schedule(6, 60, powers=EVERYTHING)


def test_every_nemesis_strikes_and_none_twice_at_once() -> None:
    faults = schedule(1, 600, powers=EVERYTHING)
    assert {fault.nemesis for fault in faults} == set(NEMESES)
    for name in NEMESES:
        own = [fault for fault in faults if fault.nemesis == name]
        assert all(earlier.end_s < later.begin_s for earlier, later in pairwise(own))
    assert all(0 < fault.begin_s <= fault.end_s <= 600 for fault in faults)
    assert "partition" in "\n".join(fault.describe() for fault in faults)


def test_only_what_is_possible_is_planned() -> None:
    faults = schedule(1, 100, powers={Power.PAUSE})
    assert {fault.nemesis for fault in faults} == {"pause"}
    assert schedule(1, 100, powers=()) == ()


def test_a_nemesis_that_is_not_known_or_not_possible_is_refused() -> None:
    with pytest.raises(UsageError, match="there are kill"):
        schedule(1, 10, powers=EVERYTHING, names=("flood",))
    with pytest.raises(UsageError, match="full-disk is not possible here: disk"):
        schedule(1, 10, powers={Power.KILL}, names=("full-disk",))


FIVE = ("a", "b", "c", "d", "e")


def reached(cut: set[tuple[str, str]], server: str) -> set[str]:
    return {other for other in FIVE if (server, other) not in cut}


def test_shapes_of_five_servers() -> None:
    assert reached(isolated(FIVE), "a") == {"a"} and reached(isolated(FIVE), "b") == {"b", "c", "d", "e"}
    assert reached(halves(FIVE), "a") == {"a", "b"} and reached(halves(FIVE), "e") == {"c", "d", "e"}
    assert reached(bridge(FIVE), "a") == set(FIVE) and reached(bridge(FIVE), "b") == {"a", "b", "c"}
    views = [frozenset(reached(ring(FIVE), server)) for server in FIVE]
    assert all(len(view) == 3 for view in views) and len(set(views)) == 5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_a_shape_is_possible_for_any_number_of_servers(shape: str, count: int) -> None:
    servers = tuple("abcdefg"[:count])
    cut = SHAPES[shape](servers)
    assert all(one in servers and other in servers and one != other for one, other in cut)


@pytest.mark.parametrize("name", NEMESES)
def test_what_a_nemesis_does_it_undoes(name: str) -> None:
    system = MemorySystem()
    nemesis = NEMESES[name]
    if not nemesis.powers <= system.powers():
        return
    for seed in range(20):
        rng = random.Random(seed)
        system.calls.clear()
        inflicted = nemesis.begin(system, rng)
        assert inflicted.words
        nemesis.end(system, inflicted, rng)
        begun = [call.split() for call in system.calls]
        assert len([call for call in begun if call[0] == "kill"]) == len([c for c in begun if c[0] == "restart"])
        assert len([call for call in begun if call[0] == "pause"]) == len([c for c in begun if c[0] == "resume"])
        assert not system.dead
        if name == "partition":
            assert system.calls[-1] == "partition 0"

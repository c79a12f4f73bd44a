"""Engines by name."""

import random

import pytest

from troth.core.config import EngineConfig
from troth.core.engines import ENGINES, engine_kind
from troth.core.interface import NO_EFFECTS, ORIGIN, Membership, SnapshotMeta
from troth.errors import UsageError
from troth.ids import NodeId, Tick


def test_an_engine_is_found_by_its_name() -> None:
    assert {name: engine_kind(name).name for name in ENGINES} == {name: name for name in ENGINES}


def test_an_unknown_engine_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(UsageError, match=r"'zab'; there are: .*raft"):
        engine_kind("zab")


@pytest.mark.parametrize("name", ENGINES)
def test_a_follower_that_hears_nothing_sleeps_until_it_asks_to_lead(name: str) -> None:
    voters = Membership(voters=(NodeId(1), NodeId(2), NodeId(3)))
    engine = engine_kind(name).start(
        node_id=NodeId(1), config=EngineConfig(), rng=random.Random(1), snapshot=SnapshotMeta(ORIGIN, voters)
    )
    until = engine.asleep_until()
    assert until >= EngineConfig().election_timeout_ticks
    for now in range(1, until):
        engine.tick(Tick(now))
        assert engine.take_effects() is NO_EFFECTS
        assert engine.asleep_until() == until
    engine.tick(until)
    assert {send.to for send in engine.take_effects().send} == {2, 3}
    assert engine.asleep_until() <= until, "from now on each tick may matter"

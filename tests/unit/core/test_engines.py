"""Engines by name."""

import random

import pytest

from troth.core.config import EngineConfig
from troth.core.engines import ENGINES, engine_kind
from troth.core.interface import NO_EFFECTS, ORIGIN, EntryId, HardState, Membership, SnapshotMeta
from troth.core.leading.flight import MESSAGES_IN_FLIGHT_MAX
from troth.errors import UsageError
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.simulate.stage import Stage

VOTERS = Membership(voters=(NodeId(1), NodeId(2), NodeId(3)))


def test_an_engine_is_found_by_its_name() -> None:
    assert {name: engine_kind(name).name for name in ENGINES} == {name: name for name in ENGINES}


def test_an_unknown_engine_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(UsageError, match=r"'zab'; there are: .*raft"):
        engine_kind("zab")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("stored", "begins"),
    [
        (HardState(Term(5), NodeId(2)), HardState(Term(9), NodeId(0))),
        (HardState(Term(9), NodeId(2)), HardState(Term(9), NodeId(2))),
        (HardState(Term(12), NodeId(2)), HardState(Term(12), NodeId(2))),
    ],
)
def test_a_server_starts_in_no_earlier_term_than_that_of_its_snapshot(
    name: str, stored: HardState, begins: HardState
) -> None:
    """A crash may leave a snapshot that is durable and a term that was not yet. In the term before it would follow, and
    answer, a leader that was deposed long ago."""
    engine = engine_kind(name).start(
        node_id=NodeId(3),
        config=EngineConfig(),
        rng=random.Random(1),
        snapshot=SnapshotMeta(EntryId(Term(9), LogIndex(100)), VOTERS),
        hard_state=stored,
    )
    assert engine.leader() == (begins.term, 0)
    persist = engine.take_effects().persist
    assert (persist.hard_state if persist else stored) == begins


@pytest.mark.parametrize("name", ENGINES)
def test_who_takes_no_entries_is_sent_less_and_less_until_it_takes_them_again(name: str) -> None:
    """It is the one that cannot keep up: the whole window again with each heartbeat would make that worse."""
    config = EngineConfig(heartbeat_ticks=2, election_timeout_ticks=20, append_bytes_max=1)
    stage = Stage(config=config, consensus=name)
    stage.elect(1)
    stage.run(4)
    stage[3].engine.take_entries(False)
    for _ in range(MESSAGES_IN_FLIGHT_MAX):
        stage.propose(1)
    stage.settle()
    assert sum(messages_with_entries(stage, to=3) for _ in range(20)) < 3 * MESSAGES_IN_FLIGHT_MAX
    assert messages_with_entries(stage, to=3) <= 1
    stage[3].engine.take_entries(True)
    stage.run(8)
    assert stage.commit(3) == stage.commit(1) >= MESSAGES_IN_FLIGHT_MAX


def messages_with_entries(stage: Stage, *, to: int) -> int:
    """How many are sent in the time of one heartbeat."""
    count = 0
    stage.tick_all(stage.config.heartbeat_ticks)
    while stage.in_flight:
        count += sum(bool(getattr(each.message, "entries", ())) for each in stage.in_flight if each.to == to)
        stage.deliver()
    return count


@pytest.mark.parametrize("name", ENGINES)
def test_a_follower_that_hears_nothing_sleeps_until_it_asks_to_lead(name: str) -> None:
    engine = engine_kind(name).start(
        node_id=NodeId(1), config=EngineConfig(), rng=random.Random(1), snapshot=SnapshotMeta(ORIGIN, VOTERS)
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

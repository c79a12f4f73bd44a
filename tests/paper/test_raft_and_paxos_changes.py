"""A membership change begins only if those who are alive can carry it to its end (etcd: strict reconfiguration check).

Under a membership without a quorum alive nothing is decided any more, not even the change that would undo it.
"""

import pytest
from paxos_stage import joining, paxos

from troth.core.config import EngineConfig
from troth.core.interface import Accepted, Member, MembershipChange, ProposeResult, RefusalReason, Refused
from troth.ids import NodeId
from troth.simulate.stage import Stage

TIMEOUT = 20

pytestmark = pytest.mark.parametrize("consensus", ["raft", "paxos"])


def led(consensus: str, *voters: int, others: tuple[int, ...] = (), promote_lag_max: int = 64) -> Stage:
    config = EngineConfig(heartbeat_ticks=2, election_timeout_ticks=TIMEOUT, promote_lag_max=promote_lag_max)
    stage = Stage(voters, others=others, config=config, consensus=consensus)
    stage.elect(1)
    stage.run(4)
    return stage


def without(*nodes: int) -> MembershipChange:
    return MembershipChange(remove=tuple(NodeId(node) for node in nodes))


def with_vote(*nodes: int) -> MembershipChange:
    return MembershipChange(promote=tuple(NodeId(node) for node in nodes))


def watching(node: int) -> MembershipChange:
    return MembershipChange(add_learners={NodeId(node): Member(f"n{node}", promote=False)})


def why(result: ProposeResult) -> tuple[RefusalReason, str]:
    assert isinstance(result, Refused)
    return result.reason, result.detail


def decides(stage: Stage, node: int) -> bool:
    """Whether what this server proposes is decided."""
    before = stage.commit(node)
    stage.propose(node)
    stage.run(4)
    return stage.commit(node) > before


@pytest.mark.parametrize("leaving", [1, 2])
def test_no_live_server_is_removed_that_the_others_can_not_do_without(consensus: str, leaving: int) -> None:
    stage = led(consensus, 1, 2, 3)
    stage.crash(3)
    stage.run(TIMEOUT)
    left = "n2, n3" if leaving == 1 else "n1, n3"
    assert why(stage.change(1, without(leaving))) == (
        RefusalReason.BAD_CHANGE,
        f"n3: not heard. Of the voters {left} 1 would be alive, and without 2 nothing can be decided;"
        " bring back or remove what is not heard first",
    )
    assert decides(stage, 1)


def test_the_dead_server_itself_may_be_removed_and_then_the_live_one(consensus: str) -> None:
    stage = led(consensus, 1, 2, 3)
    stage.crash(3)
    stage.run(TIMEOUT)
    assert isinstance(stage.change(1, without(3)), Accepted)
    stage.run(8)
    assert stage.status(1).membership.voters == (1, 2)
    assert isinstance(stage.change(1, without(2)), Accepted)
    stage.run(8)
    assert stage.status(1).membership.voters == (1,)


def test_a_learner_that_nobody_hears_gets_no_vote(consensus: str) -> None:
    """Beside a single voter it would stop the cluster for good."""
    stage = led(consensus, 1, others=(4,))
    stage.crash(4)
    stage.change(1, watching(4))
    stage.run(1)
    late = RefusalReason.NOT_READY, "n4 has not caught up with the log yet"
    assert why(stage.change(1, with_vote(4))) == late, "it was not asked for long enough to be taken for dead"
    stage.run(TIMEOUT)
    gone = RefusalReason.BAD_CHANGE, "n4 is not heard: it can not become a voter"
    assert why(stage.change(1, with_vote(4))) == gone
    as_voter = MembershipChange(add_voters=joining(4))
    assert why(stage.change(1, as_voter)) == gone, "it is a learner that gets a vote, however that is said"
    assert decides(stage, 1)


def test_a_learner_gets_a_vote_when_it_has_caught_up(consensus: str) -> None:
    stage = led(consensus, 1, 2, 3, others=(4,), promote_lag_max=2)
    stage.change(1, watching(4))
    stage.run(4)
    for _ in range(3):
        stage.propose(1)
    stage.deliver(lambda flying: flying.to in (2, 3))
    stage.deliver(lambda flying: flying.to == 1)
    assert why(stage.change(1, with_vote(4)))[0] is RefusalReason.NOT_READY
    stage.run(4)
    assert isinstance(stage.change(1, with_vote(4)), Accepted)
    stage.run(8)
    assert stage.status(1).membership.voters == (1, 2, 3, 4)


def test_a_silent_learner_keeps_nobody_else_from_being_removed(consensus: str) -> None:
    stage = led(consensus, 1, 2, 3, others=(4,))
    stage.crash(4)
    stage.change(1, watching(4))
    stage.run(TIMEOUT + 4)
    assert isinstance(stage.change(1, without(2)), Accepted)


def test_a_new_leader_hears_a_server_before_it_counts_on_it(consensus: str) -> None:
    """Silence is counted from when it began to lead: until then nobody is taken for dead, nor for alive."""
    stage = led(consensus, 1, 2, 3)
    stage.crash(1)
    stage.elect(2)
    assert why(stage.change(2, without(3))) == (RefusalReason.NOT_READY, "n1: not heard by this leader yet")
    stage.run(TIMEOUT)
    assert why(stage.change(2, without(3)))[0] is RefusalReason.BAD_CHANGE
    stage.restart(1)
    stage.run(4)
    assert isinstance(stage.change(2, without(3)), Accepted)


def test_a_new_leader_changes_members_as_soon_as_they_have_answered(consensus: str) -> None:
    stage = Stage(config=EngineConfig(heartbeat_ticks=2, election_timeout_ticks=TIMEOUT), consensus=consensus)
    stage.elect(1)
    stage.run(2)
    assert isinstance(stage.change(1, without(3)), Accepted)


def test_the_single_voter_of_a_cluster_hears_itself(consensus: str) -> None:
    stage = Stage((1,), others=(2,), consensus=consensus)
    stage.elect(1)
    assert stage.status(1).knows_committed
    assert isinstance(stage.change(1, MembershipChange(add_voters=joining(2))), Accepted)


class TestFlexibleQuorums:
    """Two suffice to go on; to change who decides it takes the four who could promise as well."""

    @pytest.fixture
    def stage(self, consensus: str) -> Stage:
        if consensus == "raft":
            pytest.skip("quorum sizes are Paxos's")
        stage = paxos((1, 2, 3, 4, 5), others=(6,), phase1_size=4, phase2_size=2)
        stage.elect(1)
        stage.run(4)
        stage.change(1, watching(6))
        stage.run(4)
        for node in (3, 4, 5, 6):
            stage.crash(node)
        stage.run(TIMEOUT)
        return stage

    def test_both_the_voters_now_and_those_to_come_must_be_able_to_elect(self, stage: Stage) -> None:
        for gone in ((5,), (3, 4, 5)):
            reason, detail = why(stage.change(1, without(*gone)))
            assert reason is RefusalReason.BAD_CHANGE
            assert "2 would be alive, and without 4 nothing" in detail
        assert decides(stage, 1)

    def test_what_leaves_the_voters_as_they_are_needs_no_more_than_any_write(self, stage: Stage) -> None:
        assert isinstance(stage.change(1, without(6)), Accepted)
        stage.run(4)
        assert stage.status(1).membership.learners == ()

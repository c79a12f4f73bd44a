"""The only voter of a cluster that has lost a part of its log: nobody elects it any more, and nobody else can tell it
what was decided. A quorum of one has decided all that is on its disk, so that much it still serves.
"""

from collections.abc import Sequence

import pytest
from paxos_stage import ballot, joining

from troth.core.config import EngineConfig
from troth.core.interface import Entry, EntryKind, Membership, MembershipChange, Slot
from troth.core.membership import encode_membership
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.stage import Stage

TIMEOUT = 20

pytestmark = pytest.mark.parametrize("consensus", ["raft", "paxos"])

ALONE = Membership(voters=(NodeId(1),))
WITH_LEARNER = Membership(voters=(NodeId(1),), learners=(NodeId(2),))
JOINT = Membership(voters=(NodeId(1), NodeId(2)), outgoing=(NodeId(1),))
LEAVING = Membership(voters=(NodeId(1),), outgoing=(NodeId(1), NodeId(2)))


def salvaged(
    consensus: str, log: Sequence[int | Membership], *, voters: tuple[int, ...] = (1,), may_vote: bool = False
) -> Stage:
    """Server 1 with *log*, entries of these terms and memberships, of which nothing is known to be decided."""
    config = EngineConfig(heartbeat_ticks=2, election_timeout_ticks=TIMEOUT)
    stage = Stage(voters, others={1, 2, 3} - set(voters), config=config, consensus=consensus)
    if consensus == "raft":
        stage.load(1, term=9, log=log)
    else:
        stage.load_slots(1, *(slot_of(index, item) for index, item in enumerate(log, 1)), promised=ballot(9, 0))
    stage.restart(1, may_vote=may_vote)
    stage.pump(1)
    return stage


def slot_of(index: int, item: int | Membership) -> Slot:
    if isinstance(item, Membership):
        return Slot(ballot(1, 1), Entry(LogIndex(index), Term(1), EntryKind.MEMBERSHIP, encode_membership(item)))
    return Slot(ballot(item, 1), Entry(LogIndex(index), Term(item), EntryKind.COMMANDS, b"%d" % index))


def applied(stage: Stage) -> list[int]:
    return [entry.index for entry in stage[1].applied]


@pytest.mark.parametrize("log", [[1, 2, 2], [1, WITH_LEARNER, 2], [1, ALONE, 3, 3]])
def test_all_that_the_only_voter_ever_had_is_decided(consensus: str, log: list[int | Membership]) -> None:
    stage = salvaged(consensus, log)
    assert stage.commit(1) == len(log)
    assert applied(stage) == list(range(1, len(log) + 1))
    stage.tick(1, 3 * TIMEOUT)
    assert stage.role(1) == "Follower", "it does not lead for that: what is lost was acknowledged too"


def test_what_others_had_a_vote_on_may_never_have_been_decided(consensus: str) -> None:
    assert salvaged(consensus, [1, 2, 2], voters=(1, 2, 3)).commit(1) == 0
    assert salvaged(consensus, [1, 2, 2], voters=(2,)).commit(1) == 0, "a learner decides nothing"


@pytest.mark.parametrize("change", [JOINT, LEAVING])
def test_nothing_behind_the_first_vote_of_another_counts_as_decided(consensus: str, change: Membership) -> None:
    """In Raft a membership decides about itself, and one that is taken back takes with it what stands behind; in
    Multi-Paxos the one before decides, so the slot of a change is chosen still."""
    stage = salvaged(consensus, [1, change, ALONE, 2])
    assert stage.commit(1) == (2 if consensus == "paxos" else 0)


def test_a_server_with_a_vote_waits_to_be_elected(consensus: str) -> None:
    stage = salvaged(consensus, [1, 2, 2], may_vote=True)
    assert stage.commit(1) == 0
    stage.elect(1)
    stage.run(4)
    assert stage.commit(1) >= 3


def test_a_membership_lost_with_the_rest_takes_nothing_back(consensus: str) -> None:
    """Others have joined in the part that is lost. They have what was decided before, and send what came behind."""
    config = EngineConfig(heartbeat_ticks=2, election_timeout_ticks=TIMEOUT)
    stage = Stage((1,), others=(2, 3), config=config, consensus=consensus)
    stage.elect(1)
    stage.propose(1)
    stage.propose(1)
    stage.settle()
    kept = stage.commit(1)
    stage.change(1, MembershipChange(add_voters=joining(2, 3)))
    stage.run(8)
    stage.propose(1)
    stage.run(4)
    stage.crash(1)
    disk = stage[1].journal.durable
    disk.chosen = LogIndex(0)
    disk.slots = {index: slot for index, slot in disk.slots.items() if index <= kept}
    del disk.entries[kept:], disk.digests[kept:]
    stage.restart(1, may_vote=False)
    stage.pump(1)
    assert stage.commit(1) == kept
    stage.run(2 * TIMEOUT)
    stage.elect(2)
    stage.run(8)
    assert stage.commit(1) == stage.commit(2) > kept
    assert applied(stage) == list(range(1, stage.commit(1) + 1))

"""Paxos Made Simple §2.2, phase 1: ballots and promises, one test for each rule; and probes, which promise nothing."""

import pytest
from paxos_stage import TIMEOUT, accept, ballot, entry, held, paxos, prepare, promise_of

from troth.core.interface import Ballot, HardState, Slot
from troth.core.paxos.messages import (
    Accept,
    AcceptReply,
    Heartbeat,
    HeartbeatReply,
    Outbid,
    Prepare,
    Probe,
    ProbeReply,
    Promise,
    ReadReply,
    ReadRequest,
    TimeoutNow,
)
from troth.errors import UsageError
from troth.ids import LogIndex, NodeId, Term, Tick


def promised(stage: object, node: int) -> Ballot:
    return stage[node].view.ballot  # type: ignore[index]


# ---- promises ----


def test_a_promise_is_given_to_any_higher_ballot_and_repeated_for_the_same() -> None:
    stage = paxos()
    assert promise_of(stage, 2, ballot(4, 1)) is not None
    assert promise_of(stage, 2, ballot(4, 1)) is not None, "the answer may have been lost"
    assert promise_of(stage, 2, ballot(4, 3)) is not None, "the node breaks the tie between equal rounds"
    assert promised(stage, 2) == ballot(4, 3)


def test_who_has_promised_waits_a_whole_patience_before_standing_itself() -> None:
    """Or the acceptors of a new leader would outbid it before its first word."""
    stage = paxos()
    stage.tick(1, TIMEOUT - 2)
    stage.hand(2, 1, prepare(ballot(1, 2)))
    stage.tick(1, TIMEOUT - 2)
    stage.hand(2, 1, prepare(ballot(1, 2)))
    stage.tick(1, TIMEOUT - 1)
    assert stage.role(1) == "Follower"
    stage.tick(1, 2)
    assert stage.role(1) == "PreCandidate"


@pytest.mark.parametrize("lower", [ballot(3, 3), ballot(4, 1)])
def test_a_lower_ballot_gets_no_promise_and_is_told_the_higher(lower: Ballot) -> None:
    stage = paxos()
    promise_of(stage, 2, ballot(4, 3))
    assert promise_of(stage, 2, lower) is None
    assert stage.sent(Outbid, 2, lower.node) == [Outbid(ballot(4, 3))]


@pytest.mark.parametrize("lower", [ballot(3, 3), ballot(4, 1)])
def test_nothing_is_accepted_below_the_promise(lower: Ballot) -> None:
    stage = paxos()
    promise_of(stage, 2, ballot(4, 3))
    stage.drop()
    stage.hand(lower.node, 2, accept(lower, entry(1, lower.round)))
    assert stage.sent(AcceptReply, 2) == []
    assert stage.sent(Outbid, 2, lower.node) == [Outbid(ballot(4, 3))]
    assert held(stage, 2) == {}


def test_a_promise_is_durable_before_it_is_told() -> None:
    stage = paxos()
    stage[2].syncs = False
    stage.hand(1, 2, prepare(ballot(4, 1)))
    assert stage.sent(Promise, 2) == []
    stage.sync(2)
    assert len(stage.sent(Promise, 2, 1)) == 1
    stage.crash(2)
    stage.restart(2)
    assert promised(stage, 2) == ballot(4, 1)
    assert promise_of(stage, 2, ballot(3, 1)) is None


def test_an_acceptance_is_durable_before_it_is_told() -> None:
    stage = paxos()
    stage[2].syncs = False
    stage.hand(1, 2, accept(ballot(4, 1), entry(1, 4)))
    assert stage.sent(AcceptReply, 2) == []
    stage.sync(2)
    assert stage.sent(AcceptReply, 2, 1) == [AcceptReply(ballot(4, 1), LogIndex(1))]
    stage.crash(2)
    stage.restart(2)
    assert held(stage, 2) == {1: (4, 1, b"v")}


def test_a_promise_within_the_same_round_is_written_too() -> None:
    """Only the node of the ballot has changed."""
    stage = paxos()
    promise_of(stage, 2, ballot(4, 1))
    promise_of(stage, 2, ballot(4, 3))
    stage.crash(2)
    stage.restart(2)
    assert promised(stage, 2) == ballot(4, 3)


def test_a_refusal_reveals_a_promise_only_once_it_is_durable() -> None:
    stage = paxos()
    stage[2].syncs = False
    stage.hand(1, 2, prepare(ballot(9, 1)))
    stage.hand(3, 2, prepare(ballot(5, 3)))
    assert stage.sent(Outbid, 2) == []
    stage.sync(2)
    assert stage.sent(Outbid, 2, 3) == [Outbid(ballot(9, 1))]


def test_a_refused_probe_reveals_a_promise_only_once_it_is_durable() -> None:
    stage = paxos()
    stage[2].syncs = False
    stage.hand(1, 2, prepare(ballot(9, 1)))
    stage.hand(3, 2, Probe(ballot(5, 3), LogIndex(1)))
    assert stage.sent(ProbeReply, 2) == []
    stage.sync(2)
    assert stage.sent(ProbeReply, 2, 3) == [ProbeReply(ballot(9, 1), False)]


def test_a_leader_of_a_lower_ballot_is_told_the_higher_though_it_proposes_nothing() -> None:
    """Else it would go on leading, as it thinks, and its reads would wait for ever."""
    stage = paxos()
    stage.load_slots(1, promised=ballot(9, 3))
    stage.hand(2, 1, Heartbeat(ballot(5, 2), LogIndex(0), 7))
    assert stage.sent(Outbid, 1, 2) == [Outbid(ballot(9, 3))]


def test_the_own_ballot_is_durable_before_anybody_hears_of_it() -> None:
    """A ballot that a crash takes back would be used twice."""
    stage = paxos()
    stage[1].syncs = False
    stage.tick(1, TIMEOUT)
    stage.drop()
    stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    assert stage.role(1) == "Candidate"
    assert stage.sent(Prepare, 1) == []
    stage.sync(1)
    assert {flying.to for flying in stage.in_flight if isinstance(flying.message, Prepare)} == {2, 3}


def test_a_ballot_is_unique_over_restarts() -> None:
    """The next life of a server uses a higher round than any that it used before."""
    stage = paxos()
    used = []
    for _ in range(3):
        stage.elect(1)
        used.append(promised(stage, 1))
        stage.crash(1)
        stage.restart(1)
        assert promised(stage, 1) == used[-1]
    assert used == sorted(set(used))
    assert {each.node for each in used} == {1}


def test_a_ballot_is_above_all_that_were_heard_of() -> None:
    stage = paxos()
    stage.hand(3, 1, Outbid(ballot(41, 3)))
    stage.elect(1)
    assert promised(stage, 1) == ballot(42, 1)


def test_the_promise_is_kept_apart_from_what_was_accepted() -> None:
    """A promise raises no accepted ballot, and is not lowered by an acceptance."""
    stage = paxos()
    stage.hand(1, 2, accept(ballot(4, 1), entry(1, 4)))
    found = promise_of(stage, 2, ballot(7, 3))
    assert found is not None
    assert [(each.ballot, each.entry.index) for each in found.slots] == [(ballot(4, 1), 1)]
    assert promised(stage, 2) == ballot(7, 3)
    assert held(stage, 2) == {1: (4, 1, b"v")}


def test_each_slot_keeps_its_own_accepted_ballot() -> None:
    """Slots are accepted at different ballots, and reported with theirs."""
    stage = paxos()
    stage.hand(1, 2, accept(ballot(4, 1), entry(1, 4), entry(2, 4), entry(3, 4)))
    stage.hand(3, 2, accept(ballot(6, 3), entry(2, 4)))
    found = promise_of(stage, 2, ballot(7, 1))
    assert found is not None
    assert [each.ballot for each in found.slots] == [ballot(4, 1), ballot(6, 3), ballot(4, 1)]


def test_an_acceptance_at_a_higher_ballot_promises_it() -> None:
    stage = paxos()
    stage.hand(3, 2, accept(ballot(6, 3), entry(1, 6)))
    assert promised(stage, 2) == ballot(6, 3)
    assert stage[2].journal.durable.hard_state == HardState(Term(6), NodeId(3))
    assert promise_of(stage, 2, ballot(5, 1)) is None


def test_a_repeated_acceptance_is_acknowledged_again_and_changes_nothing() -> None:
    stage = paxos()
    for _ in range(2):
        stage.drop()
        stage.hand(1, 2, accept(ballot(4, 1), entry(1, 4)))
        assert stage.sent(AcceptReply, 2, 1) == [AcceptReply(ballot(4, 1), LogIndex(1))]
    assert stage[2].journal.written == 1


@pytest.mark.parametrize("role", ["Follower", "PreCandidate", "Candidate", "Leader"])
def test_a_higher_ballot_ends_any_role(role: str) -> None:
    stage = paxos()
    if role == "PreCandidate":
        stage.tick(1, TIMEOUT)
    elif role == "Candidate":
        stage.tick(1, TIMEOUT)
        stage.drop()
        stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    elif role == "Leader":
        stage.elect(1)
    assert stage.role(1) == role
    stage.hand(2, 1, accept(ballot(9, 2)))
    assert (promised(stage, 1), stage.role(1), stage.status(1).leader) == (ballot(9, 2), "Follower", 2)


@pytest.mark.parametrize(
    "message",
    [
        AcceptReply(ballot(9, 2), LogIndex(0)),
        HeartbeatReply(ballot(9, 2), 1, LogIndex(0)),
        ProbeReply(ballot(9, 2), False),
        Promise(ballot(9, 2), LogIndex(1), LogIndex(0), LogIndex(0), LogIndex(0), ()),
        Outbid(ballot(9, 2)),
        ReadRequest(ballot(9, 2), 1),
        ReadReply(ballot(9, 2), 1, LogIndex(0)),
        TimeoutNow(ballot(9, 2)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_leader_that_hears_of_a_higher_ballot_steps_down(message: object) -> None:
    """It could not use whoever has promised that; with a new ballot it can."""
    stage = paxos()
    stage.elect(1)
    stage.hand(2, 1, message)  # type: ignore[arg-type]
    assert stage.role(1) != "Leader"
    assert promised(stage, 1) >= ballot(9, 2)


@pytest.mark.parametrize(
    "message",
    [
        AcceptReply(ballot(0, 2), LogIndex(1)),
        HeartbeatReply(ballot(0, 2), 99, LogIndex(1)),
        Promise(ballot(0, 2), LogIndex(1), LogIndex(0), LogIndex(0), LogIndex(0), ()),
        ReadRequest(ballot(0, 2), 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_answers_to_a_lower_ballot_count_for_nothing(message: object) -> None:
    stage = paxos()
    stage.elect(1)
    stage.propose(1)
    stage.drop()
    stage.hand(2, 1, message)  # type: ignore[arg-type]
    assert stage.commit(1) == 0
    assert stage.status(1).progress[NodeId(2)].match == 0


@pytest.mark.parametrize(
    "message",
    [
        accept(ballot(9, 3), entry(1, 9)),
        prepare(ballot(9, 3)),
        Heartbeat(ballot(9, 3), LogIndex(0), 1),
        Probe(ballot(9, 3), LogIndex(1)),
        TimeoutNow(ballot(9, 3)),
        Accept(ballot(9, 2), (entry(1, 9), entry(3, 9)), LogIndex(0)),
        Accept(ballot(9, 2), (entry(0, 9),), LogIndex(0)),
        Accept(ballot(9, 2), (entry(1, 10),), LogIndex(0)),
        Prepare(ballot(9, 2), LogIndex(0)),
        Promise(ballot(9, 2), LogIndex(1), LogIndex(0), LogIndex(1), LogIndex(0), ()),
        Promise(ballot(9, 2), LogIndex(0), LogIndex(0), LogIndex(0), LogIndex(0), ()),
        Promise(
            *(ballot(9, 2), LogIndex(1), LogIndex(2), LogIndex(2), LogIndex(0)),
            slots=(Slot(ballot(1, 2), entry(2, 1)), Slot(ballot(1, 2), entry(1, 1))),
        ),
        Promise(
            ballot(9, 2), LogIndex(1), LogIndex(1), LogIndex(2), LogIndex(0), (Slot(ballot(1, 2), entry(2, 1)),)
        ),
        Promise(
            ballot(9, 2), LogIndex(2), LogIndex(2), LogIndex(2), LogIndex(0), (Slot(ballot(1, 2), entry(1, 1)),)
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_who_is_not_the_owner_of_a_ballot_may_not_use_it_and_malformed_messages_change_nothing(
    message: object,
) -> None:
    """Two proposers with one ballot would be two values for it."""
    stage = paxos()
    stage.hand(2, 1, message)  # type: ignore[arg-type]
    assert promised(stage, 1) == ballot(0, 0)
    assert held(stage, 1) == {}
    assert "n1 malformed sender=2" in stage.lines


# ---- probes ----


def test_a_probe_promises_nothing() -> None:
    stage = paxos()
    stage.hand(1, 2, Probe(ballot(5, 1), LogIndex(1)))
    assert stage.sent(ProbeReply, 2, 1) == [ProbeReply(ballot(5, 1), True)]
    assert promised(stage, 2) == ballot(0, 0)
    assert stage[2].journal.written == 0


def test_a_probe_is_refused_while_a_leader_is_heard_and_disturbs_nobody() -> None:
    stage = paxos()
    stage.elect(1)
    before = promised(stage, 1)
    stage.isolate(3)
    for _ in range(4 * TIMEOUT):
        stage.run(1)
    assert promised(stage, 3) == before, "who is cut off uses up no ballots"
    stage.heal()
    for _ in range(2 * TIMEOUT):
        stage.run(1)
    assert stage.leaders() == [1]
    assert promised(stage, 1) == before


def test_a_prepare_is_disregarded_while_a_leader_is_heard() -> None:
    stage = paxos()
    stage.elect(1)
    stage.hand(3, 2, prepare(ballot(9, 3)))
    assert stage.sent(Promise, 2) == []
    assert promised(stage, 2) == promised(stage, 1)


def test_a_refused_probe_tells_the_higher_ballot_to_who_was_left_behind() -> None:
    """Or a server with a low ballot would probe for ever."""
    stage = paxos()
    promise_of(stage, 2, ballot(7, 3))
    stage.tick(1, TIMEOUT)
    stage.drop()
    stage.hand(1, 2, Probe(ballot(1, 1), LogIndex(1)))
    stage.deliver()
    assert promised(stage, 1) == ballot(7, 3)
    stage.elect(1)
    assert promised(stage, 1) == ballot(8, 1)


def test_probe_answers_count_once_per_voter_and_for_their_ballot_alone() -> None:
    stage = paxos((1, 2, 3, 4, 5))
    stage.tick(1, TIMEOUT)
    stage.drop()
    for _ in range(3):
        stage.hand(2, 1, ProbeReply(ballot(1, 1), True))
    stage.hand(3, 1, ProbeReply(ballot(2, 1), True))
    stage.hand(9, 1, ProbeReply(ballot(1, 1), True))
    assert stage.role(1) == "PreCandidate"
    stage.hand(4, 1, ProbeReply(ballot(1, 1), True))
    assert stage.role(1) == "Candidate"


def test_a_majority_of_refusals_ends_the_attempt() -> None:
    stage = paxos()
    stage.tick(1, TIMEOUT)
    stage.drop()
    for peer in (2, 3):
        stage.hand(peer, 1, ProbeReply(ballot(0, 0), False))
    assert stage.role(1) == "Follower"


def test_a_server_without_a_vote_neither_promises_nor_stands() -> None:
    """What it had accepted may be lost, and a promise would have to carry it."""
    stage = paxos()
    stage.restart(2, may_vote=False)
    assert promise_of(stage, 2, ballot(4, 1)) is None
    stage.hand(1, 2, Probe(ballot(4, 1), LogIndex(1)))
    assert stage.sent(ProbeReply, 2, 1) == [ProbeReply(ballot(0, 0), False)]
    stage.tick(2, 3 * TIMEOUT)
    assert stage.role(2) == "Follower"
    stage[2].engine.restore_vote()
    assert promise_of(stage, 2, ballot(4, 1)) is not None


def test_who_helps_somebody_to_lead_refuses_the_probes_of_others_for_a_while() -> None:
    """Promises come in pages: whoever outbids another in the middle is outbid in turn, for ever."""
    stage = paxos()
    assert promise_of(stage, 2, ballot(4, 1)) is not None
    for sender, granted in ((3, False), (1, True)):
        stage.drop()
        stage.hand(sender, 2, Probe(ballot(5, sender), LogIndex(1)))
        assert [reply.granted for reply in stage.sent(ProbeReply, 2, sender)] == [granted]  # type: ignore[attr-defined]
    stage.drop()
    stage.now = Tick(stage.now + TIMEOUT)
    stage.hand(3, 2, Probe(ballot(5, 3), LogIndex(1)))
    assert [reply.granted for reply in stage.sent(ProbeReply, 2, 3)] == [True]  # type: ignore[attr-defined]


def test_who_has_helped_a_leader_to_lead_helps_the_next_as_soon_as_that_one_is_dead() -> None:
    stage = paxos()
    assert promise_of(stage, 3, ballot(4, 1)) is not None
    stage.hand(1, 3, Heartbeat(ballot(4, 1), LogIndex(0), 7))
    stage.suspect(3, 1)
    stage.drop()
    stage.hand(2, 3, Probe(ballot(5, 2), LogIndex(1)))
    assert [reply.granted for reply in stage.sent(ProbeReply, 3, 2)] == [True]  # type: ignore[attr-defined]


def test_a_phase_1_quorum_of_one_deposes_no_leader_that_works() -> None:
    """Whoever has missed the leader for a while has that quorum by itself. It asks as many as it would need to go on,
    and those who hear the leader refuse."""
    stage = paxos(phase1_size=1, phase2_size=3)
    stage.elect(1)
    stage.run(4)
    before = promised(stage, 1)
    stage[3].engine.tick(Tick(stage.now + 2 * TIMEOUT))
    stage.pump(3)
    assert stage.sent(Probe, 3)
    assert promised(stage, 3) == before, "it has used no ballot"
    stage.run(4)
    assert stage.leaders() == [1]
    assert promised(stage, 1) == promised(stage, 3) == before


def test_flexible_quorum_sizes_must_meet() -> None:
    with pytest.raises(UsageError, match="need not meet"):
        paxos((1, 2, 3, 4), phase1_size=2, phase2_size=2)
    with pytest.raises(UsageError, match="given together"):
        paxos(phase1_size=2)
    paxos((1, 2, 3, 4), phase1_size=3, phase2_size=2)

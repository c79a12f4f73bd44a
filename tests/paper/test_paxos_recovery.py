"""Phase 1 over all open slots: what a new leader must learn before it may propose (Paxos Made Simple §3)."""

import random

import pytest
from paxos_stage import (
    TIMEOUT,
    accept,
    accepts,
    ballot,
    entry,
    held,
    paxos,
    payloads,
    prepare,
    promise_of,
    slot,
    to,
)

from troth.core.interface import CHOSEN, EntryKind, Slot
from troth.core.membership import encode_membership
from troth.core.paxos.messages import Accept, AcceptReply, Heartbeat, Outbid, Prepare, Probe, ProbeReply, Promise
from troth.ids import LogIndex, NodeId
from troth.simulate.stage import Stage, membership_of


def candidate(stage: Stage, node: int, *granted_by: int) -> None:
    """Let a server win its probes; what it asks then has not arrived."""
    while stage.role(node) != "PreCandidate":
        stage.tick(node)
    stage.drop()
    for peer in granted_by:
        ours = stage[node].view.ballot
        stage.hand(peer, node, ProbeReply(ballot(ours.round + 1, node), True))
    assert stage.role(node) == "Candidate"


def promise(stage: Stage, node: int, acceptor: int, *slots: Slot, chosen: int = 0) -> None:
    """Let *acceptor* promise what *node* prepares, with these slots."""
    last = LogIndex(max((int(each.entry.index) for each in slots), default=0))
    start = LogIndex(stage.commit(node) + 1)
    page = Promise(stage[node].view.ballot, start, last, last, LogIndex(chosen), slots)
    stage.hand(acceptor, node, page)


def proposed(stage: Stage, node: int) -> dict[int, bytes]:
    """Slot -> value that a leader sends out, of what is in flight."""
    found: dict[int, bytes] = {}
    for message in stage.sent(Accept, node):
        assert isinstance(message, Accept)
        found |= {int(each.index): each.payload for each in message.entries}
    return found


# ---- what a promise carries ----


def test_a_promise_reports_everything_accepted_from_the_slot_asked_for() -> None:
    stage = paxos()
    stage.hand(1, 2, accept(ballot(4, 1), entry(1, 4, b"a"), entry(2, 4, b"b"), entry(3, 4, b"c")))
    found = promise_of(stage, 2, ballot(5, 3), start=2)
    assert found is not None
    assert [each.entry.payload for each in found.slots] == [b"b", b"c"]


def test_a_promise_reports_chosen_and_delivered_slots_too() -> None:
    """The next leader may know nothing of a slot that the acceptor has long executed."""
    stage = paxos()
    stage.elect(1)
    stage.propose(1, b"a")
    stage.settle()
    assert payloads(stage, 2) == [b"a"]
    found = promise_of(stage, 2, ballot(9, 3))
    assert found is not None
    assert [each.entry.payload for each in found.slots] == [b"a"]
    assert found.chosen == 1


def test_a_new_leader_proposes_what_it_had_never_heard_of_and_others_had_delivered() -> None:
    """Chosen on two, new leader from the third."""
    stage = paxos()
    stage.elect(1)
    stage.isolate(3)
    for payload in (b"a", b"b"):
        stage.propose(1, payload)
        stage.settle()
    stage.heal()
    assert stage.commit(3) == 0
    stage.crash(1)
    stage.elect(3)
    stage.propose(3, b"c")
    stage.run(3)
    assert payloads(stage, 2) == payloads(stage, 3) == [b"a", b"b", b"c"]


def test_a_chosen_slot_is_acknowledged_only_with_its_value() -> None:
    """An acceptor that has executed a slot must not let another value pass for accepted."""
    stage = paxos()
    stage.elect(1)
    stage.propose(1, b"a")
    stage.settle()
    with pytest.raises(AssertionError, match="another value for a settled slot"):
        stage.hand(3, 2, accept(ballot(9, 3), entry(1, 9, b"z")))


def test_promises_come_in_pages_and_all_of_them_are_waited_for() -> None:
    stage = paxos(append_bytes_max=100)
    values = [entry(index, 4, b"%02d" % index + b"." * 40) for index in range(1, 8)]
    stage.hand(1, 2, accept(ballot(4, 1), *values))
    stage.hand(1, 3, Outbid(ballot(4, 1)))
    stage.crash(1)
    stage.now += TIMEOUT  # type: ignore[assignment]
    candidate(stage, 3, 2)
    pages = 0
    while stage.role(3) == "Candidate":
        assert stage.sent(Accept) == [], "nothing is proposed before the last page"
        stage.deliver(lambda flying: isinstance(flying.message, Prepare) and flying.to == 2)
        pages += stage.deliver(lambda flying: isinstance(flying.message, Promise))
    assert pages == len(values), "each value fills a page"
    stage.run(3)
    assert payloads(stage, 3) == [each.payload for each in values]


def test_a_candidate_that_takes_pages_in_refuses_the_probes_of_others_for_a_while() -> None:
    """Whose own pages were few waits no longer than usual, and would outbid it as long as others have many."""
    stage = paxos(append_bytes_max=100)
    values = [entry(index, 4, b"%02d" % index + b"." * 40) for index in range(1, 5)]
    stage.hand(1, 2, accept(ballot(4, 1), *values))
    stage.hand(1, 3, Outbid(ballot(4, 1)))
    stage.now += TIMEOUT  # type: ignore[assignment]
    candidate(stage, 3, 2)

    def granted(start: int = 1) -> bool:
        stage.hand(1, 3, Probe(ballot(99, 1), LogIndex(start)))
        (reply,) = stage.drop(lambda flying: isinstance(flying.message, ProbeReply))
        return reply.message.granted  # type: ignore[attr-defined,no-any-return]

    assert granted(), "nobody may ever answer it"
    stage.deliver(lambda flying: isinstance(flying.message, Prepare) and flying.to == 2)
    stage.deliver(lambda flying: isinstance(flying.message, Promise))
    assert not granted()
    stage.now += TIMEOUT  # type: ignore[assignment]
    assert granted()


def test_a_candidate_gives_way_to_whoever_has_more_than_the_pages_it_has_taken_in() -> None:
    """Else a cluster waits for all pages of one that is far behind, while another could lead at once."""
    stage = paxos(append_bytes_max=100)
    values = [entry(index, 4, b"%02d" % index + b"." * 40) for index in range(1, 5)]
    stage.hand(1, 2, accept(ballot(4, 1), *values))
    stage.hand(1, 3, Outbid(ballot(4, 1)))
    stage.now += TIMEOUT  # type: ignore[assignment]
    candidate(stage, 3, 2)
    for told in (1, 2):
        stage.deliver(lambda flying: isinstance(flying.message, Prepare) and flying.to == 2)
        stage.deliver(lambda flying: isinstance(flying.message, Promise))
        for start, granted in ((1, False), (told, False), (told + 1, True), (5, True)):
            stage.hand(1, 3, Probe(ballot(99, 1), LogIndex(start)))
            (reply,) = stage.drop(lambda flying: isinstance(flying.message, ProbeReply))
            assert reply.message.granted is granted, (told, start)  # type: ignore[attr-defined]


def test_a_candidate_that_has_given_up_refuses_nobody() -> None:
    """After a death that was seen it tries again and again, much sooner than others would have to wait for it."""
    patience = 10 * TIMEOUT
    stage = paxos(append_bytes_max=100, election_timeout_ticks=patience)
    values = [entry(index, 4, b"%02d" % index + b"." * 40) for index in range(1, 5)]
    stage.hand(1, 2, accept(ballot(4, 1), *values))
    stage.hand(1, 3, Heartbeat(ballot(4, 1), LogIndex(0), 1))
    stage[3].engine.suspect(NodeId(1), stage.now)
    candidate(stage, 3, 2)
    stage.now += patience  # type: ignore[assignment]
    stage.deliver(lambda flying: isinstance(flying.message, Prepare) and flying.to == 2)
    stage.deliver(lambda flying: isinstance(flying.message, Promise))
    began = stage.now
    while stage.role(3) == "Candidate":
        stage.tick(3)
    assert stage.now - began < patience
    stage.drop()
    stage.hand(1, 3, Probe(ballot(99, 1), LogIndex(1)))
    assert [reply.granted for reply in stage.sent(ProbeReply, 3, 1)] == [True]  # type: ignore[attr-defined]


def test_a_page_that_is_lost_is_asked_for_again_and_a_repeated_one_counts_once() -> None:
    stage = paxos(append_bytes_max=100)
    values = [entry(index, 4, b"%02d" % index + b"." * 40) for index in range(1, 5)]
    stage.hand(1, 2, accept(ballot(4, 1), *values))
    stage.hand(1, 3, Outbid(ballot(4, 1)))
    stage.crash(1)
    stage.now += TIMEOUT  # type: ignore[assignment]
    candidate(stage, 3, 2)
    stage.deliver(lambda flying: isinstance(flying.message, Prepare) and flying.to == 2)
    first = stage.drop(lambda flying: isinstance(flying.message, Promise))[0]
    stage.tick(3, 2)
    stage.settle()
    assert stage.role(3) == "Leader"
    stage.hand(2, 3, first.message)
    stage.run(2)
    assert payloads(stage, 3) == [each.payload for each in values]


def test_a_page_that_is_asked_for_many_times_in_one_turn_is_sent_once() -> None:
    """A candidate asks each heartbeat; an acceptor that was paused finds all of it, and a frame has a bound."""
    stage = paxos()
    stage.hand(1, 2, accept(ballot(4, 1), entry(1, 4, b"a")))
    stage.drop()
    stage.now += TIMEOUT  # type: ignore[assignment]
    engine = stage[2].engine
    for _ in range(20):
        engine.receive(NodeId(3), prepare(ballot(9, 3)), stage.now)
    sent = engine.take_effects().after_persist
    assert [type(each.message) for each in sent] == [Promise]


def test_an_acceptor_helps_nobody_who_lacks_what_is_compacted_there() -> None:
    """The compaction floor: what was chosen below it could not be told any more."""
    stage = paxos()
    stage.elect(1)
    stage.isolate(3)
    for _ in range(4):
        stage.propose(1)
        stage.settle()
    stage.compact(2)
    stage.heal()
    stage.drop()
    stage.hand(3, 2, Probe(ballot(8, 3), LogIndex(1)))
    assert stage.sent(ProbeReply, 2, 3) == [ProbeReply(stage[2].view.ballot, False)]
    assert promise_of(stage, 2, ballot(8, 3), start=4) is None
    assert promise_of(stage, 2, ballot(8, 3), start=5) is not None


# ---- which value ----


def test_the_value_with_the_highest_ballot_wins_in_each_slot() -> None:
    """By ballot and not by order, length or the round in which a value was born."""
    stage = paxos((1, 2, 3, 4, 5))
    candidate(stage, 1, 2, 3)
    old = Slot(ballot(6, 2), entry(1, 1, b"high ballot, old value"))
    promise(stage, 1, 2, old, slot(2, 2, 2, b"low"))
    promise(stage, 1, 3, slot(1, 5, 3, b"low ballot, newer value"), slot(2, 3, 3, b"high"))
    assert proposed(stage, 1) == {1: b"high ballot, old value", 2: b"high"}


def test_equal_rounds_are_told_apart_by_their_nodes() -> None:
    stage = paxos((1, 2, 3, 4, 5))
    candidate(stage, 1, 2, 3)
    promise(stage, 1, 2, slot(1, 5, 4, b"higher node"))
    promise(stage, 1, 3, slot(1, 5, 3, b"lower node"))
    assert proposed(stage, 1) == {1: b"higher node"}


def test_what_is_chosen_wins_over_every_ballot() -> None:
    stage = paxos((1, 2, 3, 4, 5))
    candidate(stage, 1, 2, 3)
    promise(stage, 1, 2, slot(1, 2, 2, b"a"), slot(2, 2, 2, b"chosen"), chosen=2)
    promise(stage, 1, 3, slot(2, 9, 3, b"never"))
    assert stage.commit(1) == 2
    assert [each.payload for each in stage[1].applied] == [b"a", b"chosen"]


def test_the_own_accepted_values_count_like_all_others() -> None:
    stage = paxos((1, 2, 3, 4, 5))
    stage.load_slots(1, slot(1, 7, 5, b"mine"), slot(2, 2, 5, b"mine"), promised=ballot(7, 5))
    candidate(stage, 1, 2, 3)
    promise(stage, 1, 2, slot(1, 3, 2, b"theirs"), slot(2, 3, 2, b"theirs"))
    promise(stage, 1, 3)
    assert proposed(stage, 1) == {1: b"mine", 2: b"theirs"}


@pytest.mark.parametrize("seed", range(60))
def test_merging_promises_agrees_with_a_brute_force_twin(seed: int) -> None:
    """Random accepted sets against the definition, slot by slot, in any order of arrival."""
    rng = random.Random(seed)
    acceptors = (1, 2, 3, 4, 5)
    sets = {
        node: [
            slot(index, rng.randint(1, 4), rng.choice(acceptors))
            for index in range(1, rng.randint(1, 7))
            if rng.random() < 0.7
        ]
        for node in acceptors
    }
    sets = {
        node: [
            Slot(
                each.ballot,
                entry(each.entry.index, each.ballot.round, b"%d.%d" % (each.ballot.round, each.ballot.node)),
            )
            for each in found
        ]
        for node, found in sets.items()
    }
    stage = paxos(acceptors)
    stage.load_slots(1, *sets[1], promised=ballot(5, 5))
    quorum = rng.sample((2, 3, 4, 5), 2)
    candidate(stage, 1, *quorum)
    for node in quorum:
        promise(stage, 1, node, *sets[node])

    reported = [each for node in (1, *quorum) for each in sets[node]]
    expected = {
        index: max(
            ((each.ballot, each.entry.payload) for each in reported if each.entry.index == index),
            default=(None, b""),
        )[1]
        for index in range(1, max((each.entry.index for each in reported), default=0) + 1)
    }
    assert stage.role(1) == "Leader"
    assert proposed(stage, 1) == expected


# ---- gaps, and the order of things ----


def test_a_gap_is_filled_with_a_no_op_and_delivery_goes_on() -> None:
    """The phase 2a of one slot is lost, and its leader with it."""
    stage = paxos()
    stage.elect(1)
    for payload in (b"1", b"2", b"3"):
        stage.propose(1, payload)
        stage.drop(accepts(to=2, index=2))
        stage.drop(accepts(to=3, index=2))
        stage.settle()
    assert stage.commit(1) == 1
    stage.crash(1)
    stage.elect(2)
    stage.run(3)
    assert payloads(stage, 2) == payloads(stage, 3) == [b"1", b"", b"3"]
    assert stage[2].applied[1].kind == EntryKind.NOOP


def test_what_the_leader_accepted_behind_a_membership_counts_only_at_its_own_ballot() -> None:
    """It waits for the membership, and only then is it accepted anew, durably."""
    stage = paxos()
    payload = encode_membership(membership_of((1, 2, 3)))
    before = Slot(ballot(1, 2), entry(1, 1, payload, EntryKind.MEMBERSHIP))
    stage.load_slots(1, before, slot(2, 1, 2), promised=ballot(1, 2))
    candidate(stage, 1, 2, 3)
    promise(stage, 1, 2)
    at = stage[1].view.ballot
    assert stage.role(1) == "Leader"
    stage[1].syncs = False
    stage.hand(2, 1, AcceptReply(at, LogIndex(1)))
    stage.hand(2, 1, AcceptReply(at, LogIndex(2)))
    assert stage.commit(1) == 1
    stage.sync(1)
    assert stage.commit(1) == 2


def test_the_open_window_has_its_slots_before_any_new_value() -> None:
    stage = paxos()
    stage.load_slots(2, slot(2, 3, 3, b"old"), promised=ballot(3, 3))
    stage.crash(3)
    stage.hand(3, 1, Outbid(ballot(3, 3)))
    stage.elect(1)
    result = stage.propose(1, b"new")
    stage.run(2)
    assert result.id.index == 3
    assert payloads(stage, 1) == [b"", b"old", b"new"]
    assert stage[1].view.term_at(LogIndex(1)) == result.id.term, "what fills a gap is a value of this round"


def test_nothing_is_proposed_before_a_quorum_has_promised() -> None:
    stage = paxos((1, 2, 3, 4, 5))
    candidate(stage, 1, 2, 3)
    promise(stage, 1, 2)
    promise(stage, 1, 2)
    assert stage.role(1) == "Candidate", "one acceptor counts once"
    assert stage.sent(Accept) == []
    promise(stage, 1, 3)
    assert stage.role(1) == "Leader"


def test_values_keep_the_round_they_were_born_in() -> None:
    """A value's name is the same on all servers, whoever proposed it anew at whichever ballot."""
    stage = paxos()
    stage.load_slots(2, slot(1, 3, 3, b"old"), promised=ballot(3, 3))
    stage.crash(3)
    stage.hand(3, 1, Outbid(ballot(3, 3)))
    stage.elect(1)
    stage.run(2)
    assert [each.term for each in stage[1].applied] == [3]
    assert stage[1].engine.snapshot_meta(LogIndex(1)).last == stage[2].engine.snapshot_meta(LogIndex(1)).last
    assert held(stage, 1)[1][0] > 3, "while the ballot at which it is accepted is the new one"


def test_phase_1_with_flexible_sizes_asks_for_as_many_as_miss_no_phase_2_quorum() -> None:
    stage = paxos((1, 2, 3, 4, 5), phase1_size=4, phase2_size=2)
    candidate(stage, 1, 2, 3, 4)
    for acceptor in (2, 3):
        promise(stage, 1, acceptor)
    assert stage.role(1) == "Candidate"
    promise(stage, 1, 4, slot(1, 1, 5, b"chosen by two"))
    assert proposed(stage, 1) == {1: b"chosen by two"}


def test_what_is_learned_as_chosen_is_marked_as_such_on_the_disk() -> None:
    """An older value that was accepted there must not come back after a restart."""
    stage = paxos()
    stage.load_slots(1, slot(1, 1, 1, b"never"), promised=ballot(1, 1))
    candidate(stage, 1, 2)
    promise(stage, 1, 2, slot(1, 2, 2, b"chosen"), chosen=1)
    stage.crash(1)
    stage.restart(1)
    found = stage[1].journal.durable.slots[LogIndex(1)]
    assert (found.ballot, found.entry.payload) == (CHOSEN, b"chosen")


@pytest.mark.parametrize("kind", [EntryKind.NOOP, EntryKind.COMMANDS])
def test_of_two_values_that_read_alike_the_chosen_one_is_kept(kind: EntryKind) -> None:
    """The round in which it was proposed is a part of a value, and so is its kind: snapshots are named by it."""
    stage = paxos()
    stage.load_slots(1, Slot(ballot(1, 1), entry(1, 1, b"", kind)), promised=ballot(1, 1))
    candidate(stage, 1, 2)
    chosen = entry(1, 2, b"", EntryKind.NOOP)
    promise(stage, 1, 2, Slot(ballot(2, 2), chosen), chosen=1)
    assert stage[1].journal.durable.slots[LogIndex(1)].entry == chosen


def test_what_is_lost_of_many_questions_is_asked_again_of_everybody() -> None:
    stage = paxos((1, 2, 3, 4, 5))
    candidate(stage, 1, 2, 3)
    stage.drop()
    stage.tick(1, stage.config.heartbeat_ticks)
    assert {flying.to for flying in stage.in_flight if isinstance(flying.message, Prepare)} == {2, 3, 4, 5}


def test_a_candidate_that_is_outbid_does_not_lead() -> None:
    stage = paxos()
    candidate(stage, 1, 2)
    mine = stage[1].view.ballot
    stage.hand(3, 1, prepare(ballot(mine.round, 3)))
    assert stage.role(1) == "Follower"
    stage.hand(2, 1, Promise(mine, LogIndex(1), LogIndex(0), LogIndex(0), LogIndex(0), ()))
    assert stage.role(1) == "Follower"


def test_two_candidates_of_one_round_do_not_both_choose() -> None:
    """The acceptor in both quorums has promised the higher of them, and takes nothing more from the lower."""
    stage = paxos()
    stage.elect(1)
    round_ = stage[1].view.ballot.round
    stage.now += TIMEOUT  # type: ignore[assignment]
    stage.hand(3, 2, prepare(ballot(round_, 3)))
    assert stage[2].view.ballot == ballot(round_, 3)
    stage.drop()
    stage.propose(1, b"lower")
    stage.deliver(to(2))  # type: ignore[arg-type]
    assert stage.commit(1) == 0
    assert held(stage, 2) == {}

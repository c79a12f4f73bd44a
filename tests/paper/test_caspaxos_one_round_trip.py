"""CASPaxos §2.2.1: the next prepare travels with the accept, so a proposer that keeps its ballot asks only once."""

from itertools import combinations

import pytest
from caspaxos import Table

from troth.core.register import changes
from troth.core.register.messages import Accept, Ballot, Conflict, Prepare, State
from troth.core.register.task import PREPARED_BYTES_MAX, PREPARED_MAX, PreparedBallot
from troth.ids import NodeId

KEY = b"k"


def test_the_second_change_of_a_proposer_takes_one_round_trip() -> None:
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"1")))
    table.log.clear()
    task = proposer.change(KEY, changes.put(b"2"))
    assert table.run(task).value == b"2"
    assert table.fan_outs(task) == 1
    assert table.requests(Prepare) == 0
    assert table.requests(Accept) == 3


def test_a_kept_ballot_goes_on_with_the_life_that_a_deletion_of_its_own_has_not_ended() -> None:
    """Only a collected deletion ends it. A new life would have no marks, so that others in doubt make theirs twice."""
    table = Table()
    proposer = table.proposer(1)
    table.run(table.proposer(2).change(KEY, changes.put(b"1")))
    table.run(proposer.change(KEY, changes.delete()))
    table.log.clear()
    assert table.run(proposer.change(KEY, changes.put(b"2"))).version == 3
    assert table.requests(Prepare) == 0
    held = table.acceptors[NodeId(1)].slots[KEY].state
    assert held is not None and {mark.ballot.client for mark in held.marks} == {1, 2}


def test_an_accept_promises_the_next_ballot_with_the_same_write() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"1")))
    for acceptor in table.acceptors.values():
        assert acceptor.promised(KEY) > acceptor.slots[KEY].accepted


def test_a_kept_ballot_is_used_once() -> None:
    """A ballot names one state: it is gone as soon as an accept may have left with it."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"1")))
    first = proposer.change(KEY, changes.put(b"2"))
    second = proposer.change(KEY, changes.put(b"3"))
    asked = [send.request for task in (first, second) for send in task.take()]
    ballots = [request.ballot for request in asked if isinstance(request, Accept | Prepare)]
    assert len(ballots) == len(asked) == 6, "each has asked every acceptor once"
    assert len(set(ballots)) == 2


def test_a_read_leaves_the_kept_ballot_to_the_next_change() -> None:
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"1")))
    table.run(proposer.read(KEY))
    task = proposer.change(KEY, changes.put(b"2"))
    assert table.run(task).value == b"2"
    assert table.fan_outs(task) == 1


def test_a_kept_ballot_that_was_overtaken_is_not_used_again() -> None:
    """After a conflict the proposer prepares anew, and applies its change to what the other has made."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"1")))
    table.run(table.proposer(2).change(KEY, changes.put(b"2")))
    outcome = table.run(proposer.change(KEY, changes.apply(lambda held: (held or b"") + b"+")))
    assert outcome.value == b"2+"
    assert outcome.version == 3


@pytest.mark.parametrize(("prepare", "accept"), [(3, 1), (2, 2), (1, 3)])
def test_no_ballot_between_an_accepted_and_the_kept_one_can_be_prepared(prepare: int, accept: int) -> None:
    """Whatever the quorums: those that accepted promised the kept ballot too, and every phase-1 quorum meets them."""
    table = Table(acceptors=3, prepare=prepare, accept=accept)
    proposer = table.proposer(5)
    task = proposer.change(KEY, changes.put(b"1"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    taken = tuple(range(1, accept + 1))
    table.step(task, reach=taken, answer=taken)
    assert task.outcome is not None
    kept = proposer.take_prepared(KEY)
    assert kept is not None
    between = Ballot(kept.ballot.round - 1, 9)
    for quorum in combinations((1, 2, 3), prepare):
        replies = [table.ask(node, Prepare(table.config.id, KEY, between)) for node in quorum]
        assert any(isinstance(reply, Conflict) for reply in replies)


def test_a_comparison_that_fails_on_the_kept_state_is_confirmed_by_a_quorum() -> None:
    """The kept state may be old; the client must not hear of it before acceptors agree that it is the newest."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"1")))
    table.run(table.proposer(2).change(KEY, changes.put(b"2")))
    assert table.run(proposer.change(KEY, changes.cas(b"2", b"3"))).changed


def test_the_slowest_acceptor_holds_nobody_up() -> None:
    table = Table()
    proposer = table.proposer(1)
    for number in range(5):
        outcome = table.run(proposer.change(KEY, changes.put(b"%d" % number)), up=(1, 3))
        assert outcome.error is None
    assert KEY not in table.acceptors[NodeId(2)].slots | table.acceptors[NodeId(2)].idle


def test_what_a_proposer_keeps_is_bounded() -> None:
    """By keys and by bytes; the oldest is forgotten, which costs its next change a round trip and nothing else."""
    table = Table(acceptors=1)
    proposer = table.proposer(1)
    large = bytes(PREPARED_BYTES_MAX // 3)
    for number in range(4):
        table.run(proposer.change(b"large %d" % number, changes.put(large)))
    assert [proposer.take_prepared(b"large %d" % number) is not None for number in range(4)] == [
        False,
        True,
        True,
        True,
    ]
    for number in range(PREPARED_MAX + 1):
        proposer.remember(
            b"%d" % number, PreparedBallot(table.config.id, Ballot(1, 1), State(b"", 1, Ballot(), Ballot()))
        )
    assert proposer.take_prepared(b"0") is None
    assert proposer.take_prepared(b"1") is not None

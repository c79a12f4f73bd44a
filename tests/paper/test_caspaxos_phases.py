"""CASPaxos (Rystsov 2018) §2.1: prepare and accept, acceptor and proposer; one test for each rule."""

import pytest
from caspaxos import Table, ballot, state

from troth.core.register import changes
from troth.core.register.messages import ZERO, Accept, Accepted, Conflict, Holding, Prepare, Promise, Read
from troth.core.register.round import Phase
from troth.core.register.states import highest_accepted
from troth.errors import RequestTimeout
from troth.ids import NodeId

KEY = b"k"


def test_an_acceptor_refuses_a_prepare_below_what_it_has_promised() -> None:
    """Step 3: "returns a conflict if it already saw a greater ballot number"."""
    table = Table()
    assert isinstance(table.ask(1, Prepare(table.config.id, KEY, ballot(5))), Promise)
    assert table.ask(1, Prepare(table.config.id, KEY, ballot(4))) == Conflict(ballot(5))


def test_an_acceptor_refuses_an_accept_below_what_it_has_promised() -> None:
    """Step 5, the acknowledgement of a stale ballot."""
    table = Table()
    table.ask(1, Prepare(table.config.id, KEY, ballot(5)))
    stale = Accept(table.config.id, KEY, ballot(4), state(b"old", ballot(4)))
    assert isinstance(table.ask(1, stale), Conflict)
    assert table.ask(1, Read(table.config.id, KEY)) == Holding(ZERO, None)


def test_a_promise_tells_what_was_accepted_and_at_which_ballot() -> None:
    """Step 3: "a tuple of accepted value and its ballot number", which is not the promised one."""
    table = Table()
    held = state(b"v", ballot(3))
    table.ask(1, Accept(table.config.id, KEY, ballot(3), held, ballot(7)))
    assert table.ask(1, Prepare(table.config.id, KEY, ballot(9))) == Promise(ballot(3), held, ZERO)


def test_of_two_ballots_of_one_round_the_higher_client_has_the_newer_state() -> None:
    """Step 4, "the highest ballot number": nothing about the state says which is newer."""
    few, many = state(b"few", ballot(1), version=1), state(b"many", ballot(1), version=9)
    promises = {
        NodeId(1): Promise(ballot(5, 1), many, ZERO),
        NodeId(2): Promise(ballot(5, 2), few, ZERO),
        NodeId(3): Promise(ZERO, None, ZERO),
    }
    assert highest_accepted(promises) == (ballot(5, 2), few)


def test_every_promise_and_every_accepted_state_is_written_before_it_is_answered() -> None:
    """Step 3: "persists the ballot number as a promise"."""
    table = Table()
    acceptor = table.acceptors[NodeId(1)]
    reply, record = acceptor.on_request(Prepare(table.config.id, KEY, ballot(1)))
    assert isinstance(reply, Promise)
    assert record is not None
    accept = Accept(table.config.id, KEY, ballot(1), state(b"v", ballot(1)), ballot(2))
    reply, record = acceptor.on_request(accept)
    assert reply == Accepted()
    assert record is not None


def test_an_acceptor_restarted_from_its_records_is_the_same() -> None:
    """Nothing of a promise or an accepted state is lost by a restart, nor by a snapshot."""
    table = Table()
    acceptor = table.acceptors[NodeId(1)]
    table.ask(1, Prepare(table.config.id, b"a", ballot(4)))
    table.ask(1, Accept(table.config.id, b"b", ballot(5), state(b"v", ballot(5)), ballot(6)))
    again = type(acceptor)(acceptor.id)
    for record in acceptor.snapshot():
        again.apply(record)
    assert again.promised(b"a") == ballot(4)
    assert again.promised(b"b") == ballot(6)
    assert again.slots[b"b"].accepted == ballot(5)
    assert again.slots[b"b"].state == state(b"v", ballot(5))
    assert again.bytes == acceptor.bytes


def test_ballots_of_a_proposer_rise_and_are_nobody_elses() -> None:
    """(round, client) is unique for ever."""
    table = Table()
    one, other = table.proposer(1), table.proposer(2)
    drawn = [one.new_ballot(), other.new_ballot(), one.new_ballot(), other.new_ballot()]
    assert len(set(drawn)) == 4
    assert drawn[0] < drawn[2]
    one.observe(ballot(50, client=9))
    assert one.new_ballot() > ballot(50, client=9)


def test_the_highest_accepted_state_is_adopted() -> None:
    """Step 4: "picks the value of the tuple with the highest ballot number"."""
    low, high = state(b"low", ballot(2)), state(b"high", ballot(3))
    promises = {NodeId(1): Promise(ballot(3), high, ZERO), NodeId(2): Promise(ballot(2), low, ZERO)}
    assert highest_accepted(promises) == (ballot(3), high)
    assert highest_accepted(dict(reversed(promises.items()))) == (ballot(3), high)


def test_a_state_accepted_by_a_minority_is_found_by_the_next_quorum_and_kept() -> None:
    table = Table()
    first = table.proposer(1).change(KEY, changes.put(b"first"))
    table.step(first, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(first, reach=(3,))
    seen = table.run(table.proposer(2).change(KEY, changes.apply(lambda held: (held or b"") + b"+")), up=(2, 3))
    assert seen.value == b"first+"
    assert seen.version == 2


def test_an_accept_needs_a_quorum_before_the_client_is_told() -> None:
    """Step 6: "waits for the F+1 confirmations"."""
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2), answer=(1, 2))
    table.step(task, reach=(1,), answer=(1,))
    assert task.outcome is None
    task.give_up()
    assert task.outcome is not None
    assert isinstance(task.outcome.error, RequestTimeout)


def test_a_prepare_needs_a_quorum_before_anything_is_accepted() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    table.step(task, reach=(1,), answer=(1,))
    assert task.phase is Phase.PREPARING
    assert not task.take()


def test_an_answer_counts_once_however_often_it_arrives() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    sends = table.step(task, reach=(1,), answer=(1,))
    for _ in range(3):
        task.on_reply(sends[0], Promise(ZERO, None, ZERO))
    assert task.phase is Phase.PREPARING


def test_an_answer_to_an_earlier_phase_or_another_task_counts_nothing() -> None:
    """Answers carry what they answer."""
    table = Table()
    proposer = table.proposer(1)
    early = proposer.change(b"other", changes.put(b"v"))
    stale = early.take()
    task = proposer.change(KEY, changes.put(b"v"))
    for send in stale:
        task.on_reply(send, Promise(ballot(99), state(b"wrong", ballot(99)), ZERO))
    assert task.phase is Phase.PREPARING
    assert table.run(task).value == b"v"


def test_a_refused_proposer_comes_back_above_what_refused_it() -> None:
    """Step 3 and 4: a conflict fast-forwards the ballot; the change is then made once."""
    table = Table()
    for _ in range(5):
        table.run(table.proposer(9).change(KEY, changes.put(b"x")))
    outcome = table.run(table.proposer(1).change(KEY, changes.apply(lambda held: (held or b"") + b"y")))
    assert outcome.value == b"xy"


def test_duelling_proposers_pause_and_the_pause_grows() -> None:
    """The paper leaves it to back-off: without, two proposers can refuse each other for ever."""
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"mine"))
    rival = table.proposer(2)
    pauses = []
    for _ in range(6):
        table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
        for acceptor in (1, 2, 3):
            rival.observe(table.acceptors[NodeId(acceptor)].promised(KEY))
        table.step(rival.change(KEY, changes.put(b"rival")), reach=(1, 2, 3))
        table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
        pauses.append(task.pause)
        if task.pause:
            task.resume()
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] > pauses[1] > 0
    assert table.run(task).value == b"mine"


def test_a_rival_that_never_pauses_is_overtaken() -> None:
    """One that keeps its ballot changes the register many times while the prepare of another is on its way."""
    table = Table()
    rival = table.proposer(1)
    task = table.proposer(2).change(KEY, changes.put(b"mine"))
    stamps: set[int] = set()
    while task.outcome is None:
        if task.phase is Phase.PREPARING:
            assert len(stamps) < 6  # 1, 4, 16, 64, 256 rounds ahead in turn
            for number in range(100):
                assert table.run(rival.change(KEY, changes.put(b"%d" % number))).changed
        for send in task.take():
            stamps.add(send.stamp)
            task.on_reply(send, table.hand(send))
        if task.pause:
            task.resume()
    assert task.outcome.changed
    assert len(stamps) > 3


@pytest.mark.parametrize(("prepare", "accept"), [(1, 5), (2, 4), (4, 2), (5, 1)])
def test_quorums_of_two_sizes_that_meet_are_enough(prepare: int, accept: int) -> None:
    """§2.3 rests on Flexible Paxos (Howard, Malkhi, Spiegelman 2016): only prepare and accept quorums must meet."""
    table = Table(acceptors=5, prepare=prepare, accept=accept)
    for number in range(6):
        up = {1 + (number + shift) % 5 for shift in range(max(prepare, accept))}
        outcome = table.run(
            table.proposer(number + 1).change(KEY, changes.apply(lambda held: (held or b"") + b".")), up=up
        )
        assert outcome.value == b"." * (number + 1)

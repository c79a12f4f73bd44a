"""Reads of registers: one round trip where a quorum agrees (RMWPaxos §3), else the identity change (CASPaxos §2.1)."""

import pytest
from caspaxos import Table, ballot

from troth.core.register import changes
from troth.core.register.messages import Read
from troth.errors import Unavailable
from troth.ids import NodeId

KEY = b"k"


def test_a_read_on_which_a_quorum_agrees_takes_one_round_trip_and_writes_nothing() -> None:
    """ "Consistent quorum" (Skrzypczak, Schintke, Schütt 2020, §3)."""
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    table.log.clear()
    assert table.run(table.proposer(2).read(KEY)).value == b"v"
    assert table.requests(Read) == len(table.log)


def test_a_read_waits_for_as_many_as_accept_before_it_settles_anything() -> None:
    """Fewer, though they are enough to prepare, can not agree: whoever stopped there would write for nothing."""
    table = Table(acceptors=5, prepare=2, accept=4)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    table.log.clear()
    task = table.proposer(2).read(KEY)
    assert table.run(task).value == b"v"
    assert table.fan_outs(task) == 1 and table.requests(Read) == len(table.log)


def test_a_read_that_meets_different_states_settles_them_first() -> None:
    table = Table()
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(task, reach=(3,))
    assert table.run(table.proposer(2).read(KEY), up=(2, 3)).value == b"v"
    assert table.run(table.proposer(3).read(KEY), up=(1, 2)).value == b"v"


def test_a_register_that_was_never_written_is_read_without_leaving_a_trace() -> None:
    table = Table()
    assert table.run(table.proposer(1).read(KEY)).value is None
    assert all(not (acceptor.slots or acceptor.idle) for acceptor in table.acceptors.values())


def half_chosen() -> Table:
    """Of five acceptors, four of which have to accept, two hold a state; a phase 1 need not meet them."""
    table = Table(acceptors=5, prepare=2, accept=4)
    task = table.proposer(1).change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2), answer=(1, 2))
    table.step(task, reach=(1, 2))
    return table


def test_what_a_prepare_quorum_holds_is_not_chosen_where_accepting_takes_more() -> None:
    """The two refuse the reader's first ballot, so its quorum are others, which hold nothing."""
    table = half_chosen()
    assert table.run(table.proposer(2).read(KEY)).value is None
    assert [node for node, acceptor in table.acceptors.items() if KEY in acceptor.slots] == [1, 2]


def test_a_read_whose_prepare_quorum_meets_what_is_not_chosen_settles_it_first() -> None:
    table = half_chosen()
    reader = table.proposer(2)
    reader.observe(ballot(9))
    assert table.run(reader.read(KEY)).value == b"v"
    assert sum(KEY in acceptor.slots for acceptor in table.acceptors.values()) >= 4


@pytest.mark.parametrize(("prepare", "accept", "reached"), [(3, 1, 2), (1, 3, 2)])
def test_a_read_needs_a_quorum_of_both_phases(prepare: int, accept: int, reached: int) -> None:
    """With quorums of two sizes: fewer may not meet what was chosen, or cannot tell that it was."""
    table = Table(prepare=prepare, accept=accept)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    if accept == 1:
        # Chosen by one acceptor alone: whoever asks another one must not be told that nothing is there.
        table.acceptors[NodeId(2)].slots.pop(KEY)
        table.acceptors[NodeId(3)].slots.pop(KEY)
    task = table.proposer(2).read(KEY)
    table.step(task, reach=(2,), answer=(2,))
    assert task.outcome is None
    assert isinstance(table.run(table.proposer(3).read(KEY), up=(2, 3)[:reached]).error, Unavailable)
    assert table.run(table.proposer(4).read(KEY)).value == b"v"


def test_of_states_that_few_hold_a_read_gives_the_newest() -> None:
    """Where one acceptor suffices to choose, an older state is held as widely as one that is chosen."""
    table = Table(prepare=3, accept=1)
    table.run(table.proposer(1).change(KEY, changes.put(b"old")))
    later = table.proposer(2)
    later.observe(ballot(9))
    task = later.change(KEY, changes.put(b"new"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(task, reach=(3,), answer=(3,))
    assert task.outcome is not None and task.outcome.changed
    assert table.run(table.proposer(3).read(KEY)).value == b"new"

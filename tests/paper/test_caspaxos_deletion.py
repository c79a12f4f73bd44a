"""CASPaxos §3.1: a deletion is a tombstone, and a tombstone is removed only when nothing old can come back."""

from caspaxos import Table, ballot, state

from troth.core.register import changes
from troth.core.register.messages import ZERO, Accept, Collect, Conflict, Gone, Prepare, Read
from troth.errors import OutcomeUnknown, Unavailable
from troth.ids import NodeId

KEY = b"k"


def deleted(table: Table) -> None:
    """A register that was written and deleted, its tombstone on a quorum."""
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    outcome = table.run(table.proposer(1).change(KEY, changes.delete()))
    assert outcome.tombstone


def test_a_deletion_writes_a_tombstone_with_a_regular_quorum() -> None:
    """Step 1."""
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    outcome = table.run(table.proposer(1).change(KEY, changes.delete()), up=(1, 2))
    assert outcome.changed
    assert outcome.tombstone
    assert table.run(table.proposer(2).read(KEY), up=(2, 3)).value is None


def test_a_collection_needs_every_acceptor() -> None:
    """Step 2a: "with the max quorum size". Acceptor 3 holds the old value; forgetting on 1 and 2 would revive it."""
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    table.run(table.proposer(1).change(KEY, changes.delete()), up=(1, 2))
    outcome = table.run(table.proposer(2).collect(KEY), up=(1, 2))
    assert isinstance(outcome.error, Unavailable)
    assert table.requests(Collect) == 0
    assert table.run(table.proposer(3).read(KEY), up=(2, 3)).value is None


def test_a_collection_that_one_acceptor_may_not_have_heard_of_is_not_done() -> None:
    table = Table()
    deleted(table)
    task = table.proposer(2).collect(KEY)
    sends = task.take()
    while not isinstance(sends[0].request, Collect):
        for send in sends:
            task.on_reply(send, table.hand(send))
        sends = task.take()
    for send in sends[:2]:
        task.on_reply(send, table.hand(send))
    assert task.outcome is None


def test_a_collected_register_is_gone_from_every_acceptor() -> None:
    """Step 2d."""
    table = Table()
    deleted(table)
    assert table.run(table.proposer(2).collect(KEY)).error is None
    assert all(KEY not in {*acceptor.slots, *acceptor.idle} for acceptor in table.acceptors.values())
    assert all(acceptor.bytes == 0 for acceptor in table.acceptors.values())


def test_the_fence_rises_with_the_removal_in_one_record() -> None:
    """Steps 2b and 2c, with ballots for ages: never the one without the other."""
    table = Table()
    deleted(table)
    acceptor = table.acceptors[NodeId(1)]
    held = acceptor.slots[KEY]
    reply, record = acceptor.on_request(Collect(table.config.id, KEY, held.accepted))
    assert reply == Gone(True)
    assert record is not None
    assert acceptor.fence >= held.promised
    again = type(acceptor)(acceptor.id)
    for each in acceptor.snapshot():
        again.apply(each)
    assert again.fence == acceptor.fence


def test_a_message_from_before_the_deletion_is_refused_after_the_collection() -> None:
    """The lost delete anomaly: an accept or a prepare that was on its way all the time."""
    table = Table()
    late = table.proposer(7).change(KEY, changes.put(b"late"))
    table.step(late, reach=(1, 2, 3), answer=(1, 2, 3))
    accepts = late.take()
    deleted(table)
    table.run(table.proposer(2).collect(KEY))
    for send in accepts:
        assert isinstance(table.hand(send), Conflict)
    assert isinstance(table.ask(1, Prepare(table.config.id, KEY, ballot(1, client=7))), Conflict)
    assert table.run(table.proposer(3).read(KEY)).value is None


def test_a_proposer_that_kept_a_ballot_from_before_the_collection_is_refused() -> None:
    """Step 2b invalidates caches of all proposers; here the fence does."""
    table = Table()
    keeper = table.proposer(1)
    table.run(keeper.change(KEY, changes.put(b"v")))
    table.run(table.proposer(2).change(KEY, changes.delete()))
    table.run(table.proposer(2).collect(KEY))
    task = keeper.change(KEY, changes.apply(lambda held: b"" if held is None else held + b"+"))
    assert table.run(task).value == b""


def test_a_late_copy_of_the_tombstone_itself_is_refused() -> None:
    table = Table()
    deleted(table)
    tombstone = table.acceptors[NodeId(1)].slots[KEY]
    assert tombstone.state is not None
    copy = Accept(table.config.id, KEY, table.acceptors[NodeId(1)].promised(KEY), tombstone.state)
    table.run(table.proposer(2).collect(KEY))
    assert isinstance(table.ask(1, copy), Conflict)
    assert KEY not in table.acceptors[NodeId(1)].slots | table.acceptors[NodeId(1)].idle


def test_a_register_that_was_written_again_is_not_collected() -> None:
    table = Table()
    deleted(table)
    collector = table.proposer(2)
    collector.observe(ballot(100))
    task = collector.collect(KEY)
    for _ in ("it looks", "prepares", "accepts the tombstone once more"):
        table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    collects = task.take()
    assert all(isinstance(send.request, Collect) for send in collects)
    table.run(table.proposer(3).change(KEY, changes.put(b"new")))
    for send in collects:
        assert table.hand(send) == Gone(False)
    assert table.run(table.proposer(4).read(KEY)).value == b"new"


def test_a_collection_of_a_live_register_disturbs_nobody() -> None:
    """It looks, and promises nothing: whoever writes the key keeps its ballot."""
    table = Table()
    writer = table.proposer(1)
    table.run(writer.change(KEY, changes.put(b"v")))
    held = [acceptor.promised(KEY) for acceptor in table.acceptors.values()]
    outcome = table.run(table.proposer(2).collect(KEY))
    assert (outcome.error, outcome.value, outcome.changed) == (None, b"v", False)
    assert [acceptor.promised(KEY) for acceptor in table.acceptors.values()] == held
    task = writer.change(KEY, changes.put(b"w"))
    table.run(task)
    assert task.phases == 1


def test_a_collection_that_ended_half_way_is_taken_up_again() -> None:
    table = Table()
    deleted(table)
    collector = table.proposer(2)
    collector.observe(ballot(100))
    task = collector.collect(KEY)
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    table.step(task, reach=(1, 2))
    assert KEY in table.acceptors[NodeId(3)].slots
    assert table.run(table.proposer(3).read(KEY), up=(1, 3)).value is None
    assert table.run(table.proposer(4).collect(KEY)).error is None
    assert all(KEY not in {*acceptor.slots, *acceptor.idle} for acceptor in table.acceptors.values())


def test_a_change_in_doubt_over_a_collection_is_reported_as_unknown() -> None:
    """Whether it was part of what was deleted nobody can say any more; applying it again might apply it twice."""
    table = Table()
    task = table.proposer(1).change(KEY, changes.apply(lambda held: (held or b"") + b"+"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    sends = table.step(task, reach=(1, 2, 3))
    table.run(table.proposer(2).change(KEY, changes.delete()))
    table.run(table.proposer(2).collect(KEY))
    for send in sends:
        task.on_lost(send)
    assert isinstance(table.run(task).error, OutcomeUnknown)


def test_the_fence_of_other_keys_refuses_no_live_register() -> None:
    """The fence speaks for keys that are not held; a register that is here has its own promise."""
    table = Table()
    keeper = table.proposer(1)
    table.run(keeper.change(b"live", changes.put(b"v")))
    other = table.proposer(2)
    other.observe(ballot(1000))
    table.run(other.change(KEY, changes.put(b"x")))
    table.run(other.change(KEY, changes.delete()))
    table.run(other.collect(KEY))
    task = keeper.change(b"live", changes.put(b"w"))
    assert table.run(task).value == b"w"
    assert task.phases == 1


def test_promises_without_a_state_are_forgotten_behind_the_fence() -> None:
    table = Table()
    acceptor = table.acceptors[NodeId(1)]
    for number in range(20):
        table.ask(1, Prepare(table.config.id, b"no such %d" % number, ballot(number + 1)))
    table.ask(1, Accept(table.config.id, KEY, ballot(3), state(b"v", ballot(3))))
    acceptor.forget_promises()
    assert [*acceptor.slots, *acceptor.idle] == [KEY]
    assert acceptor.fence == ballot(20)
    late = Accept(table.config.id, b"no such 3", ballot(4), state(b"late", ballot(4)))
    assert isinstance(table.ask(1, late), Conflict)
    assert acceptor.fence > ZERO
    assert isinstance(table.ask(1, Read(table.config.id, KEY)).state, type(acceptor.slots[KEY].state))  # type: ignore[union-attr]


def test_a_collection_that_finds_a_new_value_leaves_it_alone() -> None:
    """It was written between the look and the prepare: nothing is accepted anew, and nobody is asked to forget it."""
    table = Table()
    deleted(table)
    task = table.proposer(2).collect(KEY)
    for send in task.take():
        task.on_reply(send, table.hand(send))
    table.run(table.proposer(3).change(KEY, changes.put(b"new")))
    table.log.clear()
    outcome = table.run(task)
    assert (outcome.value, outcome.error) == (b"new", None)
    assert table.requests(Accept) == table.requests(Collect) == 0


def test_a_collection_of_a_live_register_leaves_its_own_client_the_kept_ballot() -> None:
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"v")))
    table.run(proposer.collect(KEY))
    task = proposer.change(KEY, changes.put(b"w"))
    table.run(task)
    assert task.phases == 1


def test_a_change_behind_a_collection_of_the_same_client_begins_with_a_prepare() -> None:
    """The ballot that the deletion kept is below the fence by then; to try it would cost a round trip."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"v")))
    table.run(proposer.change(KEY, changes.delete()))
    table.run(proposer.collect(KEY))
    task = proposer.change(KEY, changes.put(b"w"))
    assert table.run(task).value == b"w"
    assert task.phases == 2


def test_nothing_that_is_accepted_remembers_the_fence_that_it_met() -> None:
    """Or a change in doubt from before the deletion would be taken for one that never happened."""
    table = Table()
    for change in (changes.put(b"v"), changes.delete()):
        table.run(table.proposer(1).change(KEY, change))
    table.run(table.proposer(1).collect(KEY))
    fence = max(acceptor.fence for acceptor in table.acceptors.values())
    table.log.clear()
    table.run(table.proposer(2).collect(KEY))
    floors = {request.state.floor for _, request, _ in table.log if isinstance(request, Accept)}
    assert floors == {fence} != {ZERO}

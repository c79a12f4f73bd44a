"""CASPaxos §3.1: a deletion is a tombstone, and a tombstone is removed only when nothing old can come back."""

import pytest
from caspaxos import Table, ballot, state, until_joint

from troth.core.register import changes
from troth.core.register.collection import BALLOTS_MAX, Collection
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    Collect,
    Collected,
    Conflict,
    Full,
    Holding,
    Prepare,
    Read,
    ReplyMessage,
    RequestMessage,
)
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.task import Send
from troth.errors import OutcomeUnknown, QuotaExceeded, Unavailable
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


def collecting(table: Table, proposer: Proposer, step: type[RequestMessage]) -> tuple[Collection, list[Send]]:
    """A collection that has just sent the requests of *step*; these are not handed over yet."""
    task = proposer.collect(KEY)
    while not isinstance((sends := task.take())[0].request, step):
        for send in sends:
            task.on_reply(send, table.hand(send))
    return task, sends


def test_a_collection_that_one_acceptor_may_not_have_heard_of_is_not_done() -> None:
    table = Table()
    deleted(table)
    task, sends = collecting(table, table.proposer(2), Collect)
    for send in sends[:2]:
        task.on_reply(send, table.hand(send))
    assert task.outcome is None


@pytest.mark.parametrize("step", [Read, Prepare, Accept, Collect])
def test_a_collection_ends_when_an_acceptor_is_silent(step: type[RequestMessage]) -> None:
    """It would ask the others again and again meanwhile, and each time they write; the tombstone may as well stay."""
    table = Table()
    deleted(table)
    task, sends = collecting(table, table.proposer(2), step)
    task.on_lost(sends[0])
    for send in sends[1:]:
        assert task.outcome is None
        task.on_reply(send, table.hand(send))
    assert task.outcome is not None and isinstance(task.outcome.error, Unavailable)
    assert not task.has_sends and not task.pause
    assert table.run(table.proposer(3).read(KEY)).value is None


@pytest.mark.parametrize(
    ("step", "reply"),
    [(Read, Collected(True)), (Prepare, Accepted()), (Accept, Collected(True)), (Collect, Accepted())],
)
def test_an_answer_to_another_question_ends_a_collection(step: type[RequestMessage], reply: ReplyMessage) -> None:
    table = Table()
    deleted(table)
    task, sends = collecting(table, table.proposer(2), step)
    task.on_reply(sends[0], reply)
    for send in sends[1:]:
        task.on_reply(send, table.hand(send))
    assert task.outcome is not None and isinstance(task.outcome.error, Unavailable)


def test_a_look_that_is_refused_ends() -> None:
    task = Table().proposer(2).look(KEY)
    for send in task.take():
        task.on_reply(send, Conflict(ballot(9)))
    assert task.outcome is not None and isinstance(task.outcome.error, Unavailable)


def test_silence_behind_an_answer_is_none() -> None:
    """A driver may count an acceptor as lost that has answered."""
    table = Table()
    deleted(table)
    task, sends = collecting(table, table.proposer(2), Read)
    task.on_reply(sends[0], table.hand(sends[0]))
    task.on_lost(sends[0])
    for send in sends[1:]:
        task.on_reply(send, table.hand(send))
    assert task.outcome is None and task.has_sends


def test_an_answer_behind_silence_is_one() -> None:
    table = Table()
    deleted(table)
    task, sends = collecting(table, table.proposer(2), Read)
    task.on_lost(sends[0])
    for send in sends:
        task.on_reply(send, table.hand(send))
    assert task.outcome is None and task.has_sends


def test_an_acceptor_that_is_gone_ends_no_collection_if_there_is_a_newer_set() -> None:
    table = Table(spares=1)
    deleted(table)
    client = table.proposer(2)
    change = Reconfiguration(table.proposer(50), {NodeId(number): f"a{number}" for number in (2, 3, 4)})
    assert table.run(change).error is None
    outcome = table.run(client.collect(KEY), up=(2, 3, 4))
    assert (outcome.error, outcome.tombstone) == (None, True)


def test_a_collection_while_an_acceptor_is_away_disturbs_nobody() -> None:
    """It looks first; whoever writes the key next keeps its ballot, and nothing is written."""
    table = Table()
    writer = table.proposer(1)
    table.run(writer.change(KEY, changes.put(b"v")))
    table.run(writer.change(KEY, changes.delete()))
    assert isinstance(table.run(writer.collect(KEY), up=(1, 2)).error, Unavailable)
    task = writer.change(KEY, changes.put(b"w"))
    assert table.run(task, up=(1, 2)).value == b"w"
    assert table.fan_outs(task) == 1


def test_a_collection_that_has_no_more_time_is_not_done() -> None:
    table = Table()
    task = table.proposer(1).collect(KEY)
    task.give_up()
    outcome = task.outcome
    assert outcome is not None and isinstance(outcome.error, Unavailable)
    task.give_up()
    assert task.outcome is outcome


def test_a_collection_overtakes_what_was_promised_to_others() -> None:
    """All of them at once: each acceptor may have promised another ballot."""
    table = Table()
    deleted(table)
    for node in (1, 2, 3):
        table.ask(node, Prepare(table.config.id, KEY, ballot(20 + 10 * node, 9)))
    table.log.clear()
    outcome = table.run(table.proposer(2).collect(KEY))
    assert (outcome.error, outcome.tombstone) == (None, True)
    assert table.requests(Prepare) == 2 * 3 < BALLOTS_MAX * 3


def test_a_collection_gives_way_to_those_who_are_at_work_on_the_key() -> None:
    table = Table()
    deleted(table)
    task = table.proposer(2).collect(KEY)
    number = 100
    while task.outcome is None:
        number += 1
        for send in task.take():
            if isinstance(send.request, Prepare):
                task.on_reply(send, Conflict(ballot(number, 9)))
            else:
                task.on_reply(send, table.hand(send))
    assert isinstance(task.outcome.error, Unavailable)


def test_who_has_no_room_for_a_collection_says_so() -> None:
    table = Table()
    deleted(table)
    task, sends = collecting(table, table.proposer(2), Prepare)
    for send in sends:
        task.on_reply(send, Full("no room"))
    assert task.outcome is not None and isinstance(task.outcome.error, QuotaExceeded)


def test_a_value_that_one_acceptor_has_accepted_is_not_collected() -> None:
    """Its proposer could never find out that it did not happen. All are asked, so one that has it tells."""
    table = Table()
    deleted(table)
    late = table.proposer(7)
    late.observe(ballot(50))
    change = late.change(KEY, changes.put(b"late"))
    table.step(change, reach=(1, 2, 3), answer=(1, 2, 3))
    collector = table.proposer(2)
    collector.observe(ballot(100))
    task, sends = collecting(table, collector, Prepare)
    (only, *_) = [send for send in change.take() if send.to == 1]
    table.hand(only)
    for send in sends:
        task.on_reply(send, table.hand(send))
    assert table.run(task).value == b"late"


def test_a_change_that_a_collection_has_refused_is_known_not_to_have_happened() -> None:
    """It goes on by itself, though the register was collected in between."""
    table = Table()
    deleted(table)
    late = table.proposer(7)
    late.observe(ballot(50))
    change = late.change(KEY, changes.put(b"late"))
    table.step(change, reach=(1, 2, 3), answer=(1, 2, 3))
    assert table.run(table.proposer(2).collect(KEY)).tombstone
    outcome = table.run(change)
    assert (outcome.error, outcome.value) == (None, b"late")


def test_a_collection_needs_every_acceptor_of_both_groups_while_there_are_two() -> None:
    table = Table(spares=1)
    deleted(table)
    operator = table.proposer(50)
    until_joint(table, operator, 2, 3, 4)
    assert isinstance(table.run(operator.collect(KEY), up=(2, 3, 4)).error, Unavailable)
    assert table.run(operator.collect(KEY)).tombstone


def test_a_first_change_in_doubt_is_settled_though_another_register_was_collected_meanwhile() -> None:
    """One fence stands for all that is not held, but this key was held: promised, by all of them."""
    table = Table()
    task = table.proposer(1).change(b"new", changes.put(b"v"))
    table.step(task, reach=(1, 2, 3), answer=(1, 2, 3))
    lost = task.take()
    other = table.proposer(2)
    other.observe(ballot(100))
    table.run(other.change(KEY, changes.put(b"x")))
    table.run(other.change(KEY, changes.delete()))
    assert table.run(other.collect(KEY)).tombstone
    for send in lost:
        task.on_lost(send)
    outcome = table.run(task)
    assert (outcome.error, outcome.value, outcome.version) == (None, b"v", 1)


def test_a_collection_goes_on_in_a_new_configuration() -> None:
    table = Table(spares=1)
    deleted(table)
    client = table.proposer(2)
    change = Reconfiguration(table.proposer(50), {NodeId(number): f"a{number}" for number in (1, 2, 3, 4)})
    assert table.run(change).error is None
    assert table.run(client.collect(KEY)).tombstone
    assert all(KEY not in acceptor.slots for acceptor in table.acceptors.values())


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
    at = ballot(7)
    table.ask(1, Accept(table.config.id, KEY, at, state(None, at)))
    acceptor = table.acceptors[NodeId(1)]
    reply, record = acceptor.on_request(Collect(table.config.id, KEY, at))
    assert reply == Collected(True)
    assert record is not None
    assert acceptor.fence == at
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
        assert table.hand(send) == Collected(False)
    assert table.run(table.proposer(4).read(KEY)).value == b"new"


def test_a_collection_is_not_done_while_one_acceptor_keeps_the_tombstone() -> None:
    """Somebody is about to change the register; when that is given up another collection removes it everywhere."""
    table = Table()
    deleted(table)
    collector = table.proposer(2)
    collector.observe(ballot(100))
    task, sends = collecting(table, collector, Collect)
    table.ask(3, Prepare(table.config.id, KEY, ballot(200, 9)))
    for send in sends:
        task.on_reply(send, table.hand(send))
    assert task.outcome is None
    assert table.run(task).tombstone
    assert all(KEY not in {*acceptor.slots, *acceptor.idle} for acceptor in table.acceptors.values())


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
    assert table.fan_outs(task) == 1


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
    assert table.fan_outs(task) == 1


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
    assert table.ask(1, Read(table.config.id, KEY)) == Holding(ballot(3), state(b"v", ballot(3)))


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
    assert table.fan_outs(task) == 1


def test_a_change_behind_a_collection_of_the_same_client_begins_with_a_prepare() -> None:
    """The ballot that the deletion kept is below the fence by then; to try it would cost a round trip."""
    table = Table()
    proposer = table.proposer(1)
    table.run(proposer.change(KEY, changes.put(b"v")))
    table.run(proposer.change(KEY, changes.delete()))
    table.run(proposer.collect(KEY))
    task = proposer.change(KEY, changes.put(b"w"))
    assert table.run(task).value == b"w"
    assert table.fan_outs(task) == 2


def test_nothing_that_is_accepted_remembers_the_fence_that_it_met() -> None:
    """Or a change in doubt from before the deletion would be taken for one that never happened."""
    table = Table()
    for change in (changes.put(b"v"), changes.delete()):
        table.run(table.proposer(1).change(KEY, change))
    table.run(table.proposer(1).collect(KEY))
    fence = max(acceptor.fence for acceptor in table.acceptors.values())
    late = table.proposer(2).collect(KEY)
    for send in late.take():  # as if it had looked before the other collection
        late.on_reply(send, Holding(ballot(1), state(None, ballot(1))))
    table.log.clear()
    table.run(late)
    floors = {request.state.floor for _, request, _ in table.log if isinstance(request, Accept)}
    assert floors == {fence} != {ZERO}

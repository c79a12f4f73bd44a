"""CASPaxos §2.3, parts of a change of acceptors: listing page by page, copying several at once, telling everybody."""

import msgspec
import pytest
from caspaxos import Table, ballot, configure, seats, until_joint

from troth.core.register import changes
from troth.core.register.acceptor import Acceptor
from troth.core.register.listing import Listing, Survey
from troth.core.register.messages import (
    RESERVED,
    ZERO,
    Accept,
    ConfigId,
    Configure,
    Full,
    Prepare,
    Read,
    Scan,
    Scanned,
    WrongConfig,
    config_key,
)
from troth.core.register.reconfigure import COPIES_AT_ONCE, Reconfiguration, _Copying
from troth.core.register.task import Send
from troth.errors import OutcomeUnknown, QuotaExceeded, UsageError
from troth.ids import NodeId

KEY = b"k"
EMPTY = Scanned((), False, ZERO)


def test_deletions_are_copied_as_values_are() -> None:
    """An acceptor that was away at one and stays would bring the value back: of the new ones none knows better."""
    table = Table(spares=2)
    client = table.proposer(1)
    table.run(client.change(KEY, changes.put(b"v")))
    table.run(client.change(KEY, changes.delete()), up=(1, 2))
    assert table.run(Reconfiguration(table.proposer(50), seats(3, 4, 5))).error is None
    for up in ((3, 4), (3, 5), (4, 5)):
        reader = table.proposer(60 + sum(up))
        reader.adopt(table.acceptors[NodeId(4)].config)  # type: ignore[arg-type]
        assert table.run(reader.read(KEY), up=up).value is None


def lose(task: Listing, *of: int) -> None:
    for send in task.take():
        if not of or send.to in of:
            task.on_lost(send)


# ---- listing ----


def test_the_next_page_is_asked_for_behind_the_last_key_of_this_one() -> None:
    task = Listing(Table().proposer(1))
    send = task.take()[0]
    task.on_reply(send, Scanned(((b"a", False), (b"b", False), (b"c", True)), True, ZERO))
    (more,) = task.take()
    assert isinstance(more.request, Scan) and more.to == send.to and task.is_current(more)
    assert more.request.after == b"c"
    assert (task.keys, task.living) == ([b"a", b"b", b"c"], [b"a", b"b"])


def test_who_promises_more_and_has_nothing_is_not_asked_for_ever() -> None:
    task = Listing(Table().proposer(1))
    for send in task.take()[:2]:
        task.on_reply(send, Scanned((), True, ZERO))
    assert task.outcome is not None and task.outcome.error is None


def test_the_highest_fence_and_the_highest_ballot_of_all_answers_count() -> None:
    task = Listing(Table().proposer(1))
    first, second, _ = task.take()
    task.on_reply(first, Scanned((), False, ballot(5), ballot(9)))
    task.on_reply(second, Scanned((), False, ballot(2), ballot(3)))
    assert (task.fence, task.highest) == (ballot(5), ballot(9))


def test_who_has_listed_has_listed_though_its_connection_breaks() -> None:
    task = Listing(Table().proposer(1))
    first, second, _ = task.take()
    task.on_reply(first, EMPTY)
    task.on_lost(first)
    task.on_reply(second, EMPTY)
    assert task.outcome is not None


def test_a_listing_without_a_quorum_pauses_longer_each_time_and_hears_nothing_late() -> None:
    task = Listing(Table().proposer(1))
    for tries in range(1, 4):
        sends = task.take()
        for send in sends[:2]:
            task.on_lost(send)
        assert task.pause == tries
        assert not task.is_current(sends[2])
        task.resume()
        assert not task.pause
    assert task.outcome is None


def test_a_listing_that_is_done_is_not_given_up() -> None:
    task = Listing(Table().proposer(1))
    for send in task.take()[:2]:
        task.on_reply(send, EMPTY)
    outcome = task.outcome
    task.give_up()
    assert task.outcome is outcome is not None


@pytest.mark.parametrize(("prepare", "accept"), [(3, 1), (1, 3)])
def test_a_survey_is_heard_by_quorums_of_both_phases(prepare: int, accept: int) -> None:
    task = Survey(Table(prepare=prepare, accept=accept).proposer(1))
    first, second, third = task.take()
    task.on_reply(first, EMPTY)
    task.on_reply(second, EMPTY)
    assert task.outcome is None
    task.on_reply(third, EMPTY)
    assert task.outcome is not None  # type: ignore[unreachable]


@pytest.mark.parametrize(("prepare", "accept"), [(3, 1), (1, 3)])
def test_a_survey_that_can_not_have_one_of_them_tries_again(prepare: int, accept: int) -> None:
    task = Survey(Table(prepare=prepare, accept=accept).proposer(1))
    first, second, _ = task.take()
    task.on_reply(first, EMPTY)
    task.on_lost(second)
    assert task.pause


# ---- copying ----


def test_so_many_keys_are_copied_at_once_and_the_next_when_one_is_done() -> None:
    table = Table()
    keys = [b"%02d" % number for number in range(COPIES_AT_ONCE + 2)]
    task = _Copying(table.proposer(1), keys)
    sends = task.take()
    under_way = {send.request.key for send in sends if isinstance(send.request, Prepare)}
    assert len(under_way) == COPIES_AT_ONCE
    done = min(under_way)
    for send in [send for send in sends if send.request.key == done]:  # type: ignore[union-attr]
        task.on_reply(send, table.hand(send))
    begun = {send.request.key for send in task.take()} - {done}  # type: ignore[union-attr]
    assert len(begun) == 1 and not begun & under_way


def test_copies_pause_only_when_none_of_them_has_anything_else_to_do() -> None:
    task = _Copying(Table().proposer(1), [b"a", b"b"])
    sends = task.take()

    def lose(key: bytes) -> None:
        for send in sends:
            if send.request.key == key:  # type: ignore[union-attr]
                task.on_lost(send)

    lose(b"a")
    assert not task.pause
    lose(b"b")
    assert task.pause == 1
    task.resume()
    assert not task.pause and len(task.take()) == 6


# ---- the steps ----


def test_nothing_more_is_asked_when_a_copy_was_refused() -> None:
    table = Table(spares=1)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    task = until_joint(table, table.proposer(50), 1, 2, 4)
    while task.outcome is None:
        for send in task.take():
            about_key = isinstance(send.request, Accept) and send.request.key == KEY
            task.on_reply(send, Full("no room") if about_key else table.hand(send))
    assert isinstance(task.outcome.error, OutcomeUnknown)
    assert isinstance(task.outcome.error.__cause__, QuotaExceeded)
    assert not task.has_sends


def test_floor_and_barrier_hold_in_the_joint_configuration_too() -> None:
    """A new acceptor knows neither by itself, and what they refuse would be chosen there."""
    table = Table(spares=1)
    high = ballot(1000, 7)
    configure(table, msgspec.structs.replace(table.config, floor=high, barrier=high))
    task = until_joint(table, table.proposer(50), 1, 2, 3, 4)
    assert (task.config.floor, task.config.barrier) == (high, high)


def test_a_barrier_stays_though_no_acceptor_remembers_what_it_was_for() -> None:
    """They were restarted: the register in which the joint one was decided is gone, and its ballot with it."""
    table = Table(spares=1)
    high = ballot(1000, 7)
    configure(table, msgspec.structs.replace(table.config, barrier=high))
    task = until_joint(table, table.proposer(50), 1, 2, 3, 4)
    for number, acceptor in table.acceptors.items():
        acceptor.on_request(Configure(task.config))
        table.acceptors[number] = again = Acceptor(number)
        for record in acceptor.snapshot():
            again.apply(record)
    assert table.run(task).error is None
    config = table.acceptors[NodeId(1)].config
    assert config is not None and not config.is_joint
    assert config.barrier >= high


def test_the_next_configuration_is_asked_for_in_the_one_that_is_in_force() -> None:
    """What was begun under another one is not gone on with: its register is of no use any more."""
    table = Table(spares=1)
    task = Reconfiguration(table.proposer(50), seats(1, 2, 3, 4))
    send = task.take()[0]
    assert isinstance(send.request, Prepare) and send.request.key == config_key(2)
    newer = msgspec.structs.replace(table.config, id=ConfigId(table.config.id.cluster, 3))
    task.on_reply(send, WrongConfig(newer))
    assert {each.request.key for each in task.take()} == {config_key(4)}  # type: ignore[union-attr]


def test_whoever_leaves_is_told_of_it_and_nobody_else_is_told_twice() -> None:
    table = Table(spares=1)
    task = until_joint(table, table.proposer(50), 1, 2, 4)
    told: list[Send] = []
    while task.outcome is None:
        for send in task.take():
            told += [send] if isinstance(send.request, Configure) and not send.request.to.is_joint else []
            task.on_reply(send, table.hand(send))
    assert sorted(send.to for send in told) == [1, 2, 3, 4]
    config = table.acceptors[NodeId(3)].config
    assert config is not None and config.acceptors == (1, 2, 4)


def test_what_a_quorum_has_been_told_is_not_asked_for_once_more() -> None:
    table = Table(spares=1)
    assert table.run(Reconfiguration(table.proposer(50), seats(1, 2, 3, 4))).error is None
    assert not any(isinstance(request, Read) and request.key.startswith(RESERVED) for _, request, _ in table.log)


@pytest.mark.parametrize(("prepare", "accept"), [(3, 2), (2, 3)])
def test_the_size_of_one_quorum_alone_is_a_change(prepare: int, accept: int) -> None:
    table = Table()
    assert (
        table.run(Reconfiguration(table.proposer(50), seats(1, 2, 3), prepare=prepare, accept=accept)).error
        is None
    )
    config = table.acceptors[NodeId(1)].config
    assert config is not None
    assert [(group.prepare, group.accept) for group in config.groups] == [(prepare, accept)]


def test_the_sizes_of_quorums_stay_when_one_acceptor_takes_the_place_of_another() -> None:
    """They are the set's, and whoever replaces an acceptor that is lost need not know them."""
    table = Table(acceptors=5, prepare=4, accept=2, spares=2)
    for wanted, sizes in (
        (seats(1, 2, 3, 4, 6), (4, 2)),
        (seats(1, 2, 3, 4, 6, 7), (4, 4)),
        (seats(1, 2, 3, 4, 5), (3, 3)),
    ):
        operator = table.proposer(50 + len(table.log))
        assert table.run(Reconfiguration(operator, wanted)).error is None
        (group,) = operator.config.groups
        assert (group.prepare, group.accept) == sizes


def test_a_change_to_other_quorums_is_taken_back_without_naming_the_old_ones() -> None:
    table = Table(prepare=3, accept=1, spares=1)
    until_joint(table, table.proposer(50), 1, 2, 4)
    operator = table.proposer(51)
    assert table.run(Reconfiguration(operator, seats(1, 2, 3))).error is None
    assert operator.config.id.epoch == 3 and operator.config.groups == table.config.groups


def test_quorums_that_need_not_meet_are_refused_at_once_though_another_change_is_to_be_finished_first() -> None:
    table = Table(spares=1)
    operator = table.proposer(51)
    operator.adopt(until_joint(table, table.proposer(50), 1, 2, 3, 4).config)
    assert operator.config.is_joint
    with pytest.raises(UsageError, match="need not meet"):
        Reconfiguration(operator, seats(1, 2, 3), prepare=1, accept=2)


def test_whoever_asked_for_a_change_may_go_on_with_his_list() -> None:
    table = Table(spares=1)
    wanted = seats(1, 2, 3, 4)
    task = Reconfiguration(table.proposer(50), wanted)
    wanted.clear()
    assert table.run(task).error is None
    config = table.acceptors[NodeId(4)].config
    assert config is not None and config.acceptors == (1, 2, 3, 4)


def test_a_change_that_was_given_up_waits_for_no_answer() -> None:
    table = Table(spares=1)
    task = Reconfiguration(table.proposer(50), seats(1, 2, 3, 4))
    sends = task.take()
    assert all(task.is_current(send) for send in sends)
    task.give_up()
    assert not any(task.is_current(send) for send in sends)

"""CASPaxos §2.3: acceptors come and go while proposers go on. Here acceptors enforce the configuration by its epoch."""

import msgspec
import pytest
from caspaxos import Table, ballot, state, until_joint

from troth.core.register import changes, listing
from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import NUMBER_MAX
from troth.core.register.messages import (
    SEATS_MAX,
    Accept,
    Ballot,
    Configure,
    Conflict,
    Described,
    Full,
    Prepare,
    WrongConfig,
)
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Reconfiguration
from troth.errors import DecodeError, NotApplied, OutcomeUnknown, QuotaExceeded, Unavailable, UsageError
from troth.ids import NodeId

KEY = b"k"


def change(table: Table, client: int, seats: list[int], *, up: tuple[int, ...] = ()) -> None:
    task = Reconfiguration(table.proposer(client), {NodeId(n): f"a{n}" for n in seats})
    outcome = table.run(task, up=up)
    assert outcome.error is None


def test_an_acceptor_refuses_requests_of_another_epoch_and_names_its_own() -> None:
    table = Table(spares=1)
    change(table, 50, [1, 2, 3, 4])
    reply = table.ask(1, Prepare(table.config.id, KEY, ballot(1)))
    assert isinstance(reply, WrongConfig)
    assert reply.mine is not None
    assert reply.mine.id.epoch == 3
    assert reply.mine.acceptors == (1, 2, 3, 4)


def test_a_client_with_an_old_set_goes_on_in_the_new_one() -> None:
    table = Table(spares=1)
    client = table.proposer(1)
    table.run(client.change(KEY, changes.put(b"1")))
    change(table, 50, [1, 2, 3, 4])
    assert table.run(client.change(KEY, changes.put(b"2"))).value == b"2"
    assert client.config.id.epoch == 3


def test_a_set_grows_from_an_odd_and_from_an_even_size() -> None:
    """§2.3.1 and §2.3.2."""
    table = Table(spares=2)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    change(table, 50, [1, 2, 3, 4])
    change(table, 51, [1, 2, 3, 4, 5])
    assert table.run(table.proposer(2).read(KEY), up=(3, 4, 5)).value == b"v"


def test_a_set_may_be_replaced_as_a_whole() -> None:
    """Joint quorums of old and new, and the rescan of every register in between."""
    table = Table(spares=3)
    for number in range(30):
        table.run(table.proposer(1).change(b"key %d" % number, changes.put(b"%d" % number)))
    change(table, 50, [4, 5, 6])
    reader = table.proposer(2)
    for number in range(30):
        assert table.run(reader.read(b"key %d" % number)).value == b"%d" % number
    for number in range(30):
        assert table.run(reader.read(b"key %d" % number), up=(4, 5, 6)).value == b"%d" % number


def test_every_register_is_copied_however_many_pages_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SCAN_PAGE_KEYS", 4)
    table = Table(spares=3)
    for number in range(11):
        table.run(table.proposer(1).change(b"key %02d" % number, changes.put(b"%d" % number)))
    change(table, 50, [4, 5, 6])
    reader = table.proposer(2)
    reader.adopt(table.acceptors[NodeId(4)].config)  # type: ignore[arg-type]
    for number in range(11):
        assert table.run(reader.read(b"key %02d" % number), up=(4, 5, 6)).value == b"%d" % number


def no_room(table: Table, *nodes: int) -> Table:
    """*nodes* hold five registers at most; there are more."""
    for number in range(20):
        table.run(table.proposer(1).change(b"key %02d" % number, changes.put(b"v" * 100)))
    for node in nodes:
        table.acceptors[NodeId(node)]._bytes_max = 1500
    return table


@pytest.mark.parametrize("size", [2.0, True, "2", -1, None])
def test_a_size_that_is_no_number_is_no_part_of_a_set(size: object) -> None:
    """2.0 and True are equal to sizes that may be, but nobody could read again what was decided of them."""
    table = Table()
    for sizes in ({"prepare": size, "accept": 2}, {"prepare": 2, "accept": size}):
        with pytest.raises(UsageError, match="is a number of acceptors"):
            Reconfiguration(table.proposer(1), {NodeId(n): f"b{n}" for n in (1, 2, 3)}, **sizes)  # type: ignore[arg-type]


def test_a_set_is_no_larger_than_acceptors_can_be_told_of() -> None:
    table = Table()
    seats = {NodeId(n): f"a{n}" for n in range(1, SEATS_MAX + 2)}
    with pytest.raises(UsageError, match="up to 64 acceptors, not 65"):
        Reconfiguration(table.proposer(1), seats)
    del seats[NodeId(SEATS_MAX + 1)]
    assert Reconfiguration(table.proposer(1), seats).outcome is None


def test_what_acceptors_would_not_take_is_not_even_proposed() -> None:
    """A decision is for ever, and so would be one that nobody can act upon."""
    table = Table()
    proposer = Proposer(1, msgspec.structs.replace(table.config, barrier=Ballot(NUMBER_MAX)))
    outcome = table.run(Reconfiguration(proposer, {NodeId(n): f"a{n}" for n in (1, 2)}))
    assert isinstance(outcome.error, DecodeError)
    assert table.requests(Prepare) == 0


def test_who_joins_takes_over_what_the_others_hold_whatever_its_quota_is() -> None:
    """The quotas of the others bound it. One that refused a copy would hold up the change, and all writes with it."""
    table = no_room(Table(spares=3), 4, 5, 6)
    change(table, 50, [4, 5, 6])
    client = table.proposer(2)
    for number in range(20):
        assert table.run(client.read(b"key %02d" % number)).value == b"v" * 100
    assert isinstance(table.run(client.change(KEY, changes.put(b"v"))).error, QuotaExceeded)
    assert table.run(client.change(b"key 00", changes.delete())).error is None


def test_who_stays_has_the_quota_that_it_had_also_while_others_join() -> None:
    table = Table(spares=1)
    operator = table.proposer(50)
    until_joint(table, operator, 1, 2, 3, 4)
    no_room(table, 1, 2, 3)
    assert isinstance(table.run(operator.change(KEY, changes.put(b"v" * 100))).error, QuotaExceeded)


def test_a_change_whose_copies_fail_is_not_completed() -> None:
    """What did not go over would be gone with the old group. The error says that it is under way, and what to do."""
    table = Table(spares=3)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    until_joint(table, table.proposer(50), 4, 5, 6)
    task = Reconfiguration(table.proposer(51), {NodeId(n): f"a{n}" for n in (4, 5, 6)})
    while task.outcome is None:
        for send in task.take():
            is_copy = isinstance(send.request, Accept) and send.request.key == KEY
            task.on_reply(send, Full("no room") if is_copy else table.hand(send))
    assert isinstance(task.outcome.error, OutcomeUnknown)
    assert isinstance(task.outcome.error.__cause__, QuotaExceeded)
    assert "once more" in str(task.outcome.error)
    config = table.acceptors[NodeId(1)].config
    assert config is not None and config.is_joint
    change(table, 52, [4, 5, 6])
    newest = table.acceptors[NodeId(4)].config
    assert newest is not None and newest.id.epoch == config.id.epoch + 1, "it is gone on with"
    assert table.run(table.proposer(2).read(KEY)).value == b"v"


def test_a_change_that_ends_before_anything_was_asked_has_not_happened() -> None:
    table = Table(spares=1)
    task = Reconfiguration(table.proposer(50), {NodeId(n): f"a{n}" for n in (1, 2, 4)})
    task.give_up()
    assert task.outcome is not None and isinstance(task.outcome.error, NotApplied)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_change_whose_decision_was_asked_for_may_happen(arrives: bool) -> None:
    """Also if it is refused by all of those whom it has reached by then: others may have it."""
    table = Table(spares=1)
    task = Reconfiguration(table.proposer(50), {NodeId(n): f"a{n}" for n in (1, 2, 4)})
    for send in task.take():
        task.on_reply(send, table.hand(send))
    accepts = task.take()
    assert all(isinstance(send.request, Accept) for send in accepts)
    for send in accepts[: 2 if arrives else 0]:
        table.hand(send)
    task.give_up()
    assert task.outcome is not None and isinstance(task.outcome.error, OutcomeUnknown)


def test_a_change_whose_last_step_nobody_may_have_heard_of_is_not_told_as_not_done() -> None:
    table = Table(spares=1)
    operator = table.proposer(50)
    task = Reconfiguration(operator, {NodeId(n): f"a{n}" for n in (1, 2, 4)})
    while operator.config.id.epoch < 3:
        for send in task.take():
            task.on_reply(send, table.hand(send))
    task.give_up()
    assert task.outcome is not None and isinstance(task.outcome.error, OutcomeUnknown)


def test_a_change_that_was_left_in_the_middle_is_taken_back_by_asking_for_the_old_set() -> None:
    """Without a copy: each quorum has had one of the old set in it."""
    table = Table(spares=3)
    client = table.proposer(1)
    table.run(client.change(b"before", changes.put(b"1")))
    operator = table.proposer(50)
    until_joint(table, operator, 4, 5, 6)
    table.run(operator.change(b"meanwhile", changes.put(b"2")))
    table.log.clear()
    change(table, 51, [1, 2, 3])
    assert not any(isinstance(each, Accept) and each.key in (b"before", b"meanwhile") for _, each, _ in table.log)
    config = table.acceptors[NodeId(1)].config
    assert config is not None and config.id.epoch == 3 and config.groups == table.config.groups
    for up in ((1, 2), (1, 3), (2, 3)):
        reader = table.proposer(60 + sum(up))
        assert table.run(reader.read(b"before"), up=up).value == b"1"
        assert table.run(reader.read(b"meanwhile"), up=up).value == b"2"


def test_what_two_operators_make_of_an_unfinished_change_is_decided_once() -> None:
    """One goes on with it, the other takes it back; whoever comes second goes on from what the first has reached."""
    table = Table(spares=2)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    until_joint(table, table.proposer(50), 1, 4, 5)
    forward = Reconfiguration(table.proposer(51), {NodeId(n): f"a{n}" for n in (1, 4, 5)})
    back = Reconfiguration(table.proposer(52), {NodeId(n): f"a{n}" for n in (1, 2, 3)})
    for _ in range(600):
        for task in (forward, back):
            for send in task.take():
                task.on_reply(send, table.hand(send))
            if task.pause:
                task.resume()
    assert forward.outcome is not None and back.outcome is not None
    configs = [each.config for each in table.acceptors.values() if each.config]
    newest = max(configs, key=lambda config: config.id.epoch)
    assert newest.acceptors in ((1, 2, 3), (1, 4, 5)) and not newest.is_joint
    assert table.run(table.proposer(2).read(KEY)).value == b"v"


def test_an_old_set_with_other_quorums_is_not_the_old_one() -> None:
    table = Table(spares=1)
    until_joint(table, table.proposer(50), 1, 2, 3, 4)
    wanted = {NodeId(n): f"a{n}" for n in (1, 2, 3)}
    assert table.run(Reconfiguration(table.proposer(51), wanted, prepare=3, accept=1)).error is None
    config = table.acceptors[NodeId(1)].config
    assert config is not None and config.id.epoch == 5, "forwards first, and then by another change"


def test_a_seat_is_as_old_as_its_holders_stay() -> None:
    table = Table(spares=1)
    change(table, 50, [1, 2, 4])
    change(table, 51, [1, 2, 3])
    config = table.acceptors[NodeId(1)].config
    assert config is not None
    assert {seat.acceptor: seat.since for seat in config.seats} == {1: 1, 2: 1, 3: config.id.epoch - 1}


def test_an_operator_whose_belief_is_old_does_not_take_it_for_what_is() -> None:
    """It wants the set that it believes in, which others have changed meanwhile."""
    table = Table(spares=1)
    change(table, 50, [1, 2, 4])
    task = Reconfiguration(table.proposer(51), {NodeId(n): f"a{n}" for n in (1, 2, 3)})
    assert task.outcome is None
    assert table.run(task).error is None
    config = table.acceptors[NodeId(1)].config
    assert config is not None and config.acceptors == (1, 2, 3)


def test_that_nothing_has_to_change_is_said_by_a_quorum() -> None:
    table = Table()
    task = Reconfiguration(table.proposer(50), {NodeId(n): f"a{n}" for n in (1, 2, 3)})
    assert isinstance(table.run(task, up=(1,)).error, Unavailable)
    table = Table()
    again = Reconfiguration(table.proposer(51), {NodeId(n): f"a{n}" for n in (1, 2, 3)})
    assert table.run(again, up=(1, 2)).error is None
    assert not any(acceptor.slots or acceptor.idle for acceptor in table.acceptors.values()), (
        "nothing is left behind"
    )


def test_in_the_joint_configuration_a_phase_needs_quorums_of_both_groups() -> None:
    table = Table(spares=3)
    operator = table.proposer(50)
    until_joint(table, operator, 4, 5, 6)
    assert isinstance(table.run(operator.change(KEY, changes.put(b"v")), up=(1, 2, 3), steps=50).error, NotApplied)
    assert isinstance(table.run(operator.change(KEY, changes.put(b"v")), up=(4, 5, 6), steps=50).error, NotApplied)
    assert table.run(operator.change(KEY, changes.put(b"v")), up=(1, 2, 5, 6)).value == b"v"


def test_two_operators_can_not_both_decide_the_next_configuration() -> None:
    table = Table(spares=2)
    one = Reconfiguration(table.proposer(50), {NodeId(n): f"a{n}" for n in (1, 2, 3, 4)})
    other = Reconfiguration(table.proposer(51), {NodeId(n): f"a{n}" for n in (1, 2, 3, 5)})
    for _ in range(400):
        for task in (one, other):
            for send in task.take():
                task.on_reply(send, table.hand(send))
            if task.pause:
                task.resume()
    assert one.outcome is not None
    assert other.outcome is not None
    epochs = {
        acceptor.config.id.epoch: acceptor.config for acceptor in table.acceptors.values() if acceptor.config
    }
    newest = epochs[max(epochs)]
    assert newest.acceptors in ((1, 2, 3, 4), (1, 2, 3, 5))
    assert not newest.is_joint


def test_a_change_that_was_left_in_the_middle_is_finished_by_the_next() -> None:
    table = Table(spares=2)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    operator = table.proposer(50)
    until_joint(table, operator, 1, 2, 4)
    change(table, 51, [1, 2, 5])
    assert table.run(table.proposer(2).read(KEY), up=(2, 5)).value == b"v"


def test_a_promise_kept_from_an_earlier_configuration_is_not_used() -> None:
    table = Table(spares=1)
    client = table.proposer(1)
    table.run(client.change(KEY, changes.put(b"1")))
    change(table, 50, [1, 2, 3, 4])
    newest = table.acceptors[NodeId(1)].config
    assert newest is not None
    client.adopt(newest)
    assert client.take_prepared(KEY) is None


def test_an_acceptor_that_comes_back_begins_empty() -> None:
    """It was away while a register was deleted and collected: what it holds would revive it."""
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    change(table, 50, [1, 2])
    table.run(table.proposer(2).change(KEY, changes.delete()))
    assert table.run(table.proposer(2).collect(KEY)).error is None
    change(table, 51, [1, 2, 3])
    assert table.run(table.proposer(3).read(KEY), up=(1, 3)).value is None
    slot = table.acceptors[NodeId(3)].slots.get(KEY)
    assert slot is None or slot.state is None, "the read may have left a promise, and nothing else"


def test_an_acceptor_that_missed_its_leaving_begins_empty_as_well() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    change(table, 50, [1, 2], up=(1, 2))
    table.run(table.proposer(2).change(KEY, changes.delete()))
    assert table.run(table.proposer(2).collect(KEY)).error is None
    change(table, 51, [1, 2, 3])
    assert table.run(table.proposer(3).read(KEY), up=(1, 3)).value is None


def test_fences_go_over_to_the_new_group() -> None:
    """Or a change in doubt from before would be taken for one that never happened."""
    table = Table(spares=3)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    table.run(table.proposer(1).change(KEY, changes.delete()))
    table.run(table.proposer(1).collect(KEY))
    fence = max(acceptor.fence for acceptor in table.acceptors.values())
    change(table, 50, [4, 5, 6])
    assert all(table.acceptors[NodeId(n)].fence >= fence for n in (4, 5, 6))


def test_a_stranger_in_the_place_of_an_acceptor_has_no_voice() -> None:
    """Configurations name acceptors by id, and an emptied directory has a new one."""
    table = Table(spares=1)
    stranger = table.acceptors[NodeId(4)]
    reply, record = stranger.on_request(Prepare(table.config.id, KEY, ballot(1)))
    assert reply == WrongConfig(None)
    assert record is None
    reply, record = stranger.on_request(Configure(table.config))
    assert isinstance(reply, Described)
    assert stranger.config is None
    reply, _ = stranger.on_request(Accept(table.config.id, KEY, ballot(1), state(b"v", ballot(1))))
    assert reply == WrongConfig(None)


def test_an_epoch_never_falls_and_another_set_is_refused() -> None:
    table = Table(spares=1)
    change(table, 50, [1, 2, 3, 4])
    acceptor = table.acceptors[NodeId(1)]
    acceptor.on_request(Configure(table.config))
    assert acceptor.config is not None
    assert acceptor.config.id.epoch == 3
    acceptor.on_request(Configure(Table(acceptors=5).config))
    assert acceptor.config.id.epoch == 3


def test_quorum_sizes_are_changed_in_the_same_way() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    task = Reconfiguration(table.proposer(50), {NodeId(n): f"a{n}" for n in (1, 2, 3)}, prepare=3, accept=1)
    assert table.run(task).error is None
    assert table.run(table.proposer(2).change(KEY, changes.put(b"w"))).value == b"w"
    with pytest.raises(UsageError, match="need not meet"):
        Reconfiguration(table.proposer(51), {NodeId(n): f"a{n}" for n in (1, 2, 3)}, prepare=1, accept=2)


def left_behind(table: Table, *, promised: tuple[int, ...]) -> None:
    """A client dies: *promised* have promised its high ballot, and acceptor 1 alone has accepted what it wanted."""
    dead = table.proposer(9)
    dead.observe(ballot(50))
    task = dead.change(KEY, changes.put(b"left behind"))
    table.step(task, reach=promised, answer=promised)
    table.step(task, reach=(1,))
    assert table.acceptors[NodeId(1)].slots[KEY].state is not None


def test_what_a_dead_client_left_behind_does_not_undo_what_the_new_set_has_chosen() -> None:
    """Acceptor 1 is away during the change, and who had promised that ballot beside it leaves the set."""
    table = Table(spares=1)
    left_behind(table, promised=(1, 3))
    change(table, 50, [1, 2, 4], up=(2, 3, 4))
    assert table.run(table.proposer(2).change(KEY, changes.put(b"chosen")), up=(2, 4)).value == b"chosen"
    assert table.run(table.proposer(3).read(KEY), up=(1, 2)).value == b"chosen"


def test_nor_does_it_after_another_change_of_the_set() -> None:
    table = Table(spares=2)
    left_behind(table, promised=(1, 3))
    change(table, 50, [1, 2, 4], up=(2, 3, 4))
    change(table, 51, [1, 2, 5], up=(2, 4, 5))
    assert table.run(table.proposer(2).change(KEY, changes.put(b"chosen")), up=(2, 5)).value == b"chosen"
    assert table.run(table.proposer(3).read(KEY), up=(1, 2)).value == b"chosen"


def test_the_scan_of_a_change_hears_whoever_may_have_promised_alone() -> None:
    """With phase-1 quorums of one the only promise of a ballot may be at an acceptor that such a quorum misses."""
    table = Table(prepare=1, accept=3, spares=1)
    left_behind(table, promised=(1,))
    operator = table.proposer(50)
    task = until_joint(table, operator, 1, 2, 4, prepare=2, accept=2)
    for send in task.take():  # the scan
        if send.to == 1:
            task.on_lost(send)
        else:
            task.on_reply(send, table.hand(send))
    assert table.run(task).error is None
    table.run(table.proposer(2).change(KEY, changes.put(b"chosen")), up=(2, 4))
    assert table.run(table.proposer(3).read(KEY), up=(1, 2)).value == b"chosen"


def test_ballots_below_the_barrier_are_refused_after_a_restart_too() -> None:
    table = Table(spares=1)
    left_behind(table, promised=(1, 3))
    change(table, 50, [1, 2, 4], up=(2, 3, 4))
    again = Acceptor(NodeId(2))
    for record in table.acceptors[NodeId(2)].snapshot():
        again.apply(record)
    assert again.config is not None
    reply, record = again.on_request(Prepare(again.config.id, KEY, ballot(50, 9)))
    assert isinstance(reply, Conflict)
    assert record is None
    assert reply.ballot >= again.config.barrier >= ballot(50, 9)


@pytest.mark.parametrize("told", [True, False])
def test_an_accept_that_an_acceptor_of_an_older_epoch_refused_is_not_waited_for(told: bool) -> None:
    """Or a change whose fate is hidden would wait for it until its time is over."""
    table = Table(spares=1)
    change(table, 50, [1, 2, 4], up=(1, 2, 3))
    client = table.proposer(1)
    newest = table.acceptors[NodeId(1)].config
    assert newest is not None
    client.adopt(newest)
    client.observe(newest.barrier)
    task = client.change(KEY, changes.put(b"v"))
    table.step(task, reach=(1, 2), answer=(1, 2))
    accepts = {send.to: send for send in task.take()}
    task.on_reply(accepts[NodeId(4)], table.hand(accepts[NodeId(4)]))
    (tell,) = task.take()
    assert isinstance(tell.request, Configure)
    (attempt,) = task.attempts
    task.on_lost(accepts[NodeId(1)])
    task.on_lost(accepts[NodeId(2)])  # this phase is lost
    if told:
        task.on_reply(tell, table.hand(tell))
        assert NodeId(4) not in attempt.doubtful
    else:
        task.on_lost(tell)
    assert not attempt.open


def test_acceptors_that_have_moved_are_known_at_their_new_addresses() -> None:
    """The same acceptors, so nothing is emptied; but everybody learns where they are now."""
    table = Table()
    client = table.proposer(1)
    table.run(client.change(KEY, changes.put(b"v")))
    moved = {NodeId(1): "a1", NodeId(2): "elsewhere", NodeId(3): "a3"}
    operator = table.proposer(50)
    assert table.run(Reconfiguration(operator, moved)).error is None
    assert [(seat.acceptor, seat.address, seat.since) for seat in operator.config.seats] == [
        (1, "a1", 1),
        (2, "elsewhere", 1),
        (3, "a3", 1),
    ]
    assert table.run(client.read(KEY)).value == b"v"
    assert client.config == operator.config
    # And once there is nothing to change nothing is changed.
    assert table.run(Reconfiguration(operator, moved)).error is None
    assert operator.config.id.epoch == client.config.id.epoch


def test_acceptors_that_have_all_moved_keep_what_they_hold() -> None:
    table = Table()
    client = table.proposer(1)
    table.run(client.change(KEY, changes.put(b"v")))
    moved = Reconfiguration(table.proposer(50), {NodeId(n): f"new{n}" for n in (1, 2, 3)})
    assert table.run(moved).error is None
    assert table.run(table.proposer(2).read(KEY)).value == b"v"
    assert all(acceptor.slots[KEY].state for acceptor in table.acceptors.values())

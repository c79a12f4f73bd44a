"""CASPaxos §2.3, the steps of a change of acceptors one by one: what each waits for, and what it hands on."""

from itertools import permutations

import msgspec
import pytest
from caspaxos import Table, ballot, configure, state, until_joint

from troth.core.register import changes
from troth.core.register.listing import CENSUS_TRIES_MAX, Census, Listing
from troth.core.register.messages import (
    ZERO,
    Accept,
    Described,
    Scan,
    Scanned,
    founding,
    group_of,
)
from troth.core.register.reconfigure import Reconfiguration, _Announcing
from troth.core.register.round import Round
from troth.core.register.task import Outcome, Send
from troth.errors import OutcomeUnknown, Unavailable, UsageError
from troth.ids import NodeId

KEY = b"k"
FOUR = {NodeId(n): f"a{n}" for n in (1, 2, 3, 4)}


def until_accepts_of(table: Table, task: Reconfiguration, key: bytes) -> list[Send]:
    """Drive *task* to where it asks the acceptors to accept *key*; these sends, not handed over yet."""
    while True:
        sends = task.take()
        assert sends and task.outcome is None
        if any(isinstance(send.request, Accept) and send.request.key == key for send in sends):
            return sends
        for send in sends:
            task.on_reply(send, table.hand(send))


# ---- listing ----


@pytest.mark.parametrize("order", list(permutations((True, False, True))))
def test_a_key_that_lives_on_one_acceptor_is_listed_as_live(order: tuple[bool, ...]) -> None:
    """Where acceptors of before do not say at which ballot they have accepted it."""
    task = Listing(Table(acceptors=5).proposer(1))
    for send, is_tombstone in zip(task.take(), order, strict=False):
        task.on_reply(send, Scanned(((KEY, is_tombstone),), False, ZERO))
    assert task.outcome is not None
    assert (task.living, task.tombstones) == ([KEY], [])


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_what_was_accepted_at_the_highest_ballot_says_whether_a_key_lives(order: tuple[int, ...]) -> None:
    """Whoever was away at a deletion, or when the register was written again, holds what it held before."""
    held = {1: (KEY, False), 2: (KEY, True), 3: (KEY, False)}
    for newest, living in ((3, True), (2, False)):
        task = Listing(Table(acceptors=5).proposer(1))
        rounds = [number for number in order if number <= newest]
        for send, number in zip(task.take(), rounds + rounds[:1], strict=False):
            task.on_reply(send, Scanned((held[number],), False, ZERO, accepted=(ballot(number),)))
        for send in task.take():
            task.on_reply(send, Scanned((), False, ZERO))
        assert (task.living == [KEY], task.tombstones == [KEY]) == (living, not living)


def test_a_tombstone_that_one_acceptor_has_missed_is_one() -> None:
    table = Table()
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    table.run(table.proposer(1).change(KEY, changes.delete()), up=(1, 2))
    listing = Listing(table.proposer(2))
    assert table.run(listing, up=(2, 3)).error is None
    assert (listing.living, listing.tombstones) == ([], [KEY])


def test_a_census_hears_every_acceptor() -> None:
    """A tombstone may be left on one alone, where a collection has ended half-way."""
    table = Table()
    table.ask(3, Accept(table.config.id, KEY, ballot(3), state(None, ballot(3))))
    census = Census(table.proposer(1))
    for send in census.take():
        assert census.outcome is None
        census.on_reply(send, table.hand(send))
    assert census.outcome is not None and census.tombstones == [KEY]


def test_a_census_ends_soon_when_one_acceptor_is_silent() -> None:
    """But not at once: the first silence may be that of a connection to a process that has started again since."""
    table = Table()
    again = Census(table.proposer(1))
    for send in again.take():
        again.on_lost(send)
    assert again.pause
    assert table.run(again).error is None
    outcome = table.run(Census(table.proposer(1)), up=(1, 2), steps=20)
    assert isinstance(outcome.error, Unavailable)
    assert table.requests(Scan) <= 3 + 2 * CENSUS_TRIES_MAX


def test_who_listed_before_a_pause_has_to_list_again() -> None:
    """Registers may have come since; a quorum answers one and the same question."""
    task = Listing(Table().proposer(1))
    first = {send.to: send for send in task.take()}
    task.on_reply(first[NodeId(1)], Scanned((), False, ZERO))
    for number in (2, 3):
        task.on_lost(first[NodeId(number)])
    assert task.pause
    task.resume()
    second = {send.to: send for send in task.take()}
    assert all(isinstance(send.request, Scan) for send in second.values())
    task.on_reply(second[NodeId(2)], Scanned((), False, ZERO))
    assert task.outcome is None
    task.on_reply(second[NodeId(3)], Scanned((), False, ZERO))
    assert task.outcome is not None


# ---- deciding, copying, announcing ----


def test_an_announcement_is_heard_by_those_who_say_that_they_are_there() -> None:
    table = Table()
    task = _Announcing(table.proposer(1), ())
    other = msgspec.structs.replace(founding(group_of(table.config.seats[:2])), floor=ballot(3))
    for send in task.take():
        task.on_reply(send, Described(send.to, other if send.to < 3 else None, 0, 0, 0, ZERO))
    assert task.outcome is None and task.pause
    task.resume()
    for send in task.take()[:2]:
        task.on_reply(send, Described(send.to, table.config, 0, 0, 0, ZERO))
    assert task.outcome is not None  # type: ignore[unreachable]


def test_a_decision_in_doubt_is_asked_for_again() -> None:
    """Whatever was decided stays; so asking once more tells, and nothing is decided twice."""
    table = Table(spares=1)
    task = Reconfiguration(table.proposer(50), FOUR)
    for send in task.take():
        task.on_reply(send, table.hand(send))
    assert isinstance(task._inner, Round), "a decision is under way"
    task._inner.outcome = Outcome(error=OutcomeUnknown("hidden"))
    task._advance()
    assert task.outcome is None
    assert table.run(task).error is None
    assert table.acceptors[NodeId(4)].config == table.acceptors[NodeId(1)].config


def test_copies_of_an_epoch_that_is_over_lead_to_no_last_step() -> None:
    """Another operator has completed the change; a second last step would be one out of a set that is not joint."""
    table = Table(spares=1)
    table.run(table.proposer(1).change(KEY, changes.put(b"v")))
    slow, quick = table.proposer(50), table.proposer(51)
    task = Reconfiguration(slow, FOUR)
    last = until_accepts_of(table, task, KEY)
    answers = [table.hand(send) for send in last]
    assert table.run(Reconfiguration(quick, FOUR)).error is None
    slow.adopt(quick.config)
    for send, reply in zip(last, answers, strict=True):
        task.on_reply(send, reply)
    assert table.run(task).error is None
    assert slow.config == quick.config
    assert table.run(table.proposer(2).read(KEY)).value == b"v"


def test_what_an_earlier_change_refuses_is_refused_also_when_the_next_is_taken_back() -> None:
    """Without the floor a change in doubt is told as not applied, and made twice; without the barrier a late accept
    that was never chosen comes back."""
    table = Table(spares=1)
    high = ballot(1000, 7)
    configure(table, msgspec.structs.replace(table.config, floor=high, barrier=high))
    operator = table.proposer(50)
    until_joint(table, operator, *FOUR)
    back = Reconfiguration(operator, {NodeId(n): f"a{n}" for n in (1, 2, 3)})
    assert table.run(back).error is None
    assert operator.config.groups == table.config.groups
    assert (operator.config.floor, operator.config.barrier) == (high, high)


def test_a_change_of_sizes_that_was_left_in_the_middle_is_taken_back_without_naming_them() -> None:
    """Sizes that are not named are those of before."""
    table = Table(prepare=3, accept=1)
    operator = table.proposer(50)
    three = {NodeId(n): f"a{n}" for n in (1, 2, 3)}
    until_joint(table, operator, *three, prepare=2, accept=2)
    assert table.run(Reconfiguration(operator, three)).error is None
    assert operator.config.groups == table.config.groups
    assert operator.config.id.epoch == 3, "back, and not forwards first"


@pytest.mark.parametrize(("asked", "reached"), [((4, 0), (4, 3)), ((0, 4), (3, 4)), ((0, 0), (2, 4))])
def test_one_size_alone_takes_effect_and_the_other_is_a_majority(
    asked: tuple[int, int], reached: tuple[int, int]
) -> None:
    """Also where the acceptors stay; none at all leaves both as they are."""
    table = Table(acceptors=5, prepare=2, accept=4)
    operator = table.proposer(50)
    five = {NodeId(n): f"a{n}" for n in range(1, 6)}
    assert table.run(Reconfiguration(operator, five, prepare=asked[0], accept=asked[1])).error is None
    (group,) = operator.config.groups
    assert (group.prepare, group.accept) == reached


def test_one_size_that_does_not_go_with_a_majority_is_refused_with_the_reason() -> None:
    five = {NodeId(n): f"a{n}" for n in range(1, 6)}
    with pytest.raises(UsageError, match="quorum"):
        Reconfiguration(Table(acceptors=5).proposer(50), five, prepare=2)


def test_what_an_earlier_change_refuses_is_refused_behind_the_next_as_well() -> None:
    """None of the present acceptors has promised a ballot so high; one that was away since then may hold it."""
    table = Table(spares=1)
    high = ballot(1000, 7)
    configure(table, msgspec.structs.replace(table.config, floor=high, barrier=high))
    proposer = table.proposer(50)
    assert table.run(Reconfiguration(proposer, FOUR)).error is None
    assert proposer.config.acceptors == tuple(FOUR)
    assert proposer.config.barrier >= high and proposer.config.floor >= high

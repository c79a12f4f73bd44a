"""CASPaxos §2.1 to §3.1, the acceptor alone: where exactly each of its refusals begins, and what its records carry."""

from dataclasses import dataclass, field
from itertools import chain

import msgspec
import pytest
from caspaxos import ballot, state

from troth.core.register import acceptor as acceptors
from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import decode_records, encode_records
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    AcceptedRecord,
    Ballot,
    Collect,
    Collected,
    CollectedRecord,
    ConfigId,
    Configuration,
    Configure,
    ConfiguredRecord,
    Conflict,
    Described,
    Full,
    Holding,
    Prepare,
    Promise,
    PromisedRecord,
    Read,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
    Scan,
    Scanned,
    Seat,
    State,
    WrongConfig,
    config_key,
    founding,
    group_of,
)
from troth.core.register.slots import SLOT_BYTES
from troth.errors import InvariantViolation
from troth.ids import NodeId

KEY = b"k"
ONE = NodeId(1)
SEATS = (Seat(ONE, "a1"), Seat(NodeId(2), "a2"), Seat(NodeId(3), "a3"))
CONFIG = founding(group_of(SEATS))


@dataclass
class Alone:
    """One acceptor in the first configuration, or in *config*."""

    config: Configuration = CONFIG
    bytes_max: int = 1 << 30
    acceptor: Acceptor = field(init=False)

    def __post_init__(self) -> None:
        self.acceptor = Acceptor(ONE, bytes_max=self.bytes_max)
        self.acceptor.on_request(Configure(self.config))

    def ask(self, request: RequestMessage) -> tuple[ReplyMessage, RecordMessage | None]:
        return self.acceptor.on_request(request)

    def prepare(self, at: Ballot, key: bytes = KEY) -> ReplyMessage:
        return self.ask(Prepare(self.config.id, key, at))[0]

    def accept(self, value: bytes | None, at: Ballot, following: Ballot = ZERO, key: bytes = KEY) -> ReplyMessage:
        return self.ask(Accept(self.config.id, key, at, state(value, at), following))[0]

    def collect(self, at: Ballot, key: bytes = KEY) -> ReplyMessage:
        return self.ask(Collect(self.config.id, key, at))[0]

    def restored(self) -> Acceptor:
        """A new acceptor from the snapshot of this one, by way of bytes."""
        again = Acceptor(ONE)
        for record in decode_records(encode_records(list(self.acceptor.snapshot()))):
            again.apply(record)
        return again


def next_epoch(
    config: Configuration, epoch: int, seats: tuple[Seat, ...] = SEATS, cluster: int = 0
) -> Configuration:
    return msgspec.structs.replace(
        config, id=ConfigId(cluster or config.id.cluster, epoch), groups=(group_of(seats),)
    )


# ---- §2.1: ballots ----


def test_a_prepare_at_the_promised_ballot_is_answered_again_and_writes_nothing() -> None:
    alone = Alone()
    alone.prepare(ballot(5))
    reply, record = alone.ask(Prepare(CONFIG.id, KEY, ballot(5)))
    assert (reply, record) == (Promise(ZERO, None, ZERO), None)


def test_an_accept_at_the_promised_ballot_is_taken() -> None:
    alone = Alone()
    alone.prepare(ballot(5))
    assert alone.accept(b"v", ballot(5)) == Accepted()
    assert alone.prepare(ballot(4)) == Conflict(ballot(5))


def test_a_repeated_accept_is_taken_without_another_write() -> None:
    alone = Alone()
    accept = Accept(CONFIG.id, KEY, ballot(3), state(b"v", ballot(3)), ballot(3))
    assert alone.ask(accept)[1] is not None
    assert alone.ask(accept) == (Accepted(), None)


def test_a_repeated_accept_that_promises_more_is_written() -> None:
    """§2.2.1: the promise that travels with it is one like any other."""
    alone = Alone()
    alone.accept(b"v", ballot(3), ballot(3))
    reply, record = alone.ask(Accept(CONFIG.id, KEY, ballot(3), state(b"v", ballot(3)), ballot(6)))
    assert reply == Accepted()
    assert record == AcceptedRecord(KEY, ballot(3), state(b"v", ballot(3)), ballot(6))
    assert alone.prepare(ballot(5)) == Conflict(ballot(6))


def test_an_accept_that_promises_nothing_promises_its_own_ballot() -> None:
    alone = Alone()
    alone.accept(b"v", ballot(3))
    assert alone.acceptor.promised(KEY) == ballot(3)
    assert alone.prepare(ballot(2)) == Conflict(ballot(3))


@pytest.mark.parametrize(
    "record",
    [
        PromisedRecord(KEY, ballot(4)),
        AcceptedRecord(KEY, ballot(4), state(b"w", ballot(4)), ballot(9)),
        CollectedRecord(b"other", ballot(1)),
        ConfiguredRecord(CONFIG, False),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_by_which_anything_would_fall_are_refused(record: RecordMessage) -> None:
    alone = Alone()
    alone.accept(b"v", ballot(5), ballot(5))
    alone.accept(None, ballot(3), key=b"gone")
    alone.collect(ballot(3), key=b"gone")
    with pytest.raises(InvariantViolation):
        alone.acceptor.apply(record)


# ---- §3.1: the fence ----


def test_the_fences_own_ballot_is_refused_where_nothing_is_held() -> None:
    """It may be a late copy of the very accept that was collected."""
    alone = Alone()
    alone.accept(None, ballot(5), ballot(5))
    assert alone.collect(ballot(5)) == Collected(True)
    assert alone.accept(None, ballot(5)) == Conflict(ballot(5))
    assert alone.prepare(ballot(5)) == Conflict(ballot(5))
    assert alone.prepare(ballot(6)) == Promise(ZERO, None, ballot(5))


def test_a_tombstone_is_kept_while_somebody_has_prepared_to_change_it() -> None:
    """The fence would refuse that change, and some may have accepted it: nobody could tell what it came to."""
    alone = Alone()
    alone.accept(None, ballot(5), ballot(8))
    assert alone.collect(ballot(5)) == Collected(False)
    assert isinstance(alone.accept(b"v", ballot(8)), Accepted)


def test_the_fence_is_the_ballot_of_the_collection() -> None:
    alone = Alone()
    alone.accept(None, ballot(8))
    assert alone.collect(ballot(8)) == Collected(True)
    assert alone.prepare(ballot(8)) == Conflict(ballot(8))


def test_the_fence_never_falls_when_a_register_of_lower_ballots_is_collected() -> None:
    alone = Alone()
    alone.accept(None, ballot(3), key=b"low")
    alone.accept(None, ballot(9), key=b"high")
    alone.collect(ballot(9), key=b"high")
    alone.collect(ballot(3), key=b"low")
    assert alone.acceptor.fence == ballot(9)


def test_only_the_tombstone_at_the_named_ballot_is_collected() -> None:
    alone = Alone()
    alone.accept(None, ballot(5))
    assert alone.collect(ballot(4)) == Collected(False)
    assert alone.collect(ballot(6)) == Collected(False)
    assert KEY in alone.acceptor.slots
    assert alone.collect(ballot(5)) == Collected(True)
    assert alone.collect(ballot(5)) == Collected(True), "a repeated request finds nothing left to do"


def test_a_value_is_never_collected() -> None:
    alone = Alone()
    alone.accept(b"v", ballot(5))
    assert alone.collect(ballot(5)) == Collected(False)
    alone.prepare(ballot(6), key=b"promised only")
    assert alone.collect(ZERO, key=b"promised only") == Collected(False)


# ---- §2.3: the configuration ----


def test_the_barriers_own_ballot_is_refused_also_of_a_key_that_is_held() -> None:
    alone = Alone(msgspec.structs.replace(CONFIG, barrier=ballot(7)))
    assert alone.prepare(ballot(7)) == Conflict(ballot(7))
    assert alone.accept(b"v", ballot(7)) == Conflict(ballot(7))
    assert alone.accept(b"v", ballot(8), ballot(9)) == Accepted()
    assert alone.prepare(ballot(7)) == Conflict(ballot(9))


def test_a_configuration_is_entered_once_and_only_one_of_the_own_cluster() -> None:
    alone = Alone()
    second = next_epoch(CONFIG, 2)
    assert alone.ask(Configure(second))[1] == ConfiguredRecord(second, False)
    for other in (second, CONFIG, next_epoch(CONFIG, 3, cluster=99)):
        reply, record = alone.ask(Configure(other))
        assert isinstance(reply, Described)
        assert reply.config == second
        assert record is None


def test_who_keeps_its_seat_keeps_what_it_holds() -> None:
    alone = Alone()
    alone.accept(b"v", ballot(5))
    alone.ask(Configure(next_epoch(CONFIG, 2)))
    assert alone.acceptor.slots[KEY].state == state(b"v", ballot(5))


def test_a_seat_taken_again_is_another_one_and_begins_empty() -> None:
    """`since` tells: it left and came back, though it has heard of neither."""
    alone, blank = Alone(), Acceptor(ONE)
    alone.accept(b"v", ballot(5))
    alone.prepare(ballot(5), b"promised")
    for key in (b"deleted", b"collected"):
        alone.accept(None, ballot(5), key=key)
    alone.collect(ballot(5), b"collected")
    back = Configure(next_epoch(CONFIG, 4, (Seat(ONE, "a1", 4), *SEATS[1:])))
    assert alone.ask(back)[0] == blank.on_request(back)[0]
    assert list(alone.acceptor.snapshot()) == list(blank.snapshot())


def test_who_loses_its_seat_holds_nothing_any_more_and_answers_nothing() -> None:
    alone = Alone()
    alone.accept(b"v", ballot(5))
    second = next_epoch(CONFIG, 2, SEATS[1:])
    alone.ask(Configure(second))
    assert not alone.acceptor.slots and not alone.acceptor.idle
    assert alone.ask(Prepare(second.id, KEY, ballot(9))) == (WrongConfig(second), None)


def test_the_floor_of_a_configuration_raises_the_fence_and_never_lowers_it() -> None:
    alone = Alone()
    alone.ask(Configure(msgspec.structs.replace(next_epoch(CONFIG, 2), floor=ballot(6))))
    assert alone.acceptor.fence == ballot(6)
    alone.ask(Configure(msgspec.structs.replace(next_epoch(CONFIG, 3), floor=ballot(4))))
    assert alone.acceptor.fence == ballot(6)


def test_a_promise_tells_no_removal_of_another_register_that_came_after_the_first_promise() -> None:
    """It says nothing about this one, which has been here all the time."""
    alone = Alone()
    alone.accept(None, ballot(4), key=b"before")
    alone.collect(ballot(4), key=b"before")
    alone.prepare(ballot(5))
    alone.accept(None, ballot(8), key=b"after")
    alone.collect(ballot(8), key=b"after")
    assert alone.prepare(ballot(9)) == Promise(ZERO, None, ballot(4))
    again = alone.restored()
    reply, _ = again.on_request(Prepare(CONFIG.id, KEY, ballot(10)))
    assert reply == Promise(ZERO, None, ballot(8)), "a snapshot does not hold it, and tells more rather than less"


def test_a_promise_tells_the_removal_of_its_own_register() -> None:
    alone = Alone()
    alone.prepare(ballot(2))
    alone.accept(None, ballot(8))
    alone.collect(ballot(8))
    assert alone.prepare(ballot(9)) == Promise(ZERO, None, ballot(8))


def test_a_promise_tells_what_the_acceptors_of_before_had_removed() -> None:
    """The first promise came before the configuration that brought their fence."""
    alone = Alone()
    alone.prepare(ballot(2))
    second = msgspec.structs.replace(next_epoch(CONFIG, 2), floor=ballot(6))
    alone.ask(Configure(second))
    assert alone.ask(Prepare(second.id, KEY, ballot(9)))[0] == Promise(ZERO, None, ballot(6))


def test_the_register_in_which_a_configuration_was_decided_goes_with_it() -> None:
    alone = Alone()
    alone.accept(b"config", ballot(5), key=config_key(2))
    alone.accept(b"v", ballot(5))
    alone.prepare(ballot(5), key=config_key(9))
    alone.ask(Configure(next_epoch(CONFIG, 2)))
    assert (list(alone.acceptor.slots), alone.acceptor.idle) == ([KEY], {}), "nor does a promise for one stay"


# ---- records and snapshots ----


def test_a_snapshot_holds_promises_accepted_states_tombstones_and_the_fence() -> None:
    """By way of bytes, as on a disk."""
    alone = Alone()
    alone.prepare(ballot(4), key=b"promised")
    alone.accept(b"v", ballot(5), ballot(6), key=b"value")
    alone.accept(None, ballot(5), ballot(7), key=b"tombstone")
    alone.accept(None, ballot(9), key=b"collected")
    alone.collect(ballot(9), key=b"collected")
    again = alone.restored()
    assert again.config == CONFIG
    assert again.fence == ballot(9)
    assert again.highest == ballot(9)
    assert {key: slot.promised for key, slot in (again.idle | again.slots).items()} == {
        b"promised": ballot(4),
        b"value": ballot(6),
        b"tombstone": ballot(7),
    }
    assert again.idle[b"promised"].state is None
    assert again.idle[b"promised"].accepted == ZERO
    assert again.slots[b"value"].accepted == ballot(5)
    assert again.describe() == alone.acceptor.describe()


@pytest.mark.parametrize("leaves", [True, False])
def test_a_snapshot_in_steps_keeps_what_goes_meanwhile(leaves: bool) -> None:
    """Whether with the acceptor's seat or because it is collected: the record of that may yet be lost in a crash."""
    alone = Alone()
    alone.accept(None, ballot(5))
    steps = alone.acceptor.snapshot_steps()
    records = list(next(steps))
    if leaves:
        alone.ask(Configure(next_epoch(CONFIG, 2, SEATS[1:])))
    else:
        alone.collect(ballot(5))
    assert not alone.acceptor.slots
    again = Acceptor(ONE)
    for record in chain(records, *steps):
        again.apply(record)
    assert (again.config, again.fence, again.slots[KEY].state) == (CONFIG, ZERO, state(None, ballot(5)))


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_nothing_is_kept_for_a_snapshot_in_steps_that_was_given_up(pieces: int) -> None:
    """However far it had come: or every change from then on would be kept for a reader who is gone."""
    alone = Alone()
    for number in range(3):
        alone.accept(b"before", ballot(5), key=b"%d" % number)
    steps = alone.acceptor.snapshot_steps()
    for _ in range(pieces):
        next(steps)
    steps.close()
    assert alone.acceptor._saving is None


def test_a_snapshot_in_steps_that_was_given_up_ends_no_later_one() -> None:
    alone = Alone()
    alone.accept(b"before", ballot(5))
    given_up, steps = alone.acceptor.snapshot_steps(), alone.acceptor.snapshot_steps()
    given_up.close()
    alone.accept(b"after", ballot(6))
    again = Acceptor(ONE)
    for record in chain.from_iterable(steps):
        again.apply(record)
    assert again.slots[KEY].state == state(b"before", ballot(5))


def test_a_snapshot_is_read_beside_one_in_steps() -> None:
    """To read it changes nothing: what is kept for the other one stays with it."""
    alone = Alone()
    alone.accept(b"before", ballot(5))
    steps = alone.acceptor.snapshot_steps()
    assert list(alone.acceptor.snapshot())
    alone.accept(b"after", ballot(6))
    again = Acceptor(ONE)
    for record in chain.from_iterable(steps):
        again.apply(record)
    assert again.slots[KEY].state == state(b"before", ballot(5))


def test_what_an_acceptor_says_of_itself() -> None:
    alone = Alone()
    alone.accept(b"four", ballot(1), key=b"a")
    alone.accept(None, ballot(2), key=b"bb")
    alone.prepare(ballot(3), key=b"ccc")
    used = 2 * SLOT_BYTES + len(b"afourbb")
    assert alone.acceptor.describe() == Described(ONE, CONFIG, 2, 1, used, ZERO), "a promise is no register"
    alone.collect(ballot(2), key=b"bb")
    used -= SLOT_BYTES + 2
    assert alone.acceptor.describe() == Described(ONE, CONFIG, 1, 0, used, ballot(2))


# ---- the quota ----


def test_the_last_byte_of_the_quota_may_be_used_and_not_one_more() -> None:
    alone = Alone(bytes_max=SLOT_BYTES + 10)
    assert alone.accept(b"x" * 9, ballot(1)) == Accepted()
    assert isinstance(alone.accept(b"x" * 10, ballot(2)), Full)
    assert alone.accept(b"y" * 9, ballot(3)) == Accepted(), "what does not grow has room"
    assert isinstance(alone.prepare(ballot(4), key=b"more"), Full)


def test_questions_about_keys_that_never_were_use_up_no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could delete them: a set of which many absent keys were asked could be written to no more."""
    monkeypatch.setattr(acceptors, "IDLE_MAX", 8)
    alone = Alone(bytes_max=SLOT_BYTES + 10)
    for number in range(1, 100):
        assert isinstance(alone.prepare(ballot(number), key=b"%d" % number), Promise)
        assert 0 < len(alone.acceptor.idle) <= 8
    assert alone.acceptor.bytes == 0
    assert all(alone.acceptor.promised(b"%d" % number) >= ballot(number) for number in range(1, 100))
    assert alone.accept(b"x" * 9, ballot(100)) == Accepted()


def test_a_promise_that_makes_others_forgotten_is_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fence that stands for them holds for its key as well."""
    monkeypatch.setattr(acceptors, "IDLE_MAX", 1)
    alone = Alone()
    alone.prepare(ballot(9), key=b"other")
    assert alone.prepare(ballot(8)) == Conflict(ballot(9))
    assert isinstance(alone.prepare(ballot(10)), Promise)
    assert list(alone.acceptor.idle) == [KEY]


def test_a_full_acceptor_takes_part_in_the_decision_about_its_successors() -> None:
    alone = Alone(bytes_max=1)
    assert isinstance(alone.accept(b"v", ballot(1)), Full)
    assert isinstance(alone.prepare(ballot(1), key=config_key(2)), Promise)
    assert alone.accept(b"config", ballot(1), key=config_key(2)) == Accepted()


def test_the_next_ballot_that_an_accept_promises_is_the_highest() -> None:
    """Whoever replaces the group must raise its barrier above that one too."""
    alone = Alone()
    alone.accept(b"v", ballot(3), ballot(8))
    assert alone.acceptor.highest == ballot(8)


def test_a_promise_tells_the_fence_also_of_a_key_that_holds_something() -> None:
    """Without it a change in doubt would be taken for one that did not happen (`states.fate`)."""
    alone = Alone()
    alone.accept(None, ballot(4), key=b"other")
    alone.collect(ballot(4), key=b"other")
    alone.accept(b"v", ballot(5))
    assert alone.prepare(ballot(6)) == Promise(ballot(5), state(b"v", ballot(5)), ballot(4))


def test_a_read_tells_what_is_accepted_and_not_what_is_promised() -> None:
    alone = Alone()
    alone.accept(b"v", ballot(5))
    alone.prepare(ballot(9))
    assert alone.ask(Read(CONFIG.id, KEY)) == (Holding(ballot(5), state(b"v", ballot(5))), None)


def test_who_holds_more_than_its_quota_still_takes_what_makes_it_no_larger() -> None:
    """The quota may have been made smaller. Whoever could not write an equal value could not confirm it either."""
    alone = Alone()
    alone.accept(b"v" * 100, ballot(1))
    alone.acceptor._bytes_max = 50
    assert isinstance(alone.accept(b"w" * 100, ballot(2)), Accepted)
    assert isinstance(alone.accept(b"w" * 101, ballot(3)), Full)
    assert isinstance(alone.accept(b"w" * 99, ballot(3)), Accepted)


@pytest.mark.parametrize("following", [ZERO, ballot(2)])
def test_an_acceptor_takes_one_value_at_a_ballot(following: Ballot) -> None:
    """A proposer that was cloned with its machine uses its ballots twice; the second value is not taken."""
    alone = Alone()
    assert isinstance(alone.accept(b"v", ballot(1)), Accepted)
    assert isinstance(alone.accept(b"v", ballot(1)), Accepted), "a copy of the request"
    assert isinstance(alone.accept(b"w", ballot(1), following), Conflict)
    held = alone.acceptor.slots[KEY].state
    assert held is not None and held.value == b"v"


def test_a_page_of_a_scan_tells_what_is_accepted_and_not_what_is_promised() -> None:
    """The highest of what several acceptors tell counts: a promise would let a value of before live on."""
    alone = Alone()
    alone.accept(b"v", ballot(5), ballot(6))
    alone.prepare(ballot(9))
    page = alone.ask(Scan(CONFIG.id, b"", 10))[0]
    assert isinstance(page, Scanned) and (page.keys, page.accepted) == (((KEY, False),), (ballot(5),))


def test_the_fence_rises_also_to_a_tombstone_of_nothing() -> None:
    """A read that had to have nothing accepted leaves one, of version 0: whatever is late is older than it."""
    alone = Alone()
    nothing = State(None, 0, ballot(5), ZERO)
    assert alone.ask(Accept(CONFIG.id, KEY, ballot(5), nothing, ZERO))[0] == Accepted()
    assert alone.collect(ballot(5)) == Collected(True)
    assert alone.acceptor.fence == ballot(5)
    assert alone.accept(b"late", ballot(4)) == Conflict(ballot(5))

"""Registers: what is said, and what of it is refused at the door."""

from pathlib import Path

import pytest

from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import (
    KEY_BYTES_MAX,
    NUMBER_MAX,
    VALUE_BYTES_MAX,
    decode_answer,
    decode_ask,
    encode_answer,
    encode_ask,
)
from troth.core.register.messages import (
    SEATS_MAX,
    ZERO,
    Accept,
    Accepted,
    Ballot,
    Collect,
    Collected,
    ConfigId,
    Configuration,
    Configure,
    Conflict,
    Describe,
    Described,
    Full,
    Group,
    Holding,
    Mark,
    Prepare,
    Promise,
    Read,
    ReplyMessage,
    RequestMessage,
    Scan,
    Scanned,
    Seat,
    State,
    WrongConfig,
    founding,
    group_of,
)
from troth.errors import DecodeError, UsageError
from troth.ids import NodeId

BALLOT = Ballot(3, (1 << 63) - 1)
STATE = State(b"v", 2, BALLOT, ZERO, (Mark(BALLOT, 2),))


def seats(*numbers: int) -> tuple[Seat, ...]:
    return tuple(Seat(NodeId(number), f"a{number}") for number in numbers)


CONFIG = founding(group_of(seats(1, 2, 3)))
REPLIES: list[ReplyMessage] = [
    Promise(BALLOT, STATE, ZERO),
    Accepted(),
    Conflict(BALLOT),
    Holding(ZERO, None),
    Collected(True),
    Scanned(((b"k", False),), True, ZERO, BALLOT, (BALLOT,)),
    WrongConfig(None),
    WrongConfig(CONFIG),
    Full("full"),
    Described(NodeId(1), CONFIG, 1, 2, 3, BALLOT),
]


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_answers_are_read_as_they_were_written(reply: ReplyMessage) -> None:
    assert decode_answer(encode_answer(9, reply)) == (9, reply)


REQUESTS: list[RequestMessage] = [
    Prepare(CONFIG.id, b"k", BALLOT),
    Accept(CONFIG.id, b"k", BALLOT, STATE, Ballot(4, 7)),
    Read(CONFIG.id, b"k"),
    Collect(CONFIG.id, b"k", BALLOT),
    Scan(CONFIG.id, b"", 500),
    Configure(
        Configuration(CONFIG.id, (*CONFIG.groups, group_of(seats(3, 4), prepare=2, accept=1)), BALLOT, BALLOT)
    ),
    Describe(),
]


def test_the_bytes_of_version_1_are_still_read() -> None:
    """An acceptor and a client of different releases must understand each other."""
    golden = Path(__file__).parent / "golden" / "register-messages-1.hex"
    bodies = [bytes.fromhex(line) for line in golden.read_text().splitlines()]
    asks, answers = bodies[: len(REQUESTS)], bodies[len(REQUESTS) :]
    assert [decode_ask(body) for body in asks] == list(enumerate(REQUESTS))
    assert [decode_answer(body) for body in answers] == list(enumerate(REPLIES))
    assert [encode_ask(number, request) for number, request in enumerate(REQUESTS)] == asks
    assert [encode_answer(number, reply) for number, reply in enumerate(REPLIES)] == answers


def test_answers_of_acceptors_from_before_a_field_are_read() -> None:
    page = "920595069192c4016bc2c3920000920000"
    assert decode_answer(bytes.fromhex(page)) == (5, Scanned(((b"k", False),), True, ZERO))
    described = "9209970905c00102039203cf7fffffffffffffff"
    assert decode_answer(bytes.fromhex(described)) == (
        9,
        Described(NodeId(5), None, 1, 2, 3, BALLOT),
    )


def test_garbage_is_no_answer() -> None:
    for body in (b"", b"\xc1", b"\x92\x01\x91\x63", encode_answer(1, Accepted())[:-1]):
        with pytest.raises(DecodeError):
            decode_answer(body)


TOO_MUCH: list[RequestMessage] = [
    Prepare(CONFIG.id, b"", BALLOT),
    Collect(CONFIG.id, b"", BALLOT),
    Read(CONFIG.id, b""),
    Accept(CONFIG.id, b"", BALLOT, STATE),
    Prepare(CONFIG.id, bytes(KEY_BYTES_MAX + 1), BALLOT),
    Accept(CONFIG.id, b"k", BALLOT, State(bytes(VALUE_BYTES_MAX + 1), 1, BALLOT, ZERO)),
    Accept(CONFIG.id, b"k", BALLOT, State(b"v", 1, BALLOT, ZERO, tuple(Mark(BALLOT, n) for n in range(99)))),
    Prepare(CONFIG.id, b"k", Ballot(NUMBER_MAX, 1)),
    Prepare(CONFIG.id, b"k", Ballot(-1, 1)),
    Accept(CONFIG.id, b"k", Ballot(NUMBER_MAX, 1), STATE),
    Accept(CONFIG.id, b"k", BALLOT, STATE, Ballot(NUMBER_MAX, 1)),
    Accept(CONFIG.id, b"k", BALLOT, State(b"v", NUMBER_MAX, BALLOT, ZERO)),
    Accept(CONFIG.id, b"k", BALLOT, State(b"v", 1, BALLOT, Ballot(NUMBER_MAX, 1))),
    Accept(CONFIG.id, b"k", BALLOT, State(b"v", 1, BALLOT, ZERO, (Mark(Ballot(NUMBER_MAX, 1), 1),))),
    Accept(CONFIG.id, b"k", BALLOT, State(b"v", 1, BALLOT, ZERO, (Mark(BALLOT, NUMBER_MAX),))),
    Configure(Configuration(CONFIG.id, CONFIG.groups, Ballot(NUMBER_MAX, 1))),
    Configure(Configuration(CONFIG.id, CONFIG.groups, ZERO, Ballot(NUMBER_MAX, 1))),
    Configure(Configuration(CONFIG.id, (Group(CONFIG.groups[0].seats * (SEATS_MAX + 1), 1, 1),))),
    Configure(Configuration(CONFIG.id, ())),
    Configure(Configuration(CONFIG.id, CONFIG.groups * 3)),
    Configure(Configuration(CONFIG.id, (Group((), 1, 1),))),
    Accept(CONFIG.id, b"k", BALLOT, State(b"v", 1, BALLOT, ZERO, (), -1)),
    Scan(CONFIG.id, b"", -1),
    Scan(CONFIG.id, bytes(KEY_BYTES_MAX + 1), 1),
]


@pytest.mark.parametrize("request_", TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_no_proposer_sends_is_refused_at_the_door(request_: RequestMessage) -> None:
    with pytest.raises(DecodeError):
        decode_ask(encode_ask(1, request_))


def test_a_group_has_quorums_that_meet_and_each_acceptor_once() -> None:
    assert (group_of(seats(1, 2, 3)).prepare, group_of(seats(1, 2, 3, 4)).accept) == (2, 3)
    for wrong in ((), seats(1, 1)):
        with pytest.raises(UsageError):
            group_of(wrong)
    with pytest.raises(UsageError):
        group_of(seats(1, 2, 3), prepare=1, accept=2)


def test_whoever_founds_a_set_with_the_same_acceptors_founds_the_same_set() -> None:
    assert founding(group_of(seats(3, 1, 2))) == CONFIG
    assert founding(group_of(seats(1, 2, 3), prepare=3, accept=1)).id != CONFIG.id
    assert founding(group_of(seats(1, 2))).id != CONFIG.id


def test_an_acceptor_without_a_seat_refuses() -> None:
    away = Acceptor(NodeId(1))
    away.on_request(Configure(CONFIG))
    without = Configuration(ConfigId(CONFIG.id.cluster, 3), (group_of(seats(2, 3)),))
    away.on_request(Configure(without))
    reply, record = away.on_request(Prepare(without.id, b"k", BALLOT))
    assert (reply, record) == (WrongConfig(without), None)


def test_an_acceptor_describes_itself_also_before_it_has_a_configuration() -> None:
    reply, record = Acceptor(NodeId(5)).on_request(Describe())
    assert reply == Described(NodeId(5), None, 0, 0, 0, ZERO)
    assert record is None


def test_a_scan_goes_through_all_keys_page_by_page_and_leaves_out_the_protocols_own() -> None:
    acceptor = Acceptor(NodeId(1))
    acceptor.on_request(Configure(CONFIG))
    keys = [b"\1", b"a", b"b", b"c", b"\xff"]
    for key in (*keys, b"\0config/x"):
        acceptor.on_request(Accept(CONFIG.id, key, BALLOT, STATE))
    acceptor.on_request(Prepare(CONFIG.id, b"promised only", BALLOT))
    found: list[bytes] = []
    more = True
    while more:
        reply, _ = acceptor.on_request(Scan(CONFIG.id, found[-1] if found else b"", 2))
        assert isinstance(reply, Scanned) and len(reply.keys) <= 2
        found += [key for key, _ in reply.keys]
        more = reply.more
    assert found == keys


def test_a_page_of_a_scan_looks_at_no_more_registers_than_it_tells_of() -> None:
    """Questions about keys that do not exist leave promises: a page that stepped over them all would hold the loop."""
    acceptor = Acceptor(NodeId(1))
    acceptor.on_request(Configure(CONFIG))
    for number in range(300):
        acceptor.on_request(Prepare(CONFIG.id, b"promised %d" % number, BALLOT))
    acceptor.on_request(Accept(CONFIG.id, b"z", BALLOT, STATE))
    assert len(acceptor.slots) == 1, "all that is looked through"
    reply, _ = acceptor.on_request(Scan(CONFIG.id, b"", 2))
    assert isinstance(reply, Scanned) and (reply.keys, reply.more) == (((b"z", False),), False)
    assert reply.accepted == (BALLOT,)
    assert (acceptor.describe().registers, len(acceptor.idle)) == (1, 300)
    acceptor.on_request(Accept(CONFIG.id, b"z", Ballot(BALLOT.round + 1, 1), State(None, 2, BALLOT, ZERO)))
    assert acceptor.on_request(Scan(CONFIG.id, b"", 2))[0].keys == ((b"z", True),)  # type: ignore[union-attr]


def test_a_full_acceptor_still_takes_what_makes_it_smaller() -> None:
    acceptor = Acceptor(NodeId(1), bytes_max=2000)
    acceptor.on_request(Configure(CONFIG))
    large = State(bytes(1800), 1, BALLOT, ZERO)
    assert acceptor.on_request(Accept(CONFIG.id, b"k", Ballot(1, 1), large))[0] == Accepted()
    assert isinstance(acceptor.on_request(Accept(CONFIG.id, b"l", Ballot(1, 1), STATE))[0], Full)
    assert isinstance(acceptor.on_request(Prepare(CONFIG.id, b"m", Ballot(1, 1)))[0], Full)
    tombstone = State(None, 2, BALLOT, ZERO)
    assert acceptor.on_request(Accept(CONFIG.id, b"k", Ballot(2, 1), tombstone))[0] == Accepted()
    assert acceptor.on_request(Accept(CONFIG.id, b"l", Ballot(1, 1), STATE))[0] == Accepted()


def test_of_two_groups_the_newer_says_where_an_acceptor_is_and_since_when() -> None:
    older = group_of((Seat(NodeId(1), "old:1"), Seat(NodeId(2), "same:2")))
    newer = group_of((Seat(NodeId(1), "new:1", 5), Seat(NodeId(3), "new:3", 5)))
    config = Configuration(ConfigId(7, 5), (older, newer))
    assert config.seats == (newer.seats[0], older.seats[1], newer.seats[1])
    assert [config.seat_of(NodeId(acceptor)) for acceptor in (1, 2, 3, 4)] == [*config.seats, None]

"""An acceptor under any sequence of requests: it answers each, never takes a word back, and survives restarts."""

from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from troth.core.register import acceptor as acceptors
from troth.core.register import slots
from troth.core.register.acceptor import Acceptor
from troth.core.register.codec import decode_ask, decode_records, encode_ask, encode_records
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    Ballot,
    Collect,
    ConfigId,
    Configuration,
    Configure,
    Describe,
    Group,
    Mark,
    Prepare,
    Promise,
    Read,
    RecordMessage,
    RequestMessage,
    Scan,
    Seat,
    State,
    founding,
    group_of,
)
from troth.errors import DecodeError
from troth.ids import NodeId

CONFIG = founding(group_of((Seat(NodeId(1), "a1"), Seat(NodeId(2), "a2"), Seat(NodeId(3), "a3"))))

keys = st.sampled_from([b"a", b"b", b"\xff\x00"])
ballots = st.builds(Ballot, st.integers(1, 6), st.integers(1, 3))
states = st.builds(
    State,
    st.none() | st.binary(max_size=4),
    st.integers(0, 9),
    ballots,
    ballots,
    st.lists(st.builds(Mark, ballots, st.integers(1, 9)), max_size=3).map(tuple),
    st.integers(0, 3),
    st.booleans(),
)
config_ids = st.just(CONFIG.id)
requests: st.SearchStrategy[RequestMessage] = st.one_of(
    st.builds(Prepare, config_ids, keys, ballots),
    st.builds(Accept, config_ids, keys, ballots, states, st.just(ZERO) | ballots),
    st.builds(Read, config_ids, keys),
    st.builds(Collect, config_ids, keys, ballots),
    st.builds(Scan, config_ids, keys | st.just(b""), st.integers(0, 3)),
    st.just(Configure(CONFIG)),
    st.just(Describe()),
)

numbers = st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-2, 2)
odd_ballots = st.builds(Ballot, numbers, numbers)
odd_states = st.builds(
    State,
    st.none(),
    numbers,
    odd_ballots,
    odd_ballots,
    st.lists(st.builds(Mark, odd_ballots, numbers), max_size=2).map(tuple),
    numbers,
)
odd_seats = st.builds(Seat, st.just(NodeId(1)), st.just("a1"), numbers)
odd_groups = st.builds(Group, st.tuples(odd_seats), numbers, numbers)
odd_requests: st.SearchStrategy[RequestMessage] = st.one_of(
    st.builds(Prepare, config_ids, keys, odd_ballots),
    st.builds(Accept, config_ids, keys, odd_ballots, odd_states, odd_ballots),
    st.builds(Collect, config_ids, keys, odd_ballots),
    st.builds(Scan, config_ids, keys, numbers),
    st.builds(
        Configure,
        st.builds(
            Configuration,
            st.builds(ConfigId, st.just(CONFIG.id.cluster), numbers),
            st.tuples(odd_groups),
            odd_ballots,
            odd_ballots,
        ),
    ),
)

foreign = st.none() | st.booleans() | numbers | st.binary(max_size=3) | st.lists(numbers, max_size=2)


def mostly(fits: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A field of a message: nearly always one of its own type."""
    return st.integers(0, 19).flatmap(lambda drawn: foreign if drawn == 0 else fits)


foreign_requests = st.one_of(
    st.tuples(st.just(1) | st.just(4), mostly(config_ids), mostly(keys), mostly(ballots | odd_ballots)),
    st.tuples(
        st.just(2),
        mostly(config_ids),
        mostly(keys),
        mostly(ballots),
        mostly(states | odd_states),
        mostly(ballots),
    ),
    st.tuples(st.just(3), mostly(config_ids), mostly(keys)),
    st.tuples(st.just(5), mostly(config_ids), mostly(keys), mostly(numbers)),
    st.tuples(st.just(6), mostly(st.just(CONFIG) | st.tuples(config_ids, st.tuples(odd_groups)))),
    st.lists(foreign, max_size=3).map(tuple),
).flatmap(lambda fields: st.sampled_from([fields] * 8 + [fields[:-1], (*fields, 7)]))
"""Arrays as a request is one: with fields of other types, too few or too many here and there."""


@settings(max_examples=150)
@given(st.lists(requests, max_size=40))
def test_an_acceptor_never_takes_a_word_back(asked: list[RequestMessage]) -> None:
    acceptor = Acceptor(NodeId(1))
    acceptor.on_request(Configure(CONFIG))
    said: dict[bytes, Ballot] = {}
    records: list[RecordMessage] = list(acceptor.snapshot())
    for request in asked:
        number, received = decode_ask(encode_ask(7, request))
        assert (number, received) == (7, request)
        reply, record = acceptor.on_request(received)
        if record is not None:
            records.append(record)
        match request, reply:
            case Prepare(), Promise():
                assert request.ballot >= said.get(request.key, ZERO)
                said[request.key] = request.ballot
            case Accept(), Accepted():
                assert request.ballot >= said.get(request.key, ZERO) or record is None
                said[request.key] = max(request.ballot, request.next, said.get(request.key, ZERO))
            case _:
                pass
        assert all(acceptor.promised(key) >= ballot for key, ballot in said.items())
    replayed = Acceptor(NodeId(1))
    for record in decode_records(encode_records(records)):
        replayed.apply(record)
    assert list(replayed.snapshot()) == list(acceptor.snapshot())
    assert (replayed.bytes, replayed.describe()) == (acceptor.bytes, acceptor.describe())
    acceptor.forget_promises()
    assert all(acceptor.promised(key) >= ballot for key, ballot in said.items())


@settings(max_examples=40)
@example(
    [Prepare(CONFIG.id, b"b", Ballot(1, 1))],
    [Prepare(CONFIG.id, b"b", Ballot(2, 1)), Prepare(CONFIG.id, b"b", Ballot(3, 1))],
    False,
)
@given(st.lists(requests, max_size=8), st.lists(requests | st.none(), max_size=12), st.booleans())
def test_a_snapshot_in_steps_is_of_the_moment_at_which_it_began(
    before: list[RequestMessage], meanwhile: list[RequestMessage | None], forgets: bool
) -> None:
    """*meanwhile*: what is asked between its steps (None: a step); *forgets*: promises are forgotten after each."""
    acceptor = Acceptor(NodeId(1))
    acceptor.on_request(Configure(CONFIG))
    for request in before:
        acceptor.on_request(request)
    wanted = list(acceptor.snapshot())
    with patch.object(slots, "STEP_KEYS", 1):
        steps = acceptor.snapshot_steps()
        records: list[RecordMessage] = []
        for request in meanwhile:
            if request is None:
                records += next(steps, [])
            else:
                acceptor.on_request(request)
                if forgets:
                    acceptor.forget_promises()
        records += [record for piece in steps for record in piece]
    begun = Acceptor(NodeId(1))
    for record in records:
        begun.apply(record)
    assert list(begun.snapshot()) == wanted
    assert acceptor._saving is None


def test_no_bytes_whatever_make_more_than_a_decode_error() -> None:
    understood = 0

    @settings(max_examples=300)
    @given(st.tuples(numbers, foreign_requests).map(msgspec.msgpack.encode) | st.binary(max_size=60))
    def ask(body: bytes) -> None:
        nonlocal understood
        acceptor = Acceptor(NodeId(1))
        acceptor.on_request(Configure(CONFIG))
        try:
            _, request = decode_ask(body)
        except DecodeError:
            return
        understood += 1
        acceptor.on_request(request)

    ask()
    assert understood >= 30, "nearly all was refused at the door, so that the acceptor was hardly asked"


@settings(max_examples=200)
@given(requests, st.data())
def test_a_damaged_request_is_refused_or_is_another_request(request: RequestMessage, data: st.DataObject) -> None:
    body = bytearray(encode_ask(1, request))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    acceptor = Acceptor(NodeId(1))
    acceptor.on_request(Configure(CONFIG))
    try:
        received = decode_ask(bytes(body))
    except DecodeError:
        return
    assert received != (1, request)
    acceptor.on_request(received[1])


@settings(max_examples=200)
@example([Scan(CONFIG.id, b"", -5)])
@given(st.lists(odd_requests, max_size=4))
def test_no_number_whatever_ends_an_acceptor(asked: list[RequestMessage]) -> None:
    """Each is refused at the door, or answered."""
    acceptor = Acceptor(NodeId(1))
    acceptor.on_request(Configure(CONFIG))
    acceptor.on_request(Accept(CONFIG.id, b"a", Ballot(1, 1), State(b"v", 1, Ballot(1, 1), ZERO)))
    for request in asked:
        try:
            _, received = decode_ask(encode_ask(1, request))
        except DecodeError:
            continue
        acceptor.on_request(received)


@settings(max_examples=150)
@given(st.lists(requests, max_size=40), st.integers(1, 3))
def test_forgotten_promises_are_held_to_also_after_a_restart(asked: list[RequestMessage], idle_max: int) -> None:
    acceptor, replayed = Acceptor(NodeId(1)), Acceptor(NodeId(1))
    said: dict[bytes, Ballot] = {}
    with patch.object(acceptors, "IDLE_MAX", idle_max):
        for request in (Configure(CONFIG), *asked):
            reply, record = acceptor.on_request(request)
            if isinstance(request, Prepare) and isinstance(reply, Promise):
                assert request.ballot >= said.get(request.key, ZERO)
                said[request.key] = request.ballot
            if record is not None:
                replayed.apply(record)
            assert len(acceptor.idle) <= idle_max
    for key, ballot in said.items():
        assert min(acceptor.promised(key), replayed.promised(key)) >= ballot
    assert (replayed.bytes, list(replayed.slots)) == (acceptor.bytes, list(acceptor.slots))

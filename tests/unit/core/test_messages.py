"""Messages: bytes and back, and the shape that types alone do not promise."""

import msgspec
import pytest

from troth.core.interface import Entry, EntryId, EntryKind
from troth.core.membership import encode_membership
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    HigherTerm,
    PreVote,
    PreVoteReply,
    RaftMessage,
    ReadReply,
    ReadRequest,
    RequestVote,
    TimeoutNow,
    VoteReply,
    is_well_formed,
)
from troth.ids import LogIndex, Term
from troth.simulate.actor import membership_of

LAST = EntryId(Term(3), LogIndex(9))


def entry(index: int, term: int) -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, b"p")


def append(*entries: Entry, term: int = 5, prev: tuple[int, int] = (3, 9), commit: int = 2) -> AppendEntries:
    return AppendEntries(Term(term), EntryId(Term(prev[0]), LogIndex(prev[1])), entries, LogIndex(commit))


ONE_OF_EACH: list[tuple[RaftMessage, int]] = [
    (PreVote(Term(5), LAST), 1),
    (PreVoteReply(Term(5), True), 2),
    (RequestVote(Term(5), LAST, True), 3),
    (VoteReply(Term(5), False), 4),
    (append(entry(10, 3)), 5),
    (AppendReply(Term(5), LogIndex(9)), 6),
    (AppendRejected(Term(5), LogIndex(9), LAST), 7),
    (Heartbeat(Term(5), LAST, 7), 8),
    (HeartbeatReply(Term(5), 7), 9),
    (HigherTerm(Term(5)), 10),
    (TimeoutNow(Term(5)), 11),
    (ReadRequest(Term(5), 1 << 40), 12),
    (ReadReply(Term(5), 1 << 40, LogIndex(9)), 13),
]


@pytest.mark.parametrize(("message", "tag"), ONE_OF_EACH, ids=lambda value: type(value).__name__)
def test_message_survives_its_encoding_under_its_own_tag(message: RaftMessage, tag: int) -> None:
    encoded = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(encoded)[0] == tag
    assert msgspec.msgpack.decode(encoded, type=RaftMessage) == message


@pytest.mark.parametrize(("message", "tag"), ONE_OF_EACH, ids=lambda value: type(value).__name__)
def test_a_negative_term_is_malformed_in_every_message(message: RaftMessage, tag: int) -> None:
    assert is_well_formed(message)
    assert not is_well_formed(msgspec.structs.replace(message, term=Term(-1)))


def test_only_appends_that_hold_some_bring_entries() -> None:
    assert [type(each) for each, _ in ONE_OF_EACH if each.brings_entries()] == [AppendEntries]
    assert not append().brings_entries()


def test_a_vote_request_is_no_transfer_unless_it_says_so() -> None:
    assert not RequestVote(Term(1), LAST).transfer


@pytest.mark.parametrize(
    "message",
    [
        append(),
        append(prev=(0, 0), commit=0),
        append(entry(10, 3), entry(11, 3), entry(12, 5)),
        append(entry(1, 0), prev=(0, 0), term=0),
    ],
)
def test_contiguous_entries_with_rising_terms_are_well_formed(message: AppendEntries) -> None:
    assert is_well_formed(message)


@pytest.mark.parametrize(
    "message",
    [
        append(entry(11, 3)),
        append(entry(9, 3)),
        append(entry(10, 3), entry(12, 3)),
        append(entry(10, 3), entry(10, 3)),
        append(entry(10, 2)),
        append(entry(10, 4), entry(11, 3)),
        append(entry(10, 6)),
        append(entry(10, 5), entry(11, 6)),
        append(prev=(0, -1)),
        append(commit=-1),
    ],
)
def test_gaps_falling_terms_and_terms_of_the_future_are_malformed(message: AppendEntries) -> None:
    assert not is_well_formed(message)


@pytest.mark.parametrize(
    ("payload", "accepted"), [(encode_membership(membership_of((1, 2))), True), (b"junk", False)]
)
def test_a_membership_that_can_not_be_read_makes_the_message_malformed(payload: bytes, accepted: bool) -> None:
    """It would be in force from the moment it is in the log (§6): it must not get there."""
    assert is_well_formed(append(Entry(LogIndex(10), Term(3), EntryKind.MEMBERSHIP, payload))) is accepted
    assert is_well_formed(append(Entry(LogIndex(10), Term(3), EntryKind.COMMANDS, payload)))

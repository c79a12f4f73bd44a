"""A snapshot on its way to a follower: one chunk at a time, from where the follower says, not faster than allowed."""

from dataclasses import dataclass, field
from typing import Any, cast

from troth.core.interface import Engine, EntryId, Membership, SnapshotMeta
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.replica.effects import ReadChunk, SnapshotWork, StoreChunk
from troth.replica.peers import SnapshotAck, SnapshotChunk
from troth.replica.snapshots import LAST_TRIES, STORING_MAX, SnapshotReceiver, SnapshotSender

PEER, OTHER = NodeId(2), NodeId(3)
CHUNK, PER_TICK, PATIENCE, TRIES = 100, 10, 50, 3
PACE = CHUNK // PER_TICK
"""Ticks between two chunks."""


def meta(index: int = 9) -> SnapshotMeta:
    return SnapshotMeta(EntryId(Term(1), LogIndex(index)), Membership(voters=(PEER,)))


@dataclass
class Told:
    """What the engine is told: (peer, snapshot's index, ok). In term 5."""

    sent: list[tuple[NodeId, int, bool]] = field(default_factory=list)
    commit_index: int = 0

    def snapshot_sent(self, peer: NodeId, sent: SnapshotMeta, ok: bool) -> None:
        self.sent.append((peer, sent.last.index, ok))

    def leader(self) -> tuple[Term, NodeId]:
        return Term(5), NodeId(1)


class Sending:
    """A sender and its engine."""

    def __init__(self) -> None:
        self.sender = SnapshotSender(
            chunk_bytes=CHUNK, bytes_per_tick=PER_TICK, patience_ticks=PATIENCE, tries_max=TRIES
        )
        self.told = Told()
        self.engine = cast(Engine, self.told)

    def tick(self, now: int) -> list[SnapshotWork]:
        return self.sender.tick(Tick(now), self.engine)

    def ack(self, offset: int, *, done: bool = False, index: int = 9, peer: NodeId = PEER, now: int = 1) -> bool:
        return self.sender.on_ack(peer, SnapshotAck(meta(index).last, offset, done), Tick(now), self.engine)

    def refuse(self, now: int) -> bool:
        return self.sender.on_ack(PEER, SnapshotAck(meta().last, 0, False, refused=True), Tick(now), self.engine)


def read(offset: int, index: int = 9, peer: NodeId = PEER) -> ReadChunk:
    return ReadChunk(peer=peer, meta=meta(index), offset=offset, size=CHUNK)


def begun(now: int = 1) -> Sending:
    made = Sending()
    assert made.sender.begin(PEER, meta(), Tick(now)) == [read(0)]
    return made


def test_the_next_chunk_begins_where_the_follower_says_and_not_before_it_may_leave() -> None:
    sending = begun()
    sending.ack(100)
    assert sending.tick(PACE) == []
    assert sending.tick(1 + PACE) == [read(100)]
    assert sending.tick(2 + PACE) == [], "one at a time"
    sending.ack(40)
    assert sending.tick(1 + 2 * PACE) == [read(40)], "also if that is further in front: it has lost some"


def test_a_chunk_whose_answer_is_overdue_is_sent_again_from_the_same_place() -> None:
    sending = begun()
    assert sending.tick(PATIENCE) == []
    assert sending.tick(1 + PATIENCE) == [read(0)]
    assert sending.tick(PATIENCE + 2) == []


def test_a_follower_that_stays_silent_is_given_up_after_so_many_tries_and_the_engine_is_told() -> None:
    sending = begun()
    for number in range(1, TRIES):
        assert sending.tick(1 + number * PATIENCE) == [read(0)]
        assert sending.told.sent == []
    assert sending.tick(1 + TRIES * PATIENCE) == []
    assert sending.told.sent == [(PEER, 9, False)]
    assert sending.sender.sending == frozenset()
    assert sending.tick(10 * PATIENCE) == []


def test_the_last_chunk_waits_for_a_follower_that_checks_all_of_a_large_snapshot() -> None:
    sending = begun()
    sending.sender.chunk_read(read(0), b"data", True, Term(5))
    for number in range(1, LAST_TRIES * TRIES):
        assert sending.tick(1 + number * PATIENCE) == [read(0)]
    assert sending.told.sent == []
    assert sending.tick(1 + LAST_TRIES * TRIES * PATIENCE) == []
    assert sending.told.sent == [(PEER, 9, False)]


def test_a_follower_that_has_not_all_after_the_last_chunk_has_the_usual_tries_again() -> None:
    sending = begun()
    sending.ack(100)
    sending.tick(PATIENCE)
    sending.sender.chunk_read(read(100), b"data", True, Term(5))
    sending.ack(50)
    for number in range(2, 2 + TRIES):
        assert sending.tick(number * PATIENCE + PACE) == [read(50)]
    assert sending.tick((2 + TRIES) * PATIENCE + PACE) == []
    assert sending.told.sent == [(PEER, 9, False)]


def test_progress_gives_all_tries_back() -> None:
    sending = begun()
    now = 1
    for offset in range(100, 1000, 100):
        now += PATIENCE
        assert len(sending.tick(now)) == 1
        sending.ack(offset)
        now += PACE
        assert sending.tick(now) == [read(offset)]
    assert sending.told.sent == []


def test_an_answer_that_says_nothing_new_is_no_reason_to_send_again() -> None:
    sending = begun()
    sending.ack(0)
    assert sending.tick(1 + PACE) == []


def test_an_answer_that_comes_several_times_is_no_setback() -> None:
    sending = begun()
    assert not any(sending.ack(100) for _ in range(5))
    assert sending.told.sent == []


def test_a_snapshot_that_has_arrived_is_told_to_the_engine_and_over() -> None:
    sending = begun()
    assert sending.sender.sending == frozenset({meta().last})
    sending.ack(500, done=True)
    assert sending.told.sent == [(PEER, 9, True)]
    assert sending.sender.sending == frozenset()
    sending.ack(500, done=True)
    assert sending.told.sent == [(PEER, 9, True)]


def test_answers_about_another_snapshot_or_from_somebody_else_count_nothing() -> None:
    sending = begun()
    sending.ack(100, index=8)
    sending.ack(500, index=8, done=True)
    sending.ack(500, peer=OTHER, done=True)
    assert sending.told.sent == []
    assert sending.tick(1 + PACE) == []
    assert sending.sender.sending == frozenset({meta().last})


def test_a_newer_snapshot_takes_the_place_of_the_one_under_way() -> None:
    sending = begun()
    sending.ack(100)
    assert sending.sender.begin(PEER, meta(20), Tick(5)) == [read(0, 20)]
    sending.ack(100)
    assert sending.tick(5 + PACE) == [], "an answer to the old one moves nothing"
    sending.ack(100, index=20)
    assert sending.tick(5 + PACE) == [read(100, 20)]


def test_bytes_that_were_read_travel_only_if_they_are_still_wanted() -> None:
    sending = begun()
    chunk = sending.sender.chunk_read(read(0), b"data", True, Term(5))
    assert chunk == SnapshotChunk(Term(5), meta(), 0, b"data", True)
    sending.ack(100)
    assert sending.sender.chunk_read(read(0), b"data", False, Term(5)) is None, "it has them by now"
    assert sending.sender.chunk_read(read(100, 8), b"data", False, Term(5)) is None
    assert sending.sender.chunk_read(read(100, peer=OTHER), b"data", False, Term(5)) is None
    sending.sender.stop_all()
    assert sending.sender.chunk_read(read(100), b"data", False, Term(5)) is None
    assert sending.tick(100 * PATIENCE) == []
    assert sending.told.sent == [], "whoever leads now knows nothing of it"


def test_a_snapshot_that_is_gone_is_given_up_once() -> None:
    sending = begun()
    sending.sender.give_up(PEER, sending.engine)
    sending.sender.give_up(PEER, sending.engine)
    assert sending.told.sent == [(PEER, 9, False)]


def test_followers_are_sent_to_independently() -> None:
    sending = begun()
    assert sending.sender.begin(OTHER, meta(8), Tick(1)) == [read(0, 8, OTHER)]
    sending.ack(100)
    sending.ack(70, index=8, peer=OTHER)
    assert sending.tick(1 + PACE) == [read(100), read(70, 8, OTHER)]
    assert sending.sender.sending == frozenset({meta(9).last, meta(8).last})


def test_a_chunk_of_a_deposed_leader_is_not_stored() -> None:
    engine = cast(Engine, Told())

    def on_chunk(term: int) -> Any:
        chunk = SnapshotChunk(Term(term), meta(), 300, b"data", True)
        return SnapshotReceiver().on_chunk(PEER, chunk, engine)

    assert on_chunk(4) is None
    for term in (5, 6):
        stored = StoreChunk(sender=PEER, term=Term(term), meta=meta(), offset=300, data=b"data", last=True)
        assert on_chunk(term) == stored


def test_chunks_that_are_repeated_while_the_disk_is_busy_do_not_pile_up() -> None:
    receiver, engine = SnapshotReceiver(), cast(Engine, Told())
    chunk = SnapshotChunk(Term(5), meta(), 300, b"data", True)
    taken = [receiver.on_chunk(PEER, chunk, engine) for _ in range(STORING_MAX + 1)]
    assert [type(each) for each in taken] == [StoreChunk] * STORING_MAX + [type(None)]
    receiver.stored()
    assert isinstance(receiver.on_chunk(PEER, chunk, engine), StoreChunk)


def test_a_chunk_that_is_not_needed_any_more_is_answered_as_done_and_not_stored() -> None:
    """The last answer of a transfer was lost, say: stored anew, it would begin the whole snapshot again."""
    chunk = SnapshotChunk(Term(5), meta(), 300, b"data", True)
    for commit_index, wanted in ((8, StoreChunk), (9, SnapshotAck), (10, SnapshotAck)):
        answer = SnapshotReceiver().on_chunk(PEER, chunk, cast(Engine, Told(commit_index=commit_index)))
        assert type(answer) is wanted
    assert answer == SnapshotAck(meta().last, 300, True)


def fall_back(sending: Sending, now: int) -> None:
    """The follower loses what it had, twice."""
    for _ in range(2):
        doubt = sending.ack(100, now=now) or sending.ack(0, now=now)
    assert doubt, "the leader's own file may be bad"


def test_a_follower_that_falls_back_again_and_again_waits_longer_and_longer_for_the_next_snapshot() -> None:
    """Its own disk may be the bad one: sent at once the same would happen again, as fast as disks and network can."""
    sending, now = begun(), 1
    for count in (1, 2, 3):
        fall_back(sending, now)
        assert sending.told.sent.pop() == (PEER, 9, False)
        wait = PATIENCE << count
        assert sending.sender.begin(PEER, meta(), Tick(now + 1)) == []
        assert sending.sender.begin(OTHER, meta(8), Tick(now + 1)) == [read(0, 8, OTHER)], "others do not wait"
        sending.ack(1, done=True, index=8, peer=OTHER)
        assert sending.tick(now + wait - 1) == []
        assert sending.tick(now + wait) == [read(0)]
        now += wait
        sending.told.sent.clear()
    sending.ack(100, done=True, now=now)
    assert sending.sender.begin(PEER, meta(20), Tick(now)) == [read(0, 20)], "all is forgiven"


def test_a_follower_without_room_for_a_snapshot_is_sent_one_later_and_the_leaders_own_is_not_doubted() -> None:
    sending, now = begun(), 1
    for count in (1, 2, 3):
        sending.ack(100, now=now)
        assert not sending.refuse(now)
        assert sending.told.sent.pop() == (PEER, 9, False)
        assert sending.sender.begin(PEER, meta(), Tick(now + 1)) == []
        now += PATIENCE << count
        assert sending.tick(now - 1) == []
        assert sending.tick(now) == [read(0)]
    sending.ack(100, done=True, now=now)
    assert sending.told.sent == [(PEER, 9, True)]


def test_who_leads_again_does_not_make_a_follower_wait_for_what_befell_it_before() -> None:
    sending = begun()
    fall_back(sending, 1)
    sending.sender.stop_all()
    assert sending.sender.begin(PEER, meta(), Tick(2)) == [read(0)]

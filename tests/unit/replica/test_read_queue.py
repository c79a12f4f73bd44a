"""Reads that wait: each is served at the very index, revision and tick at which it may be, and not one before."""

from dataclasses import dataclass, field

from troth.core.interface import ReadState
from troth.ids import LogIndex, Tick
from troth.replica.reads import ReadQueue, Waiting


@dataclass
class Asked:
    """One read, and what came of it."""

    deadline: int = 1000
    served: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def waiting(self) -> Waiting:
        return Waiting(self.served.append, lambda code, _: self.refused.append(code), Tick(self.deadline))


def asked(queue: ReadQueue, now: int, *reads: Asked) -> int:
    """A round asked for at *now*, for *reads*; its context."""
    for read in reads:
        queue.wait_point(read.waiting)
    context = queue.ask(Tick(now))
    assert context is not None
    return context


def release(queue: ReadQueue, applied: int, now: int, revision: int = 1) -> None:
    queue.release(LogIndex(applied), revision, Tick(now))


def test_a_read_point_is_reached_when_its_own_index_is_applied() -> None:
    queue, read = ReadQueue(count_max=9), Asked()
    queue.on_confirmed(ReadState(asked(queue, 1, read), LogIndex(5)))
    release(queue, 4, 2)
    assert not read.served
    release(queue, 5, 3)
    assert read.served == [0]
    release(queue, 6, 4)
    assert read.served == [0], "once"


def test_a_read_that_comes_after_a_round_was_asked_for_waits_for_the_next() -> None:
    queue, early, late = ReadQueue(count_max=9), Asked(), Asked()
    first = asked(queue, 1, early)
    second = asked(queue, 2, late)
    assert first != second
    queue.on_confirmed(ReadState(first, LogIndex(5)))
    release(queue, 9, 3)
    assert (early.served, late.served) == ([0], [])
    queue.on_confirmed(ReadState(second, LogIndex(6)))
    release(queue, 9, 4)
    assert (early.served, late.served) == ([0], [0])
    assert queue.ask(Tick(5)) is None


def test_a_confirmation_that_was_not_asked_for_or_comes_twice_serves_nobody() -> None:
    queue, read = ReadQueue(count_max=9), Asked()
    context = asked(queue, 1, read)
    queue.on_confirmed(ReadState(context + 1, LogIndex(1)))
    release(queue, 9, 2)
    assert not read.served
    queue.on_confirmed(ReadState(context, LogIndex(1)))
    queue.on_confirmed(ReadState(context, LogIndex(1)))
    queue.on_refused(context, "not_leader", "")
    release(queue, 9, 3)
    assert (read.served, read.refused, len(queue)) == ([0], [], 0)


def test_freshness_counts_from_the_asking_not_from_the_answer() -> None:
    """What another server wrote between the two may be missing from what is read."""
    queue = ReadQueue(count_max=9)
    assert queue.age(Tick(1)) is None
    queue.on_confirmed(ReadState(asked(queue, 10, Asked()), LogIndex(5)))
    assert queue.age(Tick(40)) is None, "confirmed, and not reached"
    release(queue, 5, 50)
    assert queue.age(Tick(60)) == 50


def test_a_late_answer_to_an_earlier_round_makes_nothing_less_fresh() -> None:
    queue = ReadQueue(count_max=9)
    first, second = asked(queue, 10, Asked()), asked(queue, 20, Asked())
    queue.on_confirmed(ReadState(second, LogIndex(5)))
    release(queue, 9, 25)
    queue.on_confirmed(ReadState(first, LogIndex(6)))
    release(queue, 9, 26)
    assert queue.age(Tick(30)) == 10


def test_a_point_whose_lease_ran_out_makes_nothing_fresh() -> None:
    queue, read = ReadQueue(count_max=9), Asked()
    queue.on_confirmed(ReadState(asked(queue, 10, read), LogIndex(5), valid_until=Tick(30)))
    release(queue, 5, 30)
    assert not read.served
    assert queue.age(Tick(30)) is None
    assert queue.ask(Tick(30)) is not None, "it is asked anew"


def test_a_revision_is_waited_for_exactly() -> None:
    queue = ReadQueue(count_max=9)
    reads = {revision: Asked() for revision in (7, 5, 6)}
    for revision, read in reads.items():
        queue.wait_revision(revision, read.waiting)
    assert len(queue) == 3
    release(queue, 1, 1, revision=4)
    assert not any(read.served for read in reads.values())
    release(queue, 1, 2, revision=6)
    assert [bool(reads[revision].served) for revision in (5, 6, 7)] == [True, True, False]
    assert len(queue) == 1


def test_the_deadline_holds_wherever_a_read_waits() -> None:
    queue = ReadQueue(count_max=9)
    new, round_under_way, confirmed, revision = (Asked(deadline=10) for _ in range(4))
    others = [Asked(deadline=11) for _ in range(4)]
    first = asked(queue, 1, confirmed, others[0])
    queue.on_confirmed(ReadState(first, LogIndex(99)))
    asked(queue, 2, round_under_way, others[1])
    for read in (new, others[2]):
        queue.wait_point(read.waiting)
    for read in (revision, others[3]):
        queue.wait_revision(99, read.waiting)
    queue.expire(Tick(9), "unavailable", "")
    assert len(queue) == 8
    queue.expire(Tick(10), "unavailable", "")
    assert [read.refused for read in (new, round_under_way, confirmed, revision)] == [["unavailable"]] * 4
    assert [read.refused for read in others] == [[]] * 4
    assert len(queue) == 4
    queue.on_refused(2, "not_leader", "")
    assert others[1].refused == ["not_leader"]
    release(queue, 99, 11, revision=99)
    assert (others[0].served, others[3].served, len(queue)) == ([0], [0], 1)


def test_the_bound_is_reached_with_the_last_read_that_has_room() -> None:
    queue = ReadQueue(count_max=2)
    queue.wait_point(Asked().waiting)
    assert not queue.full
    queue.wait_revision(5, Asked().waiting)
    assert queue.full
    release(queue, 1, 1, revision=5)
    assert not queue.full


def test_what_was_refused_is_not_answered_once_more() -> None:
    queue, read = ReadQueue(count_max=9), Asked()
    context = asked(queue, 1, read)
    queue.on_refused(context, "leadership_lost", "")
    queue.on_confirmed(ReadState(context, LogIndex(1)))
    queue.on_refused(context, "leadership_lost", "")
    release(queue, 9, 2)
    assert (read.served, read.refused, len(queue)) == ([], ["leadership_lost"], 0)


def test_reads_for_revisions_are_served_in_their_order_when_one_of_them_was_too_late() -> None:
    queue, late = ReadQueue(count_max=9), Asked(deadline=5)
    reads = {revision: Asked() for revision in (9, 6, 8, 7)}
    queue.wait_revision(5, late.waiting)
    for revision, read in reads.items():
        queue.wait_revision(revision, read.waiting)
    queue.expire(Tick(5), "timeout", "")
    assert (late.refused, len(queue)) == (["timeout"], 4)
    for revision in (6, 7, 8, 9):
        release(queue, 0, 6, revision)
        assert [each for each in sorted(reads) if reads[each].served] == list(range(6, revision + 1))

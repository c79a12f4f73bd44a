"""What a leader knows of a follower: flow control and the three states."""

from collections import deque

import pytest

from troth.core.leading.flight import BYTES_IN_FLIGHT_MAX, MESSAGES_IN_FLIGHT_MAX, Mode
from troth.core.paxos.progress import AcceptorProgress
from troth.core.raft.progress import FollowerProgress
from troth.ids import LogIndex, Tick


def follower(match: int = 0, following: int = 1) -> FollowerProgress:
    return FollowerProgress(match=LogIndex(match), next=LogIndex(following))


def replicating(match: int = 0) -> FollowerProgress:
    progress = follower(match)
    progress.become_replicate()
    return progress


def test_probe_sends_one_message_at_a_time() -> None:
    progress = follower(following=5)
    assert progress.may_send()
    progress.on_sent(LogIndex(9), 100)
    assert not progress.may_send()
    assert progress.next == 5
    assert not progress.in_flight
    assert progress.on_acknowledged(LogIndex(4))
    assert progress.may_send()
    assert (progress.match, progress.next) == (4, 5)


def test_replicate_pipelines_and_counts_what_is_in_flight() -> None:
    progress = replicating(match=3)
    assert progress.next == 4
    progress.on_sent(LogIndex(6), 10)
    progress.on_sent(LogIndex(8), 20)
    assert (progress.next, progress.bytes_in_flight) == (9, 30)
    assert progress.in_flight == deque([(6, 10), (8, 20)])
    assert progress.on_acknowledged(LogIndex(6))
    assert (progress.match, progress.next, progress.bytes_in_flight) == (6, 9, 20)
    assert progress.on_acknowledged(LogIndex(7))
    assert progress.bytes_in_flight == 20
    assert progress.on_acknowledged(LogIndex(8))
    assert (progress.bytes_in_flight, len(progress.in_flight)) == (0, 0)


def test_an_acknowledgement_of_many_messages_lands_them_all() -> None:
    progress = replicating()
    for last in (2, 4, 6):
        progress.on_sent(LogIndex(last), 10)
    assert progress.on_acknowledged(LogIndex(5))
    assert (list(progress.in_flight), progress.bytes_in_flight) == ([(6, 10)], 10)


def test_an_old_acknowledgement_is_no_news_and_takes_nothing_back() -> None:
    progress = replicating(match=5)
    progress.on_sent(LogIndex(7), 10)
    assert not progress.on_acknowledged(LogIndex(5))
    assert not progress.on_acknowledged(LogIndex(2))
    assert (progress.match, progress.next, progress.bytes_in_flight) == (5, 8, 10)


def test_an_acknowledgement_beyond_what_was_sent_moves_next() -> None:
    progress = replicating(match=5)
    assert progress.on_acknowledged(LogIndex(9))
    assert (progress.match, progress.next) == (9, 10)


def test_messages_in_flight_are_bounded() -> None:
    progress = replicating()
    for at in range(1, MESSAGES_IN_FLIGHT_MAX + 1):
        assert progress.may_send()
        progress.on_sent(LogIndex(at), 1)
    assert not progress.may_send()
    progress.on_acknowledged(LogIndex(1))
    assert progress.may_send()


def test_bytes_in_flight_are_bounded() -> None:
    progress = replicating()
    progress.on_sent(LogIndex(1), BYTES_IN_FLIGHT_MAX - 1)
    assert progress.may_send()
    progress.on_sent(LogIndex(2), 1)
    assert not progress.may_send()


def test_bounds_are_what_the_documentation_says() -> None:
    assert (MESSAGES_IN_FLIGHT_MAX, BYTES_IN_FLIGHT_MAX) == (128, 8 * 1024 * 1024)


def test_probing_again_forgets_what_was_in_flight_but_not_what_was_acknowledged() -> None:
    progress = replicating(match=5)
    progress.on_sent(LogIndex(9), 10)
    progress.become_probe(LogIndex(2))
    assert (progress.mode, progress.next, progress.match) == (Mode.PROBE, 6, 5)
    assert (progress.bytes_in_flight, len(progress.in_flight)) == (0, 0)
    assert progress.may_send()
    progress.on_sent(LogIndex(6), 1)
    progress.become_probe(LogIndex(8))
    assert progress.next == 8
    assert progress.may_send()


def test_nothing_is_sent_while_a_snapshot_is_on_its_way() -> None:
    progress = replicating(match=2)
    progress.on_sent(LogIndex(4), 10)
    progress.become_snapshot(LogIndex(40))
    assert (progress.mode, progress.snapshot_index) == (Mode.SNAPSHOT, 40)
    assert not progress.may_send()
    assert progress.bytes_in_flight == 0
    progress.become_replicate()
    assert progress.may_send()
    assert progress.next == 3


def test_a_follower_that_denies_its_word_is_counted_on_no_longer() -> None:
    progress = replicating(match=7)
    progress.forget_match()
    assert progress.match == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_match_stays_below_next(mode: Mode) -> None:
    progress = replicating(match=3)
    if mode is Mode.PROBE:
        progress.become_probe(LogIndex(1))
    elif mode is Mode.SNAPSHOT:
        progress.become_snapshot(LogIndex(9))
    progress.on_acknowledged(LogIndex(12))
    assert progress.match < progress.next


def test_a_new_follower_has_not_been_heard_and_has_confirmed_no_round() -> None:
    progress = follower()
    assert (progress.mode, progress.acked_token, progress.heard) == (Mode.PROBE, 0, Tick(0))
    assert (progress.bytes_in_flight, progress.snapshot_index, progress.probe_outstanding) == (0, 0, False)


def test_a_loss_halves_the_window_and_each_acknowledgement_widens_it() -> None:
    """What follows a lost message is rejected and sent again: so much less of it is sent the next time."""
    progress = replicating()
    assert progress.window == MESSAGES_IN_FLIGHT_MAX
    progress.become_probe(LogIndex(1))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX // 2
    progress.become_probe(LogIndex(1))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX // 2, "a probe that fails is no news"
    for _ in range(20):
        progress.become_replicate()
        progress.become_probe(LogIndex(1))
    assert progress.window == 1
    progress.become_replicate()
    progress.on_sent(LogIndex(1), 1)
    assert not progress.may_send()
    assert progress.on_acknowledged(LogIndex(1))
    assert not progress.on_acknowledged(LogIndex(1))
    progress.on_sent(LogIndex(2), 1)
    assert progress.may_send(), "two at a time now"
    progress.on_sent(LogIndex(3), 1)
    assert not progress.may_send()
    for index in range(2, 2 * MESSAGES_IN_FLIGHT_MAX):
        progress.on_acknowledged(LogIndex(index))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX


def test_an_acceptor_is_sent_half_as_much_ahead_after_a_loss_and_one_more_for_each_acknowledgement() -> None:
    progress = AcceptorProgress(next=LogIndex(1))
    progress.become_replicate(LogIndex(0))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX, "nothing was under way"
    progress.become_replicate(LogIndex(0))
    progress.become_probe()
    progress.become_replicate(LogIndex(0))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX // 4
    progress.on_acknowledged(LogIndex(0), LogIndex(3), LogIndex(4))
    progress.on_acknowledged(LogIndex(0), LogIndex(3), LogIndex(4))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX // 4 + 1, "what is held already is no news"
    progress.on_acknowledged(LogIndex(2), LogIndex(0), LogIndex(0))
    assert (progress.match, progress.window) == (4, MESSAGES_IN_FLIGHT_MAX // 4 + 2)
    progress.on_acknowledged(LogIndex(4), LogIndex(0), LogIndex(0))
    assert progress.window == MESSAGES_IN_FLIGHT_MAX // 4 + 2

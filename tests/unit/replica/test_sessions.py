"""The replicated memory of answers (exactly-once)."""

import msgspec
import pytest

from troth.kv.answers import results_bytes
from troth.kv.requests import KeyValue, PutResult, RangeResult, Result
from troth.replica import sessions
from troth.replica.sessions import ANSWER_LOST, UNACKNOWLEDGED, SessionState, SessionTable

DUMP = tuple[list[SessionState], int]
NOTHING: list[Result] = [PutResult(2)]


def answer(size_bytes: int) -> list[Result]:
    return [RangeResult(2, [KeyValue(b"k", 2, 2, 1, b"v" * size_bytes)], 1)]


def test_a_session_that_never_acknowledges_is_refused_before_it_fills_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "RESULTS_MAX", 3)
    table = SessionTable()
    session = table.open(nonce=7, index=1)
    for first_seq in (1, 2, 3):
        assert table.recall(session, first_seq, acked_below=0, index=first_seq) is None
        table.remember(session, first_seq, NOTHING)
    assert table.recall(session, 4, acked_below=0, index=5) is UNACKNOWLEDGED
    assert table.recall(session, 3, acked_below=0, index=6) == NOTHING, "a retry is still answered"
    assert table.recall(session, 4, acked_below=2, index=7) is None, "acknowledging makes room"


def test_results_that_hold_too_much_are_given_up_and_a_retry_hears_that_it_was_applied() -> None:
    table = SessionTable(kept_bytes_max=10_000)
    idle, busy = table.open(nonce=1, index=1), table.open(nonce=2, index=2)
    table.recall(idle, 1, acked_below=0, index=3)
    table.remember(idle, 1, answer(4_000))
    for first_seq in (1, 2):
        assert table.recall(busy, first_seq, acked_below=0, index=3 + first_seq) is None
        table.remember(busy, first_seq, answer(4_000))
    assert table.recall(idle, 1, acked_below=0, index=6) is ANSWER_LOST, "the longest idle session goes first"
    assert table.recall(busy, 1, acked_below=0, index=7) is ANSWER_LOST, "down to half of the bound"
    assert table.recall(busy, 2, acked_below=0, index=8) == answer(4_000)
    assert table.recall(idle, 2, acked_below=2, index=9) is None, "acknowledged, it is forgotten like any other"


def test_acknowledging_and_closing_give_room_back() -> None:
    table = SessionTable(kept_bytes_max=10_000)
    one, other = table.open(nonce=1, index=1), table.open(nonce=2, index=2)
    for first_seq in range(1, 50):
        assert table.recall(one, first_seq, acked_below=first_seq, index=first_seq) is None
        table.remember(one, first_seq, answer(6_000))
    table.close(one)
    assert table.recall(other, 1, acked_below=0, index=60) is None
    table.remember(other, 1, answer(6_000))
    assert table.recall(other, 1, acked_below=0, index=61) == answer(6_000)


def test_a_table_restored_from_a_snapshot_gives_up_the_same() -> None:
    bound = 3 * results_bytes(answer(1_000))
    table = SessionTable(kept_bytes_max=bound)
    ids = [table.open(nonce=nonce, index=1) for nonce in range(1, 4)]
    twin = SessionTable(*table.dump(), kept_bytes_max=bound)
    for index in range(2, 60):
        session, first_seq = ids[index * 7 % 3], index
        acked_below = index - 5 if index % 4 == 0 else 0
        heard = [each.recall(session, first_seq, acked_below, index) for each in (table, twin)]
        assert heard == [None, None]
        for each in (table, twin):
            each.remember(session, first_seq, answer(300 + index % 5 * 400))
        assert table.dump() == twin.dump()
        twin = SessionTable(*msgspec.convert(msgspec.to_builtins(twin.dump()), DUMP), kept_bytes_max=bound)

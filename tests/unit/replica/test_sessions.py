"""The replicated memory of answers (exactly-once)."""

import msgspec
import pytest

from troth.kv.answers import results_bytes
from troth.kv.requests import KeyValue, PutResult, RangeResult, Result
from troth.replica import sessions
from troth.replica.sessions import (
    ANSWER_LOST,
    ANSWERED,
    SESSION_GONE,
    UNACKNOWLEDGED,
    SessionState,
    SessionTable,
)

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


def remembered(table: SessionTable, session: int, *batches: int) -> None:
    for first_seq in batches:
        assert table.recall(session, first_seq, acked_below=0, index=first_seq) is None
        table.remember(session, first_seq, [PutResult(first_seq)])


def test_who_asks_again_for_a_session_gets_the_one_it_has_and_ids_are_never_used_twice() -> None:
    table = SessionTable()
    first = table.open(nonce=7, index=1)
    assert table.open(nonce=7, index=2) == first
    table.close(first)
    table.close(first)  # a second time changes nothing
    again = table.open(nonce=7, index=3)
    assert again == first + 1 and len(table) == 1
    assert table.recall(first, 1, acked_below=0, index=4) is SESSION_GONE
    assert table.recall(again, 1, acked_below=0, index=5) is None
    restored = SessionTable(*table.dump())
    assert restored.open(nonce=7, index=6) == again
    assert restored.open(nonce=8, index=7) == again + 1


def test_of_too_many_sessions_the_one_that_was_idle_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    table = SessionTable()
    one, two, three = (table.open(nonce=nonce, index=1) for nonce in (1, 2, 3))
    assert len(table) == 3
    table.recall(one, 1, acked_below=0, index=2)
    four = table.open(nonce=4, index=3)  # two and three are equally idle: the older one goes
    assert [table.recall(each, 1, 0, 4) for each in (two, one, three, four)] == [SESSION_GONE, None, None, None]
    assert table.open(nonce=2, index=5) == four + 1, "it is opened anew, not found"


def test_who_asks_again_for_a_session_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    table = SessionTable()
    opened = [table.open(nonce=nonce, index=1) for nonce in (1, 2, 3)]
    assert [table.open(nonce=nonce, index=2) for nonce in (1, 3, 2)] == [opened[0], opened[2], opened[1]]
    assert [table.recall(each, 1, 0, 3) for each in opened] == [None, None, None]


def test_acknowledged_answers_are_forgotten_and_no_others() -> None:
    table = SessionTable()
    session = table.open(nonce=1, index=1)
    remembered(table, session, 1, 3, 5)
    assert table.recall(session, 3, acked_below=3, index=6) == [PutResult(3)]
    assert table.recall(session, 1, acked_below=0, index=7) is ANSWERED, "an older message takes nothing back"
    assert table.recall(session, 2, acked_below=3, index=8) is ANSWERED
    assert table.recall(session, 5, acked_below=4, index=9) == [PutResult(5)]
    assert table.recall(session, 3, acked_below=0, index=10) is ANSWERED
    assert table.dump()[0][0].results == {5: [PutResult(5)]}


def test_the_bound_on_what_is_kept_is_exact_and_giving_up_ends_at_half_of_it() -> None:
    one = results_bytes([PutResult(1)])
    table = SessionTable(kept_bytes_max=4 * one)
    session, other = table.open(nonce=1, index=1), table.open(nonce=2, index=1)
    remembered(table, session, 1, 2, 3, 4)
    assert table.recall(session, 1, 0, 5) == [PutResult(1)], "at the bound nothing is given up"
    table.recall(other, 9, 0, 6)
    table.remember(other, 9, [PutResult(9)])
    heard = [table.recall(session, first_seq, 0, 7) for first_seq in (1, 2, 3, 4)]
    assert heard == [ANSWER_LOST, ANSWER_LOST, ANSWER_LOST, [PutResult(4)]]
    assert table.recall(other, 9, 0, 8) == [PutResult(9)]
    table.close(session)
    remembered(table, other, 10, 11, 12)
    assert table.recall(other, 9, 0, 13) == [PutResult(9)], "what a closed session held makes room"

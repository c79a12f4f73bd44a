"""The replicated memory of answers (exactly-once)."""

import pytest

from troth.kv.requests import Result
from troth.replica import sessions
from troth.replica.sessions import UNACKNOWLEDGED, SessionTable

NOTHING: list[Result] = []


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

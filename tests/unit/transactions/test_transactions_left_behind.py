"""What this process has left in doubt, or knows alone: what recovery does about it, and what is told of it."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

pytest.importorskip("sqlalchemy")

from recovering import Place, decided, name, prepared
from typing_extensions import override

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import BranchRef, Commit
from troth.core.twophase.table import Finding
from troth.transactions import remembered
from troth.transactions.outcome import Outcome


def test_what_we_left_in_doubt_is_aborted_in_its_cell_before_a_branch_is_told(place: Place) -> None:
    """Nothing stands in the cell, and the epoch is open: whoever else asks must be told the same from now on."""
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", branch),)))
    told: list[Verdict] = []
    finish = place.bank.finish

    def telling(branch: str, *, commit: bool) -> Finding:
        told.append(place.verdict(gid))
        return finish(branch, commit=commit)

    place.bank.finish = telling  # type: ignore[method-assign]
    assert place.run().rolled_back == [branch]
    assert told == [Verdict.ABORT], "it stands in the log before anybody hears of it"
    (late,) = place.log.decide([Commit(gid, ())])
    assert not isinstance(late, Exception) and late.verdict is Verdict.ABORT


def test_what_we_left_in_doubt_and_stands_in_the_log_is_committed(place: Place) -> None:
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    record = decided(place.log, gid, place.bank)
    place.core.leave_in_doubt(gid, record)
    assert place.run().committed == [branch]
    assert place.core.all_in_doubt() == [], "it is settled"


def test_what_we_left_in_doubt_and_nobody_lists_is_settled_too(place: Place) -> None:
    gid = name(place.log)
    place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
    place.run()
    assert place.verdict(gid) is Verdict.ABORT
    assert place.core.all_in_doubt() == []


def test_what_a_last_resource_alone_was_to_decide_is_settled_too(place: Place) -> None:
    gid = name(place.log)
    place.core.leave_in_doubt(gid, Commit(gid, (), delegate="stock"))
    place.run()
    assert place.verdict(gid) is Verdict.ABORT
    assert place.core.all_in_doubt() == []


def test_what_we_were_rolling_back_is_rolled_back_whenever_it_becomes_prepared(place: Place) -> None:
    """The block is over, so nobody can decide otherwise: nothing has to be remembered of it."""
    gid = name(place.log)
    (branch,) = prepared(gid, place.bank)
    assert place.run().rolled_back == [branch]
    prepared(gid, place.bank)
    assert place.run().rolled_back == [branch], "a vote was under way"
    assert place.verdict(gid) is Verdict.OPEN, "an abort of our own needs no record"


def test_what_we_have_not_ended_is_left(place: Place) -> None:
    gid = place.core.next_gid()
    (branch,) = prepared(gid, place.bank)
    assert place.run().left == [branch]
    place.core.ended(gid, "aborted", alone=False)
    assert place.run().rolled_back == [branch]


def test_more_in_doubt_than_there_is_room_for_are_never_said_to_be_aborted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "UNFINISHED_MAX", 2)
    gids = [name(place.log, sequence) for sequence in range(1, 6)]
    (branch,) = prepared(gids[0], place.bank)
    for gid in gids[:4]:
        place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
    assert [place.core.outcome(gid) for gid in gids] == [Outcome.OPEN] * 4 + [Outcome.ABORTED]
    assert place.run().rolled_back == [branch], "not left for ever"
    assert place.verdict(gids[0]) is Verdict.ABORT, "the cell was won first"
    assert [place.core.outcome(gid) for gid in gids] == [
        Outcome.ABORTED, Outcome.OPEN, Outcome.ABORTED, Outcome.ABORTED, Outcome.ABORTED
    ]  # fmt: skip


def test_what_we_left_and_is_under_way_again_is_not_settled(place: Place) -> None:
    gid = name(place.log)
    place.core.leave_in_doubt(gid, Commit(gid, (BranchRef("bank", f"{gid}.0"),)))
    place.core.entered(gid)
    place.run()
    assert place.verdict(gid) is Verdict.OPEN
    assert [left for left, _ in place.core.all_in_doubt()] == [gid]


def test_what_one_database_committed_long_ago_is_not_said_to_be_aborted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "UNFINISHED_MAX", 2)
    gids = [place.core.next_gid() for _ in range(4)]
    for gid in gids[:3]:
        place.core.ended(gid, "committed", alone=True)
    place.core.ended(gids[3], "aborted", alone=False)
    assert [place.core.outcome(gid) for gid in gids] == [
        Outcome.UNRECORDED, Outcome.COMMITTED, Outcome.COMMITTED, Outcome.ABORTED
    ]  # fmt: skip


@pytest.fixture
def commits_when_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A prepared transaction that is decided, and over, as soon as its empty cell has been read."""
    gid = place.core.next_gid()
    prepared(gid, place.bank)
    verdict = place.log.verdict

    def read_and_then_decided(found: Gid) -> Verdict:
        before = verdict(found)
        patch.undo()
        decided(place.log, gid, place.bank)
        place.core.ended(gid, "committed")
        return before

    with monkeypatch.context() as patch:
        patch.setattr(place.log, "verdict", read_and_then_decided)
        yield gid


def test_who_asks_while_a_transaction_commits_is_not_told_that_it_aborted(
    place: Place, commits_when_read: str
) -> None:
    """The cell was empty when it was read, and the block is over when that is asked: that is no abort."""
    assert place.core.outcome(commits_when_read) is Outcome.OPEN
    assert place.core.outcome(commits_when_read) is Outcome.COMMITTED


def test_a_branch_that_is_found_while_its_transaction_commits_is_not_rolled_back(
    place: Place, commits_when_read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (branch,) = place.bank.states
    monkeypatch.setattr(place.core, "at_work", lambda: lambda gid: False)
    assert place.run().rolled_back == []
    place.run()
    assert place.bank.states[branch] == "committed"


@pytest.mark.parametrize("how", ["alone", "only_read"])
def test_who_asks_while_a_transaction_without_a_cell_ends_is_not_told_that_it_aborted(
    place: Place, how: str
) -> None:
    gid = place.core.next_gid()
    told: list[Outcome] = []

    class Counting(Counter[str]):
        """In the middle of `Core.ended`."""

        @override
        def __setitem__(self, key: str, value: int) -> None:
            asking.start()
            asking.join(0.1)
            super().__setitem__(key, value)

    asking = threading.Thread(target=lambda: told.append(place.core.outcome(gid)))
    place.core.metrics.outcomes = Counting()
    place.core.ended(gid, "committed", **{how: True})
    asking.join()
    assert told == [Outcome.COMMITTED]
    assert place.core.metrics.outcomes == {"committed": 1}
    place.core.ended(gid, "committed", **{how: True})
    assert place.core.metrics.outcomes == {"committed": 1}, "Ctrl-C may have it said twice"

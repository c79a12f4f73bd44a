"""The meaning of a log's records: property test against a plain dictionary, carry-over, bounds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.twophase.cells import Cells, Verdict, replay
from troth.core.twophase.forgotten import Forgotten
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Abort, Applied, Commit, Forget, Heuristic, Member
from troth.errors import InvariantViolation

LOG = "logname0"


def gid(epoch: int, sequence: int) -> Gid:
    return Gid(LOG, "c", epoch, sequence)


def opened(epoch: int = 1, **options: int) -> Cells:
    cells = Cells(LOG, "c", **options)
    cells.open_epoch(epoch)
    return cells


def win(cells: Cells, name: Gid, **fields: str) -> Verdict:
    record = Commit(str(name), (), **fields)
    verdict, about = cells.judge(record)
    if about == record.gid and verdict in (Verdict.COMMIT, Verdict.DELEGATED) and not cells.record_of(record.gid):
        cells.apply(record)
    return verdict


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 4), st.integers(1, 3), st.sampled_from(["", "", "k", "l"])),
        st.tuples(st.just("abort"), st.integers(1, 4), st.integers(1, 3), st.just("")),
        st.tuples(st.just("applied"), st.integers(1, 4), st.integers(1, 3), st.just("")),
        st.tuples(st.just("epoch"), st.just(0), st.just(0), st.just("")),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_cells_are_written_once_and_carrying_over_changes_nothing(
    operations: list[tuple[str, int, int, str]],
) -> None:
    cells = opened()
    decided: dict[str, Verdict] = {}
    keys: dict[str, str] = {}
    for what, epoch, sequence, key in operations:
        name = gid(epoch, sequence)
        text = str(name)
        match what:
            case "epoch":
                cells.open_epoch(cells.epoch + 1)
            case "commit":
                verdict, about = cells.judge(Commit(text, (), key=key))
                if text in decided:
                    assert (verdict, about) == (decided[text], text)
                elif epoch != cells.epoch:
                    assert (verdict, about) == (Verdict.ABORT, text)
                elif key in keys:
                    assert (verdict, about) == (Verdict.COMMIT, keys[key])
                else:
                    assert win(cells, name, key=key) is Verdict.COMMIT
                    decided[text] = Verdict.COMMIT
                    keys |= {key: text} if key else {}
            case "abort":
                if text not in decided and epoch == cells.epoch:
                    cells.apply(Abort(text))
                    decided[text] = Verdict.ABORT
            case _:
                cells.apply(Applied((text,)))
        copy = opened(cells.epoch)
        replay(copy, cells.carried())
        for each in (cells, copy):
            for wanted, verdict in decided.items():
                found = Gid(LOG, "c", int(wanted.split(".")[3], 36), int(wanted.split(".")[4], 36))
                assert each.verdict(found) is verdict
            assert {k: each.holder_of(k) for k in keys} == keys
        assert set(copy.unapplied) == set(cells.unapplied)


def test_no_cell_is_open_then_aborted() -> None:
    cells = opened(3)
    assert cells.verdict(gid(3, 1)) is Verdict.OPEN
    assert cells.verdict(gid(2, 1)) is Verdict.ABORT
    assert cells.verdict(gid(4, 1)) is Verdict.FOREIGN
    assert cells.verdict(Gid("otherlog", "c", 1, 1)) is Verdict.FOREIGN
    cells.open_epoch(4)
    assert cells.verdict(gid(3, 1)) is Verdict.ABORT


def test_an_epoch_is_opened_once() -> None:
    cells = opened(3)
    with pytest.raises(InvariantViolation, match="opened again"):
        cells.open_epoch(3)


def test_a_cell_is_not_overwritten() -> None:
    cells = opened()
    win(cells, gid(1, 1))
    with pytest.raises(InvariantViolation, match="written twice"):
        cells.apply(Abort(str(gid(1, 1))))
    cells.apply(Abort(str(gid(1, 2))))
    with pytest.raises(InvariantViolation, match="written twice"):
        cells.apply(Commit(str(gid(1, 2)), ()))


def test_what_is_forgotten_is_not_taken_for_aborted() -> None:
    """A branch that comes back from a backup under a forgotten name must not be rolled back by presumption."""
    cells = opened(applied_kept=2)
    for sequence in range(1, 6):
        win(cells, gid(1, sequence))
        cells.apply(Applied((str(gid(1, sequence)),)))
    cells.open_epoch(2)
    assert [cells.verdict(gid(1, n)) for n in (1, 3)] == [Verdict.FORGOTTEN] * 2
    assert [cells.verdict(gid(1, n)) for n in (4, 5)] == [Verdict.COMMIT] * 2
    assert cells.verdict(gid(1, 6)) is Verdict.ABORT


def test_an_old_abort_is_still_an_abort() -> None:
    """Its branch may have waited in a database that was down while thousands of others committed."""
    cells = opened(applied_kept=1)
    for sequence in (1, 2, 4, 5, 6):
        win(cells, gid(1, sequence))
        cells.apply(Applied((str(gid(1, sequence)),)))
    cells.open_epoch(2)
    assert cells.verdict(gid(1, 3)) is Verdict.ABORT
    assert cells.verdict(gid(1, 4)) is Verdict.FORGOTTEN


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 300)), max_size=60))
def test_forgotten_is_a_set_that_survives_being_written(added: list[tuple[int, int]]) -> None:
    forgotten = Forgotten()
    for pair in added:
        forgotten.add(*pair)
    copy = Forgotten(forgotten.state())
    for pair in itertools.product(range(1, 5), range(320)):
        assert copy.may_hold(*pair) == forgotten.may_hold(*pair) == (pair in added)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3000)), max_size=80))
def test_forgotten_is_bounded_and_never_denies_what_was_added(added: list[tuple[int, int]]) -> None:
    forgotten = Forgotten(bytes_max=16)
    for pair in added:
        forgotten.add(*pair)
        assert sum(len(bits) for _, bits in forgotten.state().bits.values()) <= 16
    assert all(forgotten.may_hold(*pair) for pair in added)


def test_an_unapplied_decision_is_never_forgotten() -> None:
    cells = opened(applied_kept=1)
    win(cells, gid(1, 1))
    for sequence in range(2, 9):
        win(cells, gid(1, sequence))
        cells.apply(Applied((str(gid(1, sequence)),)))
    assert cells.verdict(gid(1, 1)) is Verdict.COMMIT
    assert list(cells.unapplied) == [str(gid(1, 1))]


def test_an_operators_abort_stands_though_the_owner_may_still_decide() -> None:
    cells = opened()
    cells.apply(Abort(str(gid(1, 1)), "an operator"))
    assert cells.is_open(gid(1, 1))
    assert win(cells, gid(1, 1)) is Verdict.ABORT
    assert win(cells, gid(1, 2)) is Verdict.COMMIT


def test_a_refusing_last_resource_frees_the_key() -> None:
    cells = opened()
    assert win(cells, gid(1, 1), key="k", delegate="lite") is Verdict.DELEGATED
    cells.apply(Abort(str(gid(1, 1)), "the last resource"))
    assert cells.verdict(gid(1, 1)) is Verdict.ABORT
    assert cells.holder_of("k") is None
    assert win(cells, gid(1, 2), key="k") is Verdict.COMMIT


def test_members_and_heuristics_are_carried() -> None:
    cells = opened()
    replay(cells, [Member("a", "postgresql", "pg:1"), Heuristic("g", "a", "rolled back"), Heuristic("h", "a", "x"),
                   Forget("h", "me")])  # fmt: skip
    copy = opened()
    replay(copy, cells.carried())
    assert copy.members == {"a": Member("a", "postgresql", "pg:1")}
    assert copy.heuristics == {"g": {"a": "rolled back"}}


def test_a_key_commits_once() -> None:
    cells = opened()
    assert win(cells, gid(1, 1), key="order-1") is Verdict.COMMIT
    assert cells.judge(Commit(str(gid(1, 2)), (), key="order-1")) == (Verdict.COMMIT, str(gid(1, 1)))
    assert cells.judge(Commit(str(gid(1, 2)), (), key="order-2")) == (Verdict.COMMIT, str(gid(1, 2)))

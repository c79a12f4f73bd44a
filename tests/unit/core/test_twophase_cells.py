"""The meaning of a log's records: property test against a plain dictionary, carry-over, bounds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.twophase.cells import Cells, Verdict, replay
from troth.core.twophase.forgotten import Forgotten, ForgottenState
from troth.core.twophase.gid import Gid
from troth.core.twophase.records import Abort, Applied, Commit, Forget, Heuristic, Member
from troth.errors import InvariantViolation

LOG = "logname0"


def gid(epoch: int, sequence: int) -> Gid:
    return Gid(LOG, "c", epoch, sequence)


def opened(epoch: int = 1, **options: int) -> Cells:
    cells = Cells(LOG, "c", **options)
    cells.begin(epoch)
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
                cells.begin(cells.epoch + 1)
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
    cells.begin(4)
    assert cells.verdict(gid(3, 1)) is Verdict.ABORT


def test_an_epoch_is_opened_once() -> None:
    cells = opened(3)
    with pytest.raises(InvariantViolation, match="opened again"):
        cells.begin(3)


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
    cells.begin(2)
    assert [cells.verdict(gid(1, n)) for n in (1, 3)] == [Verdict.FORGOTTEN] * 2
    assert [cells.verdict(gid(1, n)) for n in (4, 5)] == [Verdict.COMMIT] * 2
    assert cells.verdict(gid(1, 6)) is Verdict.ABORT


def test_an_old_abort_is_still_an_abort() -> None:
    """Its branch may have waited in a database that was down while thousands of others committed."""
    cells = opened(applied_kept=1)
    for sequence in (1, 2, 4, 5, 6):
        win(cells, gid(1, sequence))
        cells.apply(Applied((str(gid(1, sequence)),)))
    cells.begin(2)
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


def test_forgotten_is_bounded_also_when_every_epoch_has_one_byte() -> None:
    forgotten = Forgotten(bytes_max=1)
    for epoch in (1, 2, 3):
        forgotten.add(epoch, 1)
    assert forgotten.state() == ForgottenState((2, 7), {3: (0, b"\x02")})


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
    assert cells.judge(Commit(str(gid(1, 2)), (), key="k")) == (Verdict.COMMIT, str(gid(1, 1))), "until it has"
    cells.apply(Abort(str(gid(1, 1)), "the last resource"))
    assert cells.verdict(gid(1, 1)) is Verdict.ABORT
    assert cells.holder_of("k") is None
    assert win(cells, gid(1, 2), key="k") is Verdict.COMMIT


def test_members_and_heuristics_are_carried() -> None:
    cells = opened()
    replay(cells, [Member("a", "postgresql", "pg:1"), Heuristic("g", "a", "rolled back"), Heuristic("g", "b", "y"),
                   Heuristic("h", "a", "x"), Forget("h", "me")])  # fmt: skip
    copy = opened()
    replay(copy, cells.carried())
    assert copy.members == {"a": Member("a", "postgresql", "pg:1")}
    assert copy.dealt_with == {"h": Forget("h", "me")}
    assert copy.heuristics == cells.heuristics == {"g": {"a": "rolled back", "b": "y"}}


def test_what_is_dealt_with_is_kept_for_each_participant() -> None:
    cells = opened()
    a, b, c = (Heuristic("g", participant, "x") for participant in "abc")
    replay(cells, [a, Forget("g", "me", ("a",)), b, Forget("g", "you", ("b",)), c])
    copy = opened()
    replay(copy, cells.carried())
    for each in (cells, copy):
        assert each.heuristics == {"g": {"c": "x"}}
        assert each.dealt_with == {"g": Forget("g", "you", ("a", "b"))}
        assert all(each.knows(found) for found in (a, b, c))
        assert not each.knows(Heuristic("g", "d", "x"))
        assert not each.knows(Heuristic("h", "a", "x"))
    replay(cells, [Forget("g", "me", ("d",))])  # by another process, which had it from another place
    assert cells.heuristics == {"g": {"c": "x"}}


def test_what_is_dealt_with_without_names_is_all_of_it() -> None:
    cells = opened()
    replay(cells, [Heuristic("g", "a", "x"), Forget("g", "me"), Forget("g", "me", ("b",))])
    assert cells.heuristics == {}
    assert all(cells.knows(Heuristic("g", participant, "x")) for participant in "abc")


def test_a_key_commits_once() -> None:
    cells = opened()
    assert win(cells, gid(1, 1), key="order-1") is Verdict.COMMIT
    assert cells.judge(Commit(str(gid(1, 2)), (), key="order-1")) == (Verdict.COMMIT, str(gid(1, 1)))
    assert cells.judge(Commit(str(gid(1, 2)), (), key="order-2")) == (Verdict.COMMIT, str(gid(1, 2)))


def test_the_key_of_what_is_not_applied_is_kept_however_many_come_after_it() -> None:
    cells = opened(keys_kept=2)
    win(cells, gid(1, 1), key="old")
    for sequence in range(2, 9):
        win(cells, gid(1, sequence), key=f"k{sequence}")
        cells.apply(Applied((str(gid(1, sequence)),)))
    copy = opened(keys_kept=2)
    replay(copy, cells.carried())
    for each in (cells, copy):
        assert each.judge(Commit(str(gid(1, 9)), (), key="old")) == (Verdict.COMMIT, str(gid(1, 1)))
        assert [each.holder_of(f"k{n}") for n in (6, 7, 8)] == [None, str(gid(1, 7)), str(gid(1, 8))]
        each.apply(Applied((str(gid(1, 1)),)))
        assert (each.holder_of("old"), each.holder_of("k7")) == (str(gid(1, 1)), None)


def test_what_is_carried_over_says_the_same_of_everything() -> None:
    """Applied stays applied (nobody looks for its branches again), open stays open, an abort stays an abort."""
    cells = opened(applied_kept=2)
    for sequence in range(1, 8):
        win(cells, gid(1, sequence), key=f"key {sequence}", delegate="lite" if sequence == 7 else "")
    cells.apply(Applied(tuple(str(gid(1, sequence)) for sequence in (1, 2, 3, 4))))
    cells.apply(Abort(str(gid(1, 9)), "an operator"))
    cells.apply(Abort(str(gid(1, 7)), "the last resource"))
    copy = opened(applied_kept=2)
    replay(copy, cells.carried())
    copy.forgotten = Forgotten(cells.forgotten.state())
    for each in (cells, copy):
        assert list(each.unapplied) == [str(gid(1, 5)), str(gid(1, 6))]
        assert [each.verdict(gid(1, sequence)) for sequence in range(1, 11)] == [
            *(Verdict.FORGOTTEN, Verdict.FORGOTTEN),
            *(Verdict.COMMIT, Verdict.COMMIT, Verdict.COMMIT, Verdict.COMMIT),
            *(Verdict.ABORT, Verdict.OPEN, Verdict.ABORT, Verdict.OPEN),
        ]
        holders = [each.holder_of(f"key {sequence}") for sequence in range(1, 8)]
        assert holders == [*(str(gid(1, sequence)) for sequence in range(1, 7)), None]
        assert win(each, gid(1, 12), key="key 1") is Verdict.COMMIT
        assert each.record_of(str(gid(1, 12))) is None, "the key belongs to another"
    assert copy.carried() == cells.carried()


def test_nothing_is_carried_of_a_log_in_which_nothing_was_written() -> None:
    assert opened().carried() == ()


def test_aborts_of_closed_epochs_are_bounded_and_stay_aborts() -> None:
    cells = opened(applied_kept=2)
    for sequence in (1, 2, 3):
        cells.apply(Abort(str(gid(1, sequence)), "an operator"))
    cells.begin(2)
    assert cells.carried() == tuple(Abort(str(gid(1, sequence)), "an operator") for sequence in (2, 3))
    assert cells.verdict(gid(1, 1)) is Verdict.ABORT


def test_however_many_are_aborted_in_the_open_epoch_none_of_them_can_be_won() -> None:
    cells = opened(applied_kept=1)
    for epoch in (1, 2):
        for sequence in (1, 2, 3):
            cells.apply(Abort(str(gid(epoch, sequence)), "the last resource"))
        if epoch == 1:
            cells.begin(2)
    copy = Cells(LOG, "c", applied_kept=1)
    replay(copy, cells.carried())
    copy.begin(2)
    for each in (cells, copy):
        assert [win(each, gid(2, sequence), delegate="lite") for sequence in (1, 2, 3)] == [Verdict.ABORT] * 3
        assert len(each.carried()) == 4, "and of the epoch before it the last one"


def test_what_was_aborted_for_certain_is_no_forgotten_commit_however_old() -> None:
    """Below the floor of what is known of dropped names, a branch is reported and left; this one is rolled back."""
    cells = opened()
    cells.apply(Abort(str(gid(1, 1)), "an operator"))
    cells.begin(2)
    cells.forgotten = Forgotten(ForgottenState((1, 7), {}))
    assert cells.verdict(gid(1, 1)) is Verdict.ABORT
    assert cells.verdict(gid(1, 2)) is Verdict.FORGOTTEN


def test_no_key_is_no_key() -> None:
    cells = opened()
    win(cells, gid(1, 1))
    assert cells.holder_of("") is None
    assert win(cells, gid(1, 2)) is Verdict.COMMIT
    assert cells.record_of(str(gid(1, 2))) is not None


def test_only_a_delegated_decision_is_taken_back() -> None:
    cells = opened()
    win(cells, gid(1, 1), delegate="lite")
    cells.apply(Applied((str(gid(1, 1)),)))
    with pytest.raises(InvariantViolation, match="written twice"):
        cells.apply(Abort(str(gid(1, 1)), "the last resource"))
    assert cells.judge(Commit(str(gid(1, 1)), (), delegate="lite")) == (Verdict.COMMIT, str(gid(1, 1)))


@pytest.mark.parametrize(("sequence", "known"), [(7, True), (8, False), (15, True), (16, False), (800, True)])
def test_each_forgotten_transaction_has_a_bit_of_its_own(sequence: int, known: bool) -> None:
    """Also one that is added below the first, which moves all others."""
    forgotten = Forgotten()
    for each in (800, 15, 7):
        forgotten.add(2, each)
    assert forgotten.may_hold(2, sequence) is known
    assert not forgotten.may_hold(1, sequence)
    assert not forgotten.may_hold(3, sequence)


def test_what_is_dropped_of_the_bits_lies_below_the_floor_and_nothing_else_does() -> None:
    forgotten = Forgotten(bytes_max=2)
    for sequence in (3, 11, 19, 27):
        forgotten.add(1, sequence)
    floor = forgotten.state().floor
    assert floor == (1, 15)
    assert forgotten.may_hold(1, 14) and forgotten.may_hold(1, 15), "nothing is known of them"
    assert [n for n in range(16, 40) if forgotten.may_hold(1, n)] == [19, 27]
    forgotten.add(1, 15)
    assert forgotten.state().floor == floor
    assert Forgotten(forgotten.state(), bytes_max=2).may_hold(1, 15)
    forgotten.add(2, 5)
    assert not forgotten.may_hold(2, 6) and forgotten.may_hold(2, 5)


def test_of_another_coordinators_transactions_nothing_is_known() -> None:
    """Neither committed nor aborted: its own cells say."""
    cells = opened(3)
    win(cells, gid(3, 1))
    for epoch, sequence in ((3, 1), (2, 1), (3, 2)):
        assert cells.verdict(Gid(LOG, "d", epoch, sequence)) is Verdict.FOREIGN
        assert cells.verdict(Gid("otherlog", "c", epoch, sequence)) is Verdict.FOREIGN


def test_what_was_written_down_of_the_bits_does_not_change_with_them() -> None:
    forgotten = Forgotten()
    forgotten.add(1, 1)
    written = forgotten.state()
    forgotten.add(1, 2)
    assert Forgotten(written).may_hold(1, 1)
    assert not Forgotten(written).may_hold(1, 2)


def test_bits_take_as_much_room_as_the_highest_of_them_needs() -> None:
    forgotten = Forgotten()
    for sequence in (8, 15, 16, 40):
        forgotten.add(1, sequence)
    first, bits = forgotten.state().bits[1]
    assert (first, len(bits)) == (8, 5)

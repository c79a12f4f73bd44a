"""Names of transactions and epochs: what is written is read back, and nothing else is taken for ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.twophase.gid import Epoch, Gid, base36, is_name, parse_epoch, parse_gid

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=16)
LOGS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=8)


@given(LOGS, NAMES, st.integers(0, 2**40), st.integers(0, 2**63), st.text(max_size=5))
def test_a_name_is_read_back(log: str, coordinator: str, epoch: int, sequence: int, branch: str) -> None:
    gid = Gid(log, coordinator, epoch, sequence)
    assert len(str(gid)) <= 64  # XA's limit; PostgreSQL's is 199
    assert parse_gid(str(gid)) == (gid, "")
    assert parse_gid(f"{gid}.{branch}") == (gid, branch)
    of = Epoch(log, coordinator, epoch)
    assert str(gid).startswith(of.prefix)
    assert parse_epoch(of.prefix) == of
    assert parse_epoch(str(gid)) == of


@given(st.integers(0, 2**70))
def test_base36_counts(number: int) -> None:
    assert int(base36(number), 36) == number


@pytest.mark.parametrize(
    "text",
    ["", "T1", "T1.a.b.c", "T2.log.c.1.1", "T1.log.c.1.-1", "T1.log.c.+1.1", "T1.log.c.01.1", "T1.log.c.1_0.1",
     "T1.log.c.1.01", "T1.log.c.1.1!",
     "T1.LOG.c.1.1", "T1.log.c c.1.1", "T1.log.c.1.Z", "T1..c.1.1", "_sa_0123456789abcdef0123456789abcdef"],
)  # fmt: skip
def test_others_names_are_not_ours(text: str) -> None:
    assert parse_gid(text) is None


def test_a_branch_may_have_any_name() -> None:
    assert parse_gid("T1.log.c.1.z.a\nb.c") == (Gid("log", "c", 1, 35), "a\nb.c")


def test_an_epoch_is_no_prefix_of_a_later_one() -> None:
    """Sessions are found by the prefix: that of epoch 1 must not match epoch 10."""
    assert not str(Gid("logname0", "c", 37, 1)).startswith(Epoch("logname0", "c", 1).prefix)


def test_names_have_small_letters_only() -> None:
    assert is_name("web-1_a")
    assert not any(is_name(text) for text in ("", "A", "a.b", "x" * 17, "a'b"))

"""The demo's own record of what was acknowledged."""

from troth.cli.demo import Ledger
from troth.cli.rows import Row


def test_of_two_rows_with_one_key_the_later_revision_counts() -> None:
    ledger = Ledger()
    ledger.acknowledged(Row(b"k", b"new"), 7)
    ledger.acknowledged(Row(b"k", b"old"), 6)  # it was asked again after a kill, so its answer comes later
    assert ledger.rows == {b"k": b"new"} and len(ledger.times_s) == 2

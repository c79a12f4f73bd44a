"""Ranges of very many keys are read in steps: the same answer, whatever happens in between."""

import random

import pytest

from troth.kv import ranges
from troth.kv.requests import Compact, DeleteRange, Failure, Put, Range, RangeResult, SortOrder, SortTarget
from troth.kv.store import Store


def filled() -> Store:
    """Keys with one version, with several, and deleted ones."""
    store = Store()
    store.apply_batch([Put(b"k%03d" % number, b"%d" % (number * 7 % 100)) for number in range(100)])
    store.apply_batch([Put(b"k%03d" % number, b"w") for number in range(0, 100, 3)])
    store.apply_batch([DeleteRange(b"k%03d" % number) for number in range(0, 100, 7)])
    return store


@pytest.mark.parametrize(
    "request_",
    [
        Range(b"k", b"l"),
        Range(b"k", b"\0"),
        Range(b"k01", b"k02"),
        Range(b"l", b"k"),
        Range(b"k", b"l", limit=20),
        Range(b"k", b"l", limit=20, sort_order=SortOrder.DESCEND),
        Range(b"k", b"l", sort_target=SortTarget.VALUE, sort_order=SortOrder.ASCEND),
        Range(b"k", b"l", sort_target=SortTarget.VALUE, sort_order=SortOrder.DESCEND),
        Range(b"k", b"l", sort_target=SortTarget.VERSION, sort_order=SortOrder.DESCEND, limit=9),
        Range(b"k", b"l", sort_target=SortTarget.VALUE, keys_only=True, limit=30),
        Range(b"k", b"l", sort_target=SortTarget.MOD, max_mod_revision=110),
        Range(b"k", b"l", sort_target=SortTarget.MOD, min_mod_revision=90, limit=8),
        Range(b"k", b"l", sort_order=SortOrder.DESCEND),
        Range(b"k", b"l", keys_only=True),
        Range(b"k", b"l", count_only=True),
        Range(b"k", b"l", revision=60),
        Range(b"k", b"l", revision=60, count_only=True),
        Range(b"k", b"l", min_mod_revision=110, limit=3),
    ],
)
def test_a_range_read_in_steps_is_that_of_its_beginning(request_: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "STEP_KEYS", 8)
    store, chance = filled(), random.Random(1)
    expected = store.range(request_)
    steps = store.range_steps(request_)
    assert not isinstance(steps, Failure)
    while True:
        store.apply_batch(
            [Put(b"k%03d" % chance.randrange(120), b"new"), DeleteRange(b"k%03d" % chance.randrange(120))]
        )
        store.apply(Compact(store.revision))
        store.scavenge()
        try:
            next(steps)
        except StopIteration as done:
            assert done.value == expected
            break
    while store.scavenge():
        pass
    assert not store.space._pins


def test_what_cannot_be_read_is_said_before_the_first_step() -> None:
    store = filled()
    assert store.range_steps(Range(b"k", b"l", revision=999)) == store.range(Range(b"k", b"l", revision=999))
    assert store.range_steps(Range(b"", b"l")) == store.range(Range(b"", b"l"))


def test_a_range_that_nobody_waits_for_any_more_keeps_nothing() -> None:
    store = filled()
    steps = store.range_steps(Range(b"k", b"l"))
    assert not isinstance(steps, Failure | RangeResult)
    assert len(store.space._pins) == 1
    steps.close()
    assert not store.space._pins

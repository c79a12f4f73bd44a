"""The order of keys beside a naive twin that looks through all of them, and how it is brought up to date."""

import random
from collections.abc import Iterator

import pytest

from troth.kv import order as order_module
from troth.kv.deletion import Deletion, Index
from troth.kv.order import TO_THE_END, KeyOrder, sorted_pages
from troth.kv.requests import KeyValue

KEYS = [b"%d" % number for number in range(30)] + [b"1\0", b"1\0\0", b"12\0"]
ENDS = [b"2", b"15", b"1\0", b"9", TO_THE_END]


class Twin:
    """An index with its order, and the same answers by looking at everything."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.index: Index = {}
        self.order = KeyOrder(self.index)
        self.revision = 1

    def change(self) -> None:
        """A key is born, dies, comes back or is freed."""
        self.revision += 1
        key = self.chance.choice(KEYS)
        had = self.index.get(key)
        versions = had if isinstance(had, list) else [had] if had is not None else []
        if self.is_live(key):
            self.index[key] = [*versions, KeyValue(key, 0, self.revision, 0, b"", 0)]
        elif versions and self.chance.random() < 0.3:
            del self.index[key]
        else:
            born = KeyValue(key, self.revision, self.revision, 1, b"", 0)
            self.index[key] = [*versions, born] if versions else born
        self.order.moved[key] = None

    def is_live(self, key: bytes) -> bool:
        versions = self.index.get(key)
        return versions is not None and bool((versions[-1] if isinstance(versions, list) else versions).version)

    def within(self, key: bytes, range_end: bytes) -> Iterator[bytes]:
        return (
            each for each in sorted(self.index) if key <= each and (range_end in (TO_THE_END,) or each < range_end)
        )

    def check(self) -> None:
        order, chance = self.order, self.chance
        key, end = chance.choice(KEYS), chance.choice(ENDS)
        names = list(self.within(key, end))
        live = [each for each in names if self.is_live(each)]
        dead = [each for each in names if not self.is_live(each)]
        limit, since = chance.randrange(8), chance.randrange(self.revision + 1)
        died = [each for each in dead if self.index[each][-1].mod_revision >= since]  # type: ignore[index]
        settled = not chance.randrange(3)
        if settled:
            order.settle()
        asked = [
            lambda: order.live_count(key, end) == len(live),
            lambda: list(order.live_names(key, end, limit, last=False)) == live[: limit or None],
            lambda: list(order.live_names(key, end, limit, last=True)) == live[-limit or None :],
            lambda: order.dead_count(key, end) == len(dead),
            lambda: order.dead_since(since, key, end, limit + 1) == min(len(died), limit + 1),
            lambda: order.names(key, end) == names,
            lambda: order.names_page(key, end, limit) == names[:limit],
            lambda: order.names_after(key, limit) == [each for each in sorted(self.index) if each > key][:limit],
        ]
        # Whichever is asked first brings the order up to date.
        first = chance.randrange(len(asked))
        for number in (first, *range(len(asked))):
            assert asked[number](), (number, key, end, limit, since)


@pytest.mark.parametrize("seed", range(40))
def test_the_order_answers_as_if_all_keys_were_looked_at(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "STEP_KEYS", 3)
    twin = Twin(seed)
    for _ in range(60):
        for _ in range(twin.chance.choice((1, 1, 2, 12))):
            twin.change()
        if not twin.chance.randrange(3):
            twin.order.settle_some(twin.chance.randrange(5))
        twin.check()


def test_keys_that_move_while_the_order_is_made_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "STEP_KEYS", 4)
    index: Index = {b"%03d" % number: KeyValue(b"%03d" % number, 2, 2, 1, b"", 0) for number in range(100)}
    order = KeyOrder(index)
    order.moved.update(dict.fromkeys(list(index)[:4]))
    assert not order.is_behind and list(order.settle_steps()) == []
    order.moved[b"004"] = None
    assert order.is_behind
    order.moved.update(dict.fromkeys(index))
    assert order.is_behind
    left = []
    for _ in order.settle_steps():
        left.append(len(order.moved))
        order.moved[b"new %d" % len(left)] = None
    assert left[:3] == [96, 93, 90]
    assert len(left) == 25
    order.moved.clear()
    assert list(order.settle_steps()) == []


def test_what_is_forgotten_is_named_no_more() -> None:
    twin = Twin(3)
    for _ in range(40):
        twin.change()
    twin.order.settle()
    twin.change()
    twin.order.forget()
    assert not twin.order.moved
    assert twin.order.names(b"0", TO_THE_END) == []
    assert twin.order.live_count(b"0", TO_THE_END) == twin.order.dead_count(b"0", TO_THE_END) == 0


@pytest.mark.parametrize("case", ["together", "apart", "behind"])
def test_keys_that_die_at_once_are_dead_whether_they_stood_together_or_not(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_module, "_TOGETHER_MIN", 3)
    index: Index = {b"%d" % number: KeyValue(b"%d" % number, 2, 2, 1, b"", 0) for number in range(9)}
    order = KeyOrder(index)
    order.moved.update(dict.fromkeys(index))
    if case != "behind":
        order.settle()
    doomed = [b"2", b"3", b"4", b"5"] if case == "together" else [b"2", b"4", b"5", b"8"]
    deletion = Deletion(3)
    deletion.add(index, [index[key] for key in doomed])  # type: ignore[misc]
    index.update(deletion.pairs)
    order.move(deletion)
    assert bool(order.moved) == (case != "together")
    assert list(order.live_names(b"0", TO_THE_END, 0, last=False)) == [
        key for key in sorted(index) if key not in doomed
    ]
    assert order.dead_count(b"0", TO_THE_END) == 4
    assert order.names(b"0", TO_THE_END) == sorted(index)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 30])
def test_sorted_pages_hold_everything_in_order(size: int) -> None:
    items = list(range(size))
    random.Random(size).shuffle(items)
    pages = [page for page in sorted_pages(items, 4) if page]
    assert [each for page in pages for each in page] == list(range(size))
    assert all(len(page) == 4 for page in pages[:-1])

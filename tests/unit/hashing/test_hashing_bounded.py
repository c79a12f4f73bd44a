"""BoundedLoad: nobody above the cap, whatever is underneath."""

from math import ceil

import pytest

from troth.hashing import (
    ALGORITHMS,
    BadSetting,
    BoundedLoad,
    HashRing,
    Jump,
    Locator,
    NoNodes,
    NotSupported,
    UnknownNode,
)

NAMES = [f"node-{index}" for index in range(10)]
KEYS = [f"key-{index}" for index in range(1000)]


@pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=list(ALGORITHMS))
@pytest.mark.parametrize("c", [1.01, 1.25, 2.0])
def test_no_node_is_ever_above_its_cap(kind: type[Locator], c: float) -> None:
    bounded = BoundedLoad(kind(NAMES), c=c)
    for count, key in enumerate(KEYS[:300], start=1):
        node = bounded.acquire(key)
        assert bounded.loads[node] <= ceil(c * count / len(NAMES))
    assert sum(bounded.loads.values()) == 300
    assert bounded.overflow() == {}


def test_a_key_stays_on_its_node_while_there_is_room() -> None:
    ring = HashRing(NAMES)
    bounded = BoundedLoad(ring, c=2.0)
    first = bounded.node("key")
    assert first == ring.node("key") == bounded.acquire("key")
    # One load in all: the cap of every node is ceil(2 * 2 / 10) = 1, so the same key walks on.
    second = bounded.acquire("key")
    assert second == ring.nodes("key", 2)[1]
    bounded.release(first)
    assert bounded.node("key") == first


def test_batches_equal_single_steps_and_a_question_takes_nothing() -> None:
    one, many = BoundedLoad(HashRing(NAMES), c=1.1), BoundedLoad(HashRing(NAMES), c=1.1)
    asked = many.node_batch(KEYS).tolist()
    assert sum(many.loads.values()) == 0
    taken = many.acquire_batch(KEYS).tolist()
    assert asked == taken == [one.acquire(key) for key in KEYS]
    assert one.loads == many.loads


def test_caps_follow_weights() -> None:
    bounded = BoundedLoad(HashRing({"small": 1, "big": 9}), c=1.05)
    bounded.acquire_batch(KEYS)
    assert bounded.loads["small"] <= ceil(1.05 * 1000 / 10) and bounded.loads["big"] >= 890
    assert bounded.capacity("big") == ceil(1.05 * 1001 * 0.9)


def test_membership_changes_keep_the_books() -> None:
    bounded = BoundedLoad(HashRing(NAMES), c=1.25)
    bounded.acquire_batch(KEYS)
    held = bounded.loads["node-4"]
    assert bounded.remove("node-4") == held > 0
    assert sum(bounded.loads.values()) == 1000 - held
    bounded.add("new")
    assert bounded.loads["new"] == 0 and len(bounded) == 10 and "new" in bounded.members
    bounded.reweight("node-1", 0.01)
    assert bounded.overflow()["node-1"] > 0
    assert bounded.digest == bounded.ring.digest and bounded.weights["node-1"] == 0.01


def test_replicas_prefer_nodes_with_room() -> None:
    ring = HashRing(NAMES)
    order = list(ring.walk("key"))
    bounded = BoundedLoad(ring, c=2.0, loads={order[1]: 5})
    assert bounded.nodes("key", 3) == [order[0], order[2], order[3]]
    assert len(set(bounded.nodes("key", 10))) == 10
    with pytest.raises(NotSupported):
        BoundedLoad(Jump(NAMES)).nodes("key", 2)


def test_bad_calls_are_named() -> None:
    for c in (1.0, 0.5, 2.01):
        with pytest.raises(BadSetting, match=r"\(1, 2\]"):
            BoundedLoad(HashRing(NAMES), c=c)
    bounded = BoundedLoad(HashRing(NAMES))
    with pytest.raises(BadSetting, match="cannot release"):
        bounded.release("node-1")
    with pytest.raises(UnknownNode):
        bounded.release("stranger")
    with pytest.raises(UnknownNode):
        bounded.capacity("stranger")
    with pytest.raises(UnknownNode):
        BoundedLoad(HashRing(NAMES), loads={"stranger": 1})
    with pytest.raises(BadSetting):
        BoundedLoad(HashRing(NAMES), loads={"node-1": -1})
    with pytest.raises(NoNodes):
        BoundedLoad(HashRing()).acquire("k")
    with pytest.raises(NoNodes):
        BoundedLoad(HashRing()).node_batch(["k"])

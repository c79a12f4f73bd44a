"""HashRing: the rule of the circle, collisions, digests, errors."""

import numpy as np
import pytest

from troth.hashing import (
    Agreement,
    BadKey,
    BadSetting,
    DuplicateNode,
    HashRing,
    NoNodes,
    TooFewNodes,
    UnknownNode,
    hash_batch,
    hash_one,
)
from troth.hashing.continuum import Continuum

NAMES = [f"node-{index}" for index in range(12)]
KEYS = [f"key-{index}" for index in range(3000)]


def naive_owner(ring: HashRing, hashed: int) -> str:
    """The owner by the definition: the nearest point not below the hash, the smaller name first."""
    points = sorted((int(point), name) for name in ring.members for point in ring.points_of(name))
    return next((name for point, name in points if point >= hashed), points[0][1])


def test_a_key_that_equals_a_point_stays_on_it() -> None:
    ring = HashRing(NAMES, vnodes=4)
    for name in NAMES:
        for point in ring.points_of(name).tolist():
            assert ring.node_of_hash(point) == name
            assert ring.index_batch(np.array([point], np.uint64))[0] == ring.members.index(name)


def test_a_hash_one_past_a_point_goes_to_the_next() -> None:
    ring = HashRing(NAMES, vnodes=2)
    points = sorted((int(point), name) for name in NAMES for point in ring.points_of(name))
    for (point, _), (_, following) in zip(points, points[1:] + points[:1], strict=True):
        assert ring.node_of_hash(point + 1) == following


def test_both_ends_of_the_hash_space_are_found() -> None:
    ring = HashRing(NAMES)
    for hashed in (0, 1, 2**63, 2**64 - 1):
        assert ring.node_of_hash(hashed) == naive_owner(ring, hashed)
        assert ring.node_batch(np.array([hashed], np.uint64))[0] == naive_owner(ring, hashed)


def test_single_and_batch_agree_with_the_definition() -> None:
    ring = HashRing(NAMES, vnodes=7)
    batch = ring.node_batch(KEYS)
    for key, found in zip(KEYS[:300], batch, strict=False):
        assert found == ring.node(key) == naive_owner(ring, hash_one(key))


def test_a_str_and_its_utf8_bytes_are_one_key() -> None:
    ring = HashRing(NAMES)
    keys = ["plain", "grüße", "鍵", ""]
    assert [ring.node(key) for key in keys] == [ring.node(key.encode()) for key in keys]
    assert hash_batch(keys).tolist() == hash_batch([key.encode() for key in keys]).tolist()
    assert hash_batch(["a", b"b", "c"]).tolist() == [hash_one(key) for key in "abc"]
    assert hash_batch(np.array(["a", "b"])).tolist() == hash_batch(np.array([b"a", b"b"])).tolist()


def test_collisions_leave_no_trace_of_who_came_first() -> None:
    names = [f"n{index}" for index in range(60)]
    forward = HashRing(names, vnodes=20, bits=10)
    assert len(np.unique(forward._circle.points[:-1])) < len(forward._circle)  # 1200 points on 1024 places collide
    grown = HashRing([], vnodes=20, bits=10)
    for name in reversed(names):
        grown.add(name)
    every = np.arange(1024, dtype=np.uint64)
    assert grown.node_batch(every).tolist() == forward.node_batch(every).tolist()
    assert grown.digest.agrees(forward.digest)
    for name in names[::3]:
        grown.remove(name)
    for name in names[::3]:
        grown.add(name)
    assert grown.node_batch(every).tolist() == forward.node_batch(every).tolist()


def test_the_loser_of_a_collision_inherits_when_the_winner_leaves() -> None:
    circle = Continuum.build(
        names=("a", "b"), points=np.array([7, 7], np.uint64), owners=np.array([1, 0], np.int32)
    )
    assert circle.names[circle.owners[circle.position(7)]] == "a"
    assert circle.preference(7, 2) == ["a", "b"]


def test_published_placement_does_not_change_between_releases() -> None:
    """Rings live longer than processes: these answers were written down once."""
    ring = HashRing({"a": 1, "b": 2, "c": 0.5})
    assert [ring.node(key) for key in ("", "alpha", "beta", "gamma", "δ", "epsilon", "zeta")] == EXPECTED_NODES
    assert ring.digest.value == EXPECTED_DIGEST


EXPECTED_NODES = ["a", "a", "c", "a", "a", "b", "c"]
EXPECTED_DIGEST = "524e476c11f9f8e251e6c6ba101d2e36"


def test_digest_tells_same_behind_ahead_and_conflict() -> None:
    one, two = HashRing(["a", "b"]), HashRing(["b", "a"])
    assert one.digest == two.digest
    assert one.digest.compare(two.digest) is Agreement.SAME
    two.add("c")
    assert one.digest.compare(two.digest) is Agreement.BEHIND
    assert two.digest.compare(one.digest) is Agreement.AHEAD
    one.add("d")
    assert one.digest.compare(two.digest) is Agreement.CONFLICT
    assert HashRing({"a": 1, "b": 2}).digest.value != HashRing(["a", "b"]).digest.value
    assert HashRing(["a"], vnodes=8).digest.value != HashRing(["a"]).digest.value


def test_a_copy_is_a_ring_of_its_own() -> None:
    ring = HashRing(NAMES)
    twin = ring.copy()
    twin.remove("node-3")
    twin.reweight("node-4", 2)
    assert "node-3" in ring and ring.weights["node-4"] == 1
    assert ring.digest == HashRing(NAMES).digest


def test_weights_shape_the_shares() -> None:
    ring = HashRing({"small": 1, "big": 3}, vnodes=2000)
    assert ring.shares()["big"] == pytest.approx(0.75, abs=0.02)
    assert sum(ring.shares().values()) == pytest.approx(1)


def test_preference_lists_wrap_around_the_circle() -> None:
    ring = HashRing(["a", "b", "c"], vnodes=3)
    last = int(ring._circle.points[:-1].max())
    assert sorted(ring._circle.preference(last, 3)) == ["a", "b", "c"]
    assert ring.nodes_batch(np.array([last + 1], np.uint64), 3).tolist() == [ring._circle.preference(last + 1, 3)]
    assert sorted(ring.walk("key")) == ["a", "b", "c"]


def test_an_empty_ring_says_so() -> None:
    ring = HashRing()
    for ask in (
        lambda: ring.node("k"),
        lambda: ring.node_of_hash(3),
        lambda: ring.node_batch(["k"]),
        lambda: ring.nodes("k", 1),
        lambda: next(ring.walk("k")),
    ):
        with pytest.raises(NoNodes):
            ask()
    assert ring.shares() == {} and len(ring) == 0 and list(ring) == []
    ring.add("first")
    assert ring.node("k") == "first"
    ring.remove("first")
    with pytest.raises(NoNodes):
        ring.node("k")


@pytest.mark.parametrize("key", [5, 1.5, None, object()])
def test_a_bad_key_is_named(key: object) -> None:
    ring = HashRing(["a"])
    with pytest.raises(BadKey, match="str or bytes"):
        ring.node(key)  # type: ignore[arg-type]
    with pytest.raises(BadKey):
        ring.node_batch([key])  # type: ignore[list-item]


def test_bad_batches_are_named() -> None:
    ring = HashRing(["a"])
    with pytest.raises(BadKey, match="uint64"):
        ring.node_batch(np.array([1, 2], np.int64))  # type: ignore[arg-type]
    with pytest.raises(BadKey, match="single key"):
        ring.node_batch("abc")
    with pytest.raises(BadKey, match="surrogate"):
        ring.node("\ud800")
    with pytest.raises(BadKey, match="surrogate"):
        ring.node_batch(["\ud800"])
    assert ring.node_batch([]).tolist() == []


def test_bad_settings_and_nodes_are_named() -> None:
    for wrong in (0, -1, float("nan"), float("inf"), "heavy"):
        with pytest.raises(BadSetting):
            HashRing({"a": wrong})  # type: ignore[dict-item]
    with pytest.raises(BadSetting, match="one string"):
        HashRing("abc")
    with pytest.raises(BadSetting):
        HashRing([""])
    with pytest.raises(BadSetting):
        HashRing(["a"], vnodes=0)
    with pytest.raises(BadSetting):
        HashRing(["a"], key_hash="crc")
    with pytest.raises(BadSetting):
        HashRing(["a"], bits=7)
    with pytest.raises(DuplicateNode):
        HashRing(["a", "a"])
    ring = HashRing(["a", "b"])
    with pytest.raises(DuplicateNode):
        ring.add("a")
    with pytest.raises(UnknownNode):
        ring.remove("z")
    with pytest.raises(UnknownNode):
        ring.reweight("z", 2)
    with pytest.raises(TooFewNodes):
        ring.nodes("k", 3)
    with pytest.raises(BadSetting):
        ring.nodes("k", 0)
    assert ring.digest == HashRing(["a", "b"]).digest


def test_other_hashes_give_other_rings() -> None:
    rings = {name: HashRing(NAMES, key_hash=name) for name in ("xxh3", "xxh64", "md5")}
    placed = {name: tuple(ring.node_batch(KEYS)) for name, ring in rings.items()}
    assert len(set(placed.values())) == 3
    assert placed["md5"][0] == rings["md5"].node(KEYS[0])

"""KetamaRing against what libketama publishes."""

import itertools
from hashlib import md5

import numpy as np
import pytest

from troth.hashing import BadSetting, KetamaRing, ketama_hash

SERVERS = {
    "10.0.1.1:11211": 600,
    "10.0.1.2:11211": 300,
    "10.0.1.3:11211": 200,
    "10.0.1.4:11211": 350,
    "10.0.1.5:11211": 1000,
    "10.0.1.6:11211": 800,
    "10.0.1.7:11211": 950,
    "10.0.1.8:11211": 100,
}
"""libketama's ketama.servers."""


@pytest.mark.slow
def test_a_million_keys_give_libketamas_own_checksum() -> None:
    """libketama's test.sh: MD5 of the lines "hash point server" for the keys "0" .. "999999", after an empty line."""
    ring = KetamaRing(SERVERS)
    hashes = np.fromiter((ketama_hash(b"%d" % key) for key in range(1_000_000)), np.uint64, 1_000_000)
    owners = ring.index_batch(hashes).tolist()
    circle = ring._circle
    points = circle.points[circle.positions(hashes) % len(circle)].tolist()
    names = ring.members
    lines = [f"{h} {p} {names[o]}\n" for h, p, o in zip(hashes.tolist(), points, owners, strict=True)]
    assert md5(("\n" + "".join(lines)).encode()).hexdigest() == "5672b131391f5aa2b280936aec1eea74"


def test_libketamas_python_binding_vectors() -> None:
    ring = KetamaRing({"127.0.0.1:11211": 600, "127.0.0.1:11212": 400})
    assert ketama_hash(b"test") == 3446378249
    assert ring.node("test") == "127.0.0.1:11211"
    assert next(point for point, _ in ring.points if point >= 3446378249) == 3454255383
    assert len(ring.points) == 160 * 2


def test_a_key_equal_to_a_point_stays_on_it() -> None:
    """The keys ``server-k`` hash to the first point of digest k; `bisect_right` would send 72 of 80 astray."""
    names = ["10.0.1.1:11211", "10.0.1.2:11211"]
    ring = KetamaRing(names)
    for name in names:
        for number in range(40):
            assert ring.node(f"{name}-{number}") == name


def test_point_counts_are_floored_as_float32() -> None:
    """Integer division and a float64 floor each differ from libketama for some weights; this finds such ones."""
    counts: dict[tuple[int, int], tuple[int, int, int]] = {}
    for nodes in range(2, 60):
        for weight in range(1, 40):
            total = weight + (nodes - 1) * 7
            share = np.float32(weight) / np.float32(total)
            ours = int(np.floor(np.float32(np.float64(share) * 40.0 * nodes)))
            counts[nodes, weight] = (ours, 40 * nodes * weight // total, int(weight / total * 40 * nodes))
    odd = [case for case, (single, whole, double) in counts.items() if single != whole or single != double]
    assert odd
    for nodes, weight in odd:
        others = {f"n{index}": 7.0 for index in range(nodes - 1)}
        ring = KetamaRing({**others, "odd": weight})
        assert sum(name == "odd" for _, name in ring.points) == 4 * counts[nodes, weight][0]


def test_a_collision_does_not_depend_on_the_order_of_servers() -> None:
    """172.31.1.{0,125,202}: two of the 480 points coincide."""
    servers = ["172.31.1.202", "172.31.1.0", "172.31.1.125"]
    one, other = KetamaRing(servers), KetamaRing(sorted(servers))
    assert one.points == other.points
    positions = [point for point, _ in one.points]
    assert len(positions) == 480
    twins = [point for point, after in itertools.pairwise(positions) if point == after]
    assert len(twins) == 1
    rivals = sorted(name for point, name in one.points if point == twins[0])
    assert one.node_of_hash(twins[0]) == rivals[0]
    assert one.changed(remove=[rivals[0]]).node_of_hash(twins[0]) in one.members


def test_weights_are_whole_numbers() -> None:
    with pytest.raises(BadSetting, match="whole"):
        KetamaRing({"a": 1.5})
    ring = KetamaRing({"a": 1, "b": 2})
    with pytest.raises(BadSetting):
        ring.reweight("a", 0.5)


def test_a_node_too_light_for_a_point_holds_no_keys_and_is_the_last_replica() -> None:
    ring = KetamaRing({"heavy": 1000, "light": 1})
    assert {name for _, name in ring.points} == {"heavy"}
    keys = [f"key-{number}" for number in range(50)]
    assert all(ring.nodes(key, 2) == list(ring.walk(key)) == ["heavy", "light"] for key in keys)
    assert ring.nodes_batch(keys, 2).tolist() == [["heavy", "light"]] * 50


def test_a_weight_that_is_refused_leaves_the_ring_as_it_was() -> None:
    ring = KetamaRing({"a": 1, "b": 1})
    before = ring.digest
    with pytest.raises(BadSetting):
        ring.reweight("a", 1.5)
    assert ring.digest == before

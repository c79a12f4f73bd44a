"""Every algorithm behind the one interface: what it can do, what it refuses, and that single and batch agree."""

import itertools
import json

import numpy as np
import pytest

from troth.errors import DecodeError
from troth.hashing import (
    ALGORITHMS,
    Anchor,
    BadSetting,
    CapacityExceeded,
    HashRing,
    Jump,
    Locator,
    Maglev,
    Memento,
    MultiProbe,
    NoNodes,
    NotSupported,
    Rendezvous,
    RingSpec,
    SkeletonRendezvous,
    balance,
    balance_of_keys,
    build,
    describe,
    movement,
)
from troth.hashing.jump import jump
from troth.hashing.maglev import TABLE_SIZES, is_prime
from troth.hashing.nodes import Nodes
from troth.hashing.rendezvous import minus_log, minus_log_of

NAMES = [f"node-{index}" for index in range(25)]
KEYS = [f"key-{index}" for index in range(2000)]

every_algorithm = pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=list(ALGORITHMS))


def ring_of(kind: type[Locator], nodes: Nodes) -> Locator:
    """Maglev with a hundred places a node, as the paper advises: each change fills all of them anew."""
    return Maglev(nodes, table_size=4093) if kind is Maglev else kind(nodes)


@every_algorithm
def test_single_and_batch_agree(kind: type[Locator]) -> None:
    ring = ring_of(kind, NAMES)
    for turn in range(2):
        single = [ring.node(key) for key in KEYS]
        assert ring.node_batch(KEYS).tolist() == single
        assert [ring.members[index] for index in ring.index_batch(ring.hash_batch(KEYS))] == single
        assert [next(ring.walk(key)) for key in KEYS[:50]] == single[:50]
        for gone in ring.members[-1], ring.members[-2]:
            ring.remove(gone)
        ring.add(f"new-{turn}")


@every_algorithm
def test_replicas_are_distinct_or_refused(kind: type[Locator]) -> None:
    ring = ring_of(kind, NAMES)
    if not kind.can.replicas:
        with pytest.raises(NotSupported, match=f"{kind.algorithm} cannot give preference lists"):
            ring.nodes("k", 2)
        with pytest.raises(NotSupported):
            ring.nodes_batch(["k"], 2)
        assert ring.nodes("k", 1) == [ring.node("k")]
        return
    lists = ring.nodes_batch(KEYS, 4).tolist()
    assert lists == [ring.nodes(key, 4) for key in KEYS]
    assert all(len(set(row)) == 4 for row in lists)
    assert [row[0] for row in lists] == ring.node_batch(KEYS).tolist()


@every_algorithm
def test_a_walk_names_every_node_once(kind: type[Locator]) -> None:
    ring = ring_of(kind, NAMES)
    for key in KEYS[:20]:
        assert sorted(ring.walk(key)) == sorted(NAMES)


@every_algorithm
def test_weights_work_or_are_refused(kind: type[Locator]) -> None:
    if not kind.can.weights:
        with pytest.raises(NotSupported, match="weigh nodes"):
            kind({"a": 1, "b": 2})
        ring = kind(["a", "b"])
        with pytest.raises(NotSupported):
            ring.reweight("a", 2)
        with pytest.raises(NotSupported):
            ring.add("c", 2)
        assert ring.members == ("a", "b")
        return
    ring = ring_of(kind, {"a": 1, "b": 2, "c": 5})
    assert ring.weights == {"a": 1, "b": 2, "c": 5}
    shares = balance_of_keys(ring, ring.sample()).shares
    assert shares["a"] < shares["b"] < shares["c"]
    ring.reweight("a", 50)
    assert balance_of_keys(ring, ring.sample()).shares["a"] > 0.5


@every_algorithm
def test_stated_shares_are_those_of_keys(kind: type[Locator]) -> None:
    ring = ring_of(kind, NAMES)
    measured = balance_of_keys(ring, ring.sample()).shares
    assert ring.shares() == pytest.approx(measured, abs=0.004)
    assert sum(ring.shares().values()) == pytest.approx(1)


@every_algorithm
def test_a_spec_rebuilds_the_same_ring(kind: type[Locator]) -> None:
    ring = ring_of(kind, NAMES)
    ring.remove(ring.members[-1])
    ring.add("late")
    if kind.can.remove_any:
        ring.remove("node-3")
        ring.remove("node-11")
        ring.add("later")
    again = build(RingSpec.from_json(describe(ring).to_json()))
    assert again.digest == ring.digest
    assert again.node_batch(KEYS).tolist() == ring.node_batch(KEYS).tolist()
    again.add("last")
    ring.add("last")
    assert again.node_batch(KEYS).tolist() == ring.node_batch(KEYS).tolist()


@every_algorithm
def test_a_copy_does_not_share_what_changes(kind: type[Locator]) -> None:
    ring = ring_of(kind, NAMES)
    before = ring.node_batch(KEYS).tolist()
    twin = ring.copy()
    twin.remove(twin.members[-1])
    twin.add("x")
    twin.add("y")
    assert ring.node_batch(KEYS).tolist() == before
    assert ring.digest.epoch == 0 and twin.digest.epoch == 3


@every_algorithm
def test_an_empty_ring_refuses_keys(kind: type[Locator]) -> None:
    ring = ring_of(kind, [])
    with pytest.raises(NoNodes):
        ring.node("k")
    with pytest.raises(NoNodes):
        ring.node_batch(["k"])
    with pytest.raises(NoNodes):
        next(ring.walk("k"))
    assert ring.shares() == {}
    ring.add("only")
    assert ring.node("k") == "only" and ring.nodes("k", 1) == ["only"]
    ring.remove("only")
    with pytest.raises(NoNodes):
        ring.node("k")


@every_algorithm
def test_docstrings_name_the_source_and_the_limits(kind: type[Locator]) -> None:
    text = kind.__doc__ or ""
    assert "Source:" in text
    if not all(getattr(kind.can, name) for name in ("weights", "replicas", "remove_any", "minimal", "ranges")):
        assert "What it cannot do" in text or "What it costs" in text


def test_ranges_are_refused_where_there_are_none() -> None:
    for kind in (Rendezvous, Jump, Maglev, MultiProbe, Anchor, Memento, SkeletonRendezvous):
        ring = ring_of(kind, NAMES)
        with pytest.raises(NotSupported, match="ranges"):
            ring.plan(ring.changed(add=["x"]))


def test_jump_gives_the_papers_function() -> None:
    """Values of the published C++ function, as in several ports' tests; and its invariants."""
    published = {(1, 1): 0, (42, 57): 43, (0xDEAD10CC, 1): 0, (0xDEAD10CC, 666): 361, (256, 1024): 520}
    assert {case: jump(*case) for case in published} == published
    for key in range(200):
        placed = [jump(key, buckets) for buckets in range(1, 40)]
        steps = enumerate(itertools.pairwise(placed), 1)
        assert all(after in (before, buckets) for buckets, (before, after) in steps)


def test_jump_lets_only_the_last_node_leave() -> None:
    ring = Jump(["s0", "s1", "s2"])
    with pytest.raises(NotSupported, match="'s0' leave"):
        ring.remove("s0")
    assert ring.members == ("s0", "s1", "s2") and ring.weights == {"s0": 1, "s1": 1, "s2": 1}
    ring.remove("s2")
    assert ring.members == ("s0", "s1")


def test_sets_are_sorted_so_that_processes_agree() -> None:
    assert Jump({"b", "c", "a"}).members == ("a", "b", "c")


def test_maglev_tables_are_prime_full_and_fair() -> None:
    assert all(is_prime(size) for size in TABLE_SIZES)
    assert not is_prime(1) and not is_prime(65535)
    ring = Maglev(NAMES, table_size=2503)
    counts = np.bincount(ring.table)
    assert counts.sum() == 2503 and counts.max() - counts.min() <= 1
    heavy = Maglev({"a": 1, "b": 0.5, "c": 0.25}, table_size=7001)
    assert heavy.shares() == pytest.approx({"a": 4 / 7, "b": 2 / 7, "c": 1 / 7}, abs=0.001)
    with pytest.raises(BadSetting, match="prime"):
        Maglev(NAMES, table_size=1000)
    with pytest.raises(CapacityExceeded):
        Maglev([f"n{index}" for index in range(252)], table_size=251)
    with pytest.raises(ValueError, match="read-only"):
        ring.table[0] = 1


def test_maglev_matches_the_papers_table() -> None:
    """Figure 5 of the paper: offsets and skips 3/4, 0/2, 3/1 in a table of 7 give these owners, then without B1."""

    permutations = [[3, 0, 4, 1, 5, 2, 6], [0, 2, 4, 6, 1, 3, 5], [3, 4, 5, 6, 0, 1, 2]]
    owners = _populate(permutations)
    assert owners == [1, 0, 1, 0, 2, 2, 0]
    # The library's table is the same population over its own permutations.
    ring = Maglev(["a", "b", "c"], table_size=251)
    size = 251
    from troth.hashing.keys import hash_one, mix

    own = []
    for name in ring.members:
        offset, skip = hash_one(name) % size, mix(hash_one(name)) % (size - 1) + 1
        own.append([(offset + skip * turn) % size for turn in range(size)])
    assert ring.table.tolist() == _populate(own)


def _populate(permutations: list[list[int]]) -> list[int]:
    """The paper's pseudo-code 1, literally."""
    size = len(permutations[0])
    following, entry, filled = [0] * len(permutations), [-1] * size, 0
    while True:
        for index, permutation in enumerate(permutations):
            place = permutation[following[index]]
            while entry[place] >= 0:
                following[index] += 1
                place = permutation[following[index]]
            entry[place] = index
            following[index] += 1
            filled += 1
            if filled == size:
                return entry


def test_anchor_is_full_at_its_capacity() -> None:
    ring = Anchor(["a", "b"], capacity=3)
    ring.add("c")
    with pytest.raises(CapacityExceeded):
        ring.add("d")
    assert "d" not in ring and ring.capacity == 3
    ring.remove("a")
    ring.add("d")
    assert ring.members == ("d", "b", "c")
    with pytest.raises(CapacityExceeded):
        Anchor(["a", "b"], capacity=1)
    with pytest.raises(BadSetting):
        Anchor(["a", "b"], capacity=3, vacated=[0, 1])


def test_memento_takes_any_removal_and_any_growth() -> None:
    ring = Memento(["a"])
    for index in range(200):
        ring.add(f"n{index}")
    for index in range(0, 200, 3):
        ring.remove(f"n{index}")
    alive = set(ring.members)
    assert len(alive) == 201 - 67
    assert set(ring.node_batch(KEYS)) <= alive
    assert balance(ring).peak_to_mean == pytest.approx(1)
    assert balance_of_keys(ring, ring.sample()).peak_to_mean < 1.15
    with pytest.raises(BadSetting):
        Memento(["a"], vacated=[5])


def test_multiprobe_is_even_without_virtual_nodes() -> None:
    names = [f"n{index}" for index in range(100)]
    assert balance(MultiProbe(names)).peak_to_mean < 1.2 < 2 < balance(HashRing(names, vnodes=1)).peak_to_mean
    with pytest.raises(BadSetting):
        MultiProbe(names, probes=0)


def test_multiprobe_is_the_nearest_point_over_all_probes() -> None:
    """Against the definition, also where points coincide."""
    from troth.hashing.keys import GOLDEN, MASK, mix

    for bits in (64, 8):
        ring = MultiProbe(NAMES, probes=5, bits=bits)
        circle = ring._circle
        spots = list(zip(circle.points[:-1].tolist(), circle.owners[:-1].tolist(), strict=True))
        mask = (1 << bits) - 1
        for key in KEYS[:200]:
            hashed = ring.hash_of(key)
            probes = [mix((hashed + number * GOLDEN) & MASK) >> (64 - bits) for number in range(5)]
            distance = {owner: min((point - probe) & mask for probe in probes) for point, owner in spots}
            ranked = sorted(distance, key=lambda owner: (distance[owner], owner))
            assert ring.nodes(key, 6) == [circle.names[owner] for owner in ranked[:6]]
            assert ring.node_batch([key])[0] == circle.names[ranked[0]]


def test_rendezvous_shares_follow_fractional_weights() -> None:
    ring = Rendezvous({"a": 0.1, "b": 0.7, "c": 2.2, "d": 1})
    measured = balance_of_keys(ring, ring.sample(1 << 18)).shares
    assert measured == pytest.approx(ring.shares(), abs=0.003)


def test_the_logarithm_is_exact_and_the_same_one_by_one() -> None:
    units = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 5001), [2.0**-54, 0.5, 1 - 2.0**-53]])
    found = minus_log(units)
    assert np.allclose(found, -np.log(units), rtol=4e-16 * 4, atol=0)
    assert found.tolist() == [minus_log_of(unit) for unit in units.tolist()]


def test_rendezvous_is_the_same_by_loop_and_by_numpy() -> None:
    """Few nodes go through a loop in Python, many through numpy: equal prefixes must give equal answers."""
    weights = {f"n{index}": 1.0 + index % 3 for index in range(24)}
    ring = Rendezvous(weights)
    assert ring.node_batch(KEYS).tolist() == [ring.node(key) for key in KEYS]
    ring.add("n24", 2.5)
    assert ring.node_batch(KEYS).tolist() == [ring.node(key) for key in KEYS]


def test_the_skeleton_is_even_when_built_and_says_when_it_is_not() -> None:
    names = [f"n{index}" for index in range(640)]
    ring = SkeletonRendezvous(names)
    assert ring.skew == pytest.approx(1)
    assert balance_of_keys(ring, ring.sample()).std < 0.08
    for index in range(0, 60, 2):
        ring.remove(f"n{index}")
    assert ring.skew > 1.05
    level = ring.rebuilt()
    assert level.skew < 1.04 and level.epoch == ring.epoch + 1
    assert sorted(level.members) == sorted(ring.members)
    heavy = SkeletonRendezvous({f"n{index}": 1.0 + index % 4 for index in range(100)})
    assert heavy.skew < 1.2
    with pytest.raises(BadSetting):
        SkeletonRendezvous(names, fanout=1)
    with pytest.raises(BadSetting):
        SkeletonRendezvous(["a"], clusters=[["b"]], built_weights=[1.0])
    with pytest.raises(BadSetting):
        SkeletonRendezvous(["a"], clusters=[["a"]])


def test_a_whole_cluster_may_leave_the_skeleton() -> None:
    ring = SkeletonRendezvous([f"n{index:02}" for index in range(40)], cluster_nodes=2, fanout=2)
    first = list(ring._clusters[0])
    for name in first:
        ring.remove(name)
    assert set(ring.node_batch(KEYS)) <= set(ring.members)
    assert sum(ring.shares().values()) == pytest.approx(1)
    ring.add("back")
    assert ring.node_batch(KEYS).tolist() == [ring.node(key) for key in KEYS]


def test_bad_specs_are_refused() -> None:
    with pytest.raises(DecodeError, match="not a ring"):
        RingSpec.from_json(b"[]")
    with pytest.raises(DecodeError, match="format 9"):
        RingSpec.from_json(json.dumps({"format": 9, "algorithm": "ring", "nodes": []}).encode())
    with pytest.raises(BadSetting, match="unknown algorithm"):
        build(RingSpec(algorithm="magic", nodes=()))
    with pytest.raises(BadSetting, match="twice"):
        build(RingSpec(algorithm="ring", nodes=(("a", 1.0), ("a", 2.0))))
    with pytest.raises(BadSetting, match="setting"):
        build(RingSpec(algorithm="ring", nodes=(("a", 1.0),), settings={"colour": "red"}))


def test_movement_counts_what_goes_astray() -> None:
    before = Maglev(NAMES)
    join = movement(before, before.changed(add=["x"]))
    assert join.astray > 0 and join.moved_to_ideal > 1
    ring = HashRing(NAMES)
    assert movement(ring, ring.changed(remove=["node-3"])).astray == 0
    assert movement(ring, ring.copy()).moved_to_ideal == 1
    with pytest.raises(BadSetting):
        movement(ring, HashRing(NAMES, key_hash="md5"))
    with pytest.raises(BadSetting):
        movement(ring, ring, keys=[])
    with pytest.raises(BadSetting):
        balance(HashRing())
    with pytest.raises(BadSetting):
        balance_of_keys(ring, [])


@pytest.mark.parametrize("weight", [1e-320, 1e308])
def test_a_weight_whose_share_no_float_can_hold_is_refused(weight: float) -> None:
    with pytest.raises(BadSetting):
        Rendezvous({"a": 2 * weight / 2, "b": weight / 2})


@pytest.mark.parametrize("probes", [1, 2, 21])
@pytest.mark.parametrize("nodes", [1, 2, 40])
def test_multiprobe_shares_are_computed_and_those_of_keys(probes: int, nodes: int) -> None:
    ring = MultiProbe([f"n{number}" for number in range(nodes)], probes=probes)
    shares, count = ring.shares(), 1 << 15
    measured = balance_of_keys(ring, ring.sample(count)).shares
    for name, share in shares.items():
        assert measured[name] == pytest.approx(share, abs=4.5 * (share * (1 - share) / count) ** 0.5 + 1e-9)
    if probes == 1:
        assert list(shares.values()) == pytest.approx(ring._circle.arc_sizes().tolist())


def test_an_even_ring_of_many_nodes_is_shown_as_even() -> None:
    """Sampled shares would show 1.14 at 2**20 hashes, and 1.33 at 2**17."""
    assert balance(MultiProbe([f"node-{number}" for number in range(1000)])).peak_to_mean < 1.05

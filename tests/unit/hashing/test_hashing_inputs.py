"""What goes in: keys, hashes, names, weights, settings of every kind, and what copies and other processes get out."""

import copy
import pickle
from collections.abc import Iterable
from fractions import Fraction
from math import ceil

import numpy as np
import pytest

from troth.hashing import (
    ALGORITHMS,
    Anchor,
    BadKey,
    BadSetting,
    BoundedLoad,
    DuplicateNode,
    HashRing,
    Jump,
    KetamaRing,
    Locator,
    Maglev,
    Memento,
    MultiProbe,
    Placement,
    Plan,
    RingSpec,
    SkeletonRendezvous,
    Topology,
    UnknownNode,
    build,
    describe,
    hash_batch,
)

NAMES = ["a", "b", "c", "d", "é", "节点"]
KEYS = ["", "k", "grüße", "鍵", "x" * 1000, *(f"user:{number}" for number in range(60))]

SMALL: dict[type[Locator], dict[str, int]] = {Maglev: {"table_size": 251}}


def made(kind: type[Locator], names: Iterable[str], **settings: int) -> Locator:
    """A ring that is quickly made."""
    return kind(names, **SMALL.get(kind, {}), **settings)


every_algorithm = pytest.mark.parametrize("kind", ALGORITHMS.values(), ids=list(ALGORITHMS))


@every_algorithm
def test_every_kind_of_batch_gives_what_node_gives(kind: type[Locator]) -> None:
    ring = made(kind, NAMES)
    single = [ring.node(key) for key in KEYS]
    encoded = [key.encode() for key in KEYS]
    mixed = [key if index % 2 else key.encode() for index, key in enumerate(KEYS)]
    scalars = [np.str_(key) if index % 2 else np.bytes_(key.encode()) for index, key in enumerate(KEYS)]
    hashes = ring.hash_batch(KEYS)
    batches = [
        KEYS,
        encoded,
        mixed,
        scalars,
        tuple(KEYS),
        iter(KEYS),
        dict.fromkeys(KEYS),
        hashes,
        hashes[::-1][::-1],
    ]
    batches += [np.array(KEYS), np.array(encoded), np.array(KEYS, object), np.array(mixed, object)]
    batches += [np.array(KEYS, np.dtypes.StringDType())]
    for batch in batches:
        assert ring.node_batch(batch).tolist() == single  # type: ignore[arg-type]
    assert [ring.node_of_hash(hashed) for hashed in hashes.tolist()] == single
    for empty in ([], (), np.array([], np.uint64), np.array([], "U1"), np.array([], "S1")):
        assert ring.node_batch(empty).tolist() == []  # type: ignore[arg-type]


@every_algorithm
@pytest.mark.parametrize("key", [bytearray(b"k"), memoryview(b"k"), np.uint64(5), np.array([5]), True, 7, None])
def test_what_only_looks_like_bytes_is_no_key(kind: type[Locator], key: object) -> None:
    """A hash from `hash_batch` given to `node` used to be hashed once more, and answered with some node."""
    ring = made(kind, NAMES)
    with pytest.raises(BadKey):
        ring.node(key)  # type: ignore[arg-type]
    with pytest.raises(BadKey):
        ring.node_batch([b"k", key])  # type: ignore[list-item]
    with pytest.raises(BadKey):
        ring.node_batch([key, "k"])  # type: ignore[list-item]


@every_algorithm
def test_hashes_of_a_wider_function_are_refused(kind: type[Locator]) -> None:
    ring = made(kind, NAMES) if kind is KetamaRing else made(kind, NAMES, bits=32)
    with pytest.raises(BadKey, match="more than 32 bits"):
        ring.node_batch(hash_batch(KEYS))
    assert len(ring.node_batch(np.array([0, 2**32 - 1], np.uint64))) == 2


@pytest.mark.parametrize(
    "keys", [np.zeros((2, 2), np.uint64), np.zeros((), np.uint64), np.array([["a"]]), 5, np.uint64(5), None]
)
def test_a_batch_has_one_dimension(keys: object) -> None:
    with pytest.raises(BadKey):
        HashRing(NAMES).node_batch(keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [b"a", 7, None, ""])
def test_a_name_is_text(name: object) -> None:
    for make in (lambda: HashRing([name]), lambda: HashRing({name: 1}), lambda: HashRing(["b"]).add(name)):  # type: ignore[list-item, dict-item, arg-type]
        with pytest.raises(BadSetting, match="name"):
            make()


def test_weights_and_settings_beyond_all_bounds_are_refused() -> None:
    for weight in (10**400, 10**5000, -(10**400), -1, 0, float("nan")):
        with pytest.raises(BadSetting):
            HashRing({"a": weight})
    with pytest.raises(BadSetting, match="2\\*\\*53"):
        KetamaRing({"a": 2**53, "b": 1})
    with pytest.raises(BadSetting, match=r"table_size must be 2\.\."):
        Maglev(["a"], table_size=2**61 - 1)
    with pytest.raises(BadSetting, match="capacity"):
        Anchor(["a"], capacity=10**15)
    for kind in (Anchor, Memento):
        with pytest.raises(BadSetting, match="vacated"):
            kind(["a"], vacated=[0.0], **({"capacity": 2} if kind is Anchor else {}))  # type: ignore[list-item]
    with pytest.raises(BadSetting, match="last bucket"):
        Memento(["a"], vacated=[2, 0])
    for weight in (0.0, float("nan")):
        with pytest.raises(BadSetting, match="built_weights"):
            SkeletonRendezvous(["a"], clusters=[["a"]], built_weights=[weight])
    with pytest.raises(UnknownNode):
        HashRing(["a"]).points_of("b")


def test_weights_in_megabytes_are_refused_before_they_take_the_memory() -> None:
    ring = HashRing({"a": 1, "b": 2})
    for grow in (
        lambda: HashRing({f"n{number}": 64_000.0 for number in range(3)}),
        lambda: HashRing(["a"] + [f"n{number}" for number in range(20)], vnodes=1_000_000),
        lambda: ring.add("c", 200_000),
        lambda: ring.reweight("a", 200_000),
    ):
        with pytest.raises(BadSetting, match="divide all weights by the same"):
            grow()
    assert ring.weights == {"a": 1, "b": 2} and ring.digest == HashRing({"a": 1, "b": 2}).digest


@every_algorithm
def test_a_walk_is_the_preference_list(kind: type[Locator]) -> None:
    """Where there are preference lists; Placement and BoundedLoad go along it."""
    ring = made(kind, [f"n{number}" for number in range(12)])
    for key in KEYS:
        walked = list(ring.walk(key))
        assert walked[0] == ring.node(key)
        assert not kind.can.replicas or walked == ring.nodes(key, 12)


def test_a_join_or_leave_changes_a_multiprobe_walk_by_that_node_alone() -> None:
    ring = MultiProbe([f"n{number}" for number in range(12)])
    grown = ring.changed(add=["new"])
    assert all([node for node in grown.walk(key) if node != "new"] == list(ring.walk(key)) for key in KEYS)


@every_algorithm
def test_copies_of_every_kind_are_rings_of_their_own(kind: type[Locator]) -> None:
    ring = made(kind, NAMES)
    before, digest = ring.node_batch(KEYS).tolist(), ring.digest
    for twin in (ring.copy(), copy.copy(ring), copy.deepcopy(ring), pickle.loads(pickle.dumps(ring))):
        assert twin.digest == digest and twin.node_batch(KEYS).tolist() == before
        twin.add("x")
        twin.remove(twin.members[-1])
        assert ring.members == tuple(ring.weights) and "x" not in ring
        assert ring.digest == digest and ring.node_batch(KEYS).tolist() == before
    narrow = HashRing(NAMES, bits=20)
    assert pickle.loads(pickle.dumps(narrow)).node_batch(KEYS).tolist() == narrow.node_batch(KEYS).tolist()


@every_algorithm
def test_a_set_of_names_is_taken_in_the_same_order_by_every_process(kind: type[Locator]) -> None:
    """Removals given as a set were taken in an order of the process's own, which Anchor and Memento remember."""
    names = [f"n{number:02}" for number in range(20)]  # the odds that a set has them in this order are 1 to 20!
    ring = made(kind, set(names))
    assert ring.digest == made(kind, names).digest
    assert ring.changed(add={*"qrstuvwxyz"}).digest == ring.changed(add=[*"qrstuvwxyz"]).digest
    if kind.can.remove_any:
        assert ring.changed(remove=set(names[:15])).digest == ring.changed(remove=names[:15]).digest


def test_changes_are_lists_of_names_and_no_string() -> None:
    ring = HashRing(["a", "b", "c", "d"])
    with pytest.raises(BadSetting, match="one string"):
        ring.changed(remove="abc")
    with pytest.raises(BadSetting, match="one string"):
        ring.changed(add="xy")


def test_a_lost_node_that_is_not_in_the_ring_is_named() -> None:
    """A slip of the pen would otherwise have the plan read from the dead node."""
    ring = HashRing(NAMES)
    with pytest.raises(UnknownNode, match="'bb'"):
        ring.plan(ring.changed(remove=["b"]), replicas=2, lost=["bb"])


def test_a_cap_is_exact() -> None:
    """ceil(1.1 * 180 * (1 / 22)) is 10 in floats: one more than 1.1 times the mean rounded up."""
    for nodes, c, weight in ((22, 1.1, 1.0), (7, 1.3, 1.0), (3, 1.7, 0.1)):
        bounded = BoundedLoad(HashRing({f"n{number}": weight for number in range(nodes)}), c=c)
        for total in range(1, 400):
            bounded.acquire(f"key-{total}")
            cap = ceil(Fraction(str(c)) * total / nodes)
            assert max(bounded.loads.values()) <= cap and bounded._cap("n0", total) == cap


def test_a_single_node_holds_everything() -> None:
    bounded = BoundedLoad(Jump(["only"]), c=1.0000000000000002)
    assert set(bounded.acquire_batch(KEYS)) == {"only"} and bounded.loads == {"only": len(KEYS)}
    bounded.release("only", len(KEYS))
    assert bounded.loads == {"only": 0} and bounded.capacity("only") == 2


@pytest.mark.parametrize(
    ("kind", "setting", "bounds"),
    [
        (HashRing, "vnodes", (0, 1_000_001)),
        (HashRing, "bits", (7, 65)),
        (MultiProbe, "probes", (0, 1001)),
        (Maglev, "table_size", (1, 2**24 + 1)),
        (Anchor, "capacity", (-1, 2**24 + 1)),
        (SkeletonRendezvous, "fanout", (1, 2**18)),
        (SkeletonRendezvous, "cluster_nodes", (1, 2**18)),
    ],
)
def test_counts_are_whole_numbers_within_bounds(
    kind: type[Locator], setting: str, bounds: tuple[int, int]
) -> None:
    """A ring with half a probe would have a digest and be written to a file, but no file may say so."""
    for wrong in (*bounds, 20.5, 61.0, "61", None if setting != "capacity" else "8"):
        with pytest.raises(BadSetting, match=f"{setting} must be"):
            kind(["a"], **{setting: wrong})
    ring = kind(["a"], **{setting: np.int64(61)})
    assert build(RingSpec.from_json(describe(ring).to_json())).digest == ring.digest


def test_weights_too_small_for_shares_are_refused() -> None:
    """1:2:3 became 4:1:4 in silence: each node had one point."""
    for small in (
        lambda: HashRing({"a": 0.001, "b": 0.002, "c": 0.003}),
        lambda: HashRing({"a": 0.05}).add("b", 0.09),
        lambda: HashRing({"a": 1.0, "b": 0.05}).reweight("a", 0.05),
    ):
        with pytest.raises(BadSetting, match=r"\d points, a node of weight 1 has 160: multiply all weights"):
            small()
    shares = HashRing({"a": 0.1, "b": 0.2, "c": 0.3}, vnodes=16_000).shares()
    assert shares == pytest.approx({"a": 1 / 6, "b": 1 / 3, "c": 1 / 2}, abs=0.02)
    assert len(HashRing({"a": 0.01, "b": 0.02}, vnodes=16_000)) == 2


def test_a_light_node_may_stand_beside_others_alone_and_for_what_is_left() -> None:
    assert HashRing({"a": 1.0, "draining": 0.001}).shares()["draining"] < 0.05
    assert HashRing({"a": 0.001}).shares() == {"a": 1.0}
    assert HashRing({"a": 0.1, "b": 0.05, "c": 0.05}, vnodes=1).changed(remove=["a"]).members == ("b", "c")


def test_a_name_that_is_listed_twice_is_told_as_such() -> None:
    """It used to say that the node to be removed was in the ring already, and to recommend reweight()."""
    for make in (
        lambda: HashRing(["a", "a"]),
        lambda: HashRing(["a", "b"]).changed(remove=["a", "a"]),
        lambda: HashRing(["b"]).changed(add=["a", "a"]),
    ):
        with pytest.raises(DuplicateNode, match="'a' is listed twice"):
            make()


@every_algorithm
@pytest.mark.parametrize("replicas", [1.0, "1", None])
def test_a_number_of_replicas_is_whole(kind: type[Locator], replicas: object) -> None:
    ring = made(kind, NAMES)
    for ask in (
        lambda: ring.nodes("k", replicas),  # type: ignore[arg-type]
        lambda: ring.nodes_batch(KEYS, replicas),  # type: ignore[arg-type]
        lambda: ring.plan(ring, replicas=replicas, keys=KEYS),  # type: ignore[arg-type]
        lambda: Placement(ring, Topology(dict.fromkeys(NAMES, ("z",)), levels=("zone",)), replicas=replicas),  # type: ignore[arg-type]
    ):
        with pytest.raises(BadSetting, match="replicas must be a whole number"):
            ask()
    assert ring.nodes("k", np.int64(1)) == ring.nodes("k", 1)


def test_moves_loads_and_epochs_are_whole_numbers() -> None:
    ring = HashRing(NAMES)
    for number, wrong in (
        (lambda: ring.plan(ring.changed(add=["x"]), moves_per_node=1.5), "moves_per_node must be a whole number"),  # type: ignore[arg-type]
        (lambda: ring.plan(ring.changed(add=["x"]), moves_per_node=0), "moves_per_node must be at least 1, not 0"),
        (lambda: BoundedLoad(ring, loads={"a": 1.5}), "the load of 'a' must be a whole number"),  # type: ignore[dict-item]
        (lambda: BoundedLoad(ring, loads={"a": 1}).release("a", 0.5), "count must be a whole number"),  # type: ignore[arg-type]
        (lambda: HashRing(NAMES, epoch=-1), "epoch must be at least 0, not -1"),
        (lambda: HashRing({"a": "1"}), "the weight of 'a' must be a number, not '1'"),  # type: ignore[dict-item]
    ):
        with pytest.raises(BadSetting, match=wrong):
            number()
    plan = ring.plan(ring.changed(add=["x"]), replicas=np.int64(2), moves_per_node=np.int64(3))  # type: ignore[arg-type]
    assert Plan.from_json(plan.to_json()) == plan


def test_joins_make_the_clusters_of_a_skeleton_larger_which_skew_does_not_show() -> None:
    ring = SkeletonRendezvous([f"n{number:03}" for number in range(40)])
    for number in range(40, 160):
        ring.add(f"n{number:03}")
    assert ring.skew < 1.1 and ring.largest_cluster > 50
    assert ring.rebuilt().largest_cluster == 16 and SkeletonRendezvous().largest_cluster == 0

"""After any change only what must move does, never to a wrong node; the same ring from any order; distinct replicas."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from troth.hashing import (
    ALGORITHMS,
    BoundedLoad,
    HashRing,
    KetamaRing,
    Locator,
    Memento,
    MultiProbe,
    Placement,
    Rendezvous,
    Topology,
    movement,
)
from troth.hashing.keys import hash_batch

pytestmark = pytest.mark.slow

KEYS = hash_batch([f"key-{index}" for index in range(4000)])
NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
WEIGHT = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 5.0])
MINIMAL = [kind for kind in ALGORITHMS.values() if kind.can.minimal]
ORDER_FREE = [kind for kind in ALGORITHMS.values() if kind.can.order_free and kind.algorithm != "maglev"]
quick = settings(max_examples=25)


def ids(kinds: list[type[Locator]]) -> list[str]:
    return [kind.algorithm for kind in kinds]


def nodes_for(kind: type[Locator]) -> st.SearchStrategy[dict[str, float]]:
    weight = WEIGHT if kind.can.weights else st.just(1.0)
    return st.dictionaries(NAME, weight, min_size=2, max_size=12)


def assert_moved_rightly(before: Locator, after: Locator, gaining: set[str], losing: set[str]) -> None:
    """Every moved key goes to a node that gained, from a node that lost where nobody but the losers gave."""
    old, new = before.node_batch(KEYS), after.node_batch(KEYS)
    moved = old != new
    if gaining:
        assert set(new[moved]) <= gaining
    if losing:
        assert set(old[moved]) <= losing
    if not gaining and not losing:
        assert not moved.any()


@pytest.mark.parametrize("kind", MINIMAL, ids=ids(MINIMAL))
@quick
@given(data=st.data())
def test_a_join_moves_keys_only_to_the_new_node(kind: type[Locator], data: st.DataObject) -> None:
    nodes = data.draw(nodes_for(kind))
    name = data.draw(NAME.filter(lambda name: name not in nodes))
    weight = data.draw(WEIGHT) if kind.can.weights else 1.0
    before = kind(nodes)
    assert_moved_rightly(before, before.changed(add={name: weight}), {name}, set())


@pytest.mark.parametrize("kind", MINIMAL, ids=ids(MINIMAL))
@quick
@given(data=st.data())
def test_a_leave_moves_only_the_leavers_keys(kind: type[Locator], data: st.DataObject) -> None:
    before = kind(data.draw(nodes_for(kind)))
    members = before.members
    name = data.draw(st.sampled_from(members)) if kind.can.remove_any else members[-1]
    after = before.changed(remove=[name])
    assert_moved_rightly(before, after, set(), {name})
    assert name not in set(after.node_batch(KEYS))


@pytest.mark.parametrize("kind", [HashRing, Rendezvous], ids=["ring", "rendezvous"])
@quick
@given(data=st.data())
def test_a_reweight_moves_keys_only_to_or_from_that_node(kind: type[Locator], data: st.DataObject) -> None:
    nodes = data.draw(nodes_for(kind))
    name = data.draw(st.sampled_from(sorted(nodes)))
    weight = data.draw(WEIGHT)
    before = kind(nodes)
    after = before.changed(reweight={name: weight})
    grew, shrank = weight > nodes[name], weight < nodes[name]
    assert_moved_rightly(before, after, {name} if grew else set(), {name} if shrank else set())


@pytest.mark.parametrize(
    "kind", [kind for kind in MINIMAL if kind.algorithm != "skeleton"], ids=lambda k: k.algorithm
)
@pytest.mark.parametrize("nodes", [5, 50])
def test_only_the_ideal_share_moves(kind: type[Locator], nodes: int) -> None:
    """Moved over ideal, on 2**17 keys. The bound is the algorithm's own: a ring's new arc is that of V points."""
    names = [f"node-{index}" for index in range(nodes)]
    before = kind(names)
    slack = {"ring": 4 / 160**0.5, "multiprobe": 0.35}.get(kind.algorithm, 0.1)
    assert movement(before, before.changed(add=["new"])).moved_to_ideal == pytest.approx(1, abs=slack)
    last = before.members[-1]
    assert movement(before, before.changed(remove=[last])).moved_to_ideal == pytest.approx(1, abs=slack)


def test_the_skeleton_moves_within_one_cluster() -> None:
    """Its shares are exact only when built, so a join gets a little less than the ideal."""
    before = ALGORITHMS["skeleton"]([f"node-{index}" for index in range(200)])
    join = movement(before, before.changed(add=["new"]))
    assert join.astray == 0 and 0.8 < join.moved_to_ideal < 1.1


@pytest.mark.parametrize("kind", ORDER_FREE, ids=ids(ORDER_FREE))
@quick
@given(data=st.data())
def test_the_same_ring_from_any_order_and_history(kind: type[Locator], data: st.DataObject) -> None:
    nodes = data.draw(nodes_for(kind))
    if kind is KetamaRing:
        nodes = {name: float(round(4 * weight)) for name, weight in nodes.items()}
    order = data.draw(st.permutations(sorted(nodes)))
    passing = data.draw(st.lists(NAME.filter(lambda name: name not in nodes), unique=True, max_size=3))
    straight, winding = kind(nodes), kind([])
    for name in passing:
        winding.add(name)
    for name in order:
        winding.add(name, nodes[name])
    for name in passing:
        winding.remove(name)
    assert (
        winding.node_batch(straight.sample(2000)).tolist() == straight.node_batch(straight.sample(2000)).tolist()
    )
    assert winding.digest.agrees(straight.digest)


@quick
@given(data=st.data(), bits=st.sampled_from([8, 10, 64]))
def test_collisions_change_nothing_about_order(data: st.DataObject, bits: int) -> None:
    """With 8-bit hashes nearly every point collides."""
    names = data.draw(st.lists(NAME, unique=True, min_size=2, max_size=12))
    order = data.draw(st.permutations(names))
    for kind, extra in ((HashRing, {"vnodes": 20}), (MultiProbe, {"probes": 3})):
        one = kind(names, bits=bits, **extra)  # type: ignore[arg-type]
        other = kind([], bits=bits, **extra)  # type: ignore[arg-type]
        for name in order:
            other.add(name)
        gone = data.draw(st.sampled_from(names))
        other.remove(gone)
        other.add(gone)
        every = one.sample(3000)
        assert one.node_batch(every).tolist() == other.node_batch(every).tolist()
        assert one.nodes_batch(every[:100], 2).tolist() == other.nodes_batch(every[:100], 2).tolist()
        assert [one.node_of_hash(h) for h in every[:200].tolist()] == one.node_batch(every[:200]).tolist()


REPLICATED = [kind for kind in ALGORITHMS.values() if kind.can.replicas]


@pytest.mark.parametrize("kind", REPLICATED, ids=ids(REPLICATED))
@quick
@given(data=st.data())
def test_replica_lists_are_distinct_and_change_by_one_node(kind: type[Locator], data: st.DataObject) -> None:
    names = data.draw(st.lists(NAME, unique=True, min_size=4, max_size=12))
    replicas = data.draw(st.integers(1, 3))
    ring = kind(names)
    some = ring.sample(200)
    lists = ring.nodes_batch(some, replicas).tolist()
    assert all(len(set(row)) == replicas for row in lists)
    if not kind.can.minimal:
        return
    gone = data.draw(st.sampled_from(names))
    after = ring.changed(remove=[gone]).nodes_batch(some, replicas).tolist()
    for old, new in zip(lists, after, strict=True):
        kept = [name for name in old if name != gone]
        assert new[: len(kept)] == kept  # the others move up, and one newcomer ends the list


@quick
@given(data=st.data())
def test_a_plan_says_for_every_key_where_it_is(data: st.DataObject) -> None:
    """Wave by wave every key has its full number of distinct holders, and ends where the ring after has it."""
    nodes = data.draw(st.dictionaries(NAME, WEIGHT, min_size=4, max_size=8))
    replicas = data.draw(st.integers(1, 3))
    before = HashRing(nodes, vnodes=6)
    leaving = data.draw(st.lists(st.sampled_from(sorted(nodes)), unique=True, max_size=1))
    joining = data.draw(st.dictionaries(NAME.filter(lambda name: name not in nodes), WEIGHT, max_size=2))
    after = before.changed(remove=leaving, add=joining)
    bound = data.draw(st.integers(1, 4))
    plan = before.plan(after, replicas=replicas, moves_per_node=bound)
    hashes = [int(h) for h in before.sample(150)] + before._circle.points[:40].tolist()
    hashes = [h for h in hashes if h < 2**64]
    array = np.array(hashes, np.uint64)
    old, new = before.nodes_batch(array, replicas).tolist(), after.nodes_batch(array, replicas).tolist()
    for wave in ((), *plan.waves):
        load = Counter(node for move in wave for node in plan.moves[move].touches())
        assert max(load.values(), default=0) <= bound
        plan.done.extend(wave)
        for hashed, row in zip(hashes, old, strict=True):
            assert len(set(plan.holders(b"", hashed, row))) == replicas
    for hashed, first, last in zip(hashes, old, new, strict=True):
        assert sorted(plan.holders(b"", hashed, first)) == sorted(last)
    if replicas == 1:
        moved = sum(a != b for a, b in zip(old, new, strict=True))
        assert moved == sum(any(move.covers(hashed) for move in plan.moves) for hashed in hashes)


@quick
@given(data=st.data())
def test_placement_is_proven_and_changes_only_for_the_new_node(data: st.DataObject) -> None:
    zone = st.sampled_from([("a", "ac"), ("a", "ad"), ("a", "ae"), ("b", "bc"), ("b", "bd")])
    paths = data.draw(st.dictionaries(NAME, zone, min_size=4))
    names = sorted(paths)
    replicas = data.draw(st.integers(1, 3))
    topology = Topology(paths, levels=("region", "zone"))
    new = data.draw(st.sampled_from(names))
    before = Placement(HashRing([name for name in names if name != new], vnodes=8), topology, replicas=replicas)
    after = Placement(HashRing(names, vnodes=8), topology, replicas=replicas)
    for index in range(60):
        placed = after.place(f"k{index}")
        assert placed.proof.verify(topology, names)
        if new not in placed.nodes:
            assert before.nodes(f"k{index}") == list(placed.nodes)


class BoundedBooks(RuleBasedStateMachine):
    """Loads of a BoundedLoad against a plain list of who holds what."""

    @initialize(c=st.sampled_from([1.01, 1.25, 2.0]), kind=st.sampled_from([HashRing, Rendezvous, Memento]))
    def begin(self, c: float, kind: type[Locator]) -> None:
        self.bounded = BoundedLoad(kind(["a", "b", "c"]), c=c)
        self.held: list[str] = []
        self.fresh = 0

    @rule(key=st.integers(0, 500))
    def acquire(self, key: int) -> None:
        node = self.bounded.acquire(f"key-{key}")
        self.held.append(node)
        assert self.bounded.loads[node] <= -(-self.bounded._c * len(self.held) // len(self.bounded)) + 1e-9

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.bounded.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule()
    def join(self) -> None:
        self.fresh += 1
        self.bounded.add(f"n{self.fresh}")

    @precondition(lambda self: len(self.bounded) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.bounded.members)))
        assert self.bounded.remove(node) == self.held.count(node)
        self.held = [holder for holder in self.held if holder != node]

    @invariant()
    def books_agree(self) -> None:
        assert self.bounded.loads == {node: self.held.count(node) for node in self.bounded.members}


TestBoundedBooks = BoundedBooks.TestCase
TestBoundedBooks.settings = settings(max_examples=15, stateful_step_count=40)

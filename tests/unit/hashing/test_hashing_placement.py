"""Placement: distinct domains where there are enough, and a proof that can be checked."""

from dataclasses import replace

import pytest

from troth.hashing import (
    BadSetting,
    HashRing,
    Memento,
    Placement,
    Rendezvous,
    TooFewNodes,
    Topology,
    UnknownNode,
)
from troth.hashing.placement import Rule

KEYS = [f"key-{index}" for index in range(300)]
LEVELS = ("region", "zone", "rack")


def topology_of(counts: dict[str, dict[str, int]]) -> Topology:
    """Region -> zone -> number of nodes, two nodes a rack."""
    paths = {}
    for region, zones in counts.items():
        for zone, nodes in zones.items():
            for index in range(nodes):
                paths[f"{zone}-n{index}"] = (region, zone, f"{zone}-r{index // 2}")
    return Topology(paths, levels=LEVELS)


def test_three_zones_hold_one_replica_each() -> None:
    zones = {f"n{index}": f"z{index % 3}" for index in range(12)}
    placement = Placement(HashRing(list(zones)), Topology(zones), replicas=3)
    for key in KEYS:
        placed = placement.place(key)
        assert {zones[node] for node in placed.nodes} == {"z0", "z1", "z2"}
        assert placed.nodes[0] == placement.node(key) == placement.ring.node(key)
        assert placed.proof.met and placed.proof.verify(placement.topology, zones)
        assert str(placed.proof.rules[0]) == "zone: 3 distinct"


def test_too_few_zones_are_admitted_in_the_proof() -> None:
    zones = {f"n{index}": f"z{index % 2}" for index in range(12)}
    placement = Placement(HashRing(list(zones)), Topology(zones), replicas=3)
    for key in KEYS[:50]:
        proof = placement.place(key).proof
        rule = proof.rules[0]
        assert not proof.met and rule.best and rule.most_in_one == 2
        assert str(rule) == "zone: 2 of 3, there are only 2"
        assert proof.verify(placement.topology, zones)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 5, 6])
def test_every_level_uses_as_many_domains_as_any_placement_could(replicas: int) -> None:
    topology = topology_of({"eu": {"eu-1": 6, "eu-2": 4, "eu-3": 2}, "us": {"us-1": 6}})
    for kind in (HashRing, Rendezvous):
        ring = kind(list(topology.paths()))
        placement = Placement(ring, topology, replicas=replicas)
        for key in KEYS:
            placed = placement.place(key)
            assert len(set(placed.nodes)) == replicas
            assert placed.proof.verify(topology, ring.members)
            for level, available in enumerate((2, 4, 9)):
                assert placed.proof.rules[level].distinct == min(replicas, available)


def test_equal_choices_go_to_the_less_used_domain() -> None:
    """Four replicas over two equal regions of three zones: two each, not three and one."""
    topology = topology_of({"eu": {"eu-1": 6, "eu-2": 6, "eu-3": 6}, "us": {"us-1": 6, "us-2": 6, "us-3": 6}})
    placement = Placement(HashRing(list(topology.paths())), topology, replicas=4)
    assert {placement.place(key).proof.rules[0].most_in_one for key in KEYS} == {2}


def test_a_forged_proof_is_found_out() -> None:
    zones = {f"n{index}": f"z{index % 3}" for index in range(9)}
    topology = Topology(zones)
    placement = Placement(HashRing(list(zones)), topology, replicas=3)
    proof = placement.place("key").proof
    twin = next(n for n in zones if zones[n] == zones[proof.nodes[0]] and n != proof.nodes[0])
    assert not replace(proof, nodes=(proof.nodes[0], twin, proof.nodes[2])).verify(topology, zones)
    assert not replace(proof, nodes=(proof.nodes[0],) * 3).verify(topology, zones)
    assert not replace(proof, nodes=("stranger", *proof.nodes[1:])).verify(topology, zones)
    assert not replace(proof, rules=(replace(proof.rules[0], distinct=2),)).verify(topology, zones)
    assert not replace(proof, paths=proof.paths[::-1]).verify(topology, zones)
    # A proof of no rules would be met in full.
    assert not replace(proof, rules=(), paths=((), (), ())).verify(topology, zones)
    assert not replace(proof, rules=(replace(proof.rules[0], level="rack"),)).verify(topology, zones)


def test_a_list_changes_only_if_the_new_node_is_in_it() -> None:
    topology = topology_of({"eu": {"eu-1": 5, "eu-2": 4}, "us": {"us-1": 4}})
    ring = HashRing(list(topology.paths()))
    fewer = ring.changed(remove=["eu-1-n4"])
    before, after = Placement(fewer, topology, replicas=3), Placement(ring, topology, replicas=3)
    changed = [key for key in KEYS if before.nodes(key) != after.nodes(key)]
    assert changed and all("eu-1-n4" in after.nodes(key) for key in changed)


def test_plans_keep_domains_apart_at_both_ends() -> None:
    topology = topology_of({"eu": {"eu-1": 3, "eu-2": 3}, "us": {"us-1": 3}})
    ring = HashRing(list(topology.paths()), vnodes=20)
    before = Placement(ring, topology, replicas=2)
    after = Placement(ring.changed(remove=["us-1-n0"]), topology, replicas=2)
    plan = before.plan(after, moves_per_node=4)
    for move in plan.moves:
        plan.done.append(move.id)
    for key in KEYS:
        held = plan.holders(key.encode(), ring.hash_of(key), before.nodes(key))
        assert sorted(held) == sorted(after.nodes(key))
    assert plan.before == str(before.digest) and before.digest.value != ring.digest.value
    by_keys = before.plan(after, keys=KEYS, sizes_bytes=[3] * len(KEYS))
    assert sum(move.key_count or 0 for move in by_keys.moves) * 3 == sum(m.value_bytes or 0 for m in by_keys.moves)


def test_rings_without_ranges_are_planned_by_keys() -> None:
    zones = {f"n{index}": f"z{index % 3}" for index in range(6)}
    before = Placement(Rendezvous(list(zones)), Topology(zones), replicas=2)
    after = Placement(Rendezvous(list(zones)[:5]), Topology(zones), replicas=2)
    plan = before.plan(after, keys=KEYS)
    assert plan.moves and all(move.keys and move.first is None for move in plan.moves)


def test_replicas_over_a_ring_without_preference_lists_still_spread() -> None:
    zones = {f"n{index}": f"z{index % 3}" for index in range(9)}
    placement = Placement(Memento(list(zones)), Topology(zones), replicas=3)
    assert all(placement.place(key).proof.met for key in KEYS[:50])


def test_bad_topologies_are_named() -> None:
    with pytest.raises(BadSetting, match="level"):
        Topology({}, levels=())
    with pytest.raises(BadSetting, match="expected region, zone"):
        Topology({"a": "z"}, levels=("region", "zone"))
    topology = Topology({"a": "z"})
    with pytest.raises(UnknownNode):
        Placement(HashRing(["a", "b"]), topology, replicas=1)
    with pytest.raises(TooFewNodes):
        Placement(HashRing(["a"]), topology, replicas=2)
    with pytest.raises(BadSetting):
        Placement(HashRing(["a"]), topology, replicas=0)
    with pytest.raises(BadSetting):
        Placement(HashRing(["a"]), topology, replicas=1).nodes_batch(["k"], 2)


@pytest.mark.parametrize(
    ("wanted", "available", "distinct", "met", "best"),
    [(3, 5, 3, True, True), (3, 2, 2, False, True), (3, 5, 2, False, False), (3, 3, 1, False, False)],
)
def test_a_rule_is_met_in_full_or_as_well_as_can_be_or_neither(
    wanted: int, available: int, distinct: int, met: bool, best: bool
) -> None:
    rule = Rule(level="zone", wanted=wanted, available=available, distinct=distinct, most_in_one=1)
    assert (rule.met, rule.best) == (met, best)

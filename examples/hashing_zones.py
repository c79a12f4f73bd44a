"""Three replicas over regions and zones, with a proof; a node dies, and its copies are made anew from the others.

python examples/hashing_zones.py
"""

from troth.hashing import HashRing, Placement, Plan, Topology

paths = {
    "ber-1": ("eu", "berlin"),
    "ber-2": ("eu", "berlin"),
    "par-1": ("eu", "paris"),
    "par-2": ("eu", "paris"),
    "nyc-1": ("us", "new-york"),
    "nyc-2": ("us", "new-york"),
}
topology = Topology(paths, levels=("region", "zone"))
ring = HashRing(list(paths))
placement = Placement(ring, topology, replicas=3)

placed = placement.place("invoice-2024-17")
print("invoice-2024-17 is on", ", ".join(placed.nodes))
for rule in placed.proof.rules:
    print(" ", rule)

# Three zones, three replicas: one in each. Two regions cannot hold three apart, and the proof says so.
regions, zones = placed.proof.rules
assert zones.met and not regions.met and regions.best
# Anyone with the list of nodes can check the proof.
assert placed.proof.verify(topology, paths)

# ber-1 burns down. The plan copies from replicas that are left, and drops nothing there.
after = Placement(ring.changed(remove=["ber-1"]), topology, replicas=3)
plan = placement.plan(after, lost=["ber-1"], moves_per_node=2)
print(f"{len(plan.moves)} ranges lost a copy; {len(plan.waves)} waves restore them")
assert not plan.unrecoverable
assert all(move.source != "ber-1" for move in plan.moves)

# A plan is JSON: save it, send it, go on tomorrow, or take it back with plan.undo().
assert Plan.from_json(plan.to_json()) == plan

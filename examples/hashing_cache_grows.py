"""A cache sharded over four nodes grows by one: what moves, and how the hit rate bears it.

python examples/hashing_cache_grows.py
"""

from collections import defaultdict

from troth.hashing import BoundedLoad, HashRing, Move, Progress, balance, movement

keys = [f"user:{number}:profile" for number in range(20_000)]
before = HashRing(["cache-1", "cache-2", "cache-3", "cache-4"])

# Fill the cache: each key on its node. A batch is many times faster than a loop.
shelves: dict[str, dict[str, str]] = defaultdict(dict)
for key, node in zip(keys, before.node_batch(keys), strict=True):
    shelves[node][key] = f"value of {key}"

# A fifth node joins. Only keys that go to it move, and about a fifth of all.
after = before.changed(add=["cache-5"])
moved = movement(before, after, keys)
print(
    f"a fifth node moves {moved.moved:.1%} of the keys; an even share is {moved.ideal:.1%}, astray {moved.astray:.1%}"
)
assert moved.astray == 0
assert 0.8 < moved.moved_to_ideal < 1.2
hits = sum(key in shelves[after.node(key)] for key in keys)
print(f"without moving anything, {hits / len(keys):.1%} of the look-ups still hit")


class Shelves:
    """Moves entries between the dictionaries; yours would talk to the cache servers."""

    def copy(self, move: Move) -> int:
        assert move.source is not None
        entries = {k: v for k, v in shelves[move.source].items() if move.covers(before.hash_of(k))}
        shelves[move.target].update(entries)
        return sum(map(len, entries.values()))

    def switch(self, move: Move) -> None:
        """A cache client that follows the plan would look at the new node from here on."""

    def drop(self, move: Move) -> None:
        for key in [key for key in shelves[move.leaving] if move.covers(before.hash_of(key))]:
            del shelves[move.leaving][key]


# Or move them: in waves, at most four ranges a node at once.
plan = before.plan(after, keys=keys, moves_per_node=4)
seen: list[Progress] = []
done = plan.apply(Shelves(), on_progress=seen.append)
assert done
print(
    f"{len(plan.moves)} moves in {len(plan.waves)} waves took {sum(m.key_count or 0 for m in plan.moves)} keys along"
)
assert all(key in shelves[after.node(key)] for key in keys)
assert sum(len(shelf) for shelf in shelves.values()) == len(keys)
assert seen[-1].moves_done == len(plan.moves)

# Two processes know that they agree by comparing digests, whatever order they heard of the nodes in.
elsewhere = HashRing(reversed([f"cache-{number}" for number in range(1, 6)]))
assert elsewhere.digest.agrees(after.digest)

# Connections rather than entries? Then cap what any node holds at 1.1 times its fair share.
bounded = BoundedLoad(after.copy(), c=1.1)
bounded.acquire_batch(keys[:5000])
print(f"peak/mean {balance(after).peak_to_mean:.3f} by the ring, {max(bounded.loads.values()) / 1000:.3f} bounded")
assert max(bounded.loads.values()) <= 1100

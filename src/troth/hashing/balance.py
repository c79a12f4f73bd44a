"""How evenly keys are spread, and how much a change moves against how much it had to."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from troth.hashing.errors import BadSetting
from troth.hashing.interface import Locator
from troth.hashing.keys import Keys
from troth.hashing.planning import ideal_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Each node's load against its fair share (its weight over the sum of weights).

    Attributes:
        shares: share of the load by node; sums to 1.
        fair: fair share by node.
        peak_to_mean: load of the fullest node over its fair share; 1 is perfect.
        lowest_to_mean: of the emptiest.
        std: standard deviation of load over fair share; 0 is perfect.
    """

    shares: dict[str, float]
    fair: dict[str, float]
    peak_to_mean: float
    lowest_to_mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What a change of membership moved.

    Attributes:
        moved: share of keys whose node changed.
        ideal: the least share that had to, by the weights.
        astray: share of keys that moved although their new node gained nothing and their old one lost
        nothing.
    """

    moved: float
    ideal: float
    astray: float

    @property
    def moved_to_ideal(self) -> float:
        """1 is perfect. Below 1 the change left an imbalance; infinite if nothing had to move and something did."""
        if self.ideal:
            return self.moved / self.ideal
        return float("inf") if self.moved else 1.0


def _judged(shares: Mapping[str, float], weights: Mapping[str, float]) -> Balance:
    total = sum(weights.values())
    fair = {node: weight / total for node, weight in weights.items()}
    relative = np.array([shares[node] / fair[node] for node in weights])
    return Balance(
        shares=dict(shares),
        fair=fair,
        peak_to_mean=float(relative.max()),
        lowest_to_mean=float(relative.min()),
        std=float(np.sqrt(np.mean((relative - 1.0) ** 2))),
    )


def balance(ring: Locator) -> Balance:
    """Balance of all possible keys; exact where `Locator.shares` is.

    Raises:
        BadSetting: the ring is empty.
    """
    if not len(ring):
        raise BadSetting("an empty ring has no balance")
    return _judged(ring.shares(), ring.weights)


def balance_of_keys(ring: Locator, keys: Keys) -> Balance:
    """Balance of these keys. With few keys a node chance shows as well: a perfect spread of k keys over n
    nodes has a std of about sqrt(n / k).

    Raises:
        BadSetting: no keys.
    """
    indices = ring.index_batch(keys)
    if not len(indices):
        raise BadSetting("no keys to judge")
    counts = np.bincount(indices, minlength=len(ring)) / len(indices)
    return _judged(dict(zip(ring.members, counts.tolist(), strict=True)), ring.weights)


def movement(before: Locator, after: Locator, keys: Keys | None = None) -> Movement:
    """What moves from *before* to *after*, over *keys* or over 2**17 evenly spread hashes.

    Raises:
        BadSetting: the rings hash differently, or there are no keys.
    """
    if before.hashing != after.hashing:
        raise BadSetting("before and after must use the same key hash")
    hashes = before.sample() if keys is None else before.hash_batch(keys)
    if not len(hashes):
        raise BadSetting("no keys to judge")
    old, new = before.node_batch(hashes), after.node_batch(hashes)
    changed = old != new
    was, now = before.weights, after.weights
    old_total, new_total = sum(was.values()), sum(now.values())
    gained = {node for node in now if now[node] > was.get(node, 0.0)}
    lost = {node for node in was if now.get(node, 0.0) < was[node]}
    astray = sum(
        source not in lost and target not in gained
        for source, target in zip(old[changed].tolist(), new[changed].tolist(), strict=True)
    )
    ideal = ideal_fraction(was, now) if old_total and new_total else 0.0
    return Movement(moved=float(changed.mean()), ideal=ideal, astray=astray / len(hashes))

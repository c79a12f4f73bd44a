"""The plan between two placements, whatever they are made of."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from troth.hashing.digest import Digest
from troth.hashing.errors import BadSetting, UnknownNode
from troth.hashing.keys import Hashes, Key, Keys, whole
from troth.hashing.moves import Plan
from troth.hashing.planning import Arcs, PlanSettings, ideal_fraction, plan_arcs, plan_keys


class Placing(Protocol):
    """What a plan asks of each side: a `Locator`, or a `Placement` over one."""

    @property
    def name(self) -> str: ...
    @property
    def hashing(self) -> tuple[str, int]: ...
    @property
    def has_ranges(self) -> bool: ...
    @property
    def weights(self) -> dict[str, float]: ...
    @property
    def digest(self) -> Digest: ...
    def arcs(self, replicas: int) -> Arcs: ...
    def hash_batch(self, keys: Keys) -> Hashes: ...
    def nodes_batch(self, keys: Keys, replicas: int) -> NDArray[np.object_]: ...


def plan_between(
    before: Placing,
    after: Placing,
    *,
    replicas: int,
    keys: Iterable[Key] | None,
    sizes_bytes: Iterable[int] | None,
    moves_per_node: int,
    lost: Iterable[str],
) -> Plan:
    """The plan from *before* to *after*; arguments and errors as in `Locator.plan`."""
    if before.hashing != after.hashing:
        raise BadSetting("before and after must use the same key hash")
    listed = None if keys is None else list(keys)
    sizes = None if sizes_bytes is None else list(sizes_bytes)
    if sizes is not None and (listed is None or len(sizes) != len(listed)):
        raise BadSetting("sizes_bytes needs keys, and one size for each")
    replicas = whole("replicas", replicas, 1)
    moves_per_node = whole("moves_per_node", moves_per_node, 1)
    unreadable = frozenset(lost)
    for stranger in sorted(unreadable - before.weights.keys()):
        raise UnknownNode(stranger)
    settings = PlanSettings(
        algorithm=before.name,
        key_hash=before.hashing[0],
        bits=before.hashing[1],
        before=str(before.digest),
        after=str(after.digest),
        replicas=replicas,
        moves_per_node=moves_per_node,
        ideal_fraction=ideal_fraction(before.weights, after.weights),
        lost=unreadable,
    )
    if listed is not None and not (before.has_ranges and after.has_ranges):
        return plan_keys(
            settings,
            keys=listed,
            sizes_bytes=sizes,
            before_rows=before.nodes_batch(listed, replicas),
            after_rows=after.nodes_batch(listed, replicas),
        )
    return plan_arcs(
        settings,
        before_arcs=before.arcs(replicas),
        after_arcs=after.arcs(replicas),
        hashes=None if listed is None else before.hash_batch(listed),
        sizes_bytes=sizes,
    )

"""What an algorithm says of itself: what it can do, and what its settings are made of."""

from dataclasses import dataclass

Item = str | int | float | list[str]
Setting = str | int | float | bool | list[Item]
"""A constructor argument as it is written to JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an algorithm can do by its design.

    Attributes:
        weights: nodes may have different weights.
        replicas: `nodes` gives distinct nodes, and a change of membership moves no more of them than it must.
        remove_any: any node may leave; otherwise only the one that was added last.
        minimal: a change moves keys only to a node that gained, or from a node that lost, and no others.
        order_free: the same nodes give the same placement, in whatever order they came.
        ranges: each node owns ranges of hashes, so that a plan needs no list of keys.
    """

    weights: bool
    replicas: bool
    remove_any: bool
    minimal: bool
    order_free: bool
    ranges: bool

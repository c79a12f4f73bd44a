"""Nodes as callers name them: a list of names, or a mapping from name to weight."""

from collections.abc import Iterable, Mapping
from math import fsum, inf, isfinite

from troth.hashing.errors import BadSetting, DuplicateNode
from troth.hashing.keys import as_bytes

Nodes = Mapping[str, float] | Iterable[str]

WEIGHT_MIN, WEIGHT_MAX = 1e-100, 1e100
"""Beyond these, sums and quotients of weights leave what a float can hold, and shares would be wrong in silence."""


def parse_nodes(nodes: Nodes) -> dict[str, float]:
    """Names with weights, in the order given (a set: sorted).

    Raises:
        BadSetting: a bare string, an empty name, a bad weight.
        DuplicateNode: a name twice.
    """
    if isinstance(nodes, str | bytes):
        raise BadSetting("nodes is a list of names or a mapping of name to weight, not one string")
    if isinstance(nodes, Mapping):
        return {name: checked_weight(name, weight) for name, weight in nodes.items()}
    parsed: dict[str, float] = {}
    for name in sorted(nodes) if isinstance(nodes, set | frozenset) else nodes:
        weight = checked_weight(name, 1.0)
        if name in parsed:
            raise DuplicateNode(name, f"node {name!r} is listed twice")
        parsed[name] = weight
    return parsed


def checked_weight(name: object, weight: float) -> float:
    """*weight* as a float. Raises BadSetting: it is none that a node may have, or *name* is no name."""
    if not isinstance(name, str) or not as_bytes(name):  # which refuses what is no text
        raise BadSetting(f"a node's name is a str that is not empty, not {name!r}")
    try:
        checked = fsum((weight,))  # a float, like float(), which would read a text as well
    except OverflowError:
        checked = inf
    except (TypeError, ValueError):
        raise BadSetting(f"the weight of {name!r} must be a number, not {weight!r}") from None
    if not isfinite(checked) or checked <= 0:
        raise BadSetting(f"the weight of {name!r} must be finite and above 0, not {checked!r}; remove() drains")
    if not WEIGHT_MIN <= checked <= WEIGHT_MAX:
        raise BadSetting(f"the weight of {name!r} must be {WEIGHT_MIN:g} .. {WEIGHT_MAX:g}, not {checked!r}")
    return checked

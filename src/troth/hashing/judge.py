"""Judge the user's own keys: which algorithm spreads these keys over these nodes, and which one to take."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from troth.hashing.balance import balance_of_keys, movement
from troth.hashing.errors import BadSetting, NotSupported, TooFewNodes
from troth.hashing.interface import Locator
from troth.hashing.ketama import KetamaRing
from troth.hashing.keys import Key, as_bytes
from troth.hashing.nodes import Nodes, parse_nodes
from troth.hashing.spec import ALGORITHMS

BY_COST = ("jump", "memento", "ring", "anchor", "multiprobe", "rendezvous", "skeleton", "maglev", "ketama")
"""Algorithms in the order in which they are preferred when they spread equally well: cheap and simple first."""

NEAR = 0.05
"""Two peaks that differ by less than this (relative) count as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the user needs beside an even spread.

    Attributes:
        replicas: copies of each key.
        remove_any: any node may leave, not only the last.
        ranges: data is moved by ranges, without a list of all keys.
        order_free: processes learn the nodes from a list, and see no common history of changes.
        minimal: a moved key costs a copy, so none may move without need.
    """

    replicas: int = 1
    remove_any: bool = True
    ranges: bool = False
    order_free: bool = True
    minimal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One algorithm on these keys. Loads are measured; `join` and `leave` are moved over ideal.

    Attributes:
        lacking: what it would have to do and cannot; empty if it qualifies.
    """

    algorithm: str
    peak_to_mean: float
    std: float
    join: float
    leave: float | None
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was found about the keys, and the recommendation.

    Attributes:
        keys: how many were given; `distinct` of them differ.
        hottest: the most frequent key, with its share of all.
        chance_std: std that even a perfect spread of so many keys shows.
        recommended: name of an algorithm, as in `ALGORITHMS`.
        reasons: why, as sentences.
        bounded_load: whether to put `BoundedLoad` on top.
        verdicts: every algorithm, best first.
    """

    keys: int
    distinct: int
    hottest: tuple[str, float]
    chance_std: float
    recommended: str
    reasons: tuple[str, ...]
    bounded_load: bool
    verdicts: tuple[Verdict, ...]


def judge(keys: Sequence[Key], nodes: Nodes, needs: Needs | None = None) -> Judgement:
    """Place *keys* on *nodes* with every algorithm, and recommend one.

    Args:
        keys: as they occur: a key that is asked for often should be there often.
        nodes: names, or names with weights.
        needs: what else matters.

    Raises:
        BadSetting: no keys, or no nodes.
        TooFewNodes: fewer than the replicas needed.
    """
    needs = needs or Needs()
    parsed = parse_nodes(nodes)
    if not keys or not parsed:
        raise BadSetting("judging needs at least one key and one node")
    if needs.replicas > len(parsed):
        raise TooFewNodes(replicas=needs.replicas, nodes=len(parsed))
    frequency = Counter(as_bytes(key) for key in keys)
    hottest, times = frequency.most_common(1)[0]
    weighted = any(weight != 1.0 for weight in parsed.values())
    verdicts = [_verdict(name, keys, parsed, needs, weighted) for name in BY_COST]
    fit = [verdict for verdict in verdicts if not verdict.lacking]
    # `ring` and `rendezvous` lack nothing that Needs can ask, so there is always one.
    best_peak = min(verdict.peak_to_mean for verdict in fit)
    chosen = next(verdict for verdict in fit if verdict.peak_to_mean <= best_peak * (1 + NEAR))
    hot_share = times / len(keys)
    chance_std = (len(parsed) / len(keys)) ** 0.5
    bounded = chosen.peak_to_mean > 1.25 + 3 * chance_std
    reasons = [
        f"{chosen.algorithm} spreads these keys with a peak of {chosen.peak_to_mean:.2f} times the mean; "
        f"the best that qualifies has {best_peak:.2f}",
        f"a join moves {chosen.join:.2f} times what it must",
    ]
    for verdict in verdicts:
        if verdict.lacking and verdict.peak_to_mean < chosen.peak_to_mean * (1 - NEAR):
            reasons.append(f"{verdict.algorithm} is more even but cannot {', nor '.join(verdict.lacking)}")
    if hot_share * len(parsed) > 0.5:
        reasons.append(
            f"one key makes {hot_share:.1%} of the load, {hot_share * len(parsed):.1f} times a node's mean: "
            "no placement divides a key; cache it nearer or split it"
        )
    if bounded:
        reasons.append("the peak is above 1.25 times the mean: BoundedLoad on top caps it")
    return Judgement(
        keys=len(keys),
        distinct=len(frequency),
        hottest=(hottest.decode(errors="backslashreplace"), hot_share),
        chance_std=chance_std,
        recommended=chosen.algorithm,
        reasons=tuple(reasons),
        bounded_load=bounded,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: (bool(verdict.lacking), verdict.peak_to_mean))),
    )


def _verdict(name: str, keys: Sequence[Key], parsed: dict[str, float], needs: Needs, weighted: bool) -> Verdict:
    kind = ALGORITHMS[name]
    lacking = [
        text
        for missing, text in (
            (weighted and not kind.can.weights, "weigh nodes"),
            (needs.replicas > 1 and not kind.can.replicas, "give replicas"),
            (needs.remove_any and not kind.can.remove_any, "let any node leave"),
            (needs.ranges and not kind.can.ranges, "move ranges"),
            (needs.order_free and not kind.can.order_free, "forget the order of changes"),
            (needs.minimal and not kind.can.minimal, "move only what it must"),
        )
        if missing
    ]
    try:
        ring: Locator = kind(parsed)
    except BadSetting:
        if kind is not KetamaRing:
            raise
        lacking.append("take fractional weights")
        ring = kind(list(parsed))
    except NotSupported:
        ring = kind(list(parsed))
    hashes = ring.hash_batch(list(keys))
    spread = balance_of_keys(ring, hashes)
    grown = ring.changed(add=[max(ring.members) + "+1"])
    leave = None
    if len(ring) > 1:
        leave = movement(ring, ring.changed(remove=[ring.members[-1]]), hashes).moved_to_ideal
    return Verdict(
        algorithm=name,
        peak_to_mean=spread.peak_to_mean,
        std=spread.std,
        join=movement(ring, grown, hashes).moved_to_ideal,
        leave=leave,
        lacking=tuple(lacking),
    )

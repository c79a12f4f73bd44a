"""`Rendezvous`: highest random weight; exact shares for any weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import frexp
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities
from troth.hashing.errors import NoNodes
from troth.hashing.interface import Locator
from troth.hashing.keys import MASK, Hashes, Keys, as_bytes, mix, mix_array

CELLS = 1 << 17
"""Scores computed at once in a batch: bounds memory, and keeps the temporaries in cache."""

_SCALAR_NODES = 24
"""Up to so many nodes a loop in Python is quicker than numpy's fixed cost per call."""

_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_ATANH = tuple(1.0 / (2 * k + 1) for k in range(11, -1, -1))


def minus_log(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """-ln(u) for u in (0, 1), the same bits on every machine.

    numpy's own log differs in the last bit between CPUs with and without AVX-512, so that two servers could
    disagree about a key. This uses +, -, * and / alone, which IEEE 754 fixes: u = m 2**e with m in [sqrt 1/2,
    sqrt 2), and ln m = 2 atanh s with s = (m - 1) / (m + 1), |s| < 0.172, as a series to s**23 (error below
    1e-18).
    """
    mantissa, exponent = np.frexp(unit)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = exponent.astype(np.float64) - low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(s, _ATANH[0])
    for coefficient in _ATANH[1:]:
        series = series * square + coefficient
    result: NDArray[np.float64] = -(power * _LN2 + 2.0 * s * series)
    return result


def minus_log_of(unit: float) -> float:
    """`minus_log` of one number, with the same operations in the same order and therefore the same bits."""
    mantissa, exponent = frexp(unit)
    power = float(exponent)
    if mantissa < _SQRT_HALF:
        mantissa, power = mantissa * 2.0, power - 1.0
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = _ATANH[0]
    for coefficient in _ATANH[1:]:
        series = series * square + coefficient
    return -(power * _LN2 + 2.0 * s * series)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """Candidates that race for each key; the least cost wins, the first in order where costs are equal.

    The race behind the formula: candidate j's cost ``-ln(u) / w_j`` is exponential with rate w_j, so it is least with
    probability w_j / sum(w), whatever the others are. With equal weights the order is that of the hashes, and no
    logarithm is taken.

    Attributes:
        seeds: u64[n], also as a list.
        weights: f64[n], also as a list; None if all are equal.
    """

    seeds: Hashes
    seed_list: list[int]
    weights: NDArray[np.float64] | None
    weight_list: list[float]

    @classmethod
    def of(cls, seeds: list[int], weights: list[float]) -> "Contest":
        """Candidates with these seeds and weights."""
        equal = len(set(weights)) < 2
        return cls(
            seeds=np.array(seeds, np.uint64),
            seed_list=seeds,
            weights=None if equal else np.array(weights, np.float64),
            weight_list=weights,
        )

    def __len__(self) -> int:
        return len(self.seed_list)

    def winner(self, hashed: int) -> int:
        """Index of the winner for one key."""
        if len(self) == 1:
            return 0
        if len(self) > _SCALAR_NODES:
            return int(self.costs(np.array([hashed], np.uint64))[0].argmin())
        row = self._row(hashed)
        return min(range(len(row)), key=row.__getitem__)

    def ranked(self, hashed: int) -> list[int]:
        """All indices, the winner first."""
        if len(self) > _SCALAR_NODES:
            order: list[int] = self.costs(np.array([hashed], np.uint64))[0].argsort(kind="stable").tolist()
            return order
        row = self._row(hashed)
        return sorted(range(len(row)), key=row.__getitem__)

    def costs(self, hashes: Hashes) -> NDArray[np.float64] | Hashes:
        """Cost of each candidate for each key; shape (len(hashes), n); only their order means something."""
        drawn = mix_array(hashes[:, None] ^ self.seeds[None, :])
        if self.weights is None:
            return ~drawn
        unit = ((drawn >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return minus_log(unit) / self.weights

    def _row(self, hashed: int) -> list[float] | list[int]:
        if self.weights is None:
            return [MASK ^ mix(hashed ^ seed) for seed in self.seed_list]
        return [
            minus_log_of(((mix(hashed ^ seed) >> 11) + 0.5) * 2.0**-53) / weight
            for seed, weight in zip(self.seed_list, self.weight_list, strict=True)
        ]


class Rendezvous(Locator):
    """Each key scores every node and goes to the best; the next best are its replicas.

    The score is ``-w / ln(u)``, u the key-and-node hash as a number in (0, 1): exact shares for any weights,
    no tuning, no memory but a seed per node. The order of the scores is the preference list, so it moves
    minimally as
    well: a leaver's keys go to their own second choice, spread over all.

    What it costs: every look-up looks at all n nodes (docs/hashing.md has the rates). `SkeletonRendezvous` is for
    many nodes.

    What it cannot do: ranges. A plan needs the list of keys.

    Source: Thaler, Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
    Networking 6(1), 1998, section 3; weights: Schindelhauer, Schomaker, "Weighted distributed hash tables",
    SPAA 2005, section 3 (logarithmic method).
    """

    algorithm: ClassVar[str] = "rendezvous"
    can: ClassVar[Capabilities] = Capabilities(
        weights=True, replicas=True, remove_any=True, minimal=True, order_free=True, ranges=False
    )

    _names: tuple[str, ...]
    _contest: Contest

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return self._names

    @override
    def shares(self) -> dict[str, float]:
        """Share of each node: its weight over the sum, exact."""
        total = sum(self._weights.values())
        return {name: self._weights[name] / total for name in self._names}

    @override
    def node_of_hash(self, hashed: int) -> str:
        if not self._names:
            raise NoNodes
        return self._names[self._contest.winner(hashed)]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        return self.index_lists(keys, 1)[:, 0]

    @override
    def index_lists(self, keys: Keys, replicas: int) -> NDArray[np.int32]:
        self._require_replicas(replicas)
        hashes = self.hash_batch(keys)
        lists = np.empty((len(hashes), replicas), np.int32)
        step = max(1, CELLS // len(self._names))
        for begin in range(0, len(hashes), step):
            part = self._contest.costs(hashes[begin : begin + step])
            if replicas == 1:
                lists[begin : begin + step, 0] = part.argmin(axis=1)
            else:
                lists[begin : begin + step] = part.argsort(axis=1, kind="stable")[:, :replicas]
        return lists

    @override
    def walk_hash(self, hashed: int) -> Iterator[str]:
        if not self._names:
            raise NoNodes
        return (self._names[index] for index in self._contest.ranked(hashed))

    @override
    def _build(self) -> None:
        self._names = tuple(sorted(self._weights))
        self._contest = Contest.of(
            [self._digester(as_bytes(name)) for name in self._names],
            [self._weights[name] for name in self._names],
        )

"""`Rendezvous`: highest random weight; exact shares for any weights."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.errors import NoNodes
from troth.hashing.interface import Capabilities, Locator
from troth.hashing.keys import Hashes, Keys, as_bytes, mix, mix_array

_CELLS = 1 << 17
"""Scores computed at once in a batch: bounds memory, and keeps the temporaries in cache."""

_SCALAR_NODES = 12
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


def costs(hashes: Hashes, seeds: Hashes, weights: NDArray[np.float64] | None) -> NDArray[np.float64] | Hashes:
    """Cost of each node for each key; the least cost wins.

    The race behind the formula: node j's cost is exponential with rate w_j, so it is least with probability
    w_j / sum(w), whatever the others are. With equal weights the order is that of the hashes, and no
    logarithm is taken.

    Args:
        hashes: u64[k], of the keys.
        seeds: u64[n], of the nodes.
        weights: f64[n], or None if all are equal.

    Returns:
        shape (k, n): ``-ln(u) / w`` as f64, or the complement of the hash as u64.
    """
    drawn = mix_array(hashes[:, None] ^ seeds[None, :])
    if weights is None:
        return ~drawn
    unit = ((drawn >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return minus_log(unit) / weights


class Rendezvous(Locator):
    """Each key scores every node and goes to the best; the next best are its replicas.

    The score is ``-w / ln(u)``, u the key-and-node hash as a number in (0, 1): exact shares for any weights,
    no tuning, no memory but a seed per node. The order of the scores is the preference list, so it moves
    minimally as
    well: a leaver's keys go to their own second choice, spread over all.

    What it costs: every look-up looks at all n nodes (a batch makes about 4 million look-ups a second at
    100). `SkeletonRendezvous` is for many nodes.

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
    _seeds: Hashes
    _seed_list: list[int]
    _equal: bool
    _weight_array: NDArray[np.float64]

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
        return self._names[self._ranked(hashed, 1)[0]]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        return self.index_lists(keys, 1)[:, 0]

    @override
    def index_lists(self, keys: Keys, replicas: int) -> NDArray[np.int32]:
        self._require_replicas(replicas)
        hashes = self.hash_batch(keys)
        lists = np.empty((len(hashes), replicas), np.int32)
        step = max(1, _CELLS // len(self._names))
        for begin in range(0, len(hashes), step):
            part = costs(hashes[begin : begin + step], self._seeds, self._divisors())
            if replicas == 1:
                lists[begin : begin + step, 0] = part.argmin(axis=1)
            else:
                lists[begin : begin + step] = part.argsort(axis=1, kind="stable")[:, :replicas]
        return lists

    @override
    def _preference(self, hashed: int, replicas: int) -> list[str]:
        return [self._names[index] for index in self._ranked(hashed, replicas)]

    @override
    def _build(self) -> None:
        self._names = tuple(sorted(self._weights))
        self._seed_list = [self._digester(as_bytes(name)) for name in self._names]
        self._seeds = np.array(self._seed_list, np.uint64)
        self._weight_array = np.array([self._weights[name] for name in self._names], np.float64)
        self._equal = len(set(self._weights.values())) < 2

    def _divisors(self) -> NDArray[np.float64] | None:
        return None if self._equal else self._weight_array

    def _ranked(self, hashed: int, count: int) -> list[int]:
        """The *count* nodes of least cost, by rank in `members`; the smaller name first where costs are equal."""
        if not self._names:
            raise NoNodes
        if self._equal and len(self._names) <= _SCALAR_NODES:
            drawn = [mix(hashed ^ seed) for seed in self._seed_list]
            if count == 1:
                return [drawn.index(max(drawn))]
            return sorted(range(len(drawn)), key=lambda index: -drawn[index])[:count]
        row = costs(np.array([hashed], np.uint64), self._seeds, self._divisors())[0]
        if count == 1:
            return [int(row.argmin())]
        ranked: list[int] = row.argsort(kind="stable")[:count].tolist()
        return ranked

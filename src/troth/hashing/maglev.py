"""`Maglev`: a table look-up, for load balancers."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.errors import BadSetting, CapacityExceeded, NoNodes
from troth.hashing.interface import Locator
from troth.hashing.keys import Keys, as_bytes, mix, whole
from troth.hashing.nodes import Nodes

TABLE_SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537, 131071, 262139, 655373, 1048573, 4194301)
"""Primes to choose from; 65537 and 655373 are those of the paper's evaluation."""

TABLE_SIZE_MAX = 1 << 24
"""Filling a table takes seconds for each million places."""


def is_prime(number: int) -> bool:
    """Whether *number* is prime, by trial division (at most `TABLE_SIZE_MAX`: 4096 steps)."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


class Maglev(Locator):
    """A prime-sized table that the nodes fill in turns, each along a permutation of its own.

    The quickest look-up there is (one remainder, one index), and balance within 1 % where the table has at
    least 100 places a node. Weights are turns: a node of half the weight sits out every other round.

    What it cannot do (section 3.4 of the paper): move minimally. A change rebuilds the table, and places
    change
    hands between nodes that stay: at 1000 nodes in a table of 65537 a join changes seven times the ideal
    share. Use it where a moved key costs a cache miss, not a copy. Preference lists are not defined, nor
    ranges.

    Source: Eisenbud et al., "Maglev: a fast and reliable software network load balancer", NSDI 2016, section
    3.4.
    """

    algorithm: ClassVar[str] = "maglev"
    can: ClassVar[Capabilities] = Capabilities(
        weights=True, replicas=False, remove_any=True, minimal=False, order_free=True, ranges=False
    )

    def __init__(
        self,
        nodes: Nodes = (),
        *,
        table_size: int = 65537,
        key_hash: str = "xxh3",
        bits: int = 64,
        epoch: int = 0,
    ) -> None:
        """See `Locator`.

        Args:
            table_size: places, a prime below 2**24; see `TABLE_SIZES`. The paper advises 100 a node or more.

        Raises:
            BadSetting: not a prime (a permutation would miss places), or too large.
            CapacityExceeded: more nodes than places.
        """
        table_size = whole("table_size", table_size, 2, TABLE_SIZE_MAX)
        if not is_prime(table_size):
            raise BadSetting(f"table_size must be a prime, not {table_size}; see TABLE_SIZES")
        self._table_size = table_size
        super().__init__(nodes, key_hash=key_hash, bits=bits, epoch=epoch)

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return self._names

    @override
    def settings(self) -> dict[str, Setting]:
        return {**super().settings(), "table_size": self._table_size}

    @property
    def table(self) -> NDArray[np.int32]:
        """i32[table_size]: index in `members` of the owner of each place; read-only."""
        return self._table

    @override
    def shares(self) -> dict[str, float]:
        """Places of each node over all places: exact."""
        if not self._names:
            return {}
        counts = np.bincount(self._table, minlength=len(self._names)) / self._table_size
        return dict(zip(self._names, counts.tolist(), strict=True))

    @override
    def node_of_hash(self, hashed: int) -> str:
        if not self._names:
            raise NoNodes
        return self._names[self._owners[hashed % self._table_size]]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        if not self._names:
            raise NoNodes
        places = self.hash_batch(keys) % np.uint64(self._table_size)
        return self._table.take(places.view(np.int64))

    @override
    def _build(self) -> None:
        names = tuple(sorted(self._weights))
        if len(names) > self._table_size:
            raise CapacityExceeded(f"{len(names)} nodes do not fit a table of {self._table_size} places")
        self._names = names
        self._owners = self._fill() if names else []
        self._table = np.array(self._owners, np.int32)
        self._table.flags.writeable = False

    def _fill(self) -> list[int]:
        size = self._table_size
        hashes = [self._digester(as_bytes(name)) for name in self._names]
        at = [hashed % size for hashed in hashes]
        skip = [mix(hashed) % (size - 1) + 1 for hashed in hashes]
        heaviest = max(self._weights.values())
        stride = [self._weights[name] / heaviest for name in self._names]
        credit = [0.0] * len(self._names)
        owners = [-1] * size
        left = size
        while True:
            for node, step in enumerate(skip):
                # The heaviest node has a turn in every round; another whenever its credit reaches one.
                credit[node] += stride[node]
                if credit[node] < 1.0:
                    continue
                credit[node] -= 1.0
                place = at[node]
                while owners[place] >= 0:
                    place += step
                    if place >= size:
                        place -= size
                owners[place] = node
                at[node] = place
                left -= 1
                if not left:
                    return owners

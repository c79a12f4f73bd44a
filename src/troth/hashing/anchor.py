"""`Anchor`: perfect balance, any node may leave, up to a capacity fixed at the start."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.errors import BadSetting, CapacityExceeded, NoNodes
from troth.hashing.interface import Locator
from troth.hashing.keys import GOLDEN, MASK, Hashes, Keys, mix, mix_array, whole
from troth.hashing.nodes import Nodes

CAPACITY_MAX = 1 << 24
"""Places; at some 40 bytes each."""


def draw(hashed: int, salt: int, below: int) -> int:
    """A number in [0, below) from a key's hash and a bucket; independent for each bucket."""
    return mix((hashed + (salt + 1) * GOLDEN) & MASK) % below


def draw_array(hashes: Hashes, salts: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.int64]:
    """`draw` elementwise; all of one shape."""
    salted = hashes + (salts + 1).astype(np.uint64) * np.uint64(GOLDEN)
    drawn: NDArray[np.int64] = (mix_array(salted) % below.astype(np.uint64)).astype(np.int64)
    return drawn


def taken_buckets(size: int, vacated: list[int], nodes: int) -> list[int]:
    """The buckets below *size* that are not *vacated*, ascending: one for each of *nodes*.

    Raises:
        BadSetting: *vacated* is not exactly the empty buckets.
    """
    taken = sorted(set(range(size)) - set(vacated))
    if len(taken) != nodes or len(vacated) != size - nodes or any(type(bucket) is not int for bucket in vacated):
        raise BadSetting("vacated must list each empty bucket once")
    return taken


class Anchor(Locator):
    """Every key has a bucket among all that may ever exist; each bucket that left says where its keys went.

    Balance is perfect but for chance, movement minimal for any leaver, a look-up O(1 + ln(capacity / n))
    draws, memory four numbers for each place of the capacity.

    What it cannot do (section 1 of the paper): grow beyond its capacity (`CapacityExceeded`); weights;
    preference lists. A joining node takes the bucket that was vacated last, so the placement depends on the
    history, which is part of `settings` and `digest`.

    Names follow the paper: A[b] is 0 while b works, else how many worked right after b left; K[b] is b's
    successor, the bucket that took its place in W; W lists the working buckets, L is where b stands (or
    stood) in W.

    Source: Mendelson, Vargaftik, Barabash, Lorenz, Keslassy, Orda, "AnchorHash: a scalable consistent hash",
    IEEE/ACM Transactions on Networking 29(2), 2021, arXiv:1812.09674, section IV and algorithm 3.
    """

    algorithm: ClassVar[str] = "anchor"
    can: ClassVar[Capabilities] = Capabilities(
        weights=False, replicas=False, remove_any=True, minimal=True, order_free=False, ranges=False
    )

    def __init__(
        self,
        nodes: Nodes = (),
        *,
        capacity: int | None = None,
        vacated: list[int] | None = None,
        key_hash: str = "xxh3",
        bits: int = 64,
        epoch: int = 0,
    ) -> None:
        """See `Locator`.

        Args:
            nodes: in the order of their buckets, ascending.
            capacity: the most nodes there will ever be at once; by default four times the nodes, at least 16.
            vacated: the empty buckets, the one vacated first first; by default the last ones, highest first.

        Raises:
            CapacityExceeded: more nodes than capacity.
            BadSetting: *vacated* is not exactly the empty buckets, or capacity is above `CAPACITY_MAX`.
        """
        self._capacity = None if capacity is None else whole("capacity", capacity, 0, CAPACITY_MAX)
        self._free = None if vacated is None else list(vacated)
        super().__init__(nodes, key_hash=key_hash, bits=bits, epoch=epoch)

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return tuple(name for name in self._name_of if name)

    @override
    def settings(self) -> dict[str, Setting]:
        return {**super().settings(), "capacity": self.capacity, "vacated": list(self._vacated)}

    @property
    def capacity(self) -> int:
        """The most nodes there can be at once."""
        return len(self._name_of)

    @override
    def shares(self) -> dict[str, float]:
        """1 / n each: exact."""
        return {name: 1.0 / len(self) for name in self.members}

    def _bucket(self, hashed: int) -> int:
        removed_at, successor = self._a, self._k
        bucket = draw(hashed, -1, len(removed_at))
        while removed_at[bucket]:
            working = removed_at[bucket]
            chosen = draw(hashed, bucket, working)
            # The draw is over W as it was right after b left; whoever left before that is replaced by its
            # successor.
            while removed_at[chosen] >= working:
                chosen = successor[chosen]
            bucket = chosen
        return bucket

    @override
    def node_of_hash(self, hashed: int) -> str:
        if not self._weights:
            raise NoNodes
        return self._name_of[self._bucket(hashed)]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        if not self._weights:
            raise NoNodes
        hashes = self.hash_batch(keys)
        removed_at, successor = np.array(self._a, np.int64), np.array(self._k, np.int64)
        size = np.full(len(hashes), len(removed_at), np.int64)
        bucket = draw_array(hashes, np.full(len(hashes), -1, np.int64), size)
        rows = np.flatnonzero(removed_at[bucket])
        while len(rows):
            working = removed_at[bucket[rows]]
            chosen = draw_array(hashes[rows], bucket[rows], working)
            stale = np.flatnonzero(removed_at[chosen] >= working)
            while len(stale):
                chosen[stale] = successor[chosen[stale]]
                stale = stale[removed_at[chosen[stale]] >= working[stale]]
            bucket[rows] = chosen
            rows = rows[removed_at[chosen] > 0]
        occupied = np.cumsum([bool(name) for name in self._name_of]) - 1
        ranks: NDArray[np.int32] = occupied.astype(np.int32)[bucket]
        return ranks

    @override
    def _detach(self) -> None:
        super()._detach()
        for name in ("_a", "_k", "_w", "_l", "_vacated", "_name_of"):
            setattr(self, name, list(getattr(self, name)))

    @override
    def _build(self) -> None:
        names = list(self._weights)
        capacity = max(16, 4 * len(names)) if self._capacity is None else self._capacity
        if len(names) > capacity:
            raise CapacityExceeded(f"{len(names)} nodes exceed the capacity of {capacity}")
        vacated = list(range(capacity - 1, len(names) - 1, -1)) if self._free is None else self._free
        taken = taken_buckets(capacity, vacated, len(names))
        self._name_of = [""] * capacity
        for bucket, name in zip(taken, names, strict=True):
            self._name_of[bucket] = name
        self._a = [0] * capacity
        self._k, self._w, self._l = (list(range(capacity)) for _ in range(3))
        self._vacated: list[int] = []
        for bucket in vacated:
            self._vacate(bucket)

    def _vacate(self, bucket: int) -> None:
        self._vacated.append(bucket)
        working = len(self._a) - len(self._vacated)
        self._a[bucket] = working
        last = self._w[working]
        self._w[self._l[bucket]] = self._k[bucket] = last
        self._l[last] = self._l[bucket]

    @override
    def _added(self, node: str) -> None:
        if not self._vacated:
            raise CapacityExceeded(f"the capacity of {self.capacity} nodes is used up; make a larger Anchor")
        working = len(self._a) - len(self._vacated)
        bucket = self._vacated.pop()
        self._a[bucket] = 0
        self._l[self._w[working]] = working
        self._w[self._l[bucket]] = bucket
        self._k[bucket] = bucket
        self._name_of[bucket] = node
        self._order()

    @override
    def _removed(self, node: str) -> None:
        bucket = self._name_of.index(node)
        self._name_of[bucket] = ""
        self._vacate(bucket)
        self._order()

    def _order(self) -> None:
        self._weights = {name: self._weights[name] for name in self.members}

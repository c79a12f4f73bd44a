"""`Memento`: jump hash in which any node may leave; no capacity, memory only for who has left."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.anchor import draw, draw_array, taken_buckets
from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.errors import BadSetting, NoNodes
from troth.hashing.interface import Locator
from troth.hashing.jump import jump, jump_array
from troth.hashing.keys import Keys
from troth.hashing.nodes import Nodes


class Memento(Locator):
    """Jump over all buckets, and for a bucket that left a fresh draw among those that worked right after.

    Balance is perfect but for chance, movement minimal for any leaver, no capacity to choose, memory one
    number for each bucket that has left and not been refilled. The best choice for plain nodes of one size.

    What it cannot do (section VIII of the paper): weights; preference lists. A joining node takes the bucket
    that was vacated last, so the placement depends on the history, which is part of `settings` and `digest`.
    Look-ups slow down as O(ln(n / working)**2) while most buckets are vacant.

    Source: Coluzzi, Brocco, Antonucci, Leidi, "MementoHash: a stateful, minimal memory, best performing
    consistent hash algorithm", IEEE/ACM Transactions on Networking 32(4), 2024, arXiv:2306.09783, section V.
    """

    algorithm: ClassVar[str] = "memento"
    can: ClassVar[Capabilities] = Capabilities(
        weights=False, replicas=False, remove_any=True, minimal=True, order_free=False, ranges=False
    )

    def __init__(
        self,
        nodes: Nodes = (),
        *,
        vacated: list[int] | None = None,
        key_hash: str = "xxh3",
        bits: int = 64,
        epoch: int = 0,
    ) -> None:
        """See `Locator`.

        Args:
            nodes: in the order of their buckets, ascending.
            vacated: the empty buckets, the one vacated first first; none by default.

        Raises:
            BadSetting: *vacated* is not exactly the empty buckets.
        """
        self._vacated = list(vacated or [])
        super().__init__(nodes, key_hash=key_hash, bits=bits, epoch=epoch)

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return tuple(name for name in self._name_of if name)

    @override
    def settings(self) -> dict[str, Setting]:
        return {**super().settings(), "vacated": list(self._vacated)}

    @override
    def shares(self) -> dict[str, float]:
        """1 / n each: exact."""
        return {name: 1.0 / len(self) for name in self.members}

    @override
    def node_of_hash(self, hashed: int) -> str:
        if not self._weights:
            raise NoNodes
        working_after = self._working_after
        bucket = jump(hashed, len(self._name_of))
        while bucket in working_after:
            working = working_after[bucket]
            chosen = draw(hashed, bucket, working)
            # Buckets that had left before this one are replaced, as far as they had left by then.
            while working_after.get(chosen, -1) >= working:
                chosen = working_after[chosen]
            bucket = chosen
        return self._name_of[bucket]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        if not self._weights:
            raise NoNodes
        hashes = self.hash_batch(keys)
        replaced = np.full(len(self._name_of), -1, np.int64)
        for bucket, working in self._working_after.items():
            replaced[bucket] = working
        bucket_of = jump_array(hashes, len(self._name_of))
        rows = np.flatnonzero(replaced[bucket_of] >= 0)
        while len(rows):
            working_now = replaced[bucket_of[rows]]
            chosen = draw_array(hashes[rows], bucket_of[rows], working_now)
            stale = np.flatnonzero(replaced[chosen] >= working_now)
            while len(stale):
                chosen[stale] = replaced[chosen[stale]]
                stale = stale[replaced[chosen[stale]] >= working_now[stale]]
            bucket_of[rows] = chosen
            rows = rows[replaced[chosen] >= 0]
        occupied = np.cumsum([bool(name) for name in self._name_of]) - 1
        ranks: NDArray[np.int32] = occupied.astype(np.int32)[bucket_of]
        return ranks

    _name_of: list[str]
    _working_after: dict[int, int]

    @override
    def _detach(self) -> None:
        super()._detach()
        self._vacated = list(self._vacated)
        self._name_of = list(self._name_of)
        self._working_after = dict(self._working_after)

    @override
    def _build(self) -> None:
        size = len(self._weights) + len(self._vacated)
        if self._vacated[:1] == [size - 1]:
            raise BadSetting("the last bucket does not stay empty when it is the first to be vacated")
        taken = taken_buckets(size, self._vacated, len(self._weights))
        self._name_of = [""] * size
        for bucket, name in zip(taken, self._weights, strict=True):
            self._name_of[bucket] = name
        self._working_after = {}
        for left, bucket in enumerate(self._vacated, start=1):
            self._working_after[bucket] = size - left

    @override
    def _added(self, node: str) -> None:
        if self._vacated:
            bucket = self._vacated.pop()
            del self._working_after[bucket]
            self._name_of[bucket] = node
            self._weights = {name: self._weights[name] for name in self.members}
        else:
            self._name_of.append(node)

    @override
    def _removed(self, node: str) -> None:
        bucket = self._name_of.index(node)
        if not self._vacated and bucket == len(self._name_of) - 1:
            self._name_of.pop()
            return
        self._name_of[bucket] = ""
        self._vacated.append(bucket)
        self._working_after[bucket] = len(self._weights)
        if not self._weights:
            self._name_of, self._vacated, self._working_after = [], [], {}

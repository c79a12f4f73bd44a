"""`Jump`: no memory, perfect balance, numbered shards that only grow and shrink at the end."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities
from troth.hashing.errors import NoNodes, NotSupported
from troth.hashing.interface import Locator
from troth.hashing.keys import MASK, Hashes, Keys

_MULTIPLIER = 2862933555777941757


def jump(hashed: int, buckets: int) -> int:
    """The bucket of a 64-bit hash among *buckets* >= 1; the function of the paper's figure 1, bit for bit."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        hashed = (hashed * _MULTIPLIER + 1) & MASK
        following = int((bucket + 1) * (2147483648.0 / ((hashed >> 33) + 1)))
    return bucket


def jump_array(hashes: Hashes, buckets: int) -> NDArray[np.int64]:
    """`jump` for each hash; shape (len(hashes),)."""
    state = hashes.copy()
    bucket = np.zeros(len(hashes), np.int64)
    rows = np.arange(len(hashes))
    following = np.zeros(len(hashes), np.int64)
    while len(rows):
        bucket[rows] = following
        state = state * np.uint64(_MULTIPLIER) + np.uint64(1)
        divisor = (state >> np.uint64(33)).astype(np.float64) + 1.0
        following = ((following + 1) * (2147483648.0 / divisor)).astype(np.int64)
        alive = following < buckets
        rows, state, following = rows[alive], state[alive], following[alive]
    return bucket


class Jump(Locator):
    """Buckets 0 .. n - 1 in the order in which nodes were given; a key jumps forward through them.

    Balance is perfect but for chance, movement minimal, memory none, time O(ln n). Meant for shards that
    carry numbers and live behind a fail-over of their own.

    What it cannot do (section 2 of the paper): let any node leave but the last one, since buckets are numbers
    without gaps; and weights. Preference lists are not defined either. `Memento` is the same function with
    gaps allowed.

    Source: Lamping, Veach, "A fast, minimal memory, consistent hash algorithm", 2014, arXiv:1406.2294.
    """

    algorithm: ClassVar[str] = "jump"
    can: ClassVar[Capabilities] = Capabilities(
        weights=False, replicas=False, remove_any=False, minimal=True, order_free=False, ranges=False
    )

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return self._names

    @override
    def shares(self) -> dict[str, float]:
        """1 / n each: exact."""
        return {name: 1.0 / len(self._names) for name in self._names}

    @override
    def node_of_hash(self, hashed: int) -> str:
        if not self._names:
            raise NoNodes
        return self._names[jump(hashed, len(self._names))]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        if not self._names:
            raise NoNodes
        return jump_array(self.hash_batch(keys), len(self._names)).astype(np.int32)

    @override
    def _build(self) -> None:
        self._names = tuple(self._weights)

    @override
    def _removed(self, node: str) -> None:
        if node != self._names[-1]:
            raise NotSupported(
                algorithm=self.algorithm,
                what=f"let {node!r} leave, only the last node ({self._names[-1]!r})",
                instead="Memento and Anchor can",
            )
        self._names = self._names[:-1]

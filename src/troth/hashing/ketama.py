"""`KetamaRing`: the circle of libketama, bit for bit, for caches that other clients share."""

from hashlib import md5
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.continuum import Continuum
from troth.hashing.errors import BadSetting
from troth.hashing.keys import as_bytes
from troth.hashing.nodes import Nodes
from troth.hashing.ring import PointLocator

DIGESTS_PER_NODE = 40
"""MD5 digests of a node of average weight; each gives four points."""

WEIGHTS_MAX = 1 << 53


class KetamaRing(PointLocator):
    """The same node for every key as libketama with the same server list.

    What has to be exact, and often is not:

    * A node has ``floorf(pct * 40.0 * n)`` digests, where ``pct`` is the float32 quotient of its weight and
      the total; the product is a double, and is rounded to float32 *before* the floor. Integer division gives
      one digest more or less for some weights.
    * A key whose hash equals a point stays on it.
    * Digest k of node ``host:port`` is MD5 of ``"host:port-k"``; its four points are little-endian.

    Weights are libketama's "memory": positive whole numbers, their sum below 2**53.

    What it cannot do: movement is not minimal, since every node's number of points depends on the total
    weight. A join may therefore move a few keys between old nodes. `HashRing` moves none.

    Diverges: where points of two nodes coincide, libketama leaves the winner to the C library's sort (with
    glibc, the server listed first). Here the smaller name wins, which is the same for a sorted server list
    and does not depend on the order in which nodes came.

    Source: Last.fm's libketama 0.1.1, ``ketama_create_continuum`` and ``ketama_get_server``.
    """

    algorithm: ClassVar[str] = "ketama"
    can: ClassVar[Capabilities] = Capabilities(
        weights=True, replicas=True, remove_any=True, minimal=False, order_free=True, ranges=True
    )

    def __init__(self, nodes: Nodes = (), *, epoch: int = 0) -> None:
        """See `Locator`; the hash is part of the algorithm.

        Raises:
            BadSetting: a weight that is not a whole number, or too large a sum of weights; else as `Locator`.
        """
        super().__init__(nodes, key_hash="ketama", bits=32, epoch=epoch)

    @override
    def settings(self) -> dict[str, Setting]:
        return {}

    @property
    def points(self) -> list[tuple[int, str]]:
        """The continuum as libketama prints it: (point, node), ascending."""
        circle = self._circle
        return [
            (point, circle.names[rank])
            for point, rank in zip(circle.points[:-1].tolist(), circle.owners[:-1].tolist(), strict=True)
        ]

    @override
    def _build(self) -> None:
        fraction = next((name for name, weight in self._weights.items() if weight != int(weight)), None)
        if fraction is not None:
            raise BadSetting(f"ketama weights are whole numbers; {fraction!r} has {self._weights[fraction]}")
        names = tuple(sorted(self._weights))
        whole = sum(self._weights.values())
        if whole >= WEIGHTS_MAX:
            # libketama adds integers; beyond this a sum of floats is another one.
            raise BadSetting(f"ketama weights add up to less than 2**53, not {whole:g}")
        total = np.float32(whole)
        parts: list[NDArray[np.uint64]] = []
        for name in names:
            share = np.float32(self._weights[name]) / total
            count = int(
                np.floor(
                    np.float32(np.float64(share) * float(DIGESTS_PER_NODE) * np.float64(np.float32(len(names))))
                )
            )
            encoded = as_bytes(name)
            labels = (b"%s-%d" % (encoded, k) for k in range(count))
            digests = b"".join(md5(label, usedforsecurity=False).digest() for label in labels)
            parts.append(np.frombuffer(digests, "<u4").astype(np.uint64))
        self._circle = Continuum.build(
            names=names,
            points=np.concatenate([np.empty(0, np.uint64), *parts]),
            owners=np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in parts]),
            bits=32,
        )

"""`MultiProbe`: one point a node, many probes a key."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.continuum import Continuum
from troth.hashing.errors import NoNodes
from troth.hashing.interface import Locator
from troth.hashing.keys import GOLDEN, MASK, Hashes, Keys, as_bytes, mix, mix_array, whole
from troth.hashing.nodes import Nodes


class MultiProbe(Locator):
    """Nodes have one point each; a key is hashed k times and goes to the node that is nearest to a probe.

    Memory O(n) and a balance that 160 virtual nodes do not reach: the paper expects a peak of 1 + e times the mean
    with 1 + 1/e probes; `shares` computes 1.07, 1.08 and 1.04 with 21 at 10, 100 and 1000 nodes. Movement is
    minimal: a join takes the keys to which it is now nearest, a leave gives away its own.

    The preference list orders nodes by their distance to the nearest probe, which depends on no other node;
    so it moves minimally too.

    What it cannot do: weights (the paper has none: a second point for a node would halve the distances around
    it rather than double its share). And no ranges: a key's place depends on k points of the circle.

    Cost: k searches a look-up.

    Source: Appleton, O'Reilly, "Multi-probe consistent hashing", 2015, arXiv:1505.00062, section 2.
    """

    algorithm: ClassVar[str] = "multiprobe"
    can: ClassVar[Capabilities] = Capabilities(
        weights=False, replicas=True, remove_any=True, minimal=True, order_free=True, ranges=False
    )

    def __init__(
        self,
        nodes: Nodes = (),
        *,
        probes: int = 21,
        key_hash: str = "xxh3",
        bits: int = 64,
        epoch: int = 0,
    ) -> None:
        """See `Locator`.

        Args:
            probes: hashes of a key, 1 .. 1000.

        Raises:
            BadSetting: probes out of range; else as `Locator`.
        """
        self._probes = whole("probes", probes, 1, 1000)
        super().__init__(nodes, key_hash=key_hash, bits=bits, epoch=epoch)

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return self._circle.names

    @override
    def settings(self) -> dict[str, Setting]:
        return {**super().settings(), "probes": self._probes}

    @override
    def shares(self) -> dict[str, float]:
        """Share of each node: exact for probes that are independent, as mixed hashes are.

        Node i wins if the least distance of a key's k probes falls into its gap: with probability integral over t in
        its gap of ``k (1 - F(t))**(k - 1)``, F(t) being how much of the circle is nearer than t to a node. F is linear
        between one gap's length and the next longer one.
        """
        if not len(self):
            return {}
        gaps = self._circle.arc_sizes()
        order = np.argsort(gaps, kind="stable")
        ascending, longer = gaps[order], np.arange(len(gaps) - 1, -1, -1)
        farther = np.clip(1.0 - (np.cumsum(ascending) + ascending * longer), 0.0, 1.0) ** self._probes
        wins = np.empty(len(gaps))
        wins[order] = np.cumsum(np.abs(np.diff(farther, prepend=1.0)) / (longer + 1))
        return dict(zip(self.members, (wins / wins.sum()).tolist(), strict=True))

    @override
    def node_of_hash(self, hashed: int) -> str:
        return self._preference(hashed, 1)[0]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        circle = self._circle
        if not circle.names:
            raise NoNodes
        hashes = self.hash_batch(keys)
        best = np.full(len(hashes), MASK, np.uint64)
        found = np.full(len(hashes), len(circle.names), np.int32)
        for number in range(self._probes):
            probe = self._probe_array(hashes, number)
            at = circle.positions(probe)
            # Point P is point 0 beyond zero; the distance wraps with the subtraction.
            distance = circle.points[:-1].take(at % np.uint32(len(circle))) - probe
            owner = circle.owners.take(at)
            if self._bits < 64:
                distance &= np.uint64((1 << self._bits) - 1)
            nearer = (distance < best) | ((distance == best) & (owner < found))
            best = np.where(nearer, distance, best)
            found = np.where(nearer, owner, found)
        return found

    @override
    def _preference(self, hashed: int, replicas: int) -> list[str]:
        circle = self._circle
        size = len(circle)
        if not size:
            raise NoNodes
        nearest: dict[int, int] = {}
        mask = (1 << self._bits) - 1
        points, owners = circle.point_list, circle.owner_list
        for number in range(self._probes):
            probe = mix((hashed + number * GOLDEN) & MASK) >> (64 - self._bits)
            at = circle.position(probe)
            # The r nearest nodes overall are among the r first after some probe. Points that coincide with
            # the last of these are looked at as well, so that the smaller name wins whichever probe found it.
            last = -1
            for step in range(size):
                place = (at + step) % size
                distance = (points[place] - probe) & mask
                if step >= replicas and distance != last:
                    break
                last = distance
                owner = owners[place]
                if distance < nearest.get(owner, mask + 1):
                    nearest[owner] = distance
        ranked = sorted(nearest, key=lambda owner: (nearest[owner], owner))[:replicas]
        return [circle.names[owner] for owner in ranked]

    @override
    def walk_hash(self, hashed: int) -> Iterator[str]:
        if not len(self):
            raise NoNodes
        return self._ranked(hashed)

    def _ranked(self, hashed: int) -> Iterator[str]:
        """The preference list of all nodes, made as long as it is asked for: a longer one begins with the shorter."""
        told = 0
        while told < len(self):
            found = self._preference(hashed, min(len(self), 4 * told or 1))
            yield from found[told:]
            told = len(found)

    @override
    def _build(self) -> None:
        names = tuple(sorted(self._weights))
        shift = 64 - self._bits
        points = [mix((self._digester(as_bytes(name)) + GOLDEN) & MASK) >> shift for name in names]
        self._circle = Continuum.build(
            names=names,
            points=np.array(points, np.uint64),
            owners=np.arange(len(names), dtype=np.int32),
            bits=self._bits,
        )

    def _probe_array(self, hashes: Hashes, number: int) -> Hashes:
        return mix_array(hashes + np.uint64(number * GOLDEN & MASK)) >> np.uint64(64 - self._bits)

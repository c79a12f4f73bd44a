"""`HashRing`: consistent hashing with virtual nodes, the default choice."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.continuum import Continuum, with_node, without_node
from troth.hashing.errors import BadSetting, NoNodes, UnknownNode
from troth.hashing.interface import Locator
from troth.hashing.keys import Hashes, Key, Keys, as_bytes, stream, whole
from troth.hashing.nodes import Nodes
from troth.hashing.planning import Arcs

FEW_POINTS = 16
"""With fewer, shares follow chance (a standard deviation of a quarter and more) rather than weights."""

POINTS_MAX = 1 << 24
"""Points of a ring: 100 000 nodes of 160. At 28 bytes each, and as much again while it is made, that is a gigabyte."""


class PointLocator(Locator):
    """What all circles of points share: the look-ups. A subclass keeps `_circle` up to date."""

    _circle: Continuum

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return self._circle.names

    @override
    def node(self, key: Key) -> str:
        shift, starts, points, owners, names = self._circle.look_up
        try:
            hashed = self._digester(key.encode() if isinstance(key, str) else as_bytes(key))
            bucket = hashed >> shift
            at = starts[bucket]
            # Most buckets hold no point below the hash, and then there is nothing to search.
            if points[at] < hashed:
                at = bisect_left(points, hashed, at + 1, starts[bucket + 1])
            return names[owners[at]]
        except IndexError:
            raise NoNodes from None
        except UnicodeEncodeError:
            as_bytes(key)  # raises the error that says what is wrong with the key
            raise

    @override
    def node_of_hash(self, hashed: int) -> str:
        circle = self._circle
        if not circle.names:
            raise NoNodes
        return circle.names[circle.owner_list[circle.position(hashed)]]

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        if not self._circle.names:
            raise NoNodes
        return self._circle.owner_ranks(self.hash_batch(keys))

    @override
    def nodes(self, key: Key, replicas: int) -> list[str]:
        circle = self._circle
        if type(replicas) is not int or not 1 <= replicas <= len(circle.names):
            self._require_replicas(replicas)
        return circle.preference(self._digester(as_bytes(key)), replicas)

    @override
    def index_lists(self, keys: Keys, replicas: int) -> NDArray[np.int32]:
        self._require_replicas(replicas)
        return self._circle.preference_ranks(replicas, self._circle.positions(self.hash_batch(keys)))

    @override
    def shares(self) -> dict[str, float]:
        """Share of the circle that each node owns: exact."""
        return dict(zip(self.members, self._circle.arc_sizes().tolist(), strict=True)) if len(self) else {}

    @override
    def arcs(self, replicas: int) -> Arcs:
        """The ranges between the points, with the nodes that hold them; ranges of equal points are left out."""
        self._require_replicas(replicas)
        ends, first = np.unique(self._circle.points[:-1], return_index=True)
        holders = self._circle.preference_ranks(replicas, first.astype(np.uint32))
        return Arcs(
            names=self.members,
            bits=self._circle.bits,
            ends=ends,
            holders=holders,
        )

    @override
    def walk_hash(self, hashed: int) -> Iterator[str]:
        if not len(self):
            raise NoNodes
        return self._circle.walk(hashed)


class HashRing(PointLocator):
    """Consistent hashing on a circle, each node as many virtual nodes (points).

    A node of weight w has ``max(1, round(w * vnodes))`` points; point i of a node is element i of the
    SplitMix64 sequence seeded with the node's hashed name, so points depend on nothing but name and number.
    Hence:

    * Exact minimal movement: a join takes keys to the new node only, a leave gives away the leaver's keys
      only, a reweight adds or removes points of one node only.
    * The ring is a function of the set of (name, weight): order, history and collisions leave no trace. Where
      points of two nodes coincide the smaller name owns, and the other takes over when it leaves.
    * Preference lists are the next distinct nodes along the circle, and inherit both properties.

    Balance: standard deviation of the nodes' shares is about 1/sqrt(vnodes) (8 % at 160, peak about 1.25
    times the mean at 100 nodes). That is for weights about 1: the points of a node of weight 0.01 are two, whose
    share is a matter of luck. `Rendezvous` is exact; `BoundedLoad` caps the peak.

    Cost for n nodes and v points each: a look-up O(1) expected, a batch about three vector steps, a change
    O(n v) copying, memory 28 bytes a point.

    Source: Karger, Lehman, Leighton, Panigrahy, Levine, Lewin, "Consistent hashing and random trees", STOC
    1997, section 4; virtual nodes: Stoica et al., "Chord", SIGCOMM 2001, section 4.3; preference lists:
    DeCandia et al.,
    "Dynamo", SOSP 2007, section 4.3.
    """

    algorithm: ClassVar[str] = "ring"
    can: ClassVar[Capabilities] = Capabilities(
        weights=True, replicas=True, remove_any=True, minimal=True, order_free=True, ranges=True
    )

    def __init__(
        self,
        nodes: Nodes = (),
        *,
        vnodes: int = 160,
        key_hash: str = "xxh3",
        bits: int = 64,
        epoch: int = 0,
    ) -> None:
        """See `Locator`.

        Args:
            vnodes: points of a node of weight 1; 1 .. 1 000 000.

        Raises:
            BadSetting: vnodes out of range, more than `POINTS_MAX` points in all, or several nodes that all weigh less
                than 0.1 and have fewer than `FEW_POINTS` points; else as `Locator`.
        """
        self._vnodes = whole("vnodes", vnodes, 1, 1_000_000)
        super().__init__(nodes, key_hash=key_hash, bits=bits, epoch=epoch)

    @override
    def settings(self) -> dict[str, Setting]:
        return {**super().settings(), "vnodes": self._vnodes}

    def points_of(self, node: str) -> Hashes:
        """The points of *node* at its weight, in the order of their numbers.

        Raises:
            UnknownNode: no such node.
        """
        if node not in self._weights:
            raise UnknownNode(node)
        count = max(1, round(self._weights[node] * self._vnodes))
        seed = self._digester(as_bytes(node))
        return stream(seed, count) >> np.uint64(64 - self._bits)

    def _require_weighable(self) -> None:
        """Refuse weights that would give too many points, or too few to tell them apart.

        A removal is not refused, whatever is left: its node may be dead.
        """
        heaviest = max(self._weights.values(), default=0.0)
        # Few points of a node of weight 1 are what vnodes asks for.
        if len(self._weights) > 1 and heaviest < 0.1 and heaviest * self._vnodes < FEW_POINTS:
            raise BadSetting(
                f"the heaviest node of this ring would have {heaviest * self._vnodes:.3g} points, a node of weight 1 "
                f"has {self._vnodes}: multiply all weights by the same"
            )
        wanted = sum(self._weights.values()) * self._vnodes
        if wanted > POINTS_MAX:
            raise BadSetting(
                f"this ring would have {wanted:.3g} points, {POINTS_MAX} is the most: divide all weights by the "
                "same, or take fewer vnodes"
            )

    @override
    def _build(self) -> None:
        self._require_weighable()
        names = tuple(sorted(self._weights))
        parts = [self.points_of(name) for name in names]
        self._circle = Continuum.build(
            names=names,
            points=np.concatenate([np.empty(0, np.uint64), *parts]),
            owners=np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in parts]),
            bits=self._bits,
        )

    @override
    def _added(self, node: str) -> None:
        self._require_weighable()
        names = tuple(sorted(self._weights))
        self._circle = with_node(
            self._circle, names=names, rank=bisect_left(names, node), points=self.points_of(node)
        )

    @override
    def _removed(self, node: str) -> None:
        rank = bisect_left(self._circle.names, node)
        self._circle = without_node(self._circle, names=tuple(sorted(self._weights)), rank=rank)

    @override
    def _reweighted(self, node: str) -> None:
        self._require_weighable()
        names = self._circle.names
        rank = bisect_left(names, node)
        rest = without_node(self._circle, names=names[:rank] + names[rank + 1 :], rank=rank)
        # One assignment at the end: a reader in another thread sees the ring before or the ring after.
        self._circle = with_node(rest, names=names, rank=rank, points=self.points_of(node))

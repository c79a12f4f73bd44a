"""`SkeletonRendezvous`: rendezvous through a tree of virtual nodes, for many nodes."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.errors import BadSetting, NoNodes
from troth.hashing.interface import Capabilities, Locator, Nodes, Setting
from troth.hashing.keys import Hashes, Keys, as_bytes
from troth.hashing.rendezvous import costs


class SkeletonRendezvous(Locator):
    """A key runs a small rendezvous at each level of a tree, and then one among the nodes of the cluster it
    reached.

    A look-up scores ``fanout * levels + cluster_nodes`` candidates instead of all n: about 40 at 1000 nodes,
    50 at 10 000. Preference lists rank the children at each level and go through the tree in that order.

    The virtual nodes keep the weight that they were built with, so that a change of membership stays inside
    one
    cluster: a joining node takes keys from its cluster only, a leaver's keys go to its cluster. No key goes
    astray, but shares are exact only right after building; a join makes its cluster's nodes lighter by one in
    ``cluster_nodes``, a leave heavier. `skew` is the worst node's load against its fair share; `rebuilt`
    levels the tree, and a plan carries it out.

    What it cannot do: be the same from any history. A node joins the cluster that is shortest of weight, so
    the assignment depends on who was there; it is part of `settings` and of `digest`, and a ring built anew
    from sorted names is the same everywhere. And no ranges: a plan needs the list of keys.

    Source: Yao, Ravishankar, "A skeleton-based approach to wide-area hashing" as in Wang, Ravishankar,
    "Hashing-based traffic partitioning in a multicast-multipath MPLS network", LANC 2005, section 4 (virtual
    hierarchy of HRW).
    """

    algorithm: ClassVar[str] = "skeleton"
    can: ClassVar[Capabilities] = Capabilities(
        weights=True, replicas=True, remove_any=True, minimal=True, order_free=False, ranges=False
    )

    def __init__(
        self,
        nodes: Nodes = (),
        *,
        cluster_nodes: int = 16,
        fanout: int = 8,
        clusters: list[list[str]] | None = None,
        built_weights: list[float] | None = None,
        key_hash: str = "xxh3",
        bits: int = 64,
        epoch: int = 0,
    ) -> None:
        """See `Locator`.

        Args:
            cluster_nodes: nodes of a cluster when built, at least 2.
            fanout: children of a virtual node, at least 2.
            clusters, built_weights: an assignment to restore, as in `settings`; both or neither.

        Raises:
            BadSetting: an argument out of range, or clusters that do not hold exactly the nodes.
        """
        if cluster_nodes < 2 or fanout < 2:
            raise BadSetting("cluster_nodes and fanout must be at least 2")
        self._cluster_nodes = cluster_nodes
        self._fanout = fanout
        self._clusters = [list(cluster) for cluster in clusters or []]
        self._built = list(built_weights or [])
        if len(self._clusters) != len(self._built):
            raise BadSetting("clusters and built_weights belong together")
        super().__init__(nodes, key_hash=key_hash, bits=bits, epoch=epoch)

    @property
    @override
    def members(self) -> tuple[str, ...]:
        return self._names

    @override
    def settings(self) -> dict[str, Setting]:
        return {
            **super().settings(),
            "cluster_nodes": self._cluster_nodes,
            "fanout": self._fanout,
            "clusters": [sorted(cluster) for cluster in self._clusters],
            "built_weights": list(self._built),
        }

    @property
    def skew(self) -> float:
        """Load of the worst node over its fair share, at least 1; 1 when just built from equal weights."""
        shares, total = self.shares(), sum(self._weights.values())
        return max((shares[name] * total / weight for name, weight in self._weights.items()), default=1.0)

    def rebuilt(self) -> "SkeletonRendezvous":
        """A ring of the same nodes with a fresh, level tree, one epoch on."""
        return SkeletonRendezvous(
            dict(sorted(self._weights.items())),
            cluster_nodes=self._cluster_nodes,
            fanout=self._fanout,
            key_hash=self._key_hash,
            bits=self._bits,
            epoch=self._epoch + 1,
        )

    @override
    def shares(self) -> dict[str, float]:
        """Share of each node: exact, the product of the shares along its path."""
        shares = dict.fromkeys(self._names, 0.0)
        for cluster_index, cluster in enumerate(self._clusters):
            if not cluster:
                continue
            share = 1.0
            index = cluster_index
            for level, weights in enumerate(self._level_weights):
                first = index // self._fanout * self._fanout if level + 1 < len(self._level_weights) else 0
                end = first + self._fanout if level + 1 < len(self._level_weights) else len(weights)
                share *= weights[index] / sum(weights[first:end])
                index //= self._fanout
            inside = sum(self._weights[name] for name in cluster)
            for name in cluster:
                shares[name] = share * self._weights[name] / inside
        return shares

    @override
    def node_of_hash(self, hashed: int) -> str:
        return next(self.walk_hash(hashed))

    @override
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        if not self._names:
            raise NoNodes
        hashes = self.hash_batch(keys)
        found = np.empty(len(hashes), np.int32)
        top = len(self._level_weights) - 1
        self._descend(hashes, np.arange(len(hashes)), top, range(len(self._level_weights[top])), found)
        return found

    @override
    def walk_hash(self, hashed: int) -> Iterator[str]:
        if not self._names:
            raise NoNodes
        top = len(self._level_weights) - 1
        return self._visit(hashed, top, range(len(self._level_weights[top])))

    @override
    def _detach(self) -> None:
        super()._detach()
        self._clusters = [list(cluster) for cluster in self._clusters]
        self._built = list(self._built)

    @override
    def _build(self) -> None:
        if not self._clusters and self._weights:
            # Dealing the heaviest first to the lightest cluster keeps the clusters level for any weights.
            count = -(-len(self._weights) // self._cluster_nodes)
            self._clusters = [[] for _ in range(count)]
            self._built = [0.0] * count
            for name in sorted(self._weights, key=lambda name: (-self._weights[name], name)):
                lightest = min(range(count), key=lambda index: (self._built[index], index))
                self._clusters[lightest].append(name)
                self._built[lightest] += self._weights[name]
        if sorted(name for cluster in self._clusters for name in cluster) != sorted(self._weights):
            raise BadSetting("the clusters must hold exactly the nodes, each once")
        self._index()

    @override
    def _added(self, node: str) -> None:
        if not self._clusters:
            self._build()
            return
        home = min(range(len(self._clusters)), key=lambda index: (self._fill(index), index))
        self._clusters[home].append(node)
        self._index()

    @override
    def _removed(self, node: str) -> None:
        for cluster in self._clusters:
            if node in cluster:
                cluster.remove(node)
        if not self._weights:
            self._clusters, self._built = [], []
        self._index()

    @override
    def _reweighted(self, node: str) -> None:
        self._index()

    def _fill(self, cluster_index: int) -> float:
        """Present weight of a cluster over its built weight. An empty one stays empty until `rebuilt`: its
        first node would carry the load of a whole cluster."""
        cluster = self._clusters[cluster_index]
        present = sum(self._weights[name] for name in cluster)
        return present / self._built[cluster_index] if cluster else float("inf")

    def _index(self) -> None:
        """Derive seeds, and the weights of the virtual nodes per level (0: clusters) without empty subtrees."""
        self._names = tuple(sorted(self._weights))
        rank = {name: index for index, name in enumerate(self._names)}
        self._members_of: list[tuple[list[str], Hashes, NDArray[np.float64], NDArray[np.int32]]] = []
        for cluster in self._clusters:
            names = sorted(cluster)
            self._members_of.append(
                (
                    names,
                    np.array([self._digester(as_bytes(name)) for name in names], np.uint64),
                    np.array([self._weights[name] for name in names], np.float64),
                    np.array([rank[name] for name in names], np.int32),
                )
            )
        # A virtual node weighs what its whole subtree weighed when built, or nothing while the subtree is
        # empty: an empty child changes nothing at its parent.
        built, present = list(self._built), [bool(cluster) for cluster in self._clusters]
        self._level_weights: list[list[float]] = []
        while True:
            self._level_weights.append([w if there else 0.0 for w, there in zip(built, present, strict=True)])
            if len(built) <= self._fanout:
                break
            spans = [slice(at, at + self._fanout) for at in range(0, len(built), self._fanout)]
            built, present = [sum(built[span]) for span in spans], [any(present[span]) for span in spans]
        self._level_seeds = [
            np.array([self._digester(b"%d/%d" % (level, index)) for index in range(len(weights))], np.uint64)
            for level, weights in enumerate(self._level_weights)
        ]

    def _candidates(self, level: int, span: range) -> list[int]:
        return [index for index in span if self._level_weights[level][index] > 0]

    def _children(self, level: int, index: int) -> range:
        below = len(self._level_weights[level - 1])
        return range(index * self._fanout, min(below, (index + 1) * self._fanout))

    def _scored(self, hashes: Hashes, level: int, indices: list[int]) -> NDArray[np.float64]:
        weights = np.array([self._level_weights[level][index] for index in indices], np.float64)
        return np.asarray(costs(hashes, self._level_seeds[level][indices], weights), np.float64)

    def _visit(self, hashed: int, level: int, span: range) -> Iterator[str]:
        indices = self._candidates(level, span)
        key = np.array([hashed], np.uint64)
        order = self._scored(key, level, indices)[0].argsort(kind="stable") if len(indices) > 1 else [0]
        for place in order:
            index = indices[int(place)]
            if level:
                yield from self._visit(hashed, level - 1, self._children(level, index))
            else:
                names, seeds, weights, _ = self._members_of[index]
                ranked = costs(key, seeds, weights)[0].argsort(kind="stable")
                yield from (names[int(at)] for at in ranked)

    def _descend(
        self, hashes: Hashes, rows: NDArray[np.intp], level: int, span: range, found: NDArray[np.int32]
    ) -> None:
        """Write into *found* the node of each key of *rows*, all of which reached this part of the tree."""
        indices = self._candidates(level, span)
        winner = self._scored(hashes[rows], level, indices).argmin(axis=1)
        for place, index in enumerate(indices):
            chosen = rows[winner == place]
            if not len(chosen):
                continue
            if level:
                self._descend(hashes, chosen, level - 1, self._children(level, index), found)
            else:
                _, seeds, weights, ranks = self._members_of[index]
                found[chosen] = ranks[costs(hashes[chosen], seeds, weights).argmin(axis=1)]

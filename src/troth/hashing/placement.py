"""`Placement`: replicas in distinct failure domains, with a proof of what was met and what could not be.

Domains form a tree: every node has a path such as (region, zone, rack). The rule, level by level from the
top: the replicas of a key are in distinct domains as long as there are enough of them.

How: go along the key's walk; for each replica take the node that shares the fewest levels with those chosen:
first one in an unused region, else one in an unused zone, else in an unused rack; then the least used region,
zone, rack; then walk order. Since a domain's children lie in no other domain, using up the unused ones
top-down reaches the greatest possible number of distinct domains at every level at once.

Source: the walk that skips used racks is Cassandra's NetworkTopologyStrategy; failure domains as a tree:
Weil, Brandt, Miller, Maltzahn, "CRUSH", SC 2006, section 3.2.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.between import plan_between
from troth.hashing.digest import Digest
from troth.hashing.errors import BadSetting, TooFewNodes, UnknownNode
from troth.hashing.interface import Locator
from troth.hashing.keys import Hashes, Key, Keys, whole
from troth.hashing.moves import Plan
from troth.hashing.planning import Arcs

Domain: TypeAlias = tuple[str, ...]
"""A failure domain by its path from the top: ("eu",), ("eu", "eu-1"), ("eu", "eu-1", "rack-7")."""


class Topology:
    """Where each node stands: a path of as many names as there are levels."""

    def __init__(self, paths: Mapping[str, str | Sequence[str]], *, levels: Sequence[str] = ("zone",)) -> None:
        """Args:
            paths: for each node the domains it is in, top first; a plain string if there is one level.
            levels: names of the levels, top first.

        Raises:
            BadSetting: no level, or a path of another length.
        """
        if not levels:
            raise BadSetting("a topology needs at least one level")
        self.levels = tuple(levels)
        self._paths: dict[str, Domain] = {}
        for node, given in paths.items():
            path = (given,) if isinstance(given, str) else tuple(given)
            if len(path) != len(self.levels):
                raise BadSetting(f"{node!r} has the path {path}; expected {', '.join(self.levels)}")
            self._paths[node] = path

    def domain(self, node: str, level: int) -> Domain:
        """The domain of *node* at *level* (0 is the top).

        Raises:
            UnknownNode: the topology does not know the node.
        """
        if node not in self._paths:
            raise UnknownNode(node, f"the topology does not say where {node!r} stands")
        return self._paths[node][: level + 1]

    def domains(self, nodes: Iterable[str], level: int) -> set[Domain]:
        """The distinct domains of *nodes* at *level*."""
        return {self.domain(node, level) for node in nodes}

    def paths(self) -> dict[str, Domain]:
        """All paths, sorted by node; a new dict."""
        return dict(sorted(self._paths.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one level came out for one key.

    Attributes:
        level: its name.
        wanted: distinct domains asked for, which is the number of replicas.
        available: distinct domains that the ring's nodes are in.
        distinct: domains that the replicas are in.
        most_in_one: replicas in the fullest domain: how many copies one failure takes.
    """

    level: str
    wanted: int
    available: int
    distinct: int
    most_in_one: int

    @property
    def met(self) -> bool:
        """Whether every replica is in a domain of its own."""
        return self.distinct == self.wanted

    @property
    def best(self) -> bool:
        """Whether no placement could have used more domains."""
        return self.distinct == min(self.wanted, self.available)

    @override
    def __str__(self) -> str:
        if self.met:
            return f"{self.level}: {self.distinct} distinct"
        return f"{self.level}: {self.distinct} of {self.wanted}, there are only {self.available}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementProof:
    """Which rules a key's placement meets, in a form that can be checked without the placement's code.

    Attributes:
        hashed: hash of the key.
        nodes: the replicas, the owner first.
        paths: their paths, in the same order.
        rules: one for each level, top first.
    """

    hashed: int
    nodes: tuple[str, ...]
    paths: tuple[Domain, ...]
    rules: tuple[Rule, ...]

    @property
    def met(self) -> bool:
        """Whether every level's rule is met in full."""
        return all(rule.met for rule in self.rules)

    def verify(self, topology: Topology, members: Iterable[str]) -> bool:
        """Count again, from the topology alone: paths are right, nodes distinct, a rule for every level and each as
        good as can be.

        Raises:
            UnknownNode: the topology does not know one of *members*.
        """
        members = list(members)
        if len(set(self.nodes)) != len(self.nodes) or not set(self.nodes) <= set(members):
            return False
        if not self.nodes or tuple(rule.level for rule in self.rules) != topology.levels:
            return False
        for level, rule in enumerate(self.rules):
            used = Counter(topology.domain(node, level) for node in self.nodes)
            told = (rule.wanted, rule.available, rule.distinct, rule.most_in_one)
            counted = (len(self.nodes), len(topology.domains(members, level)), len(used), max(used.values()))
            if told != counted or not rule.best:
                return False
        return self.paths == tuple(topology.domain(node, len(self.rules) - 1) for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The replicas of a key and the proof."""

    nodes: tuple[str, ...]
    proof: PlacementProof


class Placement:
    """Replicas over a tree of domains, on top of any ring.

    A node that joins takes keys to itself only: a replica list changes only if the new node is in it. A
    domain with little capacity still gets its share of replicas (with three zones and three replicas, a third
    of all keys' copies each): give zones the same weight in total.
    """

    def __init__(self, ring: Locator, topology: Topology, *, replicas: int) -> None:
        """Args:
            ring: gives the walk. Over an algorithm without preference lists a change may move more than it
            must.
            topology: must know every node of the ring.
            replicas: copies of each key, at least 1.

        Raises:
            BadSetting, TooFewNodes, UnknownNode.
        """
        replicas = whole("replicas", replicas, 1)
        if replicas > len(ring):
            raise TooFewNodes(replicas=replicas, nodes=len(ring))
        self._ring = ring
        self._topology = topology
        self._replicas = replicas
        depth = len(topology.levels)
        self._available = [len(topology.domains(ring.members, level)) for level in range(depth)]

    @property
    def ring(self) -> Locator:
        """The ring underneath; make a new `Placement` after changing it."""
        return self._ring

    @property
    def topology(self) -> Topology:
        """The tree of domains."""
        return self._topology

    @property
    def replicas(self) -> int:
        """Copies of each key."""
        return self._replicas

    def place(self, key: Key) -> Placed:
        """The replicas of *key* with the proof."""
        hashed = self._ring.hash_of(key)
        nodes = self._chosen(hashed)
        depth = len(self._topology.levels)
        rules = []
        for level in range(depth):
            used = Counter(self._topology.domain(node, level) for node in nodes)
            rules.append(
                Rule(
                    level=self._topology.levels[level],
                    wanted=self._replicas,
                    available=self._available[level],
                    distinct=len(used),
                    most_in_one=max(used.values()),
                )
            )
        proof = PlacementProof(
            hashed=hashed,
            nodes=nodes,
            paths=tuple(self._topology.domain(node, depth - 1) for node in nodes),
            rules=tuple(rules),
        )
        return Placed(nodes=nodes, proof=proof)

    def node(self, key: Key) -> str:
        """The owner of *key*: the same as in the ring."""
        return self._ring.node(key)

    def nodes(self, key: Key) -> list[str]:
        """The replicas of *key*, the owner first."""
        return list(self._chosen(self._ring.hash_of(key)))

    # --- what a plan asks (see interface.Placing) ---

    @property
    def name(self) -> str:
        """The ring's algorithm, with the fact that domains are kept apart."""
        return f"{self._ring.algorithm} over {'/'.join(self._topology.levels)}"

    @property
    def hashing(self) -> tuple[str, int]:
        """As `Locator.hashing`."""
        return self._ring.hashing

    @property
    def has_ranges(self) -> bool:
        """As `Locator.has_ranges`."""
        return self._ring.has_ranges

    @property
    def weights(self) -> dict[str, float]:
        """As `Locator.weights`."""
        return self._ring.weights

    @property
    def digest(self) -> Digest:
        """Of ring, topology of its nodes, and number of replicas; the epoch is the ring's."""
        ring = self._ring.digest
        paths = [(node, path) for node, path in self._topology.paths().items() if node in self._ring]
        content = repr((ring.value, self._topology.levels, paths, self._replicas))
        return Digest(value=xxhash.xxh3_128_hexdigest(content.encode()), epoch=ring.epoch)

    def hash_batch(self, keys: Keys) -> Hashes:
        """As `Locator.hash_batch`."""
        return self._ring.hash_batch(keys)

    def nodes_batch(self, keys: Keys, replicas: int | None = None) -> NDArray[np.object_]:
        """The replicas of each key, shape (len(keys), replicas).

        Raises:
            BadSetting: another number of replicas than this placement's.
        """
        self._require_same(replicas)
        hashes = self._ring.hash_batch(keys).tolist()
        rows = np.empty((len(hashes), self._replicas), object)
        for index, hashed in enumerate(hashes):
            rows[index] = self._chosen(hashed)
        return rows

    def arcs(self, replicas: int | None = None) -> Arcs:
        """The ranges of the ring with the replicas that this placement chooses for them."""
        self._require_same(replicas)
        arcs = self._ring.arcs(1)
        rank = {name: index for index, name in enumerate(arcs.names)}
        rows = [[rank[node] for node in self._chosen(end)] for end in arcs.ends.tolist()]
        return Arcs(names=arcs.names, bits=arcs.bits, ends=arcs.ends, holders=np.array(rows, np.int32))

    def plan(
        self,
        after: "Placement",
        *,
        keys: Iterable[Key] | None = None,
        sizes_bytes: Iterable[int] | None = None,
        moves_per_node: int = 1,
        lost: Iterable[str] = (),
    ) -> Plan:
        """What must move from this placement to *after*. Arguments and errors as in `Locator.plan`."""
        return plan_between(
            self,
            after,
            replicas=self._replicas,
            keys=keys,
            sizes_bytes=sizes_bytes,
            moves_per_node=moves_per_node,
            lost=lost,
        )

    def _require_same(self, replicas: int | None) -> None:
        if replicas is not None and replicas != self._replicas:
            raise BadSetting(f"this placement has {self._replicas} replicas, not {replicas}")

    def _chosen(self, hashed: int) -> tuple[str, ...]:
        walk = self._ring.walk_hash(hashed)
        seen: list[str] = [next(walk)]
        chosen = [seen[0]]
        depth = len(self._topology.levels)
        used: list[Counter[Domain]] = [Counter() for _ in range(depth)]
        self._use(chosen[0], used)
        nothing_shared = (False,) * depth + (0,) * depth
        while len(chosen) < self._replicas:
            best: tuple[tuple[int, ...], str] | None = None
            for node in _both(seen, walk):
                if node in chosen:
                    continue
                counts = [used[level][self._topology.domain(node, level)] for level in range(depth)]
                shared = (*(count > 0 for count in counts), *counts)
                if best is None or shared < best[0]:
                    best = (shared, node)
                if shared == nothing_shared:
                    break
            if best is None:  # the walk names every node, and there are more nodes than replicas
                raise TooFewNodes(replicas=self._replicas, nodes=len(chosen))
            chosen.append(best[1])
            self._use(best[1], used)
        return tuple(chosen)

    def _use(self, node: str, used: list[Counter[Domain]]) -> None:
        for level, counter in enumerate(used):
            counter[self._topology.domain(node, level)] += 1


def _both(seen: list[str], walk: Iterator[str]) -> Iterator[str]:
    """The nodes that earlier rounds drew from *walk*, then new ones, which are remembered."""
    yield from list(seen)
    for node in walk:
        seen.append(node)
        yield node

"""`BoundedLoad`: a cap on every node's load, over any ring."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from troth.errors import invariant
from troth.hashing.digest import Digest
from troth.hashing.errors import BadSetting, NoNodes, UnknownNode
from troth.hashing.interface import Locator
from troth.hashing.keys import Key, Keys, whole

Ring = TypeVar("Ring", bound=Locator)


class BoundedLoad(Generic[Ring]):
    """Keys go to their node in the ring unless it is full; then they walk on to the next one that is not.

    A node is full at ``ceil(c * (m + 1) * w / W)``, m being the load held now, w / W the node's share of the
    weight: no node ever holds more than c times its fair share, rounded up. This is computed with fractions, c and
    weights being the decimal numbers as they are written. The caps add up to more than m, so there is always room.

    `acquire` takes load and says where; `release` gives it back. Who holds which key is the caller's to
    remember: a load is a connection, a session, a running request. `node` only answers where a key would go
    now.

    Over an algorithm with preference lists the walk is the preference list. Over the others (Jump, Maglev,
    Anchor, Memento) it is the order of `Locator.walk`.

    What it cannot do: answer from the ring alone. Two processes agree only if they see the same loads. When a
    node joins or leaves, up to O(1 / (c - 1)**2) times the ideal share moves.

    Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018,
    arXiv:1608.01350, section 1.1.
    """

    def __init__(self, ring: Ring, *, c: float = 1.25, loads: Mapping[str, int] | None = None) -> None:
        """Args:
            ring: any `Locator`; changes of membership go through this object from now on.
            c: the cap as a multiple of the mean, 1 < c <= 2. Small c is even and moves more.
            loads: load held already, by node.

        Raises:
            BadSetting: c out of range, or a load that is negative or no whole number.
            UnknownNode: a load on a node that is not in the ring.
        """
        if not 1.0 < c <= 2.0:
            raise BadSetting(f"c must be in (1, 2], not {c}; beyond 2 a plain ring is as even")
        self._ring = ring
        self._c = c
        self._loads = dict.fromkeys(ring.members, 0)
        for node, load in (loads or {}).items():
            if node not in self._loads:
                raise UnknownNode(node)
            self._loads[node] = whole(f"the load of {node!r}", load, 0)
        self._total = sum(self._loads.values())
        self._rates = self._capped_rates()

    @property
    def ring(self) -> Ring:
        """The ring underneath. Do not change its membership directly."""
        return self._ring

    @property
    def members(self) -> tuple[str, ...]:
        """The nodes, as in the ring."""
        return self._ring.members

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each node, as in the ring."""
        return self._ring.weights

    @property
    def digest(self) -> Digest:
        """Of the ring; loads are no part of it."""
        return self._ring.digest

    @property
    def loads(self) -> dict[str, int]:
        """Load that each node holds; a new dict."""
        return dict(self._loads)

    def __len__(self) -> int:
        return len(self._ring)

    def capacity(self, node: str) -> int:
        """How much *node* may hold if one more is acquired now.

        Raises:
            UnknownNode: no such node.
        """
        if node not in self._loads:
            raise UnknownNode(node)
        return self._cap(node, self._total + 1)

    def node(self, key: Key) -> str:
        """Where *key* would go now. Takes nothing."""
        return next(self._open_nodes(key, self._loads, self._total))

    def nodes(self, key: Key, replicas: int) -> list[str]:
        """The first *replicas* nodes with room in the order of *key*'s walk; full ones follow if too few have
        room.

        Raises:
            NotSupported, TooFewNodes, BadSetting: as `Locator.nodes`.
        """
        self._ring.nodes(key, replicas)
        chosen: list[str] = []
        full: list[str] = []
        for node in self._ring.walk(key):
            (chosen if self._loads[node] < self._cap(node, self._total + 1) else full).append(node)
            if len(chosen) == replicas:
                break
        return (chosen + full)[:replicas]

    def node_batch(self, keys: Keys) -> NDArray[np.object_]:
        """Where *keys* would go if they were acquired in this order; shape (len(keys),). Takes nothing."""
        return self._place(keys, dict(self._loads))

    def acquire(self, key: Key) -> str:
        """Take one load for *key*; returns the node that now holds it."""
        node = self.node(key)
        self._loads[node] += 1
        self._total += 1
        invariant(self._loads[node] <= self._cap(node, self._total), "a node is above its cap", node=node)
        return node

    def acquire_batch(self, keys: Keys) -> NDArray[np.object_]:
        """`acquire` for each of *keys* in order; shape (len(keys),)."""
        placed = self._place(keys, self._loads)
        self._total = sum(self._loads.values())
        return placed

    def release(self, node: str, count: int = 1) -> None:
        """Give back *count* loads that *node* held.

        Raises:
            UnknownNode: no such node.
            BadSetting: it holds less than that, or *count* is no whole number from 1.
        """
        if node not in self._loads:
            raise UnknownNode(node)
        count = whole("count", count, 1)
        if count > self._loads[node]:
            raise BadSetting(f"{node!r} holds {self._loads[node]}; cannot release {count}")
        self._loads[node] -= count
        self._total -= count

    def add(self, node: str, weight: float = 1.0) -> None:
        """Let *node* join, with no load. Errors as `Locator.add`."""
        self._ring.add(node, weight)
        self._loads[node] = 0
        self._rates = self._capped_rates()

    def remove(self, node: str) -> int:
        """Let *node* leave; returns the load that it held, which the caller has to `acquire` anew."""
        self._ring.remove(node)
        orphaned = self._loads.pop(node)
        self._total -= orphaned
        self._rates = self._capped_rates()
        return orphaned

    def reweight(self, node: str, weight: float) -> None:
        """Change the weight of *node*. What it holds above its new cap stays until released."""
        self._ring.reweight(node, weight)
        self._rates = self._capped_rates()

    def overflow(self) -> dict[str, int]:
        """Load above the cap, by node, after a change of membership: what to release and acquire anew."""
        above = {node: load - self._cap(node, self._total) for node, load in self._loads.items()}
        return {node: count for node, count in above.items() if count > 0}

    def _cap(self, node: str, total: int) -> int:
        numerator, denominator = self._rates[node]
        return -(-numerator * total // denominator)

    def _capped_rates(self) -> dict[str, tuple[int, int]]:
        """For each node c times its share of the weight, as numerator and denominator."""
        weights = {node: Fraction(str(weight)) for node, weight in self._ring.weights.items()}
        factor = Fraction(str(self._c)) / (sum(weights.values()) or 1)
        return {node: (factor * weight).as_integer_ratio() for node, weight in weights.items()}

    def _open_nodes(self, key: Key, loads: Mapping[str, int], total: int) -> Iterator[str]:
        return (node for node in self._ring.walk(key) if loads[node] < self._cap(node, total + 1))

    def _place(self, keys: Keys, loads: dict[str, int]) -> NDArray[np.object_]:
        if not len(self._ring):
            raise NoNodes
        ring = self._ring
        total = sum(loads.values())
        hashes = ring.hash_batch(keys)
        first = ring.node_batch(hashes)
        for index, hashed in enumerate(hashes.tolist()):
            total += 1
            node = first[index]
            if loads[node] >= self._cap(node, total):
                walk = ring.walk_hash(hashed)
                node = next(other for other in walk if loads[other] < self._cap(other, total))
                first[index] = node
            loads[node] += 1
        return first

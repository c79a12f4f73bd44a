"""The one interface of every algorithm here: which node holds this key, and what happens when the nodes
change.

A `Locator` knows its nodes by name and answers for keys (``str`` or ``bytes``). It is changed in place by
`add`, `remove` and `reweight`; `changed` returns a changed copy instead, which is what a plan compares::

    before = HashRing(["a", "b", "c"])
    after = before.changed(add={"d": 1.0})
    plan = before.plan(after, replicas=2)

What an algorithm can do is data (`Locator.can`); asking for the rest raises `NotSupported`.

Any number of threads may look up in a ring that nobody changes. Where one changes it, let it change a copy (`changed`)
and put that in the ring's place.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Self

import numpy as np
import xxhash
from numpy.typing import NDArray
from typing_extensions import override

from troth.hashing.between import plan_between
from troth.hashing.capabilities import Capabilities, Setting
from troth.hashing.digest import Digest
from troth.hashing.errors import DuplicateNode, NoNodes, NotSupported, TooFewNodes, UnknownNode
from troth.hashing.keys import GOLDEN, MASK, Hashes, Key, Keys, as_bytes, digester, hash_batch, mix, stream, whole
from troth.hashing.moves import Plan
from troth.hashing.nodes import Nodes, checked_weight, parse_nodes
from troth.hashing.planning import Arcs

SAMPLE = 1 << 17
"""Hashes that stand for all."""


class Locator(ABC):
    """Which node holds a key. See the module's text; each algorithm says in its docstring what it cannot do."""

    algorithm: ClassVar[str]
    """Name in digests, files and tables."""

    can: ClassVar[Capabilities]

    _instead: ClassVar[str] = "HashRing and Rendezvous can"

    def __init__(self, nodes: Nodes = (), *, key_hash: str = "xxh3", bits: int = 64, epoch: int = 0) -> None:
        """Build from *nodes*.

        Args:
            nodes: names (weight 1 each), or a mapping from name to weight. A set is sorted first, so that
                algorithms to which the order matters get the same one in every process.
            key_hash: "xxh3", "xxh64" or "md5".
            bits: width of the hash; fewer than 64 is for tests of collisions.
            epoch: see `Digest`; at least 0.

        Raises:
            BadSetting: an empty name, a weight that is not within 1e-100 .. 1e100, an unknown hash, a negative epoch.
            DuplicateNode: a name twice.
            NotSupported: weights that differ, where the algorithm has none.
        """
        self._key_hash = key_hash
        self._bits = whole("bits", bits, 8, 64)
        self._digester = digester(key_hash, self._bits)
        self._epoch = whole("epoch", epoch, 0)
        self._weights = parse_nodes(nodes)
        if any(weight != 1.0 for weight in self._weights.values()):
            self._require_weights()
        self._build()

    # --- what an algorithm supplies -------------------------------------------------------------------------

    @abstractmethod
    def _build(self) -> None:
        """Make the look-up structure from `self._weights`, from nothing."""

    @property
    @abstractmethod
    def members(self) -> tuple[str, ...]:
        """The nodes; `index_batch` answers with indices into this tuple. Sorted where the algorithm is
        `order_free`, in bucket order elsewhere."""

    @abstractmethod
    def node_of_hash(self, hashed: int) -> str:
        """The node that holds a key with this hash.

        Raises:
            NoNodes: the ring is empty.
        """

    @abstractmethod
    def index_batch(self, keys: Keys) -> NDArray[np.int32]:
        """For each key the index of its node in `members`; shape (len(keys),).

        Args:
            keys: a list of str and bytes, a numpy array of them, or a uint64 array of hashes from
            `hash_batch`.
        """

    @abstractmethod
    def shares(self) -> dict[str, float]:
        """Share of all hashes that each node holds; sums to 1. Computed, not sampled; {} of an empty ring."""

    def _added(self, node: str) -> None:
        """Take up *node*, which is in `self._weights` already."""
        self._build()

    def _removed(self, node: str) -> None:
        """Let go of *node*, which has left `self._weights` already."""
        self._build()

    def _reweighted(self, node: str) -> None:
        """Apply the new weight of *node*."""
        self._build()

    def _detach(self) -> None:
        """After a shallow copy: copy what is changed in place, which here is the weights."""
        self._weights = dict(self._weights)

    def settings(self) -> dict[str, Setting]:
        """Constructor arguments beside the nodes that differ from plain; with `weights`, all that makes this ring."""
        return {"key_hash": self._key_hash, "bits": self._bits}

    # --- what everybody gets --------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each node, in the order of `members`; a new dict."""
        return {name: self._weights[name] for name in self.members}

    @property
    def epoch(self) -> int:
        """How many changes of membership this ring has seen."""
        return self._epoch

    @property
    def digest(self) -> Digest:
        """What two processes compare to learn whether they agree; costs O(nodes)."""
        content = repr((self.algorithm, sorted(self.settings().items()), list(self.weights.items())))
        return Digest(value=xxhash.xxh3_128_hexdigest(content.encode()), epoch=self._epoch)

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self._weights)

    def __contains__(self, node: object) -> bool:
        return node in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    @override
    def __repr__(self) -> str:
        return f"<{type(self).__name__} nodes={len(self)} digest={self.digest}>"

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return self.algorithm

    @property
    def hashing(self) -> tuple[str, int]:
        """Name and width of the key hash; two rings can be compared if these are equal."""
        return self._key_hash, self._bits

    @property
    def has_ranges(self) -> bool:
        """`can.ranges`: whether `arcs` answers."""
        return self.can.ranges

    def hash_of(self, key: Key) -> int:
        """The hash under which this ring looks *key* up."""
        return self._digester(as_bytes(key))

    def hash_batch(self, keys: Keys) -> Hashes:
        """The hashes under which this ring looks *keys* up, shape (len(keys),); may be given to the batch methods."""
        return hash_batch(keys, self._digester, self._bits)

    def node(self, key: Key) -> str:
        """The node that holds *key*.

        Raises:
            NoNodes: the ring is empty.
            BadKey: *key* is neither str nor bytes.
        """
        return self.node_of_hash(self._digester(as_bytes(key)))

    def nodes(self, key: Key, replicas: int) -> list[str]:
        """The preference list of *key*: *replicas* distinct nodes, the first of which is ``node(key)``.

        Raises:
            TooFewNodes: more replicas than nodes.
            BadSetting: fewer than one replica, or no whole number of them.
            NotSupported: the algorithm has no preference lists.
        """
        self._require_replicas(replicas)
        return self._preference(self._digester(as_bytes(key)), replicas)

    def node_batch(self, keys: Keys) -> NDArray[np.object_]:
        """The node of each key, by name; shape (len(keys),). `index_batch` is the same with numbers."""
        return np.array(self.members, dtype=object)[self.index_batch(keys)]

    def nodes_batch(self, keys: Keys, replicas: int) -> NDArray[np.object_]:
        """The preference list of each key; shape (len(keys), replicas). Errors as in `nodes`."""
        return np.array(self.members, dtype=object)[self.index_lists(keys, replicas)]

    def index_lists(self, keys: Keys, replicas: int) -> NDArray[np.int32]:
        """`nodes_batch` as indices into `members`; shape (len(keys), replicas)."""
        self._require_replicas(replicas)
        if replicas == 1:
            return self.index_batch(keys).reshape(-1, 1)
        rank = {name: index for index, name in enumerate(self.members)}
        hashes = self.hash_batch(keys).tolist()
        rows = [[rank[name] for name in self._preference(hashed, replicas)] for hashed in hashes]
        return np.array(rows, np.int32).reshape(len(rows), replicas)

    def walk(self, key: Key) -> Iterator[str]:
        """Every node once, beginning with ``node(key)``: where to go when a node is full or down.

        Unlike `nodes` this is there for every algorithm. Where `can.replicas` is false the order after the
        first node is a fixed shuffle that depends on the key, and a change of membership may reorder it.
        """
        return self.walk_hash(self._digester(as_bytes(key)))

    def add(self, node: str, weight: float = 1.0) -> None:
        """Let *node* join.

        Raises:
            DuplicateNode, BadSetting, NotSupported (a weight, where there are none), CapacityExceeded.
        """
        if node in self._weights:
            raise DuplicateNode(node)
        checked = checked_weight(node, weight)
        if checked != 1.0:
            self._require_weights()
        self._weights[node] = checked
        try:
            self._added(node)
        except BaseException:
            del self._weights[node]
            raise
        self._epoch += 1

    def remove(self, node: str) -> None:
        """Let *node* leave.

        Raises:
            UnknownNode: it is not there.
            NotSupported: the algorithm lets only the last one leave.
        """
        if node not in self._weights:
            raise UnknownNode(node)
        before = dict(self._weights)
        del self._weights[node]
        try:
            self._removed(node)
        except BaseException:
            self._weights = before
            raise
        self._epoch += 1

    def reweight(self, node: str, weight: float) -> None:
        """Change the weight of *node*.

        Raises:
            UnknownNode, BadSetting, NotSupported.
        """
        if node not in self._weights:
            raise UnknownNode(node)
        self._require_weights()
        before = self._weights[node]
        self._weights[node] = checked_weight(node, weight)
        try:
            self._reweighted(node)
        except BaseException:
            self._weights[node] = before
            raise
        self._epoch += 1

    def copy(self) -> Self:
        """A ring of its own, equal to this one. Large tables are shared until one of the two changes."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._detach()
        return twin

    __copy__ = copy

    def changed(
        self,
        *,
        add: Nodes = (),
        remove: Iterable[str] = (),
        reweight: Mapping[str, float] | None = None,
    ) -> Self:
        """A copy after these changes, removals first, each kind in the order given (a set: sorted, as in the
        constructor); this ring stays as it is. Errors as in `remove`, `reweight` and `add`; DuplicateNode is also a
        name that is listed twice."""
        twin = self.copy()
        for node in parse_nodes(remove):
            twin.remove(node)
        for node, weight in (reweight or {}).items():
            twin.reweight(node, weight)
        for node, weight in parse_nodes(add).items():
            twin.add(node, weight)
        return twin

    def sample(self, count: int = SAMPLE) -> Hashes:
        """*count* hashes, always the same ones, spread like those of distinct keys; of this ring's width."""
        return stream(0, count) >> np.uint64(64 - self._bits)

    def arcs(self, replicas: int) -> Arcs:
        """The ranges of hashes with the nodes that hold them.

        Raises:
            NotSupported: the algorithm has no ranges.
        """
        self._require_replicas(replicas)
        raise NotSupported(
            algorithm=self.algorithm,
            what="give ranges of hashes",
            instead="pass keys= to plan over your keys, or use HashRing",
        )

    def plan(
        self,
        after: "Locator",
        *,
        replicas: int = 1,
        keys: Iterable[Key] | None = None,
        sizes_bytes: Iterable[int] | None = None,
        moves_per_node: int = 1,
        lost: Iterable[str] = (),
    ) -> Plan:
        """What must move from this ring to *after*, as waves that can be carried out; see `moves.Plan`.

        Args:
            after: the ring to come, with the same hash.
            replicas: copies of each key, before and after.
            keys: your keys. With ranges they only fill in counts and bytes; without, they are what is
            planned.
            sizes_bytes: size of each key's value, in the order of *keys*.
            moves_per_node: how many moves of one wave may touch the same node, in any role; at least 1.
            lost: nodes of this ring that can be read no more. What one holds that is in *after* as well stays
                there by this plan: a node that comes back empty has to leave first.

        Raises:
            NotSupported: the algorithm has no ranges and *keys* is None, or no replicas.
            BadSetting: the two rings hash differently; sizes and keys differ in number; replicas or moves_per_node
                are no whole number from 1.
            UnknownNode: a lost node that this ring does not have.
        """
        return plan_between(
            self,
            after,
            replicas=replicas,
            keys=keys,
            sizes_bytes=sizes_bytes,
            moves_per_node=moves_per_node,
            lost=lost,
        )

    # --- shared inside --------------------------------------------------------------------------------------

    def _preference(self, hashed: int, replicas: int) -> list[str]:
        """The first *replicas* nodes of the walk; *replicas* has been checked."""
        walk = self.walk_hash(hashed)
        return [next(walk) for _ in range(replicas)]

    def walk_hash(self, hashed: int) -> Iterator[str]:
        """`walk` for a key with this hash."""
        # Re-hash until a new node turns up, and list whoever never did at the end.
        if not self._weights:
            raise NoNodes
        seen: set[str] = set()
        draw = hashed
        for _ in range(4 * len(self._weights)):
            node = self.node_of_hash(draw)
            if node not in seen:
                seen.add(node)
                yield node
            draw = mix((draw + GOLDEN) & MASK) >> (64 - self._bits)
        yield from (node for node in self.members if node not in seen)

    def _require_weights(self) -> None:
        if not self.can.weights:
            raise NotSupported(algorithm=self.algorithm, what="weigh nodes", instead=self._instead)

    def _require_replicas(self, replicas: int) -> None:
        if whole("replicas", replicas, 1) > 1 and not self.can.replicas:
            raise NotSupported(
                algorithm=self.algorithm,
                what="give preference lists that a change of membership leaves alone",
                instead=f"{self._instead}; walk() gives an order for fail-over",
            )
        if not self._weights:
            raise NoNodes
        if replicas > len(self._weights):
            raise TooFewNodes(replicas=replicas, nodes=len(self._weights))

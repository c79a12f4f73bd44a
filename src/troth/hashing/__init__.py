"""Consistent hashing: which node holds this key, which replicas, what moves when membership changes.

Pure and self-contained: needs no cluster, imports numpy, xxhash and msgspec and nothing else of troth but its
errors.

=============================  ===============================================================
`HashRing`                     the default: weights, replicas, ranges, exact minimal movement
`KetamaRing`                   the same keys on the same nodes as libketama
`Rendezvous`                   exact shares for any weights; O(n)
`SkeletonRendezvous`           the same for many nodes
`Jump`, `Memento`, `Anchor`    plain nodes of one size, perfect balance, hardly any memory
`MultiProbe`                   one point a node, even without virtual nodes
`Maglev`                       a table look-up; movement not minimal
`BoundedLoad`                  a cap on every node's load, over any of them
`Placement`                    replicas in distinct zones, with a proof
`Plan`                         what moves, in waves; apply, pause, resume, undo
`troth.hashing.compat`         where Redis Cluster, Cassandra, Kafka and Vitess put a key
=============================  ===============================================================
"""

from troth.hashing.anchor import Anchor
from troth.hashing.balance import Balance, Movement, balance, balance_of_keys, movement
from troth.hashing.bounded import BoundedLoad
from troth.hashing.capabilities import Capabilities
from troth.hashing.digest import Agreement, Digest
from troth.hashing.draw import ring_html, ring_svg
from troth.hashing.errors import (
    BadKey,
    BadSetting,
    CapacityExceeded,
    DuplicateNode,
    NoNodes,
    NotSupported,
    TooFewNodes,
    UnknownNode,
)
from troth.hashing.interface import Locator
from troth.hashing.judge import Judgement, Needs, judge
from troth.hashing.jump import Jump
from troth.hashing.ketama import KetamaRing
from troth.hashing.keys import Key, hash_batch, hash_one, ketama_hash
from troth.hashing.maglev import Maglev
from troth.hashing.memento import Memento
from troth.hashing.moves import Move, Mover, Plan, Progress
from troth.hashing.multiprobe import MultiProbe
from troth.hashing.placement import Domain, Placed, Placement, PlacementProof, Topology
from troth.hashing.rendezvous import Rendezvous
from troth.hashing.ring import HashRing
from troth.hashing.skeleton import SkeletonRendezvous
from troth.hashing.spec import ALGORITHMS, RingSpec, build, describe
from troth.hashing.throttle import Throttle

__all__ = [
    "ALGORITHMS",
    "Agreement",
    "Anchor",
    "BadKey",
    "BadSetting",
    "Balance",
    "BoundedLoad",
    "Capabilities",
    "CapacityExceeded",
    "Digest",
    "Domain",
    "DuplicateNode",
    "HashRing",
    "Judgement",
    "Jump",
    "KetamaRing",
    "Key",
    "Locator",
    "Maglev",
    "Memento",
    "Move",
    "Movement",
    "Mover",
    "MultiProbe",
    "Needs",
    "NoNodes",
    "NotSupported",
    "Placed",
    "Placement",
    "PlacementProof",
    "Plan",
    "Progress",
    "Rendezvous",
    "RingSpec",
    "SkeletonRendezvous",
    "Throttle",
    "TooFewNodes",
    "Topology",
    "UnknownNode",
    "balance",
    "balance_of_keys",
    "build",
    "describe",
    "hash_batch",
    "hash_one",
    "judge",
    "ketama_hash",
    "movement",
    "ring_html",
    "ring_svg",
]

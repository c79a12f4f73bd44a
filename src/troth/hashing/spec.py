"""A ring as JSON: `describe` writes what `build` needs to make an equal one in another process.

::

    {"format": 1, "algorithm": "ring", "nodes": [["a", 1.0], ["b", 2.0]], "epoch": 3,
     "settings": {"vnodes": 160}, "levels": ["zone"], "paths": {"a": ["z1"], "b": ["z2"]}, "replicas": 2}

Only `algorithm` and `nodes` must be there. For algorithms whose placement depends on history (Anchor,
Memento, the skeleton) the settings hold what is needed of it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, get_type_hints

import msgspec

from troth.errors import DecodeError
from troth.hashing.anchor import Anchor
from troth.hashing.capabilities import Setting
from troth.hashing.errors import BadSetting
from troth.hashing.interface import Locator
from troth.hashing.jump import Jump
from troth.hashing.ketama import KetamaRing
from troth.hashing.maglev import Maglev
from troth.hashing.memento import Memento
from troth.hashing.multiprobe import MultiProbe
from troth.hashing.placement import Placement, Topology
from troth.hashing.rendezvous import Rendezvous
from troth.hashing.ring import HashRing
from troth.hashing.skeleton import SkeletonRendezvous

FORMAT = 1

ALGORITHMS: Mapping[str, type[Locator]] = MappingProxyType(
    {
        kind.algorithm: kind
        for kind in (
            HashRing,
            KetamaRing,
            Rendezvous,
            SkeletonRendezvous,
            Jump,
            Maglev,
            MultiProbe,
            Anchor,
            Memento,
        )
    }
)
"""Every algorithm by the name that is written into files."""


class RingSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ring, and optionally the domains of its nodes and the number of replicas."""

    format: int = FORMAT
    algorithm: str
    nodes: tuple[tuple[str, float], ...]
    settings: dict[str, Setting] = msgspec.field(default_factory=dict)
    epoch: Annotated[int, msgspec.Meta(ge=0)] = 0
    levels: tuple[str, ...] = ()
    paths: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    replicas: Annotated[int, msgspec.Meta(ge=1)] = 1

    def to_json(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> "RingSpec":
        """Read what `to_json` wrote.

        Raises:
            DecodeError: not a ring, or of another version.
        """
        try:
            spec = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(f"not a ring: {error}") from None
        if spec.format != FORMAT:
            raise DecodeError(f"ring format {spec.format}; this version reads {FORMAT}")
        return spec


def describe(ring: Locator, topology: Topology | None = None, replicas: int = 1) -> RingSpec:
    """*ring* as a value that can be written down."""
    paths = topology.paths() if topology else {}
    return RingSpec(
        algorithm=ring.algorithm,
        nodes=tuple(ring.weights.items()),
        settings=ring.settings(),
        epoch=ring.epoch,
        levels=topology.levels if topology else (),
        paths={node: path for node, path in paths.items() if node in ring},
        replicas=replicas,
    )


def build(spec: RingSpec) -> Locator:
    """The ring that *spec* describes; its digest equals that of the ring described.

    Raises:
        BadSetting: an unknown algorithm or setting; else what the algorithm's constructor raises.
    """
    kind = ALGORITHMS.get(spec.algorithm)
    if kind is None:
        raise BadSetting(f"unknown algorithm {spec.algorithm!r}; one of {', '.join(sorted(ALGORITHMS))}")
    nodes = dict(spec.nodes)
    if len(nodes) != len(spec.nodes):
        raise BadSetting("a node is listed twice")
    settings = {name: _checked(kind, name, value) for name, value in spec.settings.items()}
    return kind(nodes, epoch=spec.epoch, **settings)  # type: ignore[arg-type]


def _checked(kind: type[Locator], name: str, value: Setting) -> object:
    """*value* if the constructor of *kind* has an argument *name* of its type."""
    wanted = get_type_hints(kind.__init__)
    if name not in wanted or name in ("nodes", "epoch", "return"):
        raise BadSetting(f"{kind.algorithm} has no setting {name!r}")
    try:
        return msgspec.convert(value, wanted[name])
    except msgspec.ValidationError as error:
        raise BadSetting(f"{name} of {kind.algorithm}: {error}") from None


def build_placement(spec: RingSpec, ring: Locator) -> Placement | None:
    """The placement over *ring* that *spec* describes; None if it names no levels.

    Raises:
        BadSetting, TooFewNodes, UnknownNode: as `Topology` and `Placement`.
    """
    if not spec.levels:
        return None
    return Placement(ring, Topology(spec.paths, levels=spec.levels), replicas=spec.replicas)

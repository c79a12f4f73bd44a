"""Which ring `troth ring` is about: a file, or nodes as people write them; and the keys it is asked about."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from troth.cli.ring_files import read_bytes, read_decoded
from troth.errors import UsageError
from troth.hashing import ALGORITHMS, Locator, RingSpec, Topology, build, describe
from troth.hashing.nodes import parse_nodes

SHOWN = 40
"""Lines of a table of nodes, at most."""

_LEVELS = {1: ("zone",), 2: ("region", "zone"), 3: ("region", "zone", "rack")}


@dataclass
class Session:
    """What the options of the group say, read when a command asks for it."""

    ring_file: Path | None
    nodes: str | None
    algorithm: str
    vnodes: int | None
    keys_file: Path | None
    keys_read: list[bytes] = field(default_factory=list)

    def spec(self) -> RingSpec:
        """The ring as a value.

        Raises:
            UsageError: neither a file nor nodes were named, or the file is not there.
        """
        if self.ring_file is not None:
            return read_decoded(self.ring_file, RingSpec.from_json)
        if self.nodes is None:
            raise UsageError("which ring? name its file with --ring or its nodes with --nodes")
        weights, paths = parse_node_list(self.nodes)
        kind = ALGORITHMS[self.algorithm]
        ring = kind(weights) if self.vnodes is None else build(_with_vnodes(kind(weights), self.vnodes))
        if not paths:
            return describe(ring)
        depth = len(next(iter(paths.values())))
        if depth not in _LEVELS:
            raise UsageError(f"a node's path has one to three levels, not {depth}")
        return describe(ring, Topology(paths, levels=_LEVELS[depth]))

    def keys(self) -> list[bytes]:
        """The lines of --keys; empty if it was not given."""
        if self.keys_file is not None and not self.keys_read:
            self.keys_read = [line for line in read_bytes(self.keys_file).splitlines() if line]
            if not self.keys_read:
                raise UsageError(f"{self.keys_file} has no keys; it needs one on each line")
        return self.keys_read


def _with_vnodes(ring: Locator, vnodes: int) -> RingSpec:
    spec = describe(ring)
    return msgspec.structs.replace(spec, settings={**spec.settings, "vnodes": vnodes})


def parse_node_list(text: str) -> tuple[dict[str, float], dict[str, tuple[str, ...]]]:
    """``a,b=2,c=1@eu/eu-1`` as weights and paths.

    Raises:
        UsageError: a weight that is no number, a name twice, or only some nodes with a path.
    """
    names: list[str] = []
    weights: dict[str, float] = {}
    paths: dict[str, tuple[str, ...]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        head, at, path = item.partition("@")
        name, equals, weight = head.partition("=")
        names.append(name)
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise UsageError(f"{item!r}: the weight is no number") from None
        if at:
            paths[name] = tuple(path.split("/"))
            if not all(paths[name]):
                raise UsageError(f"{item!r}: a zone has no name")
    parse_nodes(names)  # refuses a name that is there twice
    if paths and len(paths) != len(weights):
        missing = next(name for name in weights if name not in paths)
        raise UsageError(f"{missing!r} has no zone, but other nodes have; write {missing}@ZONE")
    return weights, paths


def path_of(spec: RingSpec, name: str) -> str:
    """The zone, or whole path, of a node; empty without one."""
    return "/".join(spec.paths.get(name, ()))

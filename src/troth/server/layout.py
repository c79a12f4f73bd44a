"""What cluster there is in a directory of `LocalCluster`: the names and addresses of its servers, in ``cluster.json``,
and what each begins with.

A server that comes or goes is in two places, here and in the membership that the cluster agrees about, and this process
may die in between. So the intention is written first (*changing*), and carried through by the next start. The same with
the first start of all: each server's identity names the node ids of all, and the first may have its own on the disk
when the others have none yet (*founding*).
"""

import contextlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from troth.errors import AddressTaken, StorageError, UsageError
from troth.ids import NodeId
from troth.runtime.files import DiskFiles
from troth.runtime.genesis import Founding, Introduction, genesis_of
from troth.server.config import ServerConfig
from troth.storage import identity as identities

LAYOUT = "cluster.json"

JOINING = "joining"
LEAVING = "leaving"


@dataclass(slots=True)
class Layout:
    """`addresses`: client and peer address by name. `changing`: which of the names are on their way in or out.

    `founding`: node ids by name, until all servers have come up for the first time. Not longer: the directory of one
    that is lost later must not come back under its old identity.
    """

    addresses: dict[str, dict[str, str]] = field(default_factory=dict)
    changing: dict[str, str] = field(default_factory=dict)
    founding: dict[str, int] = field(default_factory=dict)

    def those(self, change: str) -> list[str]:
        """The servers that are *change*."""
        return [name for name, changing in self.changing.items() if changing == change]

    @property
    def settled(self) -> list[str]:
        """The servers that are members for sure, or were on their way out."""
        return [name for name in self.addresses if self.changing.get(name) != JOINING]

    def has_address_in(self, error: AddressTaken) -> bool:
        """Whether it is one of these addresses that is taken, and not one of the settings of all servers."""
        own = {address for each in self.addresses.values() for address in each.values()}
        return not own.isdisjoint(str(error).split())

    def forget(self, name: str) -> None:
        """There is no server called *name* any more."""
        self.addresses.pop(name, None)
        self.changing.pop(name, None)


@contextlib.contextmanager
def naming(name: str, directory: Path) -> Iterator[None]:
    """Say that it is the server called *name* whose address is taken, and where that stands."""
    try:
        yield
    except AddressTaken as error:
        told, _, _ = str(error).partition(";")
        raise AddressTaken(
            f"server {name}: {told}; stop what listens there: the addresses of this cluster stand in "
            f"{directory / LAYOUT}"
        ) from None


def read(directory: Path, transport: str) -> Layout:
    """The cluster that was here before; without servers when there was none.

    Raises:
        UsageError: the file is not what was written, or the cluster was made with another *transport*.
    """
    path = directory / LAYOUT
    if not path.exists():
        return Layout()
    try:
        found = json.loads(path.read_text())
        addresses = {
            str(name): {str(k): str(v) for k, v in each.items()} for name, each in found["servers"].items()
        }
        changing = {str(name): str(change) for name, change in found.get("changing", {}).items()}
        founding = {str(name): int(node_id) for name, node_id in found.get("founding", {}).items()}
        made_with = str(found["transport"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{path} is not what LocalCluster wrote ({error}); restore it, or use another data_dir"
        ) from None
    if made_with != transport:
        raise UsageError(f'the cluster in {directory} was made with transport="{made_with}"; give that one')
    return Layout(addresses, changing, founding)


def write(layout: Layout, directory: Path, transport: str) -> None:
    """Keep *layout* durably."""
    from troth.client.backup import finish_file

    path = directory / LAYOUT
    new = path.with_suffix(".new")
    written = {
        "transport": transport,
        "servers": layout.addresses,
        "changing": layout.changing,
        "founding": layout.founding,
    }
    with new.open("wb") as file:
        file.write(json.dumps(written, indent=1).encode() + b"\n")
        finish_file(file, new, path)


def draw_node_id() -> NodeId:
    """The id of a server, which nobody has had."""
    return NodeId(random.SystemRandom().getrandbits(63) | 1)


def foundings(layout: Layout, servers: Iterable[ServerConfig]) -> dict[str, Founding]:
    """What each of *servers* begins with. Where one has run already, nothing is formed anew; else *layout* gets the ids
    that were drawn, to be written before a server starts.

    Raises:
        StorageError: the data directory of one is damaged, or another engine's.
    """
    configs = list(servers)
    known = {config.name: _identity(config) for config in configs}
    old = [each.genesis for each in known.values() if each is not None and each.genesis.voters]
    ids = {
        name: each.node_id if each else NodeId(layout.founding.get(name) or draw_node_id())
        for name, each in known.items()
    }
    # A directory that was wiped gets a fresh id, which is not in the genesis of the others: its server refuses.
    genesis = old[0] if old else genesis_of([_introduction(config, ids[config.name]) for config in configs])
    if not old:
        layout.founding = {name: int(node_id) for name, node_id in ids.items()}
    return {name: Founding(node_id=ids[name], genesis=genesis) for name in ids}


def _identity(config: ServerConfig) -> identities.Identity | None:
    """Who the server of *config* has been; None when it has never run."""
    directory = Path(config.data_dir)
    if not directory.exists():
        return None
    try:
        files = DiskFiles(directory)
        try:
            known = identities.load(files)
        finally:
            files.close()
        if known is not None:
            identities.check_consensus(known, config.consensus_identity)
    except StorageError as error:
        error.args = (f"server {config.name}, in {directory}: {error}",)
        raise
    return known


def _introduction(config: ServerConfig, node_id: NodeId) -> Introduction:
    return Introduction(
        node_id=node_id,
        name=config.name,
        peer_address=config.peer_address,
        client_address=config.client_address,
    )

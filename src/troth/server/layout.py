"""What cluster there is in a directory of `LocalCluster`: the names and addresses of its servers, in ``cluster.json``.

A server that comes or goes is in two places, here and in the membership that the cluster agrees about, and this process
may die in between. So the intention is written first (*changing*), and carried through by the next start. The same with
the first start of all: each server's identity names the node ids of all, and the first may have its own on the disk
when the others have none yet (*founding*).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from troth.errors import UsageError
from troth.runtime.files import DiskFiles
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

    def forget(self, name: str) -> None:
        """There is no server called *name* any more."""
        self.addresses.pop(name, None)
        self.changing.pop(name, None)


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


def identity_in(directory: Path) -> identities.Identity | None:
    """Who the server of that *directory* is; None if it has never run."""
    if not directory.exists():
        return None
    files = DiskFiles(directory)
    try:
        return identities.load(files)
    finally:
        files.close()

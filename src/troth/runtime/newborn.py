"""The node id of a server that does not belong to a cluster yet: drawn once, kept until its identity is written."""

from troth.errors import Corrupt, StorageError
from troth.ids import NodeId
from troth.ports import FileSystem, Rng

NEWBORN = "newborn"
"""File with the node id of a server that has no identity yet (hexadecimal, one line)."""

_CHARACTERS = 17
"""Of that line, with its end."""


def draw_node_id(files: FileSystem, chance: Rng) -> NodeId:
    """The node id of a server without an identity: drawn once, and durable before anybody hears it.

    The others may have settled on it when we crash before our identity is written.

    Raises:
        Corrupt: the file is damaged.
        StorageError: the disk can not be written.
    """
    try:
        node_id = NodeId(chance.getrandbits(63) | 1)
        if NEWBORN in files.names():
            file = files.open(NEWBORN)
            text = file.read_at(0, 64).decode("ascii", "replace")
            file.close()
            # A file without its line's end was torn before it was synced, so its id was never told.
            if text.endswith("\n") and len(text) == _CHARACTERS:
                node_id = _node_id_in(text)
        # Written anew even so: if the sync of the last start failed, what was read is in the page cache alone.
        file = files.create(NEWBORN)
        file.write_at(0, f"{node_id:016x}\n".encode("ascii"))
        file.sync()
        file.close()
        files.sync_directory()
    except OSError as error:
        raise StorageError(f"{NEWBORN}: {error}. Make room in the data directory, or repair the disk") from error
    return node_id


def _node_id_in(text: str) -> NodeId:
    try:
        return NodeId(int(text, 16))
    except ValueError:
        raise Corrupt(
            f"{NEWBORN} is damaged: it holds {text!r}, which is no node id. The others may know this server by the id "
            "that stood there: remove it from the cluster and add it again with an empty data directory",
            path=NEWBORN,
        ) from None


def remove_newborn(files: FileSystem) -> None:
    """The identity is written: it is what counts from now on."""
    if NEWBORN in files.names():
        files.remove(NEWBORN)

"""A new cluster out of a saved snapshot: the data directory of its first server.

The state is the old cluster's, everything else is new: node id, cluster id, log. So neither servers nor clients of
the old cluster can be mixed up with it. More servers join it as they would join any cluster.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from troth.core.interface import EntryId, HardState, Persist, SnapshotMeta
from troth.errors import Corrupt, UsageError
from troth.ids import ClusterId, LogIndex, Term
from troth.kv.store import Store
from troth.replica.machine import StateMachine
from troth.runtime.files import DiskFiles
from troth.runtime.genesis import Introduction, cluster_id_of, draw_node_id, genesis_of, remove_newborn
from troth.server.config import ServerConfig
from troth.storage import backup
from troth.storage.directory import open_directory
from troth.storage.identity import Identity

FIRST = EntryId(Term(1), LogIndex(1))
"""The restored state stands where the new cluster's first entry would."""

_READ_BYTES = 1 << 20


class Restored(NamedTuple):
    cluster_id: ClusterId
    revision: int


def restore(snapshot: Path, config: ServerConfig) -> Restored:
    """Make ``config.data_dir`` the directory of the first server of a new cluster with the state in *snapshot*.

    The snapshot is read and checked as a whole before anything is written.

    Raises:
        UsageError: the directory is not empty, or the snapshot cannot be read.
        Corrupt: the snapshot is damaged.
        StorageError: the disk failed.
    """
    directory = Path(config.data_dir)
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty: restore into a new directory")
    machine = _loaded(snapshot, config)
    files = DiskFiles(directory)
    try:
        node_id = draw_node_id(files, random.SystemRandom())
        genesis = genesis_of(
            [
                Introduction(
                    node_id=node_id,
                    name=config.name,
                    peer_address=config.peer_address,
                    client_address=config.client_address,
                )
            ]
        )
        cluster_id = cluster_id_of(genesis, config.engine)
        identity = Identity(cluster_id, node_id, config.name, genesis, config.engine)
        opened = open_directory(files, identity)
        try:
            meta = SnapshotMeta(FIRST, genesis)
            opened.snapshots.write(meta, _pieces(snapshot))
            opened.log.append([Persist(hard_state=HardState(term=FIRST.term), snapshot=meta)])
            opened.log.sync()
        finally:
            opened.close()
        remove_newborn(files)
    finally:
        files.close()
    return Restored(identity.cluster_id, machine.store.revision)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from backup.opened(iter(lambda: file.read(_READ_BYTES), b""), path=str(path))


def _loaded(path: Path, config: ServerConfig) -> StateMachine:
    """The state in *path*, all of it read and checked."""
    machine = StateMachine(lambda: Store(quota_bytes=config.quota_bytes))
    pieces = _pieces(path)
    try:
        machine.load(pieces)
        for _ in pieces:  # the seal is checked at the end, and the store has stopped reading at its own
            raise Corrupt(f"{path} holds more than a state", path=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return machine

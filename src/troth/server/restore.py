"""A new cluster out of a saved snapshot: the data directory of its first server.

The state is the old cluster's, everything else is new: node id, cluster id, log. So neither servers nor clients of
the old cluster can be mixed up with it. More servers join it as they would join any cluster.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from troth.core.interface import EntryId, HardState, Persist, SnapshotMeta
from troth.errors import Corrupt, StorageError, UsageError
from troth.ids import ClusterId, LogIndex, Term
from troth.kv.store import Store
from troth.replica.machine import StateMachine
from troth.runtime.files import DiskFiles, sync_directory
from troth.runtime.genesis import Introduction, cluster_id_of, genesis_of
from troth.runtime.newborn import draw_node_id, remove_newborn
from troth.server.config import ServerConfig
from troth.storage import backup
from troth.storage.directory import open_directory
from troth.storage.identity import Identity

FIRST = EntryId(Term(1), LogIndex(1))
"""The restored state stands where the new cluster's first entry would."""

UNFINISHED = ".restoring"
"""Behind the name of a directory that is not whole yet."""

_READ_BYTES = 1 << 20


class Restored(NamedTuple):
    cluster_id: ClusterId
    revision: int


def restore(snapshot: Path, config: ServerConfig, *, bump_revision: int = 0) -> Restored:
    """Make ``config.data_dir`` the directory of the first server of a new cluster with the state in *snapshot*.

    The old cluster went on after the snapshot was saved, and what it told of its revisions is still out there: fencing
    tokens, revisions to watch from. So that none of them is given out a second time the new cluster can begin
    *bump_revision* later, with all that lies before compacted; who watches from an old one is told so.

    The snapshot is read and checked as a whole before anything is written. The directory is made under another name,
    beside its place, and gets its own once it is whole and on the disk: half of one would serve as an empty cluster.

    Raises:
        UsageError: the directory is not empty, or no place for one; or the snapshot cannot be read.
        Corrupt: the snapshot is damaged.
        StorageError: the disk failed.
    """
    directory = Path(config.data_dir).resolve()
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: restore into a new directory")
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty: restore into a new directory")
    if directory.is_mount():
        raise UsageError(f"{directory} is where a disk is mounted: restore into a new directory within it")
    machine = _loaded(snapshot, config)
    if bump_revision:
        machine.store.bump_revision(bump_revision)
    unfinished = directory.with_name(directory.name + UNFINISHED)
    files = DiskFiles(unfinished)
    try:
        for name in files.names():
            files.remove(name)  # of an attempt that was killed
        cluster_id = _write(machine, config, files)
        files.sync_directory()
        _give_name(unfinished, directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finally:
        files.close()
    return Restored(cluster_id, machine.store.revision)


def _write(machine: StateMachine, config: ServerConfig, files: DiskFiles) -> ClusterId:
    """Fill *files*, which are empty."""
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
    cluster_id = cluster_id_of(genesis, config.consensus_identity)
    identity = Identity(cluster_id, node_id, config.name, genesis, config.consensus_identity)
    opened = open_directory(files, identity)
    try:
        meta = SnapshotMeta(FIRST, genesis)
        opened.snapshots.write(meta, machine.dump())
        opened.log.append([Persist(hard_state=HardState(term=FIRST.term), snapshot=meta)])
        opened.log.sync()
    finally:
        opened.close()
    remove_newborn(files)
    return cluster_id


def _give_name(unfinished: Path, directory: Path) -> None:
    try:
        unfinished.rename(directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise StorageError(f"{directory}: {error}. Restore into another directory") from error


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

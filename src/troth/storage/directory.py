"""Everything a server keeps, opened in the one order that is right.

Snapshots first, since the log may lean on the newest; then the log; the identity last. The identity's file appears
only when the log exists, so from then on a log that is missing is a log that was lost.
"""

from dataclasses import dataclass

from troth.errors import IdentityLost
from troth.ports import FileSystem
from troth.storage import identity
from troth.storage.identity import Identity
from troth.storage.log import SEGMENT_BYTES, WriteAheadLog
from troth.storage.opening import Recovered
from troth.storage.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """An open data directory. `is_new`: this server has never run before."""

    identity: Identity
    is_new: bool
    log: WriteAheadLog
    recovered: Recovered
    snapshots: SnapshotStore

    @property
    def begins_cluster(self) -> bool:
        """Whether this server is one of the first and has never run. A log with nothing in it does not tell: who heard
        a leader may have confirmed its lease, and gone down before it wrote a word."""
        return self.is_new and bool(self.identity.genesis.voters)

    def close(self) -> None:
        """Make everything durable and release the files."""
        self.snapshots.close()
        self.log.close()


def open_directory(
    files: FileSystem, newborn: Identity, *, segment_bytes: int = SEGMENT_BYTES, salvage: bool = False
) -> DataDirectory:
    """Open what *files* hold; an empty directory becomes the home of *newborn*.

    Args:
        newborn: who this server is if it has never run; its node id was drawn for this call.
        salvage: see `WriteAheadLog.open`.

    Raises:
        WrongEngine: the directory was made with another consensus engine than *newborn*'s.
        IdentityLost: there is data without an identity, or an identity without a log.
        StorageError, Corrupt: as `identity.load`, `SnapshotStore.open` and `WriteAheadLog.open` say.
    """
    known = identity.load(files)
    who = known or newborn
    identity.check_consensus(who, newborn.consensus)
    snapshots = SnapshotStore.open(files)
    if known is None and (snapshots.newest() is not None or snapshots.damaged):
        raise identity.lost("snapshots (snapshot-*.snap)")
    try:
        log, recovered = WriteAheadLog.open(
            files,
            segment_bytes=segment_bytes,
            snapshot=snapshots.newest(),
            owner=who.node_id,
            must_exist=known is not None,
            salvage=salvage,
            holds_slots=who.holds_slots,
        )
    except IdentityLost as error:
        if known is None:
            raise identity.lost("a log (wal-*.log)") from error
        raise
    if known is None:
        if not recovered.is_empty:
            log.close()
            raise identity.lost("a log (wal-*.log)")
        identity.store(files, who)
    return DataDirectory(identity=who, is_new=known is None, log=log, recovered=recovered, snapshots=snapshots)

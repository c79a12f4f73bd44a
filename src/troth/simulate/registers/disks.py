"""Two disks for simulated acceptors: a list of records, which is fast, and the real storage on a disk that tears."""

import random
from typing import Protocol

from typing_extensions import override

from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import RecordMessage
from troth.ids import NodeId
from troth.simulate.disk import SimulatedDisk
from troth.storage.acceptors import AcceptorStore, open_acceptor

SEGMENT_BYTES = 1 << 14
"""Small, so that segments end and are dropped within one short run."""


class AcceptorDisk(Protocol):
    """What keeps an acceptor's records."""

    def append(self, record: RecordMessage) -> None:
        """Write one record; it is not durable yet."""

    def sync(self) -> None:
        """All that was written is durable."""

    def lose(self) -> None:
        """The power fails: what was not synced may be there or not."""

    def recover(self) -> Acceptor:
        """The acceptor that wakes up on what is left."""

    def compact(self, acceptor: Acceptor) -> None:
        """Replace the records by a snapshot of *acceptor*. Everything is synced."""


class RecordDisk(AcceptorDisk):
    """Records in memory; after a power failure a prefix of what was not synced survives."""

    def __init__(self, owner: NodeId, rng: random.Random, keep_unsynced: int) -> None:
        self._synced = 0
        self._owner = owner
        self._rng = rng
        self._keep_unsynced = keep_unsynced
        self._records: list[RecordMessage] = []

    @override
    def append(self, record: RecordMessage) -> None:
        self._records.append(record)

    @override
    def sync(self) -> None:
        self._synced = len(self._records)

    @override
    def lose(self) -> None:
        while len(self._records) > self._synced and self._rng.random() * 1000 >= self._keep_unsynced:
            self._records.pop()
        self.sync()

    @override
    def recover(self) -> Acceptor:
        acceptor = Acceptor(self._owner)
        for record in self._records:
            acceptor.apply(record)
        return acceptor

    @override
    def compact(self, acceptor: Acceptor) -> None:
        self._records = list(acceptor.snapshot())
        self.sync()


class FileDisk(AcceptorDisk):
    """The log, snapshots and identity of a real acceptor (storage/acceptors.py) on a simulated disk."""

    def __init__(self, owner: NodeId, rng: random.Random) -> None:
        self._owner = owner
        self._files = SimulatedDisk(rng)
        self._store: AcceptorStore
        self.recover()

    @override
    def append(self, record: RecordMessage) -> None:
        self._store.append([self._store.persist([record])])

    @override
    def sync(self) -> None:
        self._store.sync()

    @override
    def lose(self) -> None:
        self._files.power_loss()

    @override
    def recover(self) -> Acceptor:
        self._store, acceptor = open_acceptor(
            self._files, self._owner, bytes_max=1 << 30, segment_bytes=SEGMENT_BYTES
        )
        return acceptor

    @override
    def compact(self, acceptor: Acceptor) -> None:
        self._store.save(self._store.index, list(acceptor.snapshot()))
        self._store.drop_before(self._store.index)

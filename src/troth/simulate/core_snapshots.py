"""Snapshots of a bare core: taken of its digest, and carried to servers whose next entry is compacted away."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from troth.core.interface import EntryId, SnapshotMeta
from troth.ids import LogIndex, NodeId, Term

if TYPE_CHECKING:
    from troth.simulate.core_node import CoreNode

PATIENCE_TICKS = 100
"""A snapshot that has not been acknowledged for so long is given up."""


@dataclass(frozen=True, slots=True)
class SnapshotTransfer:
    """A whole snapshot on its way; the layer above the engine moves it."""

    term: Term
    meta: SnapshotMeta
    digest: int


@dataclass(frozen=True, slots=True)
class SnapshotStored:
    """The answer: it is durable here."""

    last: EntryId


class Snapshots:
    """What one node does about snapshots."""

    def __init__(self, node: "CoreNode") -> None:
        self.wanted = False
        """Set by the plan's compactions: take one at the next chance."""
        self.on_early: Callable[[CoreNode], None] | None = None
        """Called when one is durable whose term is not (`rarely.EarlySnapshot`); forgotten when the process ends."""
        self._node = node

    def begin(self) -> None:
        """The process starts."""
        self.received: dict[EntryId, int] = {}
        """Digests of snapshots that came from others, by their last entry."""
        self._saving = False
        self._streaming: dict[NodeId, int] = {}
        self._streams = 0
        self.on_early = None

    # ---- its own ----

    def maybe_save(self) -> None:
        """Take one if that is wanted, and none is being written."""
        if not self.wanted or self._saving:
            return
        self.wanted = False
        node = self._node
        if node.applied.index <= node.journal.file.last.index:
            return
        self._saving = True
        meta = node.engine.snapshot_meta(node.applied.index)
        node.world.after(node.disk_us(), self._saved, node.life, meta, node.digest)

    def maybe_come_early(self) -> None:
        """If that is wanted, one of what was applied last is durable at once: its last entry was proposed in an earlier
        term than that in which it was agreed upon, and that is not durable here."""
        node = self._node
        on_early, term = self.on_early, node.view.term
        if on_early is not None and max(node.applied.term, node.journal.durable.begins_with.term) < term:
            node.journal.snapshot_saved(node.engine.snapshot_meta(node.applied.index), node.digest)
            on_early(node)

    def _saved(self, life: int, meta: SnapshotMeta, digest: int) -> None:
        node = self._node
        if life != node.life:
            return
        self._saving = False
        node.journal.snapshot_saved(meta, digest)
        keep_from = max(1, meta.last.index + 1 - node.plan.keep_behind)
        node.engine.compact(meta, LogIndex(keep_from))
        node.journal.trim(meta, digest)
        node.monitor.on_input(node)

    # ---- to others ----

    def stream(self, peer: NodeId) -> None:
        """Send the newest one to *peer*."""
        node = self._node
        self._streams += 1
        self._streaming[peer] = self._streams
        message = SnapshotTransfer(node.engine.leader()[0], node.journal.file, node.journal.file_digest)
        node.network.send(node.node_id, peer, message, extra_us=node.rng.randrange(0, 100_000))
        patience_us = node.clock.world_us(PATIENCE_TICKS)
        node.world.after(patience_us, self._overdue, node.life, peer, self._streams, message.meta)

    def _overdue(self, life: int, peer: NodeId, number: int, meta: SnapshotMeta) -> None:
        if life == self._node.life and self._streaming.get(peer) == number:
            del self._streaming[peer]
            self._node.engine.snapshot_sent(peer, meta, False)
            self._node.after_input()

    def on_stored(self, peer: NodeId, last: EntryId) -> None:
        """*peer* has made one durable."""
        if self._streaming.pop(peer, None) is not None:
            self._node.engine.snapshot_sent(peer, SnapshotMeta(last, self._node.view.membership), True)
            self._node.after_input()

    # ---- from others ----

    def on_transfer(self, sender: NodeId, message: SnapshotTransfer) -> None:
        """One has arrived; it is durable after a while."""
        node = self._node
        node.world.after(node.disk_us(), self._store, node.life, sender, message)

    def _store(self, life: int, sender: NodeId, message: SnapshotTransfer) -> None:
        node = self._node
        if life != node.life:
            return
        if node.paused:
            node.world.after(1_000, self._store, life, sender, message)
            return
        node.journal.snapshot_saved(message.meta, message.digest)
        self.received[message.meta.last] = message.digest
        if self.on_early is not None and message.meta.last.term < message.term:
            self.on_early(node)
        node.engine.snapshot_received(sender, message.term, message.meta, node.clock.ticks())
        node.after_input()
        node.network.send(node.node_id, sender, SnapshotStored(message.meta.last))

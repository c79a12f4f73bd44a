"""What a replica asks its driver to do; values only (see core/interface.py for the order they must keep)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from troth.core.interface import EntryId, Membership, Message, Persist, SnapshotMeta, Trace
from troth.ids import LogIndex, NodeId, Term
from troth.replica.pieces import LongAnswer
from troth.replica.protocol import ServerMessage

ClientId: TypeAlias = int
"""One client connection; never used twice in a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSnapshot:
    """Write the state that *chunks* yields as snapshot `meta`, a few chunks per turn (the state lives on meanwhile),
    then call `Replica.snapshot_saved(meta, ok=ok)`. One at a time."""

    meta: SnapshotMeta
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadChunk:
    """Read up to *size* bytes at *offset* of the stored snapshot `meta`, then call `Replica.chunk_read`, or
    `chunk_missing` if it is not stored any more."""

    peer: NodeId
    meta: SnapshotMeta
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChunk:
    """Write bytes of an incoming snapshot, then call `Replica.chunk_stored` with the offset that is durable now and
    whether the snapshot is complete and verified, or `chunk_refused` where there is no room for it. An offset that is
    not the next one stores nothing."""

    sender: NodeId
    term: Term
    meta: SnapshotMeta
    offset: int
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSnapshot:
    """The stored snapshot `meta` becomes the state: take the steps of `Replica.load_steps` with its chunks, with turns
    in between. Of two, the first is done (or given up) before the second is begun. It follows the `persist` of the
    same effects."""

    meta: SnapshotMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactLog:
    """Storage may drop log entries before `keep_from`, and snapshots older than `meta` but for those in `sending`."""

    meta: SnapshotMeta
    keep_from: LogIndex
    sending: frozenset[EntryId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearAmnesia:
    """Remove the durable mark that keeps this server from voting, then call `Replica.amnesia_cleared`."""


SnapshotWork: TypeAlias = SaveSnapshot | ReadChunk | StoreChunk | LoadSnapshot | CompactLog | ClearAmnesia


@dataclass(slots=True)
class ReplicaEffects:
    """Everything to be done since the last call.

    `send` may leave now. `persists` go to the log in order; `after_persist` leaves when they and all earlier ones
    are durable, and what is addressed to this very server is then handed back through `on_peer`.
    `again`: there is more to do at once (large commits are applied in pieces).
    """

    send: list[tuple[NodeId, Message]] = field(default_factory=list)
    persists: list[Persist] = field(default_factory=list)
    after_persist: list[tuple[NodeId, Message]] = field(default_factory=list)
    replies: list[tuple[ClientId, ServerMessage | LongAnswer]] = field(default_factory=list)
    snapshot_work: list[SnapshotWork] = field(default_factory=list)
    membership: Membership | None = None
    events: list[Trace] = field(default_factory=list)
    again: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.send
            or self.persists
            or self.after_persist
            or self.replies
            or self.snapshot_work
            or self.membership
            or self.events
            or self.again
        )


NOTHING = ReplicaEffects()
"""What most turns lead to."""

"""Moving snapshots to followers: in chunks, acknowledged one by one, resumable, and not faster than allowed.

The sender keeps one chunk in flight per follower; the receiver answers with the offset it durably has, which
is also how a broken transfer is resumed: the next chunk starts there. A chunk lost on the way is sent again when
its answer is overdue; a follower that stays silent is given up, and asked about again by the engine.

A follower that falls back has lost what it had, or found at the end that it does not add up. Once that is a mishap;
when it happens again the file here may have rotted, so that no repetition would help: the transfer is given up. Nor
does another snapshot help if it is the follower's disk that is bad, or full: each that fails doubles the wait before
the next.
"""

from dataclasses import dataclass

from troth.core.interface import Engine, EntryId, Message, SnapshotMeta
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.replica.effects import ReadChunk, SnapshotWork, StoreChunk
from troth.replica.peers import SnapshotAck, SnapshotChunk

SETBACKS_MAX = 2
"""So often a follower may fall back before its transfer is given up."""

LAST_TRIES = 12
"""So many times as many tries has the last chunk: the follower checks all of the file before it answers, which takes
a slow disk a minute for some gigabytes."""

STORING_MAX = 2
"""Chunks that wait for the follower's disk; one that is repeated meanwhile is not kept."""

PENALTY_DOUBLINGS_MAX = 8
"""A follower that fails again and again is sent a snapshot every four minutes (of one second's patience)."""


@dataclass(slots=True)
class _Outgoing:
    meta: SnapshotMeta
    offset: int
    sent: Tick
    tries: int = 0
    setbacks: int = 0
    is_last: bool = False
    not_before: Tick = Tick(0)


class SnapshotSender:
    """The leader's side."""

    def __init__(self, *, chunk_bytes: int, bytes_per_tick: int, patience_ticks: int, tries_max: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._bytes_per_tick = bytes_per_tick
        self._patience_ticks = patience_ticks
        self._tries_max = tries_max
        self._outgoing: dict[NodeId, _Outgoing] = {}
        self._penalties: dict[NodeId, tuple[int, Tick]] = {}
        """Of followers that fell back or refused: how many transfers were given up, and when the next may begin."""

    @property
    def sending(self) -> frozenset[EntryId]:
        """Snapshots that must not be deleted yet."""
        return frozenset(outgoing.meta.last for outgoing in self._outgoing.values())

    def sent_to(self, peer: NodeId) -> LogIndex:
        """Where the snapshot ends that *peer* is being sent; 0: none."""
        outgoing = self._outgoing.get(peer)
        return LogIndex(0) if outgoing is None else outgoing.meta.last.index

    def begin(self, peer: NodeId, meta: SnapshotMeta, now: Tick) -> list[SnapshotWork]:
        """Send *meta* to *peer* from its beginning; the first answer may say to go on further behind."""
        _, not_before = self._penalties.get(peer, (0, now))
        self._outgoing[peer] = outgoing = _Outgoing(meta=meta, offset=0, sent=Tick(0), not_before=not_before)
        return [] if now < not_before else [self._read(peer, outgoing, now)]

    def stop_all(self) -> None:
        """Leadership is lost."""
        self._outgoing.clear()
        self._penalties.clear()

    def _read(self, peer: NodeId, outgoing: _Outgoing, now: Tick) -> SnapshotWork:
        outgoing.sent = now
        outgoing.not_before = Tick(now + self._chunk_bytes // self._bytes_per_tick)
        return ReadChunk(peer=peer, meta=outgoing.meta, offset=outgoing.offset, size=self._chunk_bytes)

    def chunk_read(self, work: ReadChunk, data: bytes, last: bool, term: Term) -> Message | None:
        """The bytes asked for by `ReadChunk` are there: the message that carries them, if still wanted."""
        outgoing = self._outgoing.get(work.peer)
        if outgoing is None or outgoing.meta.last != work.meta.last or outgoing.offset != work.offset:
            return None
        outgoing.is_last = last
        return SnapshotChunk(term, work.meta, work.offset, data, last)

    def give_up(self, peer: NodeId, engine: Engine) -> None:
        """This transfer can not go on; the engine will ask for a newer snapshot if one is still needed."""
        outgoing = self._outgoing.pop(peer, None)
        if outgoing is not None:
            engine.snapshot_sent(peer, outgoing.meta, False)

    def on_ack(self, peer: NodeId, ack: SnapshotAck, now: Tick, engine: Engine) -> bool:
        """The follower has everything before ``ack.offset``; True when it may be the snapshot that is damaged."""
        outgoing = self._outgoing.get(peer)
        if outgoing is None or outgoing.meta.last != ack.last or ack.offset < 0:
            return False
        if ack.done:
            del self._outgoing[peer]
            self._penalties.pop(peer, None)
            engine.snapshot_sent(peer, outgoing.meta, True)
            return False
        outgoing.setbacks += ack.offset < outgoing.offset
        if ack.refused or outgoing.setbacks >= SETBACKS_MAX:
            count = min(self._penalties.get(peer, (0, now))[0] + 1, PENALTY_DOUBLINGS_MAX)
            self._penalties[peer] = count, Tick(now + (self._patience_ticks << count))
            self.give_up(peer, engine)
            return not ack.refused
        if ack.offset != outgoing.offset:
            outgoing.offset = ack.offset
            outgoing.is_last = False
            outgoing.tries = 0
            outgoing.sent = Tick(0)
        return False

    def tick(self, now: Tick, engine: Engine) -> list[SnapshotWork]:
        """Chunks that are due: the next ones, and those whose answer is overdue."""
        work: list[SnapshotWork] = []
        for peer, outgoing in list(self._outgoing.items()):
            if outgoing.sent and now - outgoing.sent < self._patience_ticks:
                continue
            if now < outgoing.not_before:
                continue
            if outgoing.sent:
                outgoing.tries += 1
                if outgoing.tries >= self._tries_max * (LAST_TRIES if outgoing.is_last else 1):
                    self.give_up(peer, engine)
                    continue
            work.append(self._read(peer, outgoing, now))
        return work


class SnapshotReceiver:
    """The follower's side: it takes what its term's leader sends, and says how far it is."""

    def __init__(self) -> None:
        self._storing = 0

    def stored(self) -> None:
        """A chunk that was to be stored is, or will not be."""
        self._storing -= 1

    def on_chunk(self, sender: NodeId, chunk: SnapshotChunk, engine: Engine) -> StoreChunk | SnapshotAck | None:
        """What to do with a chunk: store it, or say that it is not needed (all of them were, and that answer is lost,
        say). None if it is of a deposed leader, or of a snapshot that nobody can have made, or others wait still."""
        term, _ = engine.leader()
        last = chunk.meta.last
        if (
            chunk.term < term
            or min(last.index, last.term) <= 0
            or chunk.offset < 0
            or not chunk.meta.membership.voters
        ):
            return None
        if engine.commit_index >= last.index:
            return SnapshotAck(last, chunk.offset, True)
        if self._storing >= STORING_MAX:
            return None
        self._storing += 1
        return StoreChunk(
            sender=sender,
            term=chunk.term,
            meta=chunk.meta,
            offset=chunk.offset,
            data=chunk.data,
            last=chunk.last,
        )

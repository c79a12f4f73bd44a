"""The acceptor, and what is chosen: the half of Paxos that is the same for every server, whatever its role.

Three rules (Lamport 2001, "Paxos Made Simple", §2.2, for every slot): promise only a ballot above all promised
before; accept at a ballot unless a higher one is promised; report what was accepted, and at which ballot, with each
promise. Both promise and acceptance are durable before they are told.

What is chosen is known to a follower in two ways: it accepted the value at the very ballot whose leader says that the
slot is chosen, or it was reported to it as chosen. A value accepted at another ballot proves nothing, however low its
slot. Values are delivered in order, up to the first slot that is not known to be chosen.
"""

from typing_extensions import override

from troth.core.interface import CHOSEN, Ballot, Entry, EntryId, EntryKind, Slot, SnapshotMeta
from troth.core.leading.rounds import COMMIT_NOTICE
from troth.core.paxos.messages import Accept, AcceptReply, Heartbeat, HeartbeatReply, Prepare, Promise
from troth.core.paxos.progress import Mode
from troth.core.paxos.roles import Leader
from troth.core.paxos.state import State
from troth.errors import invariant
from troth.ids import LogIndex, NodeId


class Accepting(State):
    """Promises, acceptances, and learning what is chosen."""

    # ---- phase 1b ----

    def _hears_leader(self, handed_over: Ballot | None) -> bool:
        """Whether a leader was heard from so lately that others are to be disregarded. The leader of *handed_over* and
        those below are no hindrance: it gives way itself, and the lease of any other ended before it led."""
        if isinstance(self._role, Leader):
            return handed_over is None or self._promised > handed_over
        contact = self._leader_contact
        if contact is None or self._now - contact >= self._config.election_timeout_ticks:
            return False
        return handed_over is None or self._leader_heard is None or self._leader_heard > handed_over

    def _may_promise(self, start: LogIndex, *, handed_over: Ballot | None = None) -> bool:
        """Whether to help somebody lead who knows all slots before *start* to be chosen, and to whom the leader of
        *handed_over* gives way.

        Not one who lacks what is compacted away here: it could not be told what was chosen there.
        """
        return self._may_vote and not self._hears_leader(handed_over) and self._slots.compacted.index < start

    def _on_prepare(self, sender: NodeId, message: Prepare) -> None:
        """Phase 1b. The ballot is promised (the gate has seen to that); report a page of what is accepted.

        Slots that are chosen, applied or not, are reported like all others: the asker may know nothing of them.
        """
        if not self._may_promise(message.start, handed_over=message.handed_over):
            return
        self._reset_election_timer()
        self._helped = self._now
        slots, upto = self._slots.page(message.start, self._config.append_bytes_max)
        self._trace("promise", term=self._promised.round, candidate=sender, start=message.start)
        self._send_durable(
            sender,
            Promise(self._promised, message.start, upto, self._slots.last_index, self._chosen_index, slots),
        )

    # ---- phase 2b ----

    def _on_accept(self, sender: NodeId, message: Accept) -> None:
        """Phase 2b: accept each slot for itself, whether or not those before it are here."""
        if message.entries and not self._takes_entries:
            return
        for entry in message.entries:
            self._accept(entry)
        self._advance_match()
        self._learn(message.chosen)
        reply = AcceptReply(self._promised, self._match)
        if message.entries and message.entries[-1].index > self._match:
            reply = AcceptReply(self._promised, self._match, message.entries[0].index, message.entries[-1].index)
        self._send_durable(sender, reply)

    def _accept(self, entry: Entry) -> None:
        """Hold *entry* as accepted at the promised ballot, unless the slot is settled already."""
        held = self._slots.get(entry.index)
        if entry.index > self._chosen_index and not self._slots.is_settled(entry.index, self._promised):
            self._slots.put(Slot(self._promised, entry))
        elif held is not None:
            # One ballot has one value for a slot, and what is chosen stays: anything else is a bug of ours.
            invariant(held.entry == entry, "another value for a settled slot", index=entry.index)

    # ---- learning ----

    def _learn(self, chosen: LogIndex) -> None:
        """The leader of the promised ballot says that all slots up to *chosen* are chosen: that is news as far as our
        values are those of this ballot."""
        self._told_chosen = max(self._told_chosen, chosen)
        index = min(self._told_chosen, self._match)
        if index > self._chosen_index:
            self._choose(index)

    def _learn_chosen(self, entry: Entry) -> None:
        """The next slot's chosen value is *entry*, whatever was accepted there."""
        held = self._slots.get(entry.index)
        if held is None or held.entry != entry:
            self._slots.put(Slot(CHOSEN, entry))
        self._choose(entry.index)

    def _on_heartbeat(self, sender: NodeId, message: Heartbeat) -> None:
        self._learn(message.chosen)
        if message.token != COMMIT_NOTICE:
            self._send(sender, HeartbeatReply(self._promised, message.token, self._match))

    @property
    @override
    def _deliverable_index(self) -> LogIndex:
        """The last slot that may be delivered: a membership that lets voters leave waits until that is announced.

        A snapshot right behind it would know the new membership, and not that the old one is still needed.
        """
        held_back = self._announced is not self._membership
        return LogIndex(self._chosen_index - held_back)

    @override
    def _take_committed(self) -> tuple[Entry, ...]:
        """Values newly chosen, each exactly once, in order and without a gap; a piece at a time, so that a server that
        catches up goes on answering in between. A membership comes together with the slot behind it."""
        if self._delivered_index == self._chosen_index:
            return ()
        upto = self._deliverable_index
        if self._delivered_index >= upto:
            return ()
        first = LogIndex(self._delivered_index + 1)
        entries = self._slots.run(first, LogIndex(upto + 1), self._config.append_bytes_max)
        while entries[-1].kind == EntryKind.MEMBERSHIP and entries[-1].index < upto:
            entries = (*entries, self._slots.entry(LogIndex(entries[-1].index + 1)))
        self._delivered_index = entries[-1].index
        return entries

    # ---- compaction and snapshots ----

    def compact(self, meta: SnapshotMeta, keep_from: LogIndex) -> None:
        """A snapshot at `meta` is durable here; slots before *keep_from* (<= ``meta.last.index + 1``) go."""
        invariant(meta.last.index <= self._applied_index, "snapshot of what was not applied", last=meta.last)
        upto = LogIndex(min(keep_from - 1, meta.last.index))
        if upto > self._slots.compacted.index:
            self._slots.compact_to(self._slots.id_at(upto))
            self._memberships.on_compact(upto)

    @override
    def _entry_id(self, index: LogIndex) -> EntryId:
        return self._slots.id_at(index)

    def _install(self, sender: NodeId, meta: SnapshotMeta) -> bool:
        """A whole snapshot has arrived and is durable; True when it replaces our state. What is accepted behind its
        end stays: somebody may have counted it."""
        last = meta.last
        installs = last.index > self._chosen_index
        if installs:
            self._slots.compact_to(last)
            self._memberships.reset(meta.membership, last.index)
            self._chosen_index = self._delivered_index = self._applied_index = self._match = last.index
            self._advance_match()
            self._out.install = meta
            self._announce()
            self._trace("install", last=last)
            self._learn(self._told_chosen)
        self._send_durable(sender, AcceptReply(self._promised, self._match))
        return installs

    def snapshot_sent(self, peer: NodeId, meta: SnapshotMeta, ok: bool) -> None:
        """Streaming to *peer* ended; *ok* says whether all of it was acknowledged."""
        role = self._role
        progress = role.progress.get(peer) if isinstance(role, Leader) else None
        if progress is not None and progress.mode is Mode.SNAPSHOT:
            # Its next heartbeat answer says how far it is; after a failure that leads to the next try.
            progress.become_probe()

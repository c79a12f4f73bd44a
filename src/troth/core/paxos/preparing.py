"""Phase 1, and who begins it: probes, ballots, recovery of what may be chosen. Patience, death notices and transfer
stand in core/leading/leadership.py.

A server that hears from no leader first *probes*: it asks whether a ballot would be promised, which disturbs nobody.
Only with as many of such answers as a leader needs to live on does it use a ballot, (round, its own id), above all it
has promised, and prepares all slots behind its chosen index at once. Promises come in pages. They carry what each
acceptor has accepted or knows to be chosen; for each slot the report with the highest ballot wins (chosen is above all
ballots), and where nothing is reported nothing can have been chosen, so a no-op goes there. That window gets its slots
before any new value.

Whose promises are needed? A phase-1 quorum of the membership in force behind the chosen index, which is learned from
the promises as well, and of every membership among the values that count behind that. Whatever was chosen at a lower
ballot under the first of these was reported by that quorum; if a membership was among it, its own quorum was asked too,
and so on."""

from collections import deque
from collections.abc import Callable

from typing_extensions import override

from troth.core.interface import (
    CHOSEN,
    Ballot,
    Entry,
    EntryKind,
    Membership,
    Message,
    Slot,
)
from troth.core.leading.roles import PreCandidate
from troth.core.membership import decode_membership
from troth.core.paxos.changes import Changes
from troth.core.paxos.messages import Outbid, Prepare, Probe, ProbeReply, Promise, TimeoutNow
from troth.core.paxos.roles import Candidate, Leader
from troth.core.paxos.state import NOBODY
from troth.core.quorum import VoteResult, combined, vote_result
from troth.ids import LogIndex, NodeId, Term, Tick


class Preparing(Changes):
    """Phase 1."""

    def _tally(self, membership: Membership, votes: dict[NodeId, bool], size: Callable[[int], int]) -> VoteResult:
        """Whether *votes* have a quorum of such a *size* of *membership* (of both its sets, while it is joint)."""
        sets = [voters for voters in (membership.voters, membership.outgoing) if voters]
        return combined([vote_result(voters, votes, size=size(len(voters))) for voters in sets])

    # ---- probes ----

    @override
    def _may_stand(self) -> bool:
        """Voters may, and who is leaving until that is announced: the new ones may lack what is compacted away."""
        return self._may_vote and (
            self._membership.is_voter(self.node_id) or self._announced.is_voter(self.node_id)
        )

    def _next_ballot(self) -> Ballot:
        return Ballot(Term(self._promised.round + 1), self.node_id)

    @override
    def _ask_first(self, role: PreCandidate) -> None:
        """A question about a ballot disturbs nobody."""
        if self._promised.node == self.node_id:
            self._helped = None  # its candidacy is over, and must not keep others from theirs
        for peer in self._other_voters(self._membership):
            self._send(peer, Probe(self._next_ballot(), LogIndex(self._chosen_index + 1)))
        self._count_probes(role)

    def _on_probe(self, sender: NodeId, message: Probe) -> None:
        """Nothing is promised, so nothing need be durable but the ballot that a refusal reveals."""
        granted = (
            message.ballot > self._promised
            and self._may_promise(message.start)
            and not self._helps_another(sender, message.start)
        )
        self._send_durable(sender, ProbeReply(message.ballot if granted else self._promised, granted))

    def _helps_another(self, sender: NodeId, start: LogIndex) -> bool:
        """Whether somebody else was sent a page of a promise, or this candidate was, so lately that it may well be
        about to lead: whoever outbids it in the middle of many pages is outbid in turn.

        A candidate gives way to who knows all slots before *start* to be chosen if those are more than it was told of
        so far: that one needs fewer pages, and is not outbid in turn, having been told of more."""
        helped, role = self._helped, self._role
        if isinstance(role, Candidate) and start > max(role.reports, default=self._chosen_index):
            return False
        patience = self._config.election_timeout_ticks
        return helped is not None and sender != self._promised.node and self._now - helped < patience

    def _on_probe_reply(self, role: PreCandidate, sender: NodeId, message: ProbeReply) -> None:
        if message.ballot == (self._next_ballot() if message.granted else self._promised):
            role.votes[sender] = message.granted
            self._count_probes(role)

    def _count_probes(self, role: PreCandidate) -> None:
        result = self._tally(self._membership, role.votes, self._sizes.leading)
        if result is VoteResult.WON:
            self._prepare()
        elif result is VoteResult.LOST:
            self._stand_down()

    # ---- phase 1a ----

    def _prepare(self, *, transfer: NodeId = NOBODY) -> None:
        """Use a ballot: promise it, durably, and only then ask the others to."""
        self._drop_reads()
        self._leader_contact = None
        self._promise(self._next_ballot())
        self._role = candidate = Candidate(
            transfer=transfer, retry_due=Tick(self._now + self._config.heartbeat_ticks)
        )
        self._reset_candidate_timer()
        self._trace("candidate", term=self._promised.round)
        for slot in self._slots.above(self._chosen_index):
            self._take_report(candidate, slot)
        last = self._slots.last_index
        start = LogIndex(self._chosen_index + 1)
        candidate.asked[self.node_id] = start
        self._send_durable(self.node_id, Promise(self._promised, start, last, last, self._chosen_index, ()))
        self._ask(candidate)

    def _ask(self, candidate: Candidate) -> None:
        """Ask every voter of every membership that may matter, each once; those who have answered are not asked
        again."""
        memberships = [self._membership, *candidate.memberships.values()]
        for peer in sorted({node for membership in memberships for node in self._other_voters(membership)}):
            if peer not in candidate.asked and peer not in candidate.promised:
                candidate.asked[peer] = LogIndex(self._chosen_index + 1)
                self._ask_page(candidate, peer)

    def _ask_page(self, candidate: Candidate, peer: NodeId) -> None:
        self._send_durable(peer, Prepare(self._promised, candidate.asked[peer], candidate.transfer))

    def _candidate_tick(self, candidate: Candidate) -> None:
        """Questions and answers may be lost: ask again for what is missing."""
        if self._now >= candidate.retry_due:
            candidate.retry_due = Tick(self._now + self._config.heartbeat_ticks)
            for peer in candidate.asked:
                if peer != self.node_id:
                    self._ask_page(candidate, peer)

    # ---- answers ----

    def _on_promise(self, candidate: Candidate, sender: NodeId, message: Promise) -> None:
        """Take a page in; when it was the last one that a quorum owed, lead."""
        if candidate.asked.get(sender) != message.start:
            return  # a page that has come already
        for slot in message.slots:
            chosen = slot.entry.index <= message.chosen
            self._take_report(candidate, Slot(CHOSEN, slot.entry) if chosen else slot)
        reports = candidate.reports
        while (known := reports.get(LogIndex(self._chosen_index + 1))) is not None and known.ballot == CHOSEN:
            self._learn_chosen(known.entry)
        candidate.positions[sender] = message.chosen
        if message.upto < message.last:
            candidate.asked[sender] = LogIndex(message.upto + 1)
            self._ask_page(candidate, sender)
            self._reset_candidate_timer()
            self._helped = self._now
        else:
            del candidate.asked[sender]
            candidate.promised[sender] = True
        self._ask(candidate)
        self._maybe_lead(candidate)

    @staticmethod
    def _take_report(candidate: Candidate, slot: Slot) -> None:
        """Of all values reported for a slot, the one accepted at the highest ballot counts."""
        index = slot.entry.index
        known = candidate.reports.get(index)
        if known is None or known.ballot < slot.ballot:
            candidate.reports[index] = slot
            candidate.memberships.pop(index, None)
            if slot.entry.kind == EntryKind.MEMBERSHIP:
                candidate.memberships[index] = decode_membership(slot.entry.payload)

    def _maybe_lead(self, candidate: Candidate) -> None:
        """Whether a quorum of each membership that may decide on an open slot has promised."""
        reported = (member for index, member in candidate.memberships.items() if index > self._chosen_index)
        if all(
            self._tally(membership, candidate.promised, self._sizes.phase1) is VoteResult.WON
            for membership in (self._membership, *reported)
        ):
            self._become_leader(candidate)

    def _become_leader(self, candidate: Candidate) -> None:
        """Propose anew whatever may be chosen already, fill the gaps, and only then take new values."""
        reports = {index: slot for index, slot in candidate.reports.items() if index > self._chosen_index}
        window_end = max(reports, default=self._chosen_index)
        leader = Leader(
            progress={},
            recovered=window_end,
            accepted=self._chosen_index,
            last=self._chosen_index,
            queue=deque(),
            ticked=self._now,
            heartbeat_due=Tick(self._now),
            own_disk_seen=self._now,
        )
        self._role = leader
        self._trace("leader", term=self._promised.round)
        self._track_members(leader)
        for node, position in candidate.positions.items():
            if node in leader.progress and node != self.node_id:
                leader.progress[node].become_replicate(position)
        for index in range(self._chosen_index + 1, window_end + 1):
            slot = reports.get(LogIndex(index))
            self._queue(
                leader,
                slot.entry if slot else Entry(LogIndex(index), self._promised.round, EntryKind.NOOP, b""),
            )
        leader.progress[self.node_id].match = self._chosen_index
        self._begin_round(leader)
        self._go_on_changing(leader)

    # ---- a leader's standing ----

    @override
    def _has_quorum(self, heard: dict[NodeId, bool]) -> bool:
        """A leader needs a phase-2 quorum."""
        return bool(self._quorum_value(heard, False, self._sizes.phase2))

    @override
    def _own_disk_keeps_up(self, leader: Leader) -> bool:
        return leader.progress[self.node_id].match >= leader.accepted

    @override
    def _last_proposed(self, leader: Leader) -> LogIndex:
        return leader.last

    # ---- leadership transfer ----

    @override
    def _timeout_now(self) -> Message:
        return TimeoutNow(self._promised)

    def _on_timeout_now(self) -> None:
        if self._may_stand():
            self._quick_attempts = 1
            self._prepare(transfer=self._promised.node)

    def _answer_outbid(self, sender: NodeId) -> None:
        """Who uses a lower ballot would never learn why nobody answers."""
        self._send_durable(sender, Outbid(self._promised))

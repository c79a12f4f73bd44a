"""Phase 1, and who begins it: probes, ballots, recovery of what may be chosen; patience, death notices, transfer.

A server that hears from no leader first *probes*: it asks whether a ballot would be promised, which disturbs nobody.
Only with a quorum of such answers does it use a ballot, (round, its own id), above all it has promised, and prepares
all slots behind its chosen index at once. Promises come in pages. They carry what each acceptor has accepted or knows
to be chosen; for each slot the report with the highest ballot wins (chosen is above all ballots), and where nothing
is reported nothing can have been chosen, so a no-op goes there. That window gets its slots before any new value.

Whose promises are needed? A phase-1 quorum of the membership in force behind the chosen index, which is learned from
the promises as well, and of every membership reported behind that. Whatever was chosen at a lower ballot under the
first of these was reported by that quorum; if a membership was among it, its own quorum was asked too, and so on."""

from collections import deque
from collections.abc import Collection

from troth.core.interface import (
    CHOSEN,
    Ballot,
    Entry,
    EntryKind,
    Membership,
    RefusalReason,
    Refused,
    Slot,
)
from troth.core.membership import decode_membership
from troth.core.paxos.changes import Changes
from troth.core.paxos.messages import Outbid, Prepare, Probe, ProbeReply, Promise, TimeoutNow
from troth.core.paxos.progress import Mode
from troth.core.paxos.roles import Candidate, Follower, Leader, PreCandidate, Transfer
from troth.core.paxos.state import NOBODY
from troth.core.quorum import VoteResult, vote_result
from troth.ids import LogIndex, NodeId, Term, Tick

QUICK_RETRY_TICKS = 6
"""First patience of a candidate whose leader was seen to die; it doubles up to the election timeout."""


class Preparing(Changes):
    """Phase 1."""

    def _tally(self, membership: Membership, votes: dict[NodeId, bool]) -> VoteResult:
        """Whether *votes* have a phase-1 quorum of *membership* (of both its sets, while it is joint)."""
        results = [
            vote_result(voters, votes, size=self._sizes.phase1(len(voters)))
            for voters in (membership.voters, membership.outgoing)
            if voters
        ]
        if VoteResult.LOST in results:
            return VoteResult.LOST
        return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON

    # ---- probes ----

    def _may_stand(self) -> bool:
        """Voters may, and who is leaving until that is announced: the new ones may lack what is compacted away."""
        return self._may_vote and (
            self._membership.is_voter(self.node_id) or self._announced.is_voter(self.node_id)
        )

    def _next_ballot(self) -> Ballot:
        return Ballot(Term(self._promised.round + 1), self.node_id)

    def _on_election_timeout(self) -> None:
        """No leader heard of for too long; ask first whether a ballot would be promised."""
        self._drop_reads()
        if not self._may_stand():
            self._role = Follower()
            self._reset_election_timer()
            return
        self._role = role = PreCandidate(votes={self.node_id: True})
        self._reset_candidate_timer()
        self._trace("pre_candidate", term=self._promised.round)
        for peer in self._other_voters(self._membership):
            self._send(peer, Probe(self._next_ballot(), LogIndex(self._chosen_index + 1)))
        self._count_probes(role)

    def _other_voters(self, membership: Membership) -> list[NodeId]:
        return sorted({*membership.voters, *membership.outgoing} - {self.node_id})

    def _on_probe(self, sender: NodeId, message: Probe) -> None:
        """Nothing is promised, so nothing need be durable but the ballot that a refusal reveals."""
        granted = message.ballot > self._promised and self._may_promise(message.start)
        self._send_durable(sender, ProbeReply(message.ballot if granted else self._promised, granted))

    def _on_probe_reply(self, role: PreCandidate, sender: NodeId, message: ProbeReply) -> None:
        if message.ballot == (self._next_ballot() if message.granted else self._promised):
            role.votes[sender] = message.granted
            self._count_probes(role)

    def _count_probes(self, role: PreCandidate) -> None:
        result = self._tally(self._membership, role.votes)
        if result is VoteResult.WON:
            self._prepare()
        elif result is VoteResult.LOST:
            self._stand_down()

    def _stand_down(self) -> None:
        """This attempt is lost: wait for the winner, or for the next try at the pace already set."""
        deadline, attempts = self._election_deadline, self._quick_attempts
        self._become_follower(NOBODY)
        if attempts:
            self._quick_attempts, self._election_deadline = attempts, deadline

    def _reset_candidate_timer(self) -> None:
        """After a death that was seen, the next try follows soon, later and later; else at the usual pace."""
        self._reset_election_timer()
        if self._quick_attempts:
            patience = QUICK_RETRY_TICKS << min(self._quick_attempts - 1, 10)
            if patience >= self._config.election_timeout_ticks:
                self._quick_attempts = 0
                return
            self._quick_attempts += 1
            self._election_deadline = Tick(self._now + patience + self._rng.randrange(0, patience))

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
            self._hear(candidate, slot)
        last = self._slots.last_index
        start = LogIndex(self._chosen_index + 1)
        candidate.asked[self.node_id] = start
        self._send_durable(self.node_id, Promise(self._promised, start, last, last, self._chosen_index, ()))
        self._ask(candidate)

    def _ask(self, candidate: Candidate) -> None:
        """Ask every voter of every membership that may matter, each once; those who have answered are not asked
        again."""
        memberships = [self._membership, *(membership for _, membership in candidate.memberships)]
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
            self._hear(candidate, Slot(CHOSEN, slot.entry) if chosen else slot)
        heard = candidate.heard
        while (known := heard.get(LogIndex(self._chosen_index + 1))) is not None and known.ballot == CHOSEN:
            self._learn_chosen(known.entry)
        candidate.positions[sender] = message.chosen
        if message.upto < message.last:
            candidate.asked[sender] = LogIndex(message.upto + 1)
            self._ask_page(candidate, sender)
            self._reset_candidate_timer()
        else:
            del candidate.asked[sender]
            candidate.promised[sender] = True
        self._ask(candidate)
        self._maybe_lead(candidate)

    @staticmethod
    def _hear(candidate: Candidate, slot: Slot) -> None:
        """Of all values reported for a slot, the one accepted at the highest ballot counts."""
        index = slot.entry.index
        known = candidate.heard.get(index)
        if known is None or known.ballot < slot.ballot:
            candidate.heard[index] = slot
            if slot.entry.kind == EntryKind.MEMBERSHIP:
                candidate.memberships.append((index, decode_membership(slot.entry.payload)))

    def _maybe_lead(self, candidate: Candidate) -> None:
        """Whether a quorum of each membership that may decide on an open slot has promised."""
        reported = (member for index, member in candidate.memberships if index > self._chosen_index)
        if all(
            self._tally(membership, candidate.promised) is VoteResult.WON
            for membership in (self._membership, *reported)
        ):
            self._become_leader(candidate)

    def _become_leader(self, candidate: Candidate) -> None:
        """Propose anew whatever may be chosen already, fill the gaps, and only then take new values."""
        heard = {index: slot for index, slot in candidate.heard.items() if index > self._chosen_index}
        window_end = max(heard, default=self._chosen_index)
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
            slot = heard.get(LogIndex(index))
            self._queue(
                leader,
                slot.entry if slot else Entry(LogIndex(index), self._promised.round, EntryKind.NOOP, b""),
            )
        leader.progress[self.node_id].match = self._chosen_index
        self._begin_round(leader)
        self._go_on_changing(leader)

    # ---- time ----

    def _leader_tick(self, leader: Leader) -> None:
        config = self._config
        if self._now - leader.ticked > config.heartbeat_ticks:
            # Time in which this process did not run is not time in which the others were silent. Only what exceeds
            # the usual is forgiven: a driver that always ticks late must not keep a leader that nobody hears.
            missed = self._now - leader.ticked - config.heartbeat_ticks
            for progress in leader.progress.values():
                progress.heard = Tick(min(self._now, progress.heard + missed))
        leader.ticked = self._now
        if not self._hears_quorum(leader):
            self._trace("quorum_lost", term=self._promised.round)
            self._become_follower(NOBODY)
            return
        if leader.progress[self.node_id].match >= leader.accepted:
            leader.own_disk_seen = self._now
        elif self._now - leader.own_disk_seen >= config.disk_timeout_ticks:
            # The others would go on believing in a leader that can store nothing (hashicorp #503).
            self._trace("disk_hangs", term=self._promised.round)
            self._become_follower(NOBODY)
            return
        if leader.transfer is not None and self._now >= leader.transfer.deadline:
            self._trace("transfer_timed_out", target=leader.transfer.target)
            leader.transfer = None
        if self._now >= leader.heartbeat_due:
            self._begin_round(leader)
        self._maybe_promote(leader)

    def _hears_quorum(self, leader: Leader) -> bool:
        """A leader without a phase-2 quorum must not go on believing in itself."""
        heard = {
            node: int(node == self.node_id or self._is_active(seen)) for node, seen in leader.progress.items()
        }
        return bool(self._quorum_value(heard, 0, self._sizes.phase2))

    def suspect(self, peer: NodeId, now: Tick) -> None:
        """The driver has seen *peer*'s process die. If it led us, probe now.

        With lease reads a dead-looking leader may still be serving reads on its lease, so patience must run out.
        """
        self._now = max(self._now, now)
        role = self._role
        if isinstance(role, Leader):
            self.unreachable(peer)
            return
        if self._config.lease_reads or not isinstance(role, Follower) or role.leader != peer:
            return
        self._trace("leader_died", leader=peer)
        self._become_follower(NOBODY)
        self._leader_contact = None
        self._quick_attempts = 1
        # Voters take turns in a fixed order, so that they do not outbid each other.
        turn = [node for node in self._membership.voters if node != peer]
        place = turn.index(self.node_id) if self.node_id in turn else len(turn)
        self._election_deadline = Tick(self._now + 2 * place)
        if place == 0:
            self._on_election_timeout()

    def unreachable(self, peer: NodeId) -> None:
        """A message to *peer* could not be delivered: stop pipelining to it."""
        role = self._role
        progress = role.progress.get(peer) if isinstance(role, Leader) else None
        if progress is not None and progress.mode is Mode.REPLICATE:
            progress.become_probe()

    def restore_vote(self) -> None:
        """What this server had accepted and lost is chosen and applied, or void: it may promise and stand again."""
        self._may_vote = True

    # ---- leadership transfer ----

    def transfer(self, target: NodeId) -> Refused | None:
        """Hand leadership to *target* (0: the most up-to-date voter); intake stops until done or timed out."""
        leader = self._role
        if not isinstance(leader, Leader):
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        voters = [node for node in self._membership.voters if node != self.node_id]
        if not target and voters:
            target = self._most_up_to_date(leader, voters)
        if target == self.node_id:
            return None
        if target not in voters:
            return Refused(RefusalReason.BAD_TARGET, self.node_id, f"{target:x} is not another voter")
        if leader.transfer is not None and leader.transfer.target != target:
            return Refused(RefusalReason.TRANSFERRING, self.node_id)
        if leader.transfer is None:
            leader.transfer = Transfer(
                target=target, deadline=Tick(self._now + self._config.election_timeout_ticks)
            )
            self._trace("transfer", target=target)
            self._maybe_hand_over(leader)
        return None

    def _most_up_to_date(self, leader: Leader, nodes: Collection[NodeId]) -> NodeId:
        return max(nodes, key=lambda node: (self._is_active(leader.progress[node]), leader.progress[node].match))

    def _maybe_hand_over(self, leader: Leader) -> None:
        """Tell the target to prepare as soon as it has everything, so that its window is short."""
        transfer = leader.transfer
        if transfer is None or transfer.handed_over:
            return
        progress = leader.progress.get(transfer.target)
        if progress is not None and progress.match == leader.last:
            self._send(transfer.target, TimeoutNow(self._promised))
            transfer.handed_over = True
            leader.timeout_now_sent = True

    def _on_timeout_now(self) -> None:
        if self._may_stand():
            self._quick_attempts = 1
            self._prepare(transfer=self._promised.node)

    def _hand_over_when_removed(self, leader: Leader) -> None:
        """A leader that is no voter any more steps down once that is settled, and names a successor."""
        best = self._most_up_to_date(leader, self._membership.voters)
        self._send(best, TimeoutNow(self._promised))
        self._trace("removed", term=self._promised.round)
        self._become_follower(NOBODY)

    def _answer_outbid(self, sender: NodeId) -> None:
        """Who uses a lower ballot would never learn why nobody answers."""
        self._send_durable(sender, Outbid(self._promised))

"""Leader election: terms and votes (Raft §5.2, §5.4.1), pre-vote and check-quorum (thesis §9.6, §6.2), leadership
transfer (thesis §3.10).

Who hears from a leader disregards other candidates for an election timeout, so that a server that was cut off
cannot depose a leader that works. A leader that hears from no quorum for that long steps down by itself. And a
follower that has *seen* the leader's process die need not wait for its patience to run out.
"""

from troth.core.interface import EntryId, EntryKind, RefusalReason, Refused
from troth.core.quorum import VoteResult, joint_vote_result
from troth.core.raft.changes import Changes
from troth.core.raft.messages import (
    HigherTerm,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from troth.core.raft.progress import FollowerProgress, Mode
from troth.core.raft.roles import Candidate, Follower, Leader, PreCandidate, Transfer
from troth.core.raft.state import NOBODY
from troth.ids import LogIndex, NodeId, Term, Tick

QUICK_RETRY_TICKS = 6
"""First patience of a candidate whose leader was seen to die; it doubles up to the election timeout."""


class Elections(Changes):
    """§5.2 and what later work added to it."""

    # ---- standing for election ----

    def _may_stand(self) -> bool:
        """Whether this server may lead: if it is a voter of any membership that may be the newest committed one.

        Those are the one in force at its commit index, and every later one in its log. A server that its newest
        membership is without may be needed until that has committed, since its log may be the longest (thesis
        §4.2.2); and after a restart nobody knows which of several memberships have (see docs/divergences.md).
        """
        return self._may_vote and any(
            membership.is_voter(self.node_id) for membership in self._memberships.since(self._commit_index)
        )

    def _on_election_timeout(self) -> None:
        """No leader heard of for too long (§5.2); ask first whether an election could be won (thesis §9.6)."""
        if not self._may_stand():
            self._drop_reads()
            self._role = Follower()
            self._reset_election_timer()
            return
        self._drop_reads()
        self._role = role = PreCandidate(votes={self.node_id: True})
        self._reset_candidate_timer()
        self._trace("pre_candidate", term=self._term)
        for peer in self._other_voters():
            self._send(peer, PreVote(Term(self._term + 1), self._log.last))
        self._count_pre_votes(role)

    def _campaign(self, *, transfer: bool) -> None:
        """§5.2: raise the term, vote for oneself, ask for votes; all of it durable before it is heard."""
        self._drop_reads()
        self._leader_contact = None
        self._set_term(Term(self._term + 1))
        self._voted_for = self.node_id
        self._role = Candidate()
        self._reset_candidate_timer()
        self._trace("candidate", term=self._term)
        self._send_durable(self.node_id, VoteReply(self._term, True))
        for peer in self._other_voters():
            self._send_durable(peer, RequestVote(self._term, self._log.last, transfer))

    def _reset_candidate_timer(self) -> None:
        """After a death that was seen, the next try follows soon, later and later; else at the usual pace."""
        self._reset_election_timer()
        if self._quick_attempts:
            patience = QUICK_RETRY_TICKS << min(self._quick_attempts - 1, 10)
            if patience >= self._config.election_timeout_ticks:
                self._quick_attempts = 0
                return
            self._quick_attempts += 1
            self._election_deadline = Tick(self._now + self._rng.randrange(patience, 2 * patience))

    def _count_pre_votes(self, role: PreCandidate) -> None:
        result = self._tally(role.votes)
        if result is VoteResult.WON:
            self._campaign(transfer=False)
        elif result is VoteResult.LOST:
            self._stand_down()

    def _count_votes(self, role: Candidate) -> None:
        result = self._tally(role.votes)
        if result is VoteResult.WON:
            self._become_leader()
        elif result is VoteResult.LOST:
            self._stand_down()

    def _stand_down(self) -> None:
        """A lost (pre-)vote: wait for the winner, or for the next try at the pace already set."""
        deadline = self._election_deadline
        attempts = self._quick_attempts
        self._become_follower(NOBODY)
        if attempts:
            self._quick_attempts, self._election_deadline = attempts, deadline

    def _tally(self, votes: dict[NodeId, bool]) -> VoteResult:
        membership = self._membership
        return joint_vote_result(membership.voters, membership.outgoing, votes)

    def _become_leader(self) -> None:
        """§5.2; then commit an empty entry at once, to learn what is committed (§8, thesis §6.4)."""
        following = LogIndex(self._log.last_index + 1)
        self._role = Leader(
            progress={
                node: FollowerProgress(match=LogIndex(0), next=following, heard=self._now)
                for node in {*self._membership.everyone(), self.node_id}
            },
            term_start=following,
            ticked=self._now,
            heartbeat_due=Tick(self._now),
            own_disk_seen=self._now,
        )
        self._trace("leader", term=self._term)
        self._append_own(EntryKind.NOOP, b"")

    # ---- voting ----

    def _hears_leader(self) -> bool:
        """Whether a leader was heard from so lately that other candidates are to be disregarded (§6, end)."""
        if isinstance(self._role, Leader):
            return True
        contact = self._leader_contact
        return contact is not None and self._now - contact < self._config.election_timeout_ticks

    def _guards_lease(self) -> bool:
        """With lease reads, who has lately confirmed a leader elects nobody: also when its term was raised since by
        another message than the request for its vote, and the gate lets that pass (thesis §6.4.1)."""
        return self._config.lease_reads and self._hears_leader()

    def _is_up_to_date(self, last: EntryId) -> bool:
        """§5.4.1: the later last term wins, then the longer log."""
        return last >= self._log.last

    def _on_pre_vote(self, sender: NodeId, message: PreVote) -> None:
        """Would we vote? Nothing is promised, so nothing need be durable but the term that a refusal reveals."""
        granted = (
            self._may_vote
            and message.term > self._term
            and not self._hears_leader()
            and self._is_up_to_date(message.last)
        )
        self._send_durable(sender, PreVoteReply(message.term if granted else self._term, granted))

    def _on_request_vote(self, sender: NodeId, message: RequestVote) -> None:
        """§5.2: one vote per term, first come first served; §5.4.1: only for a log at least as complete.

        Whether this server thinks itself a voter does not matter: its membership may be behind the candidate's
        (etcd PR#10998). A repeated request of the candidate we voted for is granted again (nebula PR#2419).
        """
        granted = (
            self._may_vote
            and (message.transfer or not self._guards_lease())
            and (self._voted_for == sender or (self._voted_for == NOBODY and not self._leader_id))
            and self._is_up_to_date(message.last)
        )
        if granted:
            self._voted_for = sender
            self._reset_election_timer()
        self._trace("vote", term=self._term, candidate=sender, granted=granted)
        self._send_durable(sender, VoteReply(self._term, granted))

    def restore_vote(self) -> None:
        """The log that this server had lost parts of is whole again: it may vote and stand (see `State`)."""
        self._may_vote = True

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
            self._trace("quorum_lost", term=self._term)
            self._become_follower(NOBODY)
            return
        own = leader.progress[self.node_id]
        if own.match >= self._log.last_index:
            leader.own_disk_seen = self._now
        elif self._now - leader.own_disk_seen >= config.disk_timeout_ticks:
            # Followers would go on believing in a leader that can store nothing (hashicorp #503).
            self._trace("disk_hangs", term=self._term)
            self._become_follower(NOBODY)
            return
        if leader.transfer is not None and self._now >= leader.transfer.deadline:
            self._trace("transfer_timed_out", target=leader.transfer.target)
            leader.transfer = None
        if self._now >= leader.heartbeat_due:
            self._begin_round(leader)
        self._maybe_promote(leader)

    def _hears_quorum(self, leader: Leader) -> bool:
        """Check-quorum (thesis §6.2): a leader that nobody hears must not go on believing in itself."""
        heard = {node: node == self.node_id or self._is_active(seen) for node, seen in leader.progress.items()}
        return self._tally(heard) is VoteResult.WON

    def suspect(self, peer: NodeId, now: Tick) -> None:
        """The driver has seen *peer*'s process die. If it led us, hold the election now.

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
        # Voters take turns in a fixed order, so that they do not split the vote.
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
            progress.become_probe(LogIndex(progress.match + 1))

    # ---- leadership transfer ----

    def transfer(self, target: NodeId) -> Refused | None:
        """Hand leadership to *target* (0: the most up-to-date voter); intake stops until done or timed out."""
        leader = self._role
        if not isinstance(leader, Leader):
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        voters = [node for node in self._membership.voters if node != self.node_id]
        if not target and voters:
            target = max(
                voters, key=lambda node: (self._is_active(leader.progress[node]), leader.progress[node].match)
            )
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

    def _maybe_hand_over(self, leader: Leader) -> None:
        """Tell the target to stand as soon as it has our whole log (thesis §3.10)."""
        transfer = leader.transfer
        if transfer is None or transfer.handed_over:
            return
        if leader.progress[transfer.target].match == self._log.last_index:
            self._send(transfer.target, TimeoutNow(self._term))
            transfer.handed_over = True
            leader.timeout_now_sent = True

    def _on_timeout_now(self) -> None:
        if self._may_stand():
            self._quick_attempts = 1
            self._campaign(transfer=True)

    def _hand_over_when_removed(self, leader: Leader) -> None:
        """A leader that is no member any more steps down once that has committed (§6), and names a successor."""
        best = max(
            self._membership.voters,
            key=lambda node: (self._is_active(leader.progress[node]), leader.progress[node].match),
        )
        self._send(best, TimeoutNow(self._term))
        self._trace("removed", term=self._term)
        self._become_follower(NOBODY)

    def _tell_term(self, sender: NodeId) -> None:
        """A leader or candidate of an older term might never learn of the newer one: tell it (etcd issue 8501)."""
        self._send_durable(sender, HigherTerm(self._term))

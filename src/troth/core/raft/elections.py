"""Leader election: terms and votes (Raft §5.2, §5.4.1), pre-vote (thesis §9.6). Patience, check-quorum and leadership
transfer stand in core/leading/leadership.py.

Who hears from a leader disregards other candidates for an election timeout, so that a server that was cut off
cannot depose a leader that works.
"""

from typing_extensions import override

from troth.core.interface import EntryId, EntryKind, Message
from troth.core.leading.roles import PreCandidate
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
from troth.core.raft.progress import FollowerProgress
from troth.core.raft.roles import Candidate, Leader
from troth.core.raft.state import NOBODY
from troth.ids import LogIndex, NodeId, Term, Tick


class Elections(Changes):
    """§5.2 and what later work added to it."""

    # ---- standing for election ----

    @override
    def _may_stand(self) -> bool:
        """Whether this server may lead: if it is a voter of any membership that may be the newest committed one.

        Those are the one in force at its commit index, and every later one in its log. A server that its newest
        membership is without may be needed until that has committed, since its log may be the longest (thesis
        §4.2.2); and after a restart nobody knows which of several memberships have (see docs/divergences.md).
        """
        return self._may_vote and any(
            membership.is_voter(self.node_id) for membership in self._memberships.since(self._commit_index)
        )

    @override
    def _ask_first(self, role: PreCandidate) -> None:
        """Thesis §9.6."""
        for peer in self._other_voters(self._membership):
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
        for peer in self._other_voters(self._membership):
            self._send_durable(peer, RequestVote(self._term, self._log.last, transfer))

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

    def _tally(self, votes: dict[NodeId, bool]) -> VoteResult:
        membership = self._membership
        return joint_vote_result(membership.voters, membership.outgoing, votes)

    def _become_leader(self) -> None:
        """§5.2; then commit an empty entry at once, to learn what is committed (§8, thesis §6.4)."""
        following = LogIndex(self._log.last_index + 1)
        self._role = leader = Leader(
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
        self._place(leader, EntryKind.NOOP, b"")

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
        (etcd PR#10998). A repeated request of the candidate we voted for is granted again (nebula PR#2419), also right
        after a restart: a lease of an older term had ended when the vote was given.
        """
        granted = (
            self._may_vote
            and (message.transfer or self._voted_for == sender or not self._guards_lease())
            and (self._voted_for == sender or (self._voted_for == NOBODY and not self._leader_id))
            and self._is_up_to_date(message.last)
        )
        if granted:
            self._voted_for = sender
            self._reset_election_timer()
        self._trace("vote", term=self._term, candidate=sender, granted=granted)
        self._send_durable(sender, VoteReply(self._term, granted))

    # ---- a leader's standing ----

    @override
    def _has_quorum(self, heard: dict[NodeId, bool]) -> bool:
        return self._tally(heard) is VoteResult.WON

    @override
    def _own_disk_keeps_up(self, leader: Leader) -> bool:
        return leader.progress[self.node_id].match >= self._log.last_index

    @override
    def _last_proposed(self, leader: Leader) -> LogIndex:
        return self._log.last_index

    # ---- leadership transfer ----

    @override
    def _timeout_now(self) -> Message:
        return TimeoutNow(self._term)

    def _on_timeout_now(self) -> None:
        if self._may_stand():
            self._quick_attempts = 1
            self._campaign(transfer=True)

    def _tell_term(self, sender: NodeId) -> None:
        """A leader or candidate of an older term might never learn of the newer one: tell it (etcd issue 8501)."""
        self._send_durable(sender, HigherTerm(self._term))

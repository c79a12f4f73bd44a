"""How leadership is sought, kept, given up and given away, and how members change under it.

Who hears from no leader first asks whether it could win, which disturbs nobody (thesis §9.6). A leader that hears from
no quorum for an election timeout, or whose own disk hangs, steps down by itself. A follower that has *seen* the
leader's process die need not wait for its patience to run out. Transfer: thesis §3.10.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterable

from troth.core.interface import (
    Accepted,
    EntryId,
    Membership,
    MembershipChange,
    Message,
    ProposeResult,
    RefusalReason,
    Refused,
)
from troth.core.leading.flight import Flight, Mode
from troth.core.leading.roles import Follower, PreCandidate, Transfer
from troth.core.leading.rounds import Rounds
from troth.core.leading.server import NOBODY, LeaderT
from troth.core.membership import changed, name_of, promotable
from troth.ids import LogIndex, NodeId, Tick

QUICK_RETRY_TICKS = 6
"""First patience of a candidate whose leader was seen to die; it doubles up to the election timeout."""


class Leadership(Rounds[LeaderT]):
    """Patience, check-quorum, transfer, changes of members."""

    # ---- what a protocol fills in ----

    @abstractmethod
    def _may_stand(self) -> bool:
        """Whether this server may lead."""

    @abstractmethod
    def _ask_first(self, role: PreCandidate) -> None:
        """Ask everybody whether an attempt to lead could succeed."""

    @abstractmethod
    def _has_quorum(self, heard: dict[NodeId, bool]) -> bool:
        """Whether those who are *heard* suffice to commit anything."""

    @abstractmethod
    def _own_disk_keeps_up(self, leader: LeaderT) -> bool:
        """Whether all that this leader has given its own disk is durable."""

    @abstractmethod
    def _last_proposed(self, leader: LeaderT) -> LogIndex:
        """Where the newest proposal stands."""

    @abstractmethod
    def _timeout_now(self) -> Message:
        """Tells another server to try to lead at once."""

    @abstractmethod
    def _change_unfinished(self, leader: LeaderT) -> bool:
        """Whether a membership change is under way."""

    @abstractmethod
    def _propose_membership(self, leader: LeaderT, membership: Membership) -> EntryId:
        """Give *membership* the next place in the log."""

    # ---- patience ----

    def _on_election_timeout(self) -> None:
        """No leader heard of for too long (§5.2); ask first whether an election could be won (thesis §9.6)."""
        self._drop_reads()
        if not self._may_stand():
            self._role = Follower()
            self._reset_election_timer()
            return
        self._role = role = PreCandidate(votes={self.node_id: True})
        self._reset_candidate_timer()
        self._trace("pre_candidate", term=self.term)
        self._ask_first(role)

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

    def _stand_down(self) -> None:
        """This attempt is lost: wait for the winner, or for the next try at the pace already set."""
        deadline, attempts = self._election_deadline, self._quick_attempts
        self._become_follower(NOBODY)
        if attempts:
            self._quick_attempts, self._election_deadline = attempts, deadline

    def suspect(self, peer: NodeId, now: Tick) -> None:
        """The driver has seen *peer*'s process die. If it led us, try to lead now.

        With lease reads a dead-looking leader may still be serving reads on its lease, so patience must run out.
        """
        self._now = max(self._now, now)
        role = self._role
        if self._leader is not None:
            self.unreachable(peer)
            return
        if self._config.lease_reads or not isinstance(role, Follower) or role.leader != peer:
            return
        self._trace("leader_died", leader=peer)
        self._become_follower(NOBODY)
        self._leader_contact = None
        self._quick_attempts = 1
        # Voters take turns in a fixed order, so that they do not get in each other's way.
        turn = [node for node in self._membership.voters if node != peer]
        place = turn.index(self.node_id) if self.node_id in turn else len(turn)
        self._election_deadline = Tick(self._now + 2 * place)
        if place == 0:
            self._on_election_timeout()

    # ---- a leader's time ----

    def _leader_tick(self, leader: LeaderT) -> None:
        config = self._config
        if self._now - leader.ticked > config.heartbeat_ticks:
            # Time in which this process did not run is not time in which the others were silent. Only what exceeds
            # the usual is forgiven: a driver that always ticks late must not keep a leader that nobody hears.
            missed = self._now - leader.ticked - config.heartbeat_ticks
            for progress in leader.progress.values():
                progress.heard = Tick(min(self._now, progress.heard + missed))
        leader.ticked = self._now
        if not self._hears_quorum(leader):
            self._trace("quorum_lost", term=self.term)
            self._become_follower(NOBODY)
            return
        if self._own_disk_keeps_up(leader):
            leader.own_disk_seen = self._now
        elif self._now - leader.own_disk_seen >= config.disk_timeout_ticks:
            # The others would go on believing in a leader that can store nothing (hashicorp #503).
            self._trace("disk_hangs", term=self.term)
            self._become_follower(NOBODY)
            return
        if leader.transfer is not None and self._now >= leader.transfer.deadline:
            self._trace("transfer_timed_out", target=leader.transfer.target)
            leader.transfer = None
        if self._now >= leader.heartbeat_due:
            self._begin_round(leader)
        self._maybe_promote(leader)

    def _hears_quorum(self, leader: LeaderT) -> bool:
        """Check-quorum (thesis §6.2): a leader that nobody hears must not go on believing in itself."""
        return self._has_quorum(
            {node: node == self.node_id or self._is_active(seen) for node, seen in leader.progress.items()}
        )

    def _is_active(self, progress: Flight) -> bool:
        """Whether a server was heard from within an election timeout."""
        return self._now - progress.heard < self._config.election_timeout_ticks

    def unreachable(self, peer: NodeId) -> None:
        """A message to *peer* could not be delivered: stop pipelining to it."""
        leader = self._leader
        progress = leader.progress.get(peer) if leader is not None else None
        if progress is not None and progress.mode is Mode.REPLICATE:
            progress.become_probe()

    # ---- transfer ----

    def transfer(self, target: NodeId) -> Refused | None:
        """Hand leadership to *target* (0: the most up-to-date voter); intake stops until done or timed out."""
        leader = self._leader
        if leader is None:
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        voters = [node for node in self._membership.voters if node != self.node_id]
        if not target and voters:
            target = self._most_up_to_date(leader, voters)
        if target == self.node_id:
            return None
        if target not in voters:
            why = f"{target:x} is not another voter" if target else "there is no other voter"
            return Refused(RefusalReason.BAD_TARGET, self.node_id, why)
        if leader.transfer is not None and leader.transfer.target != target:
            return Refused(RefusalReason.TRANSFERRING, self.node_id)
        if leader.transfer is None:
            leader.transfer = Transfer(
                target=target, deadline=Tick(self._now + self._config.election_timeout_ticks)
            )
            self._trace("transfer", target=target)
            self._maybe_hand_over(leader)
        return None

    def _most_up_to_date(self, leader: LeaderT, nodes: Collection[NodeId]) -> NodeId:
        return max(nodes, key=lambda node: (self._is_active(leader.progress[node]), leader.progress[node].match))

    def _maybe_hand_over(self, leader: LeaderT) -> None:
        """Tell the target to stand as soon as it has our whole log (thesis §3.10)."""
        transfer = leader.transfer
        if transfer is None or transfer.handed_over:
            return
        progress = leader.progress.get(transfer.target)
        if progress is not None and progress.match == self._last_proposed(leader):
            self._send(transfer.target, self._timeout_now())
            transfer.handed_over = True
            leader.timeout_now_sent = True

    def _hand_over_when_removed(self, leader: LeaderT) -> None:
        """A leader that is no voter any more steps down once that has committed (§6), and names a successor."""
        self._send(self._most_up_to_date(leader, self._membership.voters), self._timeout_now())
        self._trace("removed", term=self.term)
        self._become_follower(NOBODY)

    # ---- membership changes ----

    def change_membership(self, change: MembershipChange) -> ProposeResult:
        """Start a membership change; it is over when `Status.membership` is no longer joint.

        A leader starts no change before it knows all that is committed, nor while another change is unfinished (Ongaro
        2015, the bug in single-server changes), nor one that could not be carried to its end by those who are alive.
        """
        leader = self._leader
        if leader is None:
            return Refused(RefusalReason.NOT_LEADER, self._leader_id)
        if leader.transfer is not None:
            return Refused(RefusalReason.TRANSFERRING, self.node_id)
        if not self._knows_committed(leader):
            return Refused(RefusalReason.NOT_READY, self.node_id)
        if self._change_unfinished(leader):
            return Refused(RefusalReason.CHANGE_IN_PROGRESS, self.node_id)
        target = changed(self._membership, change)
        if isinstance(target, str):
            return Refused(RefusalReason.BAD_CHANGE, self.node_id, target)
        if target.is_joint:
            refused = self._unfit_learner(leader, target) or self._without_quorum(leader, target)
            if refused is not None:
                return refused
        return Accepted(self._propose_membership(leader, target))

    def _unfit_learner(self, leader: LeaderT, target: Membership) -> Refused | None:
        """The refusal of *target* because of a learner that would get a vote and is not heard, or lags."""
        for node in self._membership.learners:
            if node not in target.voters or self._has_caught_up(leader, node):
                continue
            name = name_of(target, node)
            if self._is_active(leader.progress[node]):
                return self._refused_for_now(f"{name} has not caught up with the log yet")
            return self._refused_for_good(f"{name} is not heard: it can not become a voter")
        return None

    def _without_quorum(self, leader: LeaderT, target: Membership) -> Refused | None:
        """The refusal of *target* because too few of its voters are alive to decide anything under it.

        The change would stay unfinished, or would be the last: what undoes it has to be decided too. The voters now
        count as well, since both sets decide until it is over (etcd: strict reconfiguration check).
        """
        for voters in filter(None, (target.voters, target.outgoing)):
            needed = self._sizes.leading(len(voters))
            silent = [node for node in voters if self._is_silent(leader, node)]
            unheard = [node for node in voters if node not in silent and self._is_unheard(leader, node)]
            if len(voters) - len(silent) < needed:
                return self._refused_for_good(
                    f"{_names(target, silent)}: not heard. Of the voters {_names(target, voters)}"
                    f" {len(voters) - len(silent)} would be alive, and without {needed} nothing can be decided;"
                    " bring back or remove what is not heard first"
                )
            if len(voters) - len(silent) - len(unheard) < needed:
                return self._refused_for_now(f"{_names(target, unheard)}: not heard by this leader yet")
        return None

    def _is_silent(self, leader: LeaderT, node: NodeId) -> bool:
        """Whether *node* is to be taken for dead. A newcomer is not: nobody can have heard it, and whoever makes it a
        voter without it having been a learner vouches for it."""
        progress = leader.progress.get(node)
        return node != self.node_id and progress is not None and not self._is_active(progress)

    @staticmethod
    def _is_unheard(leader: LeaderT, node: NodeId) -> bool:
        """Whether *node* has answered nothing yet, and is active only because silence counts from when this leader
        began."""
        progress = leader.progress.get(node)
        return progress is not None and not (progress.acked_token or progress.match)

    def _refused_for_good(self, why: str) -> Refused:
        return Refused(RefusalReason.BAD_CHANGE, self.node_id, why)

    def _refused_for_now(self, why: str) -> Refused:
        return Refused(RefusalReason.NOT_READY, self.node_id, why)

    def _maybe_promote(self, leader: LeaderT) -> None:
        """Learners that have caught up become voters, without anybody having to watch them."""
        caught_up = [node for node in self._membership.learners if self._has_caught_up(leader, node)]
        ready = promotable(self._membership, caught_up)
        if ready:
            self.change_membership(MembershipChange(promote=ready))

    def _has_caught_up(self, leader: LeaderT, node: NodeId) -> bool:
        """Whether a learner may become a voter: it would hold nothing up (thesis §4.2.1)."""
        progress = leader.progress[node]
        return (
            progress.mode is Mode.REPLICATE
            and self._is_active(progress)
            and progress.match + self._config.promote_lag_max >= self._last_proposed(leader)
        )


def _names(membership: Membership, nodes: Iterable[NodeId]) -> str:
    return ", ".join(name_of(membership, node) for node in nodes)

"""The state under all rules, and what several of them do to it."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from troth.core.config import EngineConfig
from troth.core.interface import Membership, Message, Send, SnapshotMeta, Trace
from troth.core.leading.outbox import Outbox
from troth.core.leading.roles import Follower, Leading, Role
from troth.core.membership import MembershipLog
from troth.core.quorum import QuorumSizes
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.ports import Rng

NOBODY = NodeId(0)

LeaderT = TypeVar("LeaderT", bound=Leading)


class Server(ABC, Generic[LeaderT]):
    """What the rules read and write. Only the rules' files touch the underscored names."""

    _sizes = QuorumSizes()
    """How many voters each phase needs; Raft knows majorities alone."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        config: EngineConfig,
        rng: Rng,
        snapshot: SnapshotMeta,
        memberships: MembershipLog,
        now: Tick,
        may_vote: bool,
    ) -> None:
        self.node_id = node_id
        self._config = config
        self._rng = rng
        self._now = now
        self._may_vote = may_vote
        self._takes_entries = True
        self._memberships = memberships
        self._others_of: Membership | None = None
        """The membership that `_others_now` was made from: it is asked for several times a turn."""
        self._others_now: tuple[NodeId, ...] = ()
        self._delivered_index = snapshot.last.index
        self._applied_index = snapshot.last.index
        self._role: Role = Follower()
        # It may have confirmed a lease just before it went down, even in a term that it did not get to store.
        self._leader_contact: Tick | None = now if config.lease_reads else None
        self._quick_attempts = 0
        self._read_number = rng.getrandbits(48)
        self._election_deadline = now
        self._reset_election_timer()
        self._out = Outbox()

    # ---- what a protocol fills in ----

    @property
    @abstractmethod
    def _leader(self) -> LeaderT | None:
        """The present role, if this server leads."""

    @property
    @abstractmethod
    def term(self) -> Term:
        """The number of the present reign."""

    @property
    @abstractmethod
    def commit_index(self) -> LogIndex:
        """Everything up to here is agreed upon."""

    @property
    @abstractmethod
    def _announced(self) -> Membership:
        """The membership that the outside is told of; its servers receive the log."""

    @abstractmethod
    def _merged(self, before: Message, after: Message) -> Message | None:
        """The one acknowledgement (or answer) that says what these two say, if they are such."""

    # ---- small questions ----

    @property
    def _membership(self) -> Membership:
        """Who decides."""
        return self._memberships.current

    @property
    def _leader_id(self) -> NodeId:
        return self.leader()[1]

    def _others(self) -> tuple[NodeId, ...]:
        """Everybody else who receives the log, in a fixed order."""
        membership = self._announced
        if membership is not self._others_of:
            self._others_of = membership
            self._others_now = tuple(node for node in membership.everyone() if node != self.node_id)
        return self._others_now

    def _other_voters(self, membership: Membership) -> tuple[NodeId, ...]:
        return tuple(sorted({*membership.voters, *membership.outgoing} - {self.node_id}))

    def leader(self) -> tuple[Term, NodeId]:
        """The present term and its leader (0: unknown): the part of `status` that is asked for all the time."""
        role = self._role
        if isinstance(role, Follower):
            return self.term, role.leader
        return self.term, self.node_id if isinstance(role, Leading) else NOBODY

    def membership_at(self, index: LogIndex) -> Membership:
        """The membership in force at *index*."""
        return self._memberships.at(index)

    def take_entries(self, taking: bool) -> None:
        """Whether entries that a leader sends are taken in; while not, they are passed over."""
        self._takes_entries = taking

    def restore_vote(self) -> None:
        """What this server had lost of its log is whole again, or void: it may vote and stand."""
        self._may_vote = True

    # ---- outboxes ----

    def _send(self, to: NodeId, message: Message) -> None:
        """May leave at once: it reveals nothing that a crash could take back."""
        self._out.send.append(Send(to, message))

    def _send_durable(self, to: NodeId, message: Message) -> None:
        """Leaves when everything so far is durable: votes, promises, acknowledgements, and whatever reveals the term.

        Two acknowledgements in a row wait for the same write, so one of the greater index says it all."""
        outbox = self._out.after_persist
        if outbox and outbox[-1].to == to and (both := self._merged(outbox[-1].message, message)) is not None:
            outbox[-1] = Send(to, both)
            return
        outbox.append(Send(to, message))

    def _trace(self, name: str, **facts: object) -> None:
        self._out.trace.append(Trace(name=name, facts=facts))

    # ---- changes that several rules make ----

    def _reset_election_timer(self) -> None:
        """Draw a new patience (Raft §5.2: randomised, so that two rarely stand at once)."""
        base = self._config.election_timeout_ticks
        self._election_deadline = Tick(self._now + self._rng.randrange(base, base + base // 2 + 1))

    def _become_follower(self, leader: NodeId) -> None:
        """Follow *leader* (0: nobody known yet) in the present term."""
        self._drop_reads()
        self._role = Follower(leader=leader)
        self._quick_attempts = 0
        self._reset_election_timer()
        self._trace("follower", term=self.term, leader=leader)

    def _drop_reads(self) -> None:
        """Refuse the reads that this role was waiting for; it is left at once, and they with it."""
        role = self._role
        if isinstance(role, Leading):
            pending = [(read.origin, read.context) for read in role.unconfirmed] + role.new_reads
            self._out.reads_refused.extend(context for origin, context in pending if origin == self.node_id)
        elif isinstance(role, Follower):
            self._out.reads_refused.extend(context for context, _ in role.reads.values())

"""The seam between a consensus protocol and everything above it.

An engine (Raft, Multi-Paxos) is a pure state machine that keeps one append-only log the same on several servers.
Inputs are method calls; the outcome of all inputs since the last call is fetched with `Engine.take_effects`. An
engine has no clock, no disk and no network: time comes in as `now` (ticks), everything to be done goes out in
`Effects`.

The driver's duties, the same for production (`runtime`) and simulator (`simulate`):

1. `Effects.send` may leave at once.
2. `Effects.persist` is queued in order. `Effects.after_persist` leaves only when that write *and all earlier
   ones* are durable; messages to oneself (`Send.to == node_id`) are then handed back through `receive`.
   Writes may be merged, never reordered. That order is what "durable before visible" means here.
3. `Effects.committed` is applied in order. It may be applied before it is durable on this server: a quorum has it. No
   snapshot is taken in the middle of it.
4. `Effects.install` replaces the state machine's state by the snapshot that arrived.

Time. `now` is a reading of this server's own monotonic clock, taken after the input had arrived. It may be *old* when
the engine gets it (a pause falls between reading and calling), and older than the one before: that then counts. It may
never be older than the arrival of its input, nor ahead of the clock: patience with a leader begins at the `now` of its
message, and a leader's lease is counted on that (`ReadState.valid_until` is compared with a reading that is not older
than the read's arrival: if the lease held then, nobody else had chosen anything by then). `propose`,
`change_membership` and `transfer` go by the newest `now` there was.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Protocol, TypeAlias

import msgspec

from troth.core.quorum import QuorumSizes
from troth.ids import LogIndex, NodeId, Term, Tick


class EntryKind(IntEnum):
    """NOOP carries nothing, COMMANDS the bytes given to `propose`, MEMBERSHIP an encoded `Membership`."""

    NOOP = 0
    COMMANDS = 1
    MEMBERSHIP = 2


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One position of the log. `term` is the proposer's Raft term (Paxos: the ballot's round)."""

    index: LogIndex
    term: Term
    kind: EntryKind
    payload: bytes

    @property
    def size_bytes(self) -> int:
        """What the entry costs in memory, on the wire and on disk, about."""
        return len(self.payload) + 24


class EntryId(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """Names an entry: Log Matching makes (term, index) unique. Ordered as "more up to date" (Raft §5.4.1)."""

    term: Term
    index: LogIndex


ORIGIN = EntryId(Term(0), LogIndex(0))
"""The position before the first entry."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """How a server is called and found. Addresses are ``host:port`` and resolved at every connect."""

    name: str
    peer_address: str = ""
    client_address: str = ""
    promote: bool = True
    """Whether a learner becomes a voter by itself once it has caught up."""


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """Who decides. While `outgoing` is not empty, decisions need a quorum of both sets (joint consensus, §6)."""

    voters: tuple[NodeId, ...]
    outgoing: tuple[NodeId, ...] = ()
    learners: tuple[NodeId, ...] = ()
    members: dict[NodeId, Member] = {}

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    def everyone(self) -> tuple[NodeId, ...]:
        """All servers that receive the log, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    def is_voter(self, node: NodeId) -> bool:
        return node in self.voters or node in self.outgoing

    def is_member(self, node: NodeId) -> bool:
        return node in self.voters or node in self.outgoing or node in self.learners


class HardState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a server must remember before it speaks: one record, one checksum (Raft figure 2).

    Paxos: the promised ballot, `term` its round and `voted_for` its node.
    """

    term: Term = Term(0)
    voted_for: NodeId = NodeId(0)


class Ballot(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """Paxos: the name of one server's one try to lead. Unique for ever, since a server never uses a round twice."""

    round: Term
    node: NodeId


CHOSEN = Ballot(Term((1 << 63) - 1), NodeId(0))
"""Above all ballots: the mark of a slot whose value is known to be chosen. Nothing can be accepted in its place, and
in phase 1 it wins over whatever else is reported."""


class Slot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Paxos: what an acceptor holds at ``entry.index``. `ballot` is the one it was accepted at, which is not the one
    promised, nor that in which the value was first proposed (``entry.term`` is a part of the value and never
    changes)."""

    ballot: Ballot
    entry: Entry


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """Names a snapshot: the state after entry `last`, and the membership in force there."""

    last: EntryId
    membership: Membership
    taken_at: Ballot = Ballot(Term(0), NodeId(0))
    """The term of the server that took it, when it did (Paxos: the ballot it had promised). Everything in the snapshot
    was agreed upon in it or earlier, so that whoever leads in it or later has all of it. Unknown in old files."""

    @property
    def floor(self) -> Ballot:
        """Who starts behind it starts in this term (Paxos: with this promise), or in a later one of its own: a leader
        of an earlier one may lack what is here, and must not take this server for one that got it from there."""
        return max(self.taken_at, Ballot(self.last.term, NodeId(0)))


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Whatever engines say to each other; each engine has its own closed union of subclasses."""

    def brings_entries(self) -> bool:
        """Whether there are entries in it, which its receiver has to write; lost, it is sent again."""
        return False


class Send(msgspec.Struct, frozen=True):
    to: NodeId
    message: Message


class Persist(msgspec.Struct, frozen=True, kw_only=True):
    """One write to stable storage. Raft writes `entries`, which overwrite what is stored at and after
    ``entries[0].index``; Paxos writes `slots`, each of which overwrites what is stored at its own index and nothing
    else."""

    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: SnapshotMeta | None = None
    """A snapshot installed from the leader; the log starts anew behind it unless it holds the same entry (Paxos: the
    slots up to its end are void, the later ones stay)."""
    slots: tuple[Slot, ...] = ()
    """In any order and with gaps; of two with one index the later counts."""
    chosen: LogIndex = LogIndex(0)
    """Paxos: what is stored up to here is known to be chosen. Written along with something else, never for itself."""


class ReadState(msgspec.Struct, frozen=True):
    """A read may be answered from the state after *index* (linearizable; Raft thesis §6.4).

    `valid_until` is the tick before which the answer must have been read, when a leader lease vouches for it; 0
    when a quorum vouched after the read had arrived, which needs no limit.
    """

    context: int
    index: LogIndex
    valid_until: Tick = Tick(0)


class RefusalReason(Enum):
    """Why, for people; `Refused.detail` says it more exactly where there is more to say."""

    NOT_LEADER = "this server is not the leader"
    TRANSFERRING = "leadership is being transferred"
    QUEUE_FULL = "too many bytes wait for a quorum"
    CHANGE_IN_PROGRESS = "another membership change is under way"
    NOT_READY = "not yet: the leader does not know all that is committed"
    BAD_CHANGE = "this membership change is not possible"
    BAD_TARGET = "leadership can not be given to this server"


class Accepted(msgspec.Struct, frozen=True):
    """The proposal stands in this server's log at `id`; whether it commits is not known yet."""

    id: EntryId


class Refused(msgspec.Struct, frozen=True):
    """Definite: not in the log and never will be through this call."""

    reason: RefusalReason
    leader: NodeId = NodeId(0)
    detail: str = ""


ProposeResult: TypeAlias = Accepted | Refused


class MembershipChange(msgspec.Struct, frozen=True, kw_only=True):
    """One or many servers at once.

    A server in `add_voters` that is new starts as a voter: prefer `add_learners` with ``Member.promote``, which
    gives it the log first.
    """

    add_voters: dict[NodeId, Member] = {}
    add_learners: dict[NodeId, Member] = {}
    promote: tuple[NodeId, ...] = ()
    remove: tuple[NodeId, ...] = ()
    update: dict[NodeId, Member] = {}


class RoleName(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader knows of one follower."""

    match: LogIndex
    next: LogIndex
    state: str
    active: bool
    in_flight: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen look at an engine, the same for tests, CLI and metrics."""

    node_id: NodeId
    role: RoleName
    term: Term
    voted_for: NodeId
    leader: NodeId
    first_index: LogIndex
    last: EntryId
    commit_index: LogIndex
    applied_index: LogIndex
    membership: Membership
    membership_index: LogIndex
    progress: Mapping[NodeId, Progress]
    knows_committed: bool = False
    """Whether it leads, and knows all that was committed before it led."""
    transferring_to: NodeId = NodeId(0)
    sizes: QuorumSizes = QuorumSizes()
    """How many voters it takes; majorities, unless Paxos was told otherwise."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Something worth telling (a role change, a vote): for scenario transcripts, logs and diagrams."""

    name: str
    facts: Mapping[str, object] = {}


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """All that the inputs since the last call ask the driver to do. See the module's four duties."""

    send: tuple[Send, ...] = ()
    persist: Persist | None = None
    after_persist: tuple[Send, ...] = ()
    committed: tuple[Entry, ...] = ()
    more_committed: bool = False
    """More is committed than was put into `committed`: take effects again soon."""
    install: SnapshotMeta | None = None
    reads: tuple[ReadState, ...] = ()
    reads_refused: tuple[int, ...] = ()
    """Contexts of reads that can not be confirmed any more (leader lost); ask again."""
    snapshots_wanted: tuple[NodeId, ...] = ()
    """Followers whose next entry is compacted away: stream them the newest snapshot."""
    membership: Membership | None = None
    """The membership in force has become this one (an append, or a truncation that took one back)."""
    trace: tuple[Trace, ...] = ()


NO_EFFECTS = Effects()
"""What most steps lead to; engines return this very object then."""


class Engine(Protocol):
    """What stands above `core` sees of a consensus protocol, and all it may see."""

    node_id: NodeId

    def propose(self, payload: bytes) -> ProposeResult:
        """Append *payload* to the log if this server leads."""

    def receive(self, sender: NodeId, message: Message, now: Tick) -> None:
        """Handle one message. Malformed or stale ones change nothing."""

    def tick(self, now: Tick) -> None:
        """Let time pass up to *now* (see the module: an older one than before changes nothing)."""

    def asleep_until(self) -> Tick:
        """`tick` changes nothing before this, unless something else comes in first. For a driver that would sleep."""

    def read(self, context: int, now: Tick) -> None:
        """Ask for a linearizable read point; *context* (chosen by the caller, unique) returns in `Effects`."""

    def change_membership(self, change: MembershipChange) -> ProposeResult:
        """Start a membership change; it is over when `Status.membership` is no longer joint.

        Refused is what would leave the cluster without a quorum that is alive (`RefusalReason.BAD_CHANGE`), and until
        they have answered, or the learner has caught up, what depends on servers of which that is not known yet
        (`RefusalReason.NOT_READY`).
        """

    def transfer(self, target: NodeId) -> Refused | None:
        """Hand leadership to *target* (0: the most up-to-date voter); intake stops until done or timed out."""

    def suspect(self, peer: NodeId, now: Tick) -> None:
        """The driver has seen *peer*'s process die (connection closed, reconnect refused)."""

    def unreachable(self, peer: NodeId) -> None:
        """A message to *peer* could not be delivered: stop pipelining to it."""

    def snapshot_sent(self, peer: NodeId, meta: SnapshotMeta, ok: bool) -> None:
        """Streaming to *peer* ended; *ok* says whether all of it was acknowledged."""

    def snapshot_received(self, sender: NodeId, term: Term, meta: SnapshotMeta, now: Tick) -> bool:
        """A whole snapshot has arrived from *sender*, which led in *term*, and is durable; True when it is installed
        (see `Effects.install`)."""

    def applied(self, index: LogIndex) -> None:
        """The state machine has applied up to *index*."""

    def compact(self, meta: SnapshotMeta, keep_from: LogIndex) -> None:
        """A snapshot at `meta` is durable here; entries before *keep_from* (<= ``meta.last.index + 1``) go."""

    def snapshot_meta(self, index: LogIndex) -> SnapshotMeta:
        """The header of a snapshot of the state at *index*, which is applied and not compacted."""

    def membership_at(self, index: LogIndex) -> Membership:
        """The membership in force at *index*."""

    def take_entries(self, taking: bool) -> None:
        """Whether entries that a leader sends are taken in; while not, they are passed over as if they had been lost.
        For a server that cannot apply as fast as others commit."""

    def restore_vote(self) -> None:
        """A server that had lost part of its log has caught up: it may vote and stand again."""

    @property
    def commit_index(self) -> LogIndex:
        """Everything up to here is agreed upon."""

    def leader(self) -> tuple[Term, NodeId]:
        """The present term and its leader (0: unknown): the part of `status` that is asked for all the time."""

    def status(self) -> Status:
        """A frozen look at the present state."""

    def take_effects(self) -> Effects:
        """Everything to be done since the last call."""

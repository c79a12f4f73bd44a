"""What proposers and acceptors say to each other, and what an acceptor writes down.

Registers are CASPaxos (Rystsov 2018, arXiv 1802.07000): single-decree Paxos over and over on one cell per key, driven
by clients straight against the acceptors. There is no log and no leader; a client is a proposer.

Order, loss and duplication: a message may be lost, late and overtaken. Copies of a request do no harm to a register
(answers may come twice as well), but a request is sent once, over a stream: a refusal then proves that it was not done.
An acceptor answers a request by itself, without memory of who asked; a proposer ignores answers to requests that it has
given up. Durability: whatever an acceptor answers is durable before the answer leaves (`Acceptor.on_request`).
"""

from collections.abc import Callable
from operator import attrgetter
from typing import TypeAlias

import msgspec
import xxhash

from troth.core.quorum import VoteResult, check_flexible, combined, majority, vote_result
from troth.errors import UsageError
from troth.ids import NodeId

MARKS_KEPT = 16
"""Of how many proposers, the most recent ones, a register remembers the newest change; see `State.marks`."""

SEATS_MAX = 64
"""Of one group: acceptors are told of no larger one."""

RESERVED = b"\0"
"""Keys that begin so are the protocol's own (see `config_key`)."""

RESERVED_END = b"\1"
"""The first key that is not."""


class Ballot(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """Names one attempt of one proposer, for ever: `client` is drawn at random for each proposer object, and that
    proposer never uses a `round` twice. Since the id dies with the object nothing of it needs a disk."""

    round: int = 0
    client: int = 0


ZERO = Ballot()
"""Below every ballot that a proposer uses."""


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest change that one proposer made: at this ballot, and it was the register's `version`."""

    ballot: Ballot
    version: int


class State(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a register holds. `value` None is a tombstone: deleted, and not collected yet.

    `version` counts the changes since the register was `born`, which is the ballot of the change that made it out of
    nothing. `marks` hold the newest change of each of the proposers that changed it last, oldest first, so that one
    that does not know what became of its accept finds out from any later state (`states.fate`); marks of changes up
    to the version `forgotten` may be missing. `floor` is the highest fence that the creator saw: whatever may have been
    collected before had smaller ballots.
    """

    value: bytes | None
    version: int
    born: Ballot
    floor: Ballot
    marks: tuple[Mark, ...] = ()
    forgotten: int = 0
    decided: bool = False
    """`value` is decided for ever; no change is accepted any more."""


class Seat(msgspec.Struct, frozen=True, array_like=True):
    """An acceptor with a voice. `since` is the epoch in which it got it: one that left and came back begins empty."""

    acceptor: NodeId
    address: str
    since: int = 1


_acceptor_of: Callable[[Seat], NodeId] = attrgetter("acceptor")


class Group(msgspec.Struct, frozen=True, array_like=True):
    """A set of acceptors and how many of them a phase needs (Flexible Paxos: any two of them must meet)."""

    seats: tuple[Seat, ...]
    prepare: int
    accept: int

    @property
    def acceptors(self) -> tuple[NodeId, ...]:
        return tuple(map(_acceptor_of, self.seats))


class ConfigId(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names a configuration. Every request carries it; an acceptor in another one refuses."""

    cluster: int
    epoch: int


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who the acceptors are. With two groups a phase needs a quorum of both: a change is under way (§2.3)."""

    id: ConfigId
    groups: tuple[Group, ...]
    floor: Ballot = ZERO
    """Fences of acceptors that take this configuration are at least so high."""
    barrier: Ballot = ZERO
    """Its acceptors refuse ballots up to this one, for every key: what was accepted at one of them before, and was
    never chosen, may still be held by one that was away (reconfigure.py)."""

    @property
    def is_joint(self) -> bool:
        return len(self.groups) > 1

    @property
    def seats(self) -> tuple[Seat, ...]:
        """All acceptors, each once, sorted."""
        found = {seat.acceptor: seat for group in self.groups for seat in group.seats}
        return tuple(found[acceptor] for acceptor in sorted(found))

    @property
    def acceptors(self) -> tuple[NodeId, ...]:
        return tuple(map(_acceptor_of, self.seats))

    def seat_of(self, acceptor: NodeId) -> Seat | None:
        # The newer group's, as in `seats`.
        for group in reversed(self.groups):
            for seat in group.seats:
                if seat.acceptor == acceptor:
                    return seat
        return None

    def prepared(self, votes: dict[NodeId, bool]) -> VoteResult:
        """Whether *votes* are a phase-1 quorum."""
        return combined([vote_result(group.acceptors, votes, size=group.prepare) for group in self.groups])

    def accepted(self, votes: dict[NodeId, bool]) -> VoteResult:
        """Whether *votes* are a phase-2 quorum."""
        return combined([vote_result(group.acceptors, votes, size=group.accept) for group in self.groups])

    def describe(self) -> str:
        """For people: epoch, addresses, quorum sizes."""
        shown = " and ".join(
            f"{', '.join(seat.address for seat in group.seats)} (prepare {group.prepare}, accept {group.accept})"
            for group in self.groups
        )
        return f"epoch {self.id.epoch}: {shown}"


def check_sizes(*, prepare: int, accept: int) -> None:
    """See whether these may be sizes of quorums (0: a majority). True and 2.0 are equal to numbers that may, and are
    other bytes, which nobody would read again.

    Raises:
        UsageError: they may not.
    """
    for name, size in (("prepare", prepare), ("accept", accept)):
        if type(size) is not int or size < 0:
            raise UsageError(f"{name}= is a number of acceptors (0: a majority of them), not {size!r:.60}")


def group_of(seats: tuple[Seat, ...], *, prepare: int = 0, accept: int = 0) -> Group:
    """A group with quorums of the sizes given (0: a majority).

    Raises:
        UsageError: no seats or too many, one acceptor twice, sizes that are no numbers, or quorums that need not meet.
    """
    check_sizes(prepare=prepare, accept=accept)
    ordered = tuple(sorted(seats, key=lambda seat: seat.acceptor))
    if not ordered or len({seat.acceptor for seat in ordered}) < len(ordered):
        raise UsageError("a set of acceptors needs at least one, and each once")
    if len(ordered) > SEATS_MAX:
        raise UsageError(f"a set has up to {SEATS_MAX} acceptors, not {len(ordered)}")
    group = Group(ordered, prepare or majority(len(ordered)), accept or majority(len(ordered)))
    check_flexible(len(ordered), group.prepare, group.accept)
    return group


def founding(group: Group) -> Configuration:
    """The first configuration of a cluster of registers, the same for everybody who founds it with the same group."""
    facts = (group.acceptors, group.prepare, group.accept)
    cluster = xxhash.xxh3_64_intdigest(msgspec.msgpack.encode(facts)) >> 1 or 1
    return Configuration(ConfigId(cluster, 1), (group,))


def config_key(epoch: int) -> bytes:
    """The register in which the configuration of *epoch* is decided, under the one before."""
    return RESERVED + b"config/%016x" % epoch


# ---- requests ----------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, array_like=True):
    """What an acceptor is asked."""


class Prepare(Request, frozen=True, tag=1):
    """Phase 1 for `key`: promise `ballot`, and say what you have accepted."""

    config: ConfigId
    key: bytes
    ballot: Ballot


class Accept(Request, frozen=True, tag=2):
    """Phase 2: accept `state` at `ballot`, and promise `next` at once, if given (§2.2.1, one round trip)."""

    config: ConfigId
    key: bytes
    ballot: Ballot
    state: State
    next: Ballot = ZERO


class Read(Request, frozen=True, tag=3):
    """What have you accepted? Promises nothing and writes nothing."""

    config: ConfigId
    key: bytes


class Collect(Request, frozen=True, tag=4):
    """Remove `key` if what you hold is the tombstone accepted at `ballot` (§3.1)."""

    config: ConfigId
    key: bytes
    ballot: Ballot


class Scan(Request, frozen=True, tag=5):
    """Which keys do you hold, in order, after `after`? At most `limit`."""

    config: ConfigId
    after: bytes
    limit: int


class Configure(Request, frozen=True, tag=6):
    """Move to `to`, which was decided under the configuration before it."""

    to: Configuration


class Describe(Request, frozen=True, tag=7):
    """Which configuration are you in, and how are you?"""


# ---- answers -----------------------------------------------------------------------------------------------


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What an acceptor answers."""


class Promise(Reply, frozen=True, tag=1):
    """Promised; this is what was accepted before, at `accepted` (ZERO: nothing). `fence` is the acceptor's."""

    accepted: Ballot
    state: State | None
    fence: Ballot


class Accepted(Reply, frozen=True, tag=2):
    """Accepted, and the next ballot promised."""


class Conflict(Reply, frozen=True, tag=3):
    """Refused, and will be for ever: `ballot`, which is higher, was promised."""

    ballot: Ballot


class Holding(Reply, frozen=True, tag=4):
    """The answer to `Read`."""

    accepted: Ballot
    state: State | None


class Collected(Reply, frozen=True, tag=5):
    """The answer to `Collect`: the key is not here any more, or it holds something else."""

    removed: bool


class Scanned(Reply, frozen=True, tag=6):
    """The answer to `Scan`: (key, is a tombstone). `highest`: no ballot above it was ever promised here. `accepted`: at
    which ballot each of the keys was accepted; nothing, from an acceptor of before there was this field."""

    keys: tuple[tuple[bytes, bool], ...]
    more: bool
    fence: Ballot
    highest: Ballot = ZERO
    accepted: tuple[Ballot, ...] = ()


class WrongConfig(Reply, frozen=True, tag=7):
    """Refused: the acceptor is in this configuration (None: in none yet)."""

    mine: Configuration | None


class Full(Reply, frozen=True, tag=8):
    """Refused: the acceptor's quota is used up."""

    text: str


class Described(Reply, frozen=True, tag=9):
    """The answer to `Describe` and `Configure`."""

    acceptor: NodeId
    config: Configuration | None
    registers: int
    tombstones: int
    bytes: int
    fence: Ballot
    came_late: bool = False
    """It stands beside a server that joined a running cluster: without a configuration it may be the successor of one
    that had one, so nobody takes it for the beginning of a new set unasked."""


RequestMessage: TypeAlias = Prepare | Accept | Read | Collect | Scan | Configure | Describe
ReplyMessage: TypeAlias = (
    Promise | Accepted | Conflict | Holding | Collected | Scanned | WrongConfig | Full | Described
)


# ---- what an acceptor writes down --------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One durable change of an acceptor."""


class PromisedRecord(Record, frozen=True, tag=1):
    key: bytes
    ballot: Ballot


class AcceptedRecord(Record, frozen=True, tag=2):
    key: bytes
    ballot: Ballot
    state: State
    promised: Ballot


class CollectedRecord(Record, frozen=True, tag=3):
    """`key` is removed and the fence is at least `fence`: one record, so never one without the other."""

    key: bytes
    fence: Ballot


class ConfiguredRecord(Record, frozen=True, tag=4):
    config: Configuration
    begin_empty: bool


RecordMessage: TypeAlias = PromisedRecord | AcceptedRecord | CollectedRecord | ConfiguredRecord

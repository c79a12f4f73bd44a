"""What Multi-Paxos servers say to each other. The union is closed: `receive` matches all of it.

Tags 1 to 31 are the engine's; a number is never used again for something else. Every message carries a ballot: the
one it belongs to, or, in a refusal, the higher one that its sender has promised.
"""

from typing import TypeAlias

from typing_extensions import override

from troth.core.interface import Ballot, Entry, EntryKind, Message, Slot
from troth.core.membership import holds_membership
from troth.ids import LogIndex, NodeId, Term


class Probe(Message, frozen=True, array_like=True, tag=1):
    """ "Would you promise this ballot?" Asked before it is used, so that a leader who works is not disturbed.

    `start`: the first slot that the asker does not know to be chosen.
    """

    ballot: Ballot
    start: LogIndex


class ProbeReply(Message, frozen=True, array_like=True, tag=2):
    """Granted: the ballot as asked. Refused: what was promised, so that one who was left behind learns it."""

    ballot: Ballot
    granted: bool


class Prepare(Message, frozen=True, array_like=True, tag=3):
    """Phase 1a for all slots from `start` on; sent again with a higher `start` for the next page of the answer.

    `transfer`: the leader of the round before who asked for this, if one did; having just heard from that one does
    not forbid the promise. Others may lead at a ballot in between, and nobody has given up their lease.
    """

    ballot: Ballot
    start: LogIndex
    transfer: NodeId = NodeId(0)

    @property
    def handed_over(self) -> Ballot | None:
        """The ballot whose leader gives way; all leaders below it have lost their leases to it."""
        return Ballot(Term(self.ballot.round - 1), self.transfer) if self.transfer else None


class Promise(Message, frozen=True, array_like=True, tag=4):
    """Phase 1b, one page: all that the sender has accepted in ``[start, upto]``, ascending.

    Slots up to `chosen` hold chosen values. `last` is the highest slot held: there is more while ``upto < last``, and
    each page gets further.
    """

    ballot: Ballot
    start: LogIndex
    upto: LogIndex
    last: LogIndex
    chosen: LogIndex
    slots: tuple[Slot, ...]


class Accept(Message, frozen=True, array_like=True, tag=5):
    """Phase 2a for a run of slots: ``entries[i].index == entries[0].index + i``. Without entries it asks for an
    acknowledgement. The leader knows all slots up to `chosen` to be chosen."""

    ballot: Ballot
    entries: tuple[Entry, ...]
    chosen: LogIndex

    @override
    def brings_entries(self) -> bool:
        return bool(self.entries)


class AcceptReply(Message, frozen=True, array_like=True, tag=6):
    """Phase 2b. Each slot up to `match`, and each of ``[first, last]``, is durably accepted at this ballot here (or
    known to be chosen)."""

    ballot: Ballot
    match: LogIndex
    first: LogIndex = LogIndex(0)
    last: LogIndex = LogIndex(0)


class Heartbeat(Message, frozen=True, array_like=True, tag=7):
    """`token` numbers the leader's rounds; 0 (`COMMIT_NOTICE`) wants no answer."""

    ballot: Ballot
    chosen: LogIndex
    token: int


class HeartbeatReply(Message, frozen=True, array_like=True, tag=8):
    """ "I had promised nothing above your ballot when I saw `token`." `received`: each slot up to it has arrived,
    durable or not; what the leader has sent beyond it was lost."""

    ballot: Ballot
    token: int
    received: LogIndex


class Outbid(Message, frozen=True, array_like=True, tag=9):
    """Answer to a lower ballot: this one is promised, and the other would never learn why nobody answers it."""

    ballot: Ballot


class TimeoutNow(Message, frozen=True, array_like=True, tag=10):
    """Leadership transfer: prepare a ballot of your own at once."""

    ballot: Ballot


class ReadRequest(Message, frozen=True, array_like=True, tag=11):
    """A follower asks for a read point. `number` is the follower's and never used twice, in no other life either."""

    ballot: Ballot
    number: int


class ReadReply(Message, frozen=True, array_like=True, tag=12):
    ballot: Ballot
    number: int
    index: LogIndex


PaxosMessage: TypeAlias = (
    Probe
    | ProbeReply
    | Prepare
    | Promise
    | Accept
    | AcceptReply
    | Heartbeat
    | HeartbeatReply
    | Outbid
    | TimeoutNow
    | ReadRequest
    | ReadReply
)


def is_well_formed(sender: NodeId, message: PaxosMessage) -> bool:
    """Whether *message* keeps the shape its docstring promises; msgspec has checked the types only."""
    match message:
        case Probe() | Prepare():
            return message.ballot.node == sender and message.start > 0
        case Heartbeat() | TimeoutNow():
            return message.ballot.node == sender
        case Accept(entries=entries):
            if message.ballot.node != sender:
                return False
            index, round_ = entries[0].index if entries else LogIndex(1), message.ballot.round
            if index <= 0:
                return False
            for entry in entries:
                if entry.index != index or entry.term > round_ or not _is_readable(entry):
                    return False
                index = LogIndex(index + 1)
            return True
        case Promise(slots=slots):
            indexes = [slot.entry.index for slot in slots]
            return (
                message.start > 0
                and (message.upto >= message.start or message.upto >= message.last)
                and sorted(set(indexes)) == indexes
                and (not indexes or (message.start <= indexes[0] and indexes[-1] <= message.upto))
                and all(_is_readable(slot.entry) for slot in slots)
            )
        case _:
            return True


def _is_readable(entry: Entry) -> bool:
    """A membership that nobody can read must not get into a slot: it could never be delivered."""
    return entry.kind != EntryKind.MEMBERSHIP or holds_membership(entry)

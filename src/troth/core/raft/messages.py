"""What Raft servers say to each other. The union is closed: `receive` matches all of it.

Tags 1 to 31 are the engine's; a number is never used again for something else. Every message carries the sender's
term, except that `PreVote` and a granted `PreVoteReply` carry the term the candidate *would* run in (thesis §9.6).
"""

from typing import TypeAlias, TypeGuard, get_args

from typing_extensions import override

from troth.core.interface import Entry, EntryId, EntryKind, Message
from troth.core.membership import holds_membership
from troth.ids import LogIndex, Term


class PreVote(Message, frozen=True, array_like=True, tag=1):
    """ "Would you vote for me?" Asked before the term is raised (thesis §9.6)."""

    term: Term
    last: EntryId


class PreVoteReply(Message, frozen=True, array_like=True, tag=2):
    """Granted: `term` as asked. Refused: the voter's own term, so that a candidate left behind learns it."""

    term: Term
    granted: bool


class RequestVote(Message, frozen=True, array_like=True, tag=3):
    """§5.2. `transfer`: the old leader asked for this election, so a fresh leader contact does not forbid it."""

    term: Term
    last: EntryId
    transfer: bool = False


class VoteReply(Message, frozen=True, array_like=True, tag=4):
    term: Term
    granted: bool


class AppendEntries(Message, frozen=True, array_like=True, tag=5):
    """§5.3. Contiguous: ``entries[i].index == prev.index + 1 + i``; terms never fall."""

    term: Term
    prev: EntryId
    entries: tuple[Entry, ...]
    commit: LogIndex

    @override
    def brings_entries(self) -> bool:
        return bool(self.entries)


class AppendReply(Message, frozen=True, array_like=True, tag=6):
    """The sender durably holds the leader's log up to `match`: what the *message* covered, never its own last."""

    term: Term
    match: LogIndex


class AppendRejected(Message, frozen=True, array_like=True, tag=7):
    """No entry `rejected` with the leader's term here. `hint` is the last entry that might still agree (§5.3)."""

    term: Term
    rejected: LogIndex
    hint: EntryId


class Heartbeat(Message, frozen=True, array_like=True, tag=8):
    """`commit` is the newest committed entry: whoever holds that very entry holds all before it (Log Matching).

    `token` numbers the leader's rounds.
    """

    term: Term
    commit: EntryId
    token: int


class HeartbeatReply(Message, frozen=True, array_like=True, tag=9):
    """ "You were the leader of my term when I saw `token`": confirms reads and leases up to that round."""

    term: Term
    token: int


class HigherTerm(Message, frozen=True, array_like=True, tag=10):
    """Answer to a leader or candidate of an older term: it would never learn, and must step down (etcd issue 8501)."""

    term: Term


class TimeoutNow(Message, frozen=True, array_like=True, tag=11):
    """Leadership transfer: campaign at once (thesis §3.10)."""

    term: Term


class ReadRequest(Message, frozen=True, array_like=True, tag=12):
    """A follower asks for a read index (thesis §6.4).

    `number` is the follower's, and never used twice, in no other life either: an answer to a read of the life before
    would be too old for the one that now goes by its number.
    """

    term: Term
    number: int
    reaches: LogIndex = LogIndex(-1)
    """Of a server that had lost a part of its log and wants to know from where on it has everything again: how far
    its log reaches. The leader is to count on nothing behind that any more *before* it names the index."""


class ReadReply(Message, frozen=True, array_like=True, tag=13):
    term: Term
    number: int
    index: LogIndex


RaftMessage: TypeAlias = (
    PreVote
    | PreVoteReply
    | RequestVote
    | VoteReply
    | AppendEntries
    | AppendReply
    | AppendRejected
    | Heartbeat
    | HeartbeatReply
    | HigherTerm
    | TimeoutNow
    | ReadRequest
    | ReadReply
)


_KINDS = frozenset(get_args(RaftMessage))
"""`isinstance` takes longer with a union than all else that a heartbeat needs."""


def is_well_formed(message: Message) -> TypeGuard[RaftMessage]:
    """Whether *message* is one of Raft's, in the shape its docstring promises; msgspec has checked the types only."""
    if type(message) not in _KINDS or message.term < 0:  # type: ignore[attr-defined]
        return False
    if not isinstance(message, AppendEntries):
        return True
    index, term = message.prev.index, message.prev.term
    if index < 0 or message.commit < 0:
        return False
    for entry in message.entries:
        index = LogIndex(index + 1)
        if entry.index != index or not term <= entry.term <= message.term:
            return False
        if entry.kind == EntryKind.MEMBERSHIP and not holds_membership(entry):
            return False
        term = entry.term
    return True

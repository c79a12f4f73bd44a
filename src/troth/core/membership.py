"""Who is in the cluster, according to the log.

A server uses the newest membership in its log, committed or not (Raft §6), so a truncation takes memberships back
and an installed snapshot replaces them all. Every change of voters goes through a joint membership (old and new
sets both decide); the leader leaves it by a second entry as soon as the first has committed.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from troth.core.interface import Entry, EntryKind, Member, Membership, MembershipChange
from troth.errors import DecodeError
from troth.ids import LogIndex, NodeId

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Membership)


def encode_membership(membership: Membership) -> bytes:
    """The payload of a MEMBERSHIP entry."""
    return _encode(membership)


def decode_membership(payload: bytes) -> Membership:
    """Read the payload of a MEMBERSHIP entry.

    Raises:
        DecodeError: it is none, or one under which nobody could decide anything.
    """
    try:
        membership = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"an entry of {len(payload)} bytes is not a membership: {error}") from error
    if not membership.voters:
        raise DecodeError("a membership without voters stands in the log")
    return membership


def holds_membership(entry: Entry) -> bool:
    """Whether a MEMBERSHIP entry can be read; whoever gets it from another server asks before taking it."""
    try:
        decode_membership(entry.payload)
    except DecodeError:
        return False
    return True


class MembershipLog:
    """The memberships in force along the log: the snapshot's, then one for each MEMBERSHIP entry behind it."""

    __slots__ = ("_history", "current", "index")

    def __init__(self, base: Membership, base_index: LogIndex, entries: Iterable[Entry]) -> None:
        self.index: LogIndex
        """Where in the log `current` stands."""
        self.current: Membership
        """The membership this server acts on: asked for several times in each step."""
        self.reset(base, base_index)
        for entry in entries:
            self.on_append(entry)

    def at(self, index: LogIndex) -> Membership:
        """The membership in force at *index* (the oldest known one, if *index* is older)."""
        for since, membership in reversed(self._history):
            if since <= index:
                return membership
        return self._history[0][1]

    def since(self, index: LogIndex) -> Iterator[Membership]:
        """The membership in force at *index*, and every later one; newest first."""
        for since, membership in reversed(self._history):
            yield membership
            if since <= index:
                return

    def is_only_voter(self, node: NodeId) -> bool:
        """Whether *node* has been the only voter in all of the log that is here."""
        return all(each.voters == (node,) and not each.outgoing for _, each in self._history)

    def on_append(self, entry: Entry) -> None:
        """An entry was appended; it takes effect at once if it is a membership."""
        if entry.kind == EntryKind.MEMBERSHIP:
            self._history.append((entry.index, decode_membership(entry.payload)))
            self.index, self.current = self._history[-1]

    def on_truncate(self, index: LogIndex) -> None:
        """Entries at and after *index* are gone, and with them what they said."""
        while len(self._history) > 1 and self._history[-1][0] >= index:
            self._history.pop()
        self.index, self.current = self._history[-1]

    def on_compact(self, index: LogIndex) -> None:
        """Entries up to *index* are compacted: only the newest membership among them is still needed."""
        while len(self._history) > 1 and self._history[1][0] <= index:
            self._history.pop(0)

    def reset(self, base: Membership, index: LogIndex) -> None:
        """A snapshot was installed; nothing older holds any more."""
        self._history: list[tuple[LogIndex, Membership]] = [(index, base)]
        self.index, self.current = index, base


def changed(current: Membership, change: MembershipChange) -> Membership | str:
    """The membership that *change* leads to, or why it is not possible.

    It is joint exactly when the set of voters changes.
    """
    if current.is_joint:
        return "the last change is not finished"
    known = set(current.everyone())
    members = dict(current.members)
    for node in (*change.remove, *change.promote, *change.update):
        if node not in known:
            return f"server {node:x} is not a member"
    added = {**change.add_voters, **change.add_learners}
    for node in added:
        if node in current.voters or (node in known and node in change.add_learners):
            return f"server {node:x} is a member already"
    members.update(change.update)
    members.update(added)
    for node in (*added, *change.update):
        others = [each for other, each in members.items() if other not in (node, *change.remove)]
        if taken := _taken(members[node], others):
            return taken
    for node in change.promote:
        if node not in current.learners:
            return f"server {node:x} is not a learner"
    gone = set(change.remove)
    voters = tuple(sorted(({*current.voters, *change.add_voters, *change.promote}) - gone))
    learners = tuple(sorted(({*current.learners, *change.add_learners} - set(voters)) - gone))
    if not voters:
        return "no voter would be left"
    if gone & set(added):
        return "a server can not be added and removed at once"
    joint = voters != current.voters
    outgoing = current.voters if joint else ()
    kept = {node: member for node, member in members.items() if node in {*voters, *learners, *outgoing}}
    return Membership(voters=voters, outgoing=outgoing, learners=learners, members=kept)


def _taken(member: Member, others: Sequence[Member]) -> str:
    """What *member* has that one of *others* has as well, though only one server can; empty if nothing."""
    if any(each.name == member.name for each in others):
        return f"the name {member.name!r} is taken; remove the old server first"
    for each in others:
        if shared := shared_address(member, each):
            return f"{shared}; give {member.name} another one, or remove {each.name} first"
    return ""


def shared_address(one: Member, other: Member) -> str:
    """Which address both have, though only one server can listen there; empty if none."""
    # (Servers of pipes, and some tests', have none.)
    for address in (one.peer_address, one.client_address):
        if address and address in (other.peer_address, other.client_address):
            return f"the address {address} of {one.name} is {other.name}'s"
    return ""


def name_of(membership: Membership, node: NodeId) -> str:
    """How people call *node*: by its name, else by its id."""
    member = membership.members.get(node)
    return member.name if member is not None and member.name else f"{node:x}"


def left(joint: Membership) -> Membership:
    """The membership behind *joint*: only the new voters decide, only its servers are members."""
    kept = {*joint.voters, *joint.learners}
    return Membership(
        voters=joint.voters,
        learners=joint.learners,
        members={node: member for node, member in joint.members.items() if node in kept},
    )


def promotable(current: Membership, caught_up: Iterable[NodeId]) -> tuple[NodeId, ...]:
    """Learners among *caught_up* that are to become voters by themselves."""
    return tuple(
        node
        for node in caught_up
        if node in current.learners and (member := current.members.get(node)) is not None and member.promote
    )

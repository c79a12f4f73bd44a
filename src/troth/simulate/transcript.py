"""What happens on a stage, in words: messages and entries as transcripts show them."""

from collections.abc import Iterable

from troth.core.interface import Entry, EntryId, Message
from troth.core.raft.messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    ReadReply,
    ReadRequest,
    RequestVote,
    VoteReply,
)


def spoken(message: Message) -> str:
    """A message in one line."""
    name = type(message).__name__
    match message:
        case PreVote():
            return f"{name} {message.term} last={shown(message.last)}"
        case RequestVote():
            return f"{name} {message.term} last={shown(message.last)}" + (" transfer" if message.transfer else "")
        case PreVoteReply() | VoteReply():
            return f"{name} {message.term} {'granted' if message.granted else 'refused'}"
        case AppendEntries():
            entries = entry_ids(message.entries)
            return f"{name} {message.term} {shown(message.prev)} {entries} c{message.commit}"
        case AppendReply():
            return f"{name} {message.term} match={message.match}"
        case AppendRejected():
            return f"{name} {message.term} rejected={message.rejected} hint={shown(message.hint)}"
        case Heartbeat():
            return f"{name} {message.term} c{shown(message.commit)} token={message.token}"
        case HeartbeatReply():
            return f"{name} {message.term} token={message.token}"
        case ReadRequest():
            return f"{name} {message.term} number={message.number}"
        case ReadReply():
            return f"{name} {message.term} number={message.number} index={message.index}"
        case _:
            return f"{name} {getattr(message, 'term', '')}"


def entry_ids(entries: Iterable[Entry]) -> str:
    return "[" + " ".join(shown(EntryId(entry.term, entry.index)) for entry in entries) + "]"


def shown(value: object) -> str:
    """An entry id as term/index."""
    if isinstance(value, EntryId):
        return f"{value.term}/{value.index}"
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)

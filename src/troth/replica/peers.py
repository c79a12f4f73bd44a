"""What replicas say to each other beside their engines' messages, and how all of it is encoded.

A frame between two servers is a msgpack array of messages: everything one turn of the sender's loop had for that
peer. Tags 1 to 31 belong to the engine, 32 and up to the replica.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from troth.core.interface import EntryId, Message, SnapshotMeta
from troth.errors import DecodeError
from troth.ids import Term

Proposal: TypeAlias = tuple[int, msgspec.Raw]
"""(request id, the encoded command): a request id is unique for ever and names the server that waits for it."""


class Forward(Message, frozen=True, array_like=True, tag=32):
    """Proposals that reached a follower, handed to the leader."""

    proposals: list[Proposal]


class ForwardRefused(Message, frozen=True, array_like=True, tag=33):
    """These proposals were not put into the log and never will be by this hand-over."""

    requests: list[int]
    code: str
    text: str


class SnapshotChunk(Message, frozen=True, array_like=True, tag=34):
    """Bytes ``[offset, offset + len(data))`` of the snapshot `meta`; `last` says that they end it."""

    term: Term
    meta: SnapshotMeta
    offset: int
    data: bytes
    last: bool


class SnapshotAck(Message, frozen=True, array_like=True, tag=35):
    """The receiver durably holds everything before `offset`; `done` says that it needs no more of it, `refused` that it
    has no room for it at present and keeps nothing."""

    last: EntryId
    offset: int
    done: bool
    refused: bool = False


class AskRevision(Message, frozen=True, array_like=True, tag=36):
    """What is the newest revision? Answered by the leader, once confirmed as such."""

    context: int


class TellRevision(Message, frozen=True, array_like=True, tag=37):
    """`revision` was the newest at some moment after the question; 0: cannot say."""

    context: int
    revision: int


ReplicaMessage: TypeAlias = Forward | ForwardRefused | SnapshotChunk | SnapshotAck | AskRevision | TellRevision


class PeerCodec:
    """Bytes to messages and back, for one engine."""

    def __init__(self, engine_messages: Any) -> None:
        """*engine_messages* is the engine's message union (`core.engines.EngineKind.messages`)."""
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(
            list[engine_messages | ReplicaMessage]
        )

    def encode(self, messages: Sequence[Message]) -> bytes:
        """The body of one frame."""
        return self._encode(messages)

    def decode(self, body: bytes) -> list[Message]:
        """The messages of one frame.

        Raises:
            DecodeError: the bytes are not such messages.
        """
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"a peer sent what is no message: {error}") from None

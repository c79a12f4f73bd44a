"""The first frame in each direction: who speaks, which version, which cluster.

The one who connects sends `Hello`, the other answers `Welcome` or `Rejected` and, after `Rejected`, closes. Both
sides then use the smaller of the two `version` numbers; a version below `VERSION_MIN` is refused.
"""

from typing import TypeAlias

import msgspec

from troth.errors import DecodeError
from troth.ids import ClusterId, NodeId

VERSION = 2
VERSION_MIN = 2


class Hello(msgspec.Struct, frozen=True, tag="troth-hello"):
    """`kind` is ``"client"``, ``"peer"`` or ``"probe"`` (asks a server who it is and what cluster it is in).

    A client that does not know the cluster yet sends `cluster_id` 0. A peer says its own `node_id` and whom it
    means to reach (`to`), so that a recycled address is noticed.
    """

    kind: str
    version: int = VERSION
    cluster_id: ClusterId = ClusterId(0)
    node_id: NodeId = NodeId(0)
    to: NodeId = NodeId(0)
    name: str = ""


class Welcome(msgspec.Struct, frozen=True, tag="troth-welcome"):
    """The connection is accepted; frames of the kind's own protocol follow."""

    version: int
    cluster_id: ClusterId
    node_id: NodeId
    name: str = ""


class Rejected(msgspec.Struct, frozen=True, tag="troth-rejected", omit_defaults=True):
    """The connection is refused; `code` is a class code of troth.errors, `text` says what to do.

    `term`: with the code "removed", that of the leader who says so; 0 otherwise.
    """

    code: str
    text: str
    term: int = 0


Greeting: TypeAlias = Hello | Welcome | Rejected

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Greeting] = msgspec.msgpack.Decoder(Greeting)


def encode_greeting(greeting: Greeting) -> bytes:
    """The body of a handshake frame."""
    return _encode(greeting)


def decode_greeting(body: bytes) -> Greeting:
    """Read the body of a handshake frame.

    Raises:
        DecodeError: not a handshake of this protocol.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"this is not the troth protocol ({error})") from None

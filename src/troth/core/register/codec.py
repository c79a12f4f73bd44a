"""Bytes of the registers' messages and records.

On the wire a frame's body (wire/frames.py) is one msgpack array of two::

    client to acceptor   [number, request]      `number` is the client's own; the answer carries it back
    acceptor to client   [number, reply]

On the disk a group of records, as one entry of the log or one piece of a snapshot, is::

    0          1
    +----------+---- - - ----------------------+
    | version  | msgpack array of records      |       version 1; checked by the checksums around it (storage/)
    +----------+---- - - ----------------------+

A record, like a message, is an array whose first element is its tag.
"""

import msgspec

from troth.core.register.messages import (
    MARKS_KEPT,
    SEATS_MAX,
    Accept,
    Collect,
    Configure,
    Prepare,
    Read,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
    Scan,
)
from troth.errors import DecodeError, StorageError

RECORDS_VERSION = 1
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1 << 20
NUMBER_MAX = 1 << 62
"""Rounds and versions are below it: behind the last that can be encoded no client could go on, with this key or, once
the acceptor's fence has risen to it, with any."""

_encode = msgspec.msgpack.Encoder().encode
_decode_ask = msgspec.msgpack.Decoder(tuple[int, RequestMessage]).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[int, ReplyMessage]).decode
_decode_records = msgspec.msgpack.Decoder(list[RecordMessage]).decode


def encode_ask(number: int, request: RequestMessage) -> bytes:
    """The body of a request's frame."""
    return _encode((number, request))


def encode_answer(number: int, reply: ReplyMessage) -> bytes:
    """The body of an answer's frame."""
    return _encode((number, reply))


def decode_ask(body: bytes) -> tuple[int, RequestMessage]:
    """Read a request, and check what types alone do not say.

    Raises:
        DecodeError: it is none, or one that no proposer sends.
    """
    try:
        number, request = _decode_ask(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"no request to an acceptor: {error}") from None
    _validate(request)
    return number, request


def _validate(request: RequestMessage) -> None:
    match request:
        case Prepare() | Read() | Collect() | Accept() if not 0 < len(request.key) <= KEY_BYTES_MAX:
            raise DecodeError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(request.key)}")
        case Accept():
            state = request.state
            if len(state.value or b"") > VALUE_BYTES_MAX or len(state.marks) > MARKS_KEPT:
                raise DecodeError("a register's state is larger than any proposer makes one")
            rounds = request.ballot.round | request.next.round | state.born.round | state.floor.round
            numbers = rounds | state.version | state.forgotten
            for mark in state.marks:
                numbers |= mark.ballot.round | mark.version
            _check_numbers(numbers)
        case Prepare():
            _check_numbers(request.ballot.round)
        case Configure():
            groups = request.to.groups
            if not 1 <= len(groups) <= 2 or any(not 1 <= len(group.seats) <= SEATS_MAX for group in groups):
                raise DecodeError("a configuration has one or two groups of acceptors")
            _check_numbers(request.to.floor.round | request.to.barrier.round | request.to.id.epoch)
        case Scan() if request.limit < 0 or len(request.after) > KEY_BYTES_MAX:
            raise DecodeError("a page of keys begins behind a key and has a limit of at least 0")
        case _:
            pass


def _check_numbers(numbers: int) -> None:
    """*numbers*: one, or several joined by "or", which is negative or too large as soon as one of them is."""
    if not 0 <= numbers < NUMBER_MAX:
        raise DecodeError("a round or a version is beyond all that proposers count to")


def decode_answer(body: bytes) -> tuple[int, ReplyMessage]:
    """Read an answer.

    Raises:
        DecodeError: it is none.
    """
    try:
        return _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"no answer of an acceptor: {error}") from None


def encode_records(records: list[RecordMessage]) -> bytes:
    """A group of records; all of it is durable or nothing."""
    return bytes((RECORDS_VERSION,)) + _encode(records)


def decode_records(data: bytes) -> list[RecordMessage]:
    """Read a group of records whose checksum is right.

    Raises:
        StorageError: a newer version of this program wrote it, or it makes no sense.
    """
    if not data or data[0] > RECORDS_VERSION:
        found = data[0] if data else 0
        raise StorageError(
            f"the acceptor's records have format version {found}, this program knows up to {RECORDS_VERSION}: start "
            "the newer version that wrote them"
        )
    try:
        return _decode_records(memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(
            f"the acceptor's records make no sense though their checksum is right: {error}"
        ) from None

"""Answers to reads of very many keys, in pieces: what is encoded already is not copied into the whole.

Such an answer may hold hundreds of megabytes. Its keys and values are encoded in steps (`kv/ranges.py`); what stands
around them is encoded here, as it would be with nothing in between, and cut where they belong.
"""

from dataclasses import dataclass

import msgspec

from troth.kv.requests import RangeResult
from troth.replica.protocol import ReadResults

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class LongAnswer:
    """The body of a `ReadResults`."""

    pieces: list[bytes | bytearray]


def in_pieces(reply: ReadResults, long: dict[int, bytearray]) -> LongAnswer:
    """*reply*, where the keys and values of the results in *long* stand there, and not in it."""
    head, tail = _around(_encode(msgspec.structs.replace(reply, results=[])), reply.staleness_ms)
    pieces: list[bytes | bytearray] = [head + b"\xdd" + len(reply.results).to_bytes(4, "big")]
    for place, result in enumerate(reply.results):
        if place in long and isinstance(result, RangeResult):
            head, end = _around(_encode(result), result.count, result.more)
            pieces += head, long[place], end
        else:
            pieces.append(_encode(result))
    pieces.append(tail)
    return LongAnswer(pieces)


def _around(whole: bytes, *behind: object) -> tuple[bytes, bytes]:
    """What stands before and behind the empty array in *whole*, which *behind* follow."""
    tail = b"".join(map(_encode, behind))
    return whole[: -len(tail) - 1], tail

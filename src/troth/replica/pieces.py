"""Answers that name very many keys, in pieces: what is encoded already is not copied into the whole.

Such an answer may hold hundreds of megabytes. Its keys and values are encoded in steps (`kv/ranges.py`); what stands
around them is encoded here, as it would be with nothing in between, and cut where they belong.
"""

from collections.abc import Generator
from dataclasses import dataclass

import msgspec

from troth.kv.order import T, sorted_pages
from troth.kv.requests import RangeResult
from troth.replica.protocol import LeaseIds, LeaseView, ReadResults

_encode = msgspec.msgpack.Encoder().encode
_ARRAY32 = b"\xdd"
"""MessagePack's array with a length of four bytes."""
_FIXARRAY_ITEMS = 16
"""An array of fewer has a head of one byte, one of fewer than 65 536 a head of three."""


@dataclass(frozen=True, slots=True)
class LongAnswer:
    """The body of one answer."""

    pieces: list[bytes | bytearray]


PAGE_ITEMS = 8192
"""What `listed_steps` sorts or encodes in one step."""


def listed_steps(
    reply: LeaseView | LeaseIds, items: list[T], bytes_max: int
) -> Generator[None, None, LongAnswer | None]:
    """*reply*, in whose empty list at the end *items* stand, sorted; made in short steps. None: it is larger than
    *bytes_max*."""
    head, _ = _around(_encode(reply))
    pieces: list[bytes | bytearray] = [head + _ARRAY32 + len(items).to_bytes(4, "big")]
    size_bytes = 0
    for page in sorted_pages(items, PAGE_ITEMS):
        if page:
            body = _encode(page)
            pieces.append(body[1 if len(page) < _FIXARRAY_ITEMS else 3 :])
            size_bytes += len(body)
            if size_bytes > bytes_max:
                return None
        yield
    return LongAnswer(pieces)


def in_pieces(reply: ReadResults, long: dict[int, bytearray]) -> LongAnswer:
    """*reply*, where the keys and values of the results in *long* stand there, and not in it."""
    head, tail = _around(_encode(msgspec.structs.replace(reply, results=[])), reply.staleness_ms)
    pieces: list[bytes | bytearray] = [head + _ARRAY32 + len(reply.results).to_bytes(4, "big")]
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

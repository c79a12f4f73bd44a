"""A state saved to a file outside any data directory: the bytes as they were streamed, and a seal behind them.

Little-endian::

    +-- - - - - --+---------------+----------+----------+
    | the state   | "TROTHBAK" 1  | size u64 | check u64|       check: xxh3_64 of the state's bytes
    +-- - - - - --+---------------+----------+----------+

The seal comes last because only then is all of it known; a file that was cut off has none, and is refused.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Protocol

import xxhash

from troth.errors import Corrupt

_SEAL = struct.Struct("<8sIQQ")
_MAGIC = b"TROTHBAK"
VERSION = 1
SEAL_BYTES = _SEAL.size

_ADVICE = "It is of no use: take another one, or save it again with `troth snapshot save`"


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class SealingSink:
    """Passes what is written on to *sink*, and knows the seal that belongs behind it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._check = xxhash.xxh3_64()
        self._size = 0

    def write(self, data: bytes) -> int:
        """Write *data* through."""
        self._sink.write(data)
        self._check.update(data)
        self._size += len(data)
        return len(data)

    def seal(self) -> None:
        """Write the seal; nothing may come after it."""
        self._sink.write(_SEAL.pack(_MAGIC, VERSION, self._size, self._check.intdigest()))


def opened(pieces: Iterable[bytes], *, path: str) -> Iterator[bytes]:
    """The state's bytes out of *pieces* of a file; believe none before the iterator has ended.

    Raises:
        Corrupt: no seal, or one that does not fit.
    """
    check = xxhash.xxh3_64()
    size = 0
    held = b""
    for piece in pieces:
        held += piece
        out, held = held[:-SEAL_BYTES], held[-SEAL_BYTES:]
        check.update(out)
        size += len(out)
        if out:
            yield out
    if len(held) < SEAL_BYTES or not held.startswith(_MAGIC):
        raise Corrupt(f"{path} is cut off, or not a saved snapshot. {_ADVICE}", path=path)
    _, version, expected_size, expected_check = _SEAL.unpack(held)
    if version != VERSION:
        raise Corrupt(
            f"{path} has format {version}, and this program knows only {VERSION}. Use a newer one", path=path
        )
    if (size, check.intdigest()) != (expected_size, expected_check):
        raise Corrupt(f"{path} is damaged: its checksum does not fit. {_ADVICE}", path=path)

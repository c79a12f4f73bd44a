"""A small sealed block of bytes: the whole identity file, and the head of a snapshot file.

::

    0        8            12           16         24
    +--------+------------+------------+----------+---- - - ----+
    | magic  | version u32| length  u32| check u64| body        |
    +--------+------------+------------+----------+---- - - ----+
    check: xxh3_64 of bytes 0..16 and the body, `length` bytes of msgpack; little-endian

The head keeps its meaning in all later versions, so that a newer block is told from a damaged one.
"""

import struct

import xxhash

from troth.errors import Corrupt, StorageError

_HEAD = struct.Struct("<8sII")
_CHECK = struct.Struct("<Q")
HEAD_BYTES = _HEAD.size + _CHECK.size


def seal(magic: bytes, version: int, body: bytes) -> bytes:
    head = _HEAD.pack(magic, version, len(body))
    return head + _CHECK.pack(xxhash.xxh3_64_intdigest(head + body)) + body


def sealed_bytes(data: bytes) -> int:
    """Length of the block that begins *data* (at least `HEAD_BYTES` of it), if its head is right."""
    return HEAD_BYTES + int.from_bytes(data[12:16], "little")


def unseal(data: bytes, *, magic: bytes, version: int, name: str, advice: str) -> bytes:
    """The body of the block at the start of *data*, which came from the file *name*.

    Raises:
        Corrupt: it is not what was written; *advice* says what to do.
        StorageError: it was written by a newer version of this program.
    """
    if len(data) >= HEAD_BYTES and data[:8] == magic:
        found = int.from_bytes(data[8:12], "little")
        body = data[HEAD_BYTES : sealed_bytes(data)]
        if data[: HEAD_BYTES + len(body)] == seal(magic, found, body):
            if found > version:
                raise StorageError(
                    f"{name} has format version {found}, this program knows up to {version}: start the newer version"
                    " that wrote it"
                )
            return body
    raise Corrupt(f"{name} is not what was written. {advice}", path=name)

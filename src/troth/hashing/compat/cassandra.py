"""Cassandra and ScyllaDB: partition key to token, token to replicas.

Cassandra's Murmur3 is not the published one: its Java bytes are signed, and the bytes of the tail (what is
left after the 16-byte blocks) are shifted without masking, so that one >= 0x80 sets all bits above it.
Published implementations agree with it only while the tail is ASCII.

Source: Apache Cassandra, ``org.apache.cassandra.utils.MurmurHash.hash3_x64_128`` and
``org.apache.cassandra.dht.Murmur3Partitioner.getToken``.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from troth.hashing.errors import BadKey, BadSetting, NoNodes, TooFewNodes
from troth.hashing.keys import MASK, Key, as_bytes

MIN_TOKEN = -(1 << 63)
MAX_TOKEN = (1 << 63) - 1
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F


def _rotated(value: int, by: int) -> int:
    return ((value << by) | (value >> (64 - by))) & MASK


def _finished(value: int) -> int:
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return value ^ (value >> 33)


def _tail(data: bytes) -> int:
    """Up to eight bytes, little-endian, each sign-extended to 64 bits before it is shifted and xored in."""
    value = 0
    for place, byte in enumerate(data):
        value ^= ((byte - 256 if byte > 127 else byte) << (8 * place)) & MASK
    return value


def cassandra_token(key: Key) -> int:
    """The token of a serialised partition key, -2**63 .. 2**63 - 1: what CQL's ``token()`` answers.

    Args:
        key: text as str, or the serialised bytes: an int is four bytes big-endian, a bigint eight; see
            `composite_key` for more than one column.
    """
    data = as_bytes(key)
    if not data:
        return MIN_TOKEN
    h1 = h2 = 0
    body = len(data) & ~15
    for at in range(0, body, 16):
        k1 = int.from_bytes(data[at : at + 8], "little")
        k2 = int.from_bytes(data[at + 8 : at + 16], "little")
        h1 ^= (_rotated((k1 * _C1) & MASK, 31) * _C2) & MASK
        h1 = (((_rotated(h1, 27) + h2) & MASK) * 5 + 0x52DCE729) & MASK
        h2 ^= (_rotated((k2 * _C2) & MASK, 33) * _C1) & MASK
        h2 = (((_rotated(h2, 31) + h1) & MASK) * 5 + 0x38495AB5) & MASK
    tail = data[body:]
    h2 ^= (_rotated((_tail(tail[8:]) * _C2) & MASK, 33) * _C1) & MASK
    h1 ^= (_rotated((_tail(tail[:8]) * _C1) & MASK, 31) * _C2) & MASK
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & MASK
    h2 = (h2 + h1) & MASK
    token = (_finished(h1) + _finished(h2)) & MASK
    token = token - (1 << 64) if token >> 63 else token
    # The lowest token means "before the ring", so the partitioner never gives it to a key.
    return MAX_TOKEN if token == MIN_TOKEN else token


def composite_key(parts: Iterable[Key]) -> bytes:
    """Several partition key columns as Cassandra serialises them: length (two bytes), value, a zero byte, each.

    A partition key of one column is not wrapped so: its bytes are the key.

    Raises:
        BadKey: a part of 64 KiB or more.
    """
    encoded = b""
    for part in parts:
        data = as_bytes(part)
        if len(data) > 0xFFFF:
            raise BadKey(f"a part of a partition key has {len(data)} bytes; 65535 is the most")
        encoded += len(data).to_bytes(2, "big") + data + b"\0"
    return encoded


class CassandraRing:
    """Who holds a key, from the tokens that ``nodetool ring`` or ``system.peers`` list."""

    def __init__(self, tokens: Mapping[str, Iterable[int | str]]) -> None:
        """Args:
            tokens: the tokens of each node, as numbers or, like those of ``system.peers``, as text.

        Raises:
            BadSetting: a token with two nodes, out of range, or no whole number.
        """
        owner: dict[int, str] = {}
        for node, listed in tokens.items():
            for given in listed:
                try:
                    token = int(given)
                except ValueError:
                    raise BadSetting(f"token {given!r} of {node!r} is no whole number") from None
                if not MIN_TOKEN <= token <= MAX_TOKEN:
                    raise BadSetting(f"token {token} of {node!r} is not a signed 64-bit integer")
                if owner.setdefault(token, node) != node:
                    raise BadSetting(f"token {token} belongs to {owner[token]!r} and to {node!r}")
        self._tokens = sorted(owner)
        self._owners = [owner[token] for token in self._tokens]

    def node(self, key: Key) -> str:
        """The primary replica of *key*: the node of the first token not below the key's."""
        return self.nodes(key, 1)[0]

    def nodes(self, key: Key, replicas: int) -> list[str]:
        """The replicas of *key* under SimpleStrategy: the next *replicas* distinct nodes along the ring.

        Raises:
            NoNodes, TooFewNodes.
        """
        if not self._tokens:
            raise NoNodes
        known = len(set(self._owners))
        if not 1 <= replicas <= known:
            raise TooFewNodes(replicas=replicas, nodes=known)
        at = bisect_left(self._tokens, cassandra_token(key)) % len(self._tokens)
        chosen: list[str] = []
        while len(chosen) < replicas:
            owner = self._owners[at]
            if owner not in chosen:
                chosen.append(owner)
            at = (at + 1) % len(self._tokens)
        return chosen

"""Vitess: the ``hash`` vindex, from a number to a keyspace id and to a shard.

The vindex encrypts the number, 8 bytes big-endian, with DES under a key of all zeros. That makes it a fixed
permutation (nothing secret is meant), so it can be inverted.

DES with a zero key has zero round keys, so the whole cipher is: initial permutation, sixteen equal Feistel
rounds of expansion, S-boxes and P, halves swapped, final permutation. Being its own key schedule backwards,
decryption is the same function as encryption.

Source: Vitess ``go/vt/vtgate/vindexes/hash.go``; FIPS 46-3, the tables of appendix 1.
"""

from collections.abc import Iterable
from functools import cache

from troth.hashing.errors import BadKey, BadSetting, UnknownNode

_SBOXES = (
    "e4d12fb83a6c5907 0f74e2d1a6cb9538 41e8d62bfc973a50 fc8249175b3ea06d",
    "f18e6b34972dc05a 3d47f28ec01a69b5 0e7ba4d158c6932f d8a13f42b67c05e9",
    "a09e63f51dc7b428 d709346a285ecbf1 d6498f30b12c5ae7 1ad069874fe3b52c",
    "7de3069a1285bc4f d8b56f03472c1ae9 a690cb7df13e5284 3f06a1d8945bc72e",
    "2c417ab6853fd0e9 eb2c47d150fa3986 421bad78f9c5630e b8c71e2d6f09a453",
    "c1af92680d34e75b af427c9561de0b38 9ef528c3704a1db6 432c95fabe17608d",
    "4b2ef08d3c975a61 d0b7491ae35c2f86 14bdc37eaf680592 6bd814a7950fe23c",
    "d2846fb1a93e50c7 1fd8a374c56b0e92 7b419ce206adf358 21e74a8dfc90356b",
)
_P: tuple[int, ...] = (16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10)
_P += (2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25)
_INITIAL = tuple(row - 8 * column for row in (58, 60, 62, 64, 57, 59, 61, 63) for column in range(8))
_FINAL = tuple(_INITIAL.index(bit) + 1 for bit in range(1, 65))


def _permuted(value: int, table: tuple[int, ...], width: int) -> int:
    """Bit i of the result (from the left, of len(table)) is bit table[i] of *value* (from the left, of *width*)."""
    result = 0
    for place in table:
        result = (result << 1) | ((value >> (width - place)) & 1)
    return result


@cache
def _round_tables() -> tuple[tuple[int, ...], ...]:
    """For each S-box and each 6-bit input: its 4 output bits, moved to where P puts them."""
    tables = []
    for box, text in enumerate(_SBOXES):
        values = [int(digit, 16) for digit in text.replace(" ", "")]
        table = []
        for bits in range(64):
            row, column = (bits >> 4 & 2) | (bits & 1), bits >> 1 & 15
            table.append(_permuted(values[16 * row + column] << (28 - 4 * box), _P, 32))
        tables.append(tuple(table))
    return tuple(tables)


def _null_key_des(block: int) -> int:
    """DES of a 64-bit block under the key of all zeros; its own inverse."""
    tables = _round_tables()
    state = _permuted(block, _INITIAL, 64)
    left, right = state >> 32, state & 0xFFFFFFFF
    for _ in range(16):
        # Expansion: eight groups of six bits that overlap by two, the first reaching round to the last bit.
        ring = (right & 1) << 33 | right << 1 | right >> 31
        mixed = 0
        for box, table in enumerate(tables):
            mixed ^= table[ring >> (28 - 4 * box) & 63]
        left, right = right, left ^ mixed
    return _permuted(right << 32 | left, _FINAL, 64)


def keyspace_id(number: int) -> bytes:
    """The keyspace id of *number* under the ``hash`` vindex, 8 bytes.

    Args:
        number: a signed or unsigned 64-bit integer; -1 and 2**64 - 1 are the same key, as in Vitess.

    Raises:
        BadKey: out of range.
    """
    if not -(1 << 63) <= number < 1 << 64:
        raise BadKey(f"{number} is not a 64-bit integer")
    return _null_key_des(number & ((1 << 64) - 1)).to_bytes(8, "big")


def unhash_keyspace_id(id_bytes: bytes) -> int:
    """The number, unsigned, whose keyspace id is *id_bytes*.

    Raises:
        BadKey: not 8 bytes.
    """
    if len(id_bytes) != 8:
        raise BadKey(f"a keyspace id of the hash vindex has 8 bytes, not {len(id_bytes)}")
    return _null_key_des(int.from_bytes(id_bytes, "big"))


def shard_of(id_bytes: bytes, shards: Iterable[str]) -> str:
    """The shard whose range holds a keyspace id.

    Args:
        id_bytes: the keyspace id.
        shards: names such as "-80", "80-c0", "c0-": from (included) and to (excluded) in hex, empty for open.
            "0" and "-" hold everything.

    Raises:
        UnknownNode: no shard holds it.
        BadSetting: a name that is no range.
    """
    for shard in shards:
        low, dash, high = shard.partition("-")
        if shard == "0":
            return shard
        try:
            begin, end = bytes.fromhex(low), bytes.fromhex(high)
        except ValueError:
            raise BadSetting(f"{shard!r} is no shard name; one looks like '40-80'") from None
        if not dash:
            raise BadSetting(f"{shard!r} is no shard name; one looks like '40-80'")
        if begin <= id_bytes and (not end or id_bytes < end):
            return shard
    raise UnknownNode(id_bytes.hex(), f"no shard holds the keyspace id {id_bytes.hex()}")

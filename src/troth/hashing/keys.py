"""From keys to 64-bit hashes, one at a time and in batches.

A key is ``str`` (hashed as UTF-8) or ``bytes``: ``"a"`` and ``b"a"`` are the same key. A numpy array of dtype
uint64 is taken as hashes made earlier with `hash_batch`, so that a key hashed once can be looked up in many
rings.

All arithmetic is integer and wraps at 2**64, so that every machine and every Python gets the same hashes.

Source: xxHash XXH3 64 bits, seed 0; the mixer is the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast
splittable pseudorandom number generators", OOPSLA 2014, section 3, with David Stafford's "Mix13" constants).
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import md5
from operator import index
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from troth.hashing.errors import BadKey, BadSetting

Key: TypeAlias = str | bytes
Hashes: TypeAlias = NDArray[np.uint64]
Keys: TypeAlias = Iterable[Key] | Hashes
Digester: TypeAlias = Callable[[bytes], int]
"""Bytes to an unsigned 64-bit integer."""

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _md5_64(data: bytes) -> int:
    return int.from_bytes(md5(data, usedforsecurity=False).digest()[:8], "little")


def ketama_hash(data: bytes) -> int:
    """libketama's 32-bit hash: the first four bytes of the MD5, little-endian (``ketama_hashi``)."""
    return int.from_bytes(md5(data, usedforsecurity=False).digest()[:4], "little")


DIGESTERS: Mapping[str, Digester] = MappingProxyType(
    {"xxh3": xxhash.xxh3_64_intdigest, "xxh64": xxhash.xxh64_intdigest, "md5": _md5_64}
)
"""Hash functions by the name that is written into digests and files."""


def digester(name: str, bits: int = 64) -> Digester:
    """The hash function *name*, cut to its top *bits*.

    Args:
        name: "xxh3", "xxh64" or "md5"; or "ketama", which has 32 bits.
        bits: 8 .. 64. Fewer than 64 makes collisions likely, which is what tests want and nobody else does.

    Raises:
        BadSetting: unknown name, or bits out of range.
    """
    if name == "ketama" and bits == 32:
        return ketama_hash
    if name not in DIGESTERS:
        raise BadSetting(f"unknown hash {name!r}; choose one of {', '.join(sorted(DIGESTERS))}")
    whole("bits", bits, 8, 64)
    full = DIGESTERS[name]
    return full if bits == 64 else partial(_cut, full, 64 - bits)


def whole(name: str, value: int, low: int, high: int | None = None) -> int:
    """*value*, the setting *name*, as an int of Python's own, which files can hold.

    Raises:
        BadSetting: no whole number (a float is none), or not within *low* .. *high* (None: no upper bound).
    """
    try:
        number = int(index(value))
    except TypeError:
        raise BadSetting(f"{name} must be a whole number, not {value!r}") from None
    if high is None:
        if number < low:
            raise BadSetting(f"{name} must be at least {low}, not {number}")
    elif not low <= number <= high:
        raise BadSetting(f"{name} must be {low}..{high}, not {number}")
    return number


def _cut(full: Digester, shift: int, data: bytes) -> int:
    return full(data) >> shift


def as_bytes(key: Key) -> bytes:
    """The bytes that are hashed for *key*: UTF-8 for str.

    Raises:
        BadKey: neither str nor bytes, or a str with a lone surrogate.
    """
    if isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise BadKey(f"a key is str or bytes, not {type(key).__name__}")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise BadKey(f"{key!r} is no Unicode text (lone surrogate); pass bytes") from None


def hash_one(key: Key, digest: Digester = xxhash.xxh3_64_intdigest) -> int:
    """The hash of one key; see `as_bytes` for errors."""
    return digest(as_bytes(key))


def hash_batch(keys: Keys, digest: Digester = xxhash.xxh3_64_intdigest, bits: int = 64) -> Hashes:
    """The hashes of *keys*, in order, shape (len(keys),).

    Args:
        keys: a list, tuple or other iterable of str and bytes; a numpy array of them (dtype S, U, T or object; of
            dtype S and U numpy itself drops zeros at a key's end); or a numpy array of dtype uint64, which is
            returned as it is.
        digest: the hash function of one key.
        bits: its width, which hashes that are given must keep to.

    Raises:
        BadKey: something else, such as more than one dimension, or hashes that another, wider function made.
    """
    if isinstance(keys, np.ndarray):
        if keys.ndim != 1:
            raise BadKey(f"an array of keys has one dimension, not {keys.ndim}")
        if keys.dtype == np.uint64:
            if bits < 64 and len(keys) and int(keys.max()) >> bits:
                raise BadKey(f"these hashes have more than {bits} bits: they come from another hash function")
            return keys
        if keys.dtype.kind not in "SUTO":
            raise BadKey(f"an array of keys is dtype S, U, T, object or (hashes) uint64, not {keys.dtype}")
        if keys.dtype.kind == "S":
            return np.fromiter(map(digest, keys.tolist()), np.uint64, len(keys))
        keys = keys.tolist()
    if isinstance(keys, str | bytes):
        raise BadKey("a batch is a list of keys; for a single key call node()")
    try:
        listed: list[Key] = keys if isinstance(keys, list) else list(keys)
    except TypeError:
        raise BadKey(f"a batch is a list of keys, not {type(keys).__name__}") from None
    if not listed:
        return np.empty(0, np.uint64)
    # Two C loops, no bytecode per key; a list that mixes the two types falls through to the general way. For bytes the
    # first loop is there to refuse what is no bytes but has a buffer, such as a numpy integer.
    encode = str.encode if isinstance(listed[0], str) else bytes.__bytes__
    try:
        return np.fromiter(map(digest, map(encode, listed)), np.uint64, len(listed))  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        return np.fromiter((digest(as_bytes(key)) for key in listed), np.uint64, len(listed))


def mix(value: int) -> int:
    """A bijection of 64-bit integers that spreads every input bit over all output bits."""
    value = ((value ^ (value >> 30)) * _MIX_1) & MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & MASK
    return value ^ (value >> 31)


def mix_array(values: Hashes) -> Hashes:
    """`mix` for each element; a new array."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(_MIX_1)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(_MIX_2)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def stream(seed: int, count: int, start: int = 0) -> Hashes:
    """Elements *start* .. start + count - 1 of the SplitMix64 sequence that begins after *seed*."""
    steps = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    return mix_array(np.uint64(seed & MASK) + steps * np.uint64(GOLDEN))

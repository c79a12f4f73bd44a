"""Kafka: key to partition, as the Java client's default partitioner does for records with a key.

Clients built on librdkafka use CRC32 unless set to ``partitioner=murmur2_random``.

Source: Apache Kafka, ``org.apache.kafka.common.utils.Utils.murmur2`` and ``toPositive``; MurmurHash2 by
Austin Appleby with seed 0x9747b28c.
"""

from troth.hashing.errors import BadSetting
from troth.hashing.keys import Key, as_bytes

_M = 0x5BD1E995
_U32 = 0xFFFFFFFF


def murmur2(key: Key) -> int:
    """Kafka's murmur2 as a signed 32-bit integer, as Java prints it."""
    data = as_bytes(key)
    state = (0x9747B28C ^ len(data)) & _U32
    body = len(data) & ~3
    for at in range(0, body, 4):
        word = (int.from_bytes(data[at : at + 4], "little") * _M) & _U32
        word = ((word ^ (word >> 24)) * _M) & _U32
        state = ((state * _M) & _U32) ^ word
    if body < len(data):
        state = ((state ^ int.from_bytes(data[body:], "little")) * _M) & _U32
    state = ((state ^ (state >> 13)) * _M) & _U32
    state ^= state >> 15
    return state - (1 << 32) if state >> 31 else state


def kafka_partition(key: Key, partitions: int) -> int:
    """The partition of a keyed record, 0 .. partitions - 1. A record without a key goes to any partition.

    Raises:
        BadKey: no key.
        BadSetting: fewer than one partition.
    """
    if partitions < 1:
        raise BadSetting(f"partitions must be at least 1, not {partitions}")
    # Kafka clears the sign bit rather than taking the absolute value, which has no answer for -2**31.
    return (murmur2(key) & 0x7FFFFFFF) % partitions

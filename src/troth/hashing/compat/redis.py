"""Redis Cluster: key to slot, slot to node.

Source: Redis Cluster specification, "Key distribution model" and "Hash tags", and its appendix (CRC16-CCITT
XMODEM: polynomial 0x1021, start 0, nothing reflected; "123456789" gives 0x31C3).
"""

from binascii import crc_hqx
from collections.abc import Iterable, Mapping

from troth.hashing.errors import BadSetting, UnknownNode
from troth.hashing.keys import Key, as_bytes

SLOTS = 16384


def hash_tag(key: Key) -> bytes:
    """The part of *key* that is hashed: what stands between the first ``{`` and the next ``}``, if it is not
    empty; else the whole key."""
    data = as_bytes(key)
    begin = data.find(b"{")
    if begin < 0:
        return data
    end = data.find(b"}", begin + 1)
    return data[begin + 1 : end] if end > begin + 1 else data


def redis_slot(key: Key) -> int:
    """The slot of *key*, 0 .. 16383: what ``CLUSTER KEYSLOT`` answers."""
    return crc_hqx(hash_tag(key), 0) % SLOTS


class RedisSlots:
    """Which node of a cluster serves a key, from the slot ranges that ``CLUSTER SHARDS`` or ``CLUSTER NODES`` list."""

    def __init__(self, ranges: Mapping[str, Iterable[tuple[int, int]]]) -> None:
        """Args:
            ranges: for each node its slot ranges, both ends included as Redis writes them.

        Raises:
            BadSetting: a slot out of range, or with two nodes.
        """
        self._owner: dict[int, str] = {}
        for node, spans in ranges.items():
            for first, last in spans:
                if not 0 <= first <= last < SLOTS:
                    raise BadSetting(f"slots {first}-{last} of {node!r} are not within 0-{SLOTS - 1}")
                for slot in range(first, last + 1):
                    if self._owner.setdefault(slot, node) != node:
                        raise BadSetting(f"slot {slot} belongs to {self._owner[slot]!r} and to {node!r}")

    def node(self, key: Key) -> str:
        """The node that serves *key*.

        Raises:
            UnknownNode: no node serves its slot (Redis answers CLUSTERDOWN).
        """
        slot = redis_slot(key)
        if slot not in self._owner:
            raise UnknownNode(f"slot {slot}", f"no node serves slot {slot}")
        return self._owner[slot]

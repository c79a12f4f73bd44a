"""The leases that the log has granted, and which keys hang on each. When one expires is not known here.

Expiry is a matter of the leader's clock (`troth.kv.lessor`); its verdict comes through the log as a LeaseRevoke.
"""

from collections.abc import Iterable, Iterator

import msgspec

from troth.kv.order import sorted_pages

_MASK_64 = (1 << 64) - 1
_MASK_63 = (1 << 63) - 1


class LeaseView(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One lease: its id, the time to live that was granted, and the keys attached, sorted."""

    id: int
    granted_ttl_s: int
    keys: tuple[bytes, ...]


class LeaseTable:
    """Leases by id. The keys of a lease are kept as the store attaches and detaches them."""

    __slots__ = ("_keys", "chosen_count", "grants", "ttl_s")

    def __init__(self) -> None:
        self.ttl_s: dict[int, int] = {}
        self.grants: dict[int, int] = {}
        """Lease -> the log index of its grant, 0 if that is not known: an id granted anew is another lease."""
        self.chosen_count = 0
        self._keys: dict[int, set[bytes]] = {}

    def __contains__(self, lease: int) -> bool:
        return lease in self.ttl_s

    def __len__(self) -> int:
        return len(self.ttl_s)

    def choose_id(self) -> int:
        """A free positive id, the same on every replica, that does not look like its neighbours."""
        while True:
            self.chosen_count += 1
            chosen = _splitmix64(self.chosen_count) & _MASK_63
            if chosen and chosen not in self.ttl_s:
                return chosen

    def grant(self, lease: int, ttl_s: int, grant: int) -> None:
        """Add a lease that is not there yet, granted at log index *grant*."""
        self.ttl_s[lease] = ttl_s
        self.grants[lease] = grant

    def revoke(self, lease: int) -> None:
        """Forget a lease, which must be there. Its keys are the caller's to delete."""
        del self.ttl_s[lease], self.grants[lease]
        self._keys.pop(lease, None)

    def attach(self, lease: int, key: bytes) -> None:
        """*key* now lives as long as *lease*."""
        keys = self._keys.get(lease)
        if keys is None:
            keys = self._keys[lease] = set()
        keys.add(key)

    def detach(self, lease: int, key: bytes) -> None:
        """*key* no longer hangs on *lease*."""
        keys = self._keys[lease]
        keys.discard(key)
        if not keys:
            del self._keys[lease]

    def detach_all(self, lease: int, keys: Iterable[bytes]) -> None:
        """None of *keys* hangs on *lease* any more."""
        held = self._keys[lease]
        held.difference_update(keys)
        if not held:
            del self._keys[lease]

    def keys_count(self, lease: int) -> int:
        """How many keys are attached."""
        return len(self._keys.get(lease, ()))

    def slices(self, lease: int, count: int) -> Iterator[list[bytes]]:
        """`sorted_pages` of the keys that are attached now."""
        return sorted_pages(self.unsorted_keys(lease), count)

    def unsorted_keys(self, lease: int) -> list[bytes]:
        """The keys attached."""
        return list(self._keys.get(lease, ()))

    def keys(self, lease: int) -> list[bytes]:
        """The keys attached, sorted."""
        return sorted(self._keys.get(lease, ()))

    def view(self, lease: int) -> LeaseView | None:
        """What is known of *lease*; None if there is no such lease."""
        ttl_s = self.ttl_s.get(lease)
        return None if ttl_s is None else LeaseView(lease, ttl_s, tuple(self.keys(lease)))


def _splitmix64(number: int) -> int:
    """One step of the splitmix64 generator (Steele, Lea, Flood 2014): a bijection of 64-bit integers."""
    mixed = (number * 0x9E3779B97F4A7C15) & _MASK_64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return mixed ^ (mixed >> 31)

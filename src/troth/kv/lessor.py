"""The leader's clock for leases: which ones have run out, and how long the others have.

Only the leader's `Lessor` counts. It proposes a LeaseRevoke for what `expired` names, and the lease ends when that
comes back through the log, on all replicas at one revision. A new leader cannot know when its predecessor
last heard from a client, so it gives every lease its full time again (`reset`): a lease may live longer than was
asked for, never shorter.

Time is a number in units of the caller's choice (nanoseconds, ticks), handed in as *now*; it must not fall.
"""

from heapq import heapify, heappop, heappush

REPORT_AGAIN_S = 3
"""An expired lease that was not revoked is named again after this time: its revocation may have been lost."""

ENTER_LEASES = 8192
"""Leases that one call of `expired` enters into the heap after `reset`: some milliseconds. A new leader that did so
with a million at once would not be heard for longer than others wait."""

_STALE_SLACK = 64


class Lessor:
    """Deadlines by lease. Every method is O(log n) or better, but that `reset` copies ids.

    Args:
        units_per_s: how many units of *now* make a second.
    """

    def __init__(self, *, units_per_s: int) -> None:
        self._units_per_s = units_per_s
        self._ttl_s: dict[int, int] = {}
        self._deadline: dict[int, int] = {}
        """Of leases that were granted or renewed since `reset`; the others have their time from there."""
        self._reset_at = 0
        # When to look at each lease, as a heap. A renewal leaves the entry where it is; when that comes up, it is put
        # back at the deadline that holds by then: one entry for each lease, however often it is renewed. An
        # entry that is not in `_look_at` is of a lease that was revoked (and perhaps granted anew).
        self._due: list[tuple[int, int]] = []
        self._look_at: dict[int, int] = {}
        self._to_enter: list[int] = []
        """Leases that were there at `reset` and are not in the heap yet."""

    def __len__(self) -> int:
        return len(self._ttl_s)

    def reset(self, granted_ttls_s: dict[int, int], now: int) -> None:
        """Begin to lead: every lease (`Store.granted_ttls_s`, which is taken over) has its full time from *now* on."""
        self._ttl_s = granted_ttls_s
        self._reset_at = now
        self._deadline, self._look_at, self._due = {}, {}, []
        self._to_enter = list(granted_ttls_s)

    def on_granted(self, lease: int, ttl_s: int, now: int) -> None:
        """A LeaseGrant was applied: its time begins now."""
        deadline = now + ttl_s * self._units_per_s
        self._ttl_s[lease] = ttl_s
        self._deadline[lease] = deadline
        self._look_at[lease] = deadline
        heappush(self._due, (deadline, lease))

    def on_revoked(self, lease: int) -> None:
        """A LeaseRevoke was applied."""
        self._ttl_s.pop(lease, None)
        self._deadline.pop(lease, None)
        self._look_at.pop(lease, None)
        if len(self._due) > 2 * len(self._ttl_s) + _STALE_SLACK:
            self._rebuild()

    def renew(self, lease: int, now: int) -> int:
        """Give *lease* its full time again. Returns the TTL in seconds, 0 if it is unknown or has run out."""
        ttl_s = self._ttl_s.get(lease, 0)
        # A lease that has run out may already be on its way out through the log: it must not come back.
        if not ttl_s or self._deadline_of(lease, ttl_s) <= now:
            return 0
        self._deadline[lease] = now + ttl_s * self._units_per_s
        return ttl_s

    def remaining_s(self, lease: int, now: int) -> int:
        """Whole seconds left, 0 if it has run out, -1 if there is no such lease."""
        ttl_s = self._ttl_s.get(lease)
        return -1 if ttl_s is None else max(0, (self._deadline_of(lease, ttl_s) - now) // self._units_per_s)

    def expired(self, now: int, limit: int = 1000) -> list[int]:
        """At most *limit* leases that have run out and are to be revoked, those due first first."""
        if self._to_enter:
            self._enter()
        due = self._due
        found: list[int] = []
        while due and due[0][0] <= now and len(found) < limit:
            looked_at, lease = heappop(due)
            if self._look_at.get(lease) != looked_at:
                continue
            look_at = self._deadline_of(lease, self._ttl_s[lease])
            if look_at <= now:
                found.append(lease)
                look_at = now + REPORT_AGAIN_S * self._units_per_s
            self._look_at[lease] = look_at
            heappush(due, (look_at, lease))
        return found

    def _deadline_of(self, lease: int, ttl_s: int) -> int:
        return self._deadline.get(lease, self._reset_at + ttl_s * self._units_per_s)

    def _enter(self) -> None:
        """Put some more of those that were there at `reset` into the heap."""
        for lease in self._to_enter[-ENTER_LEASES:]:
            ttl_s = self._ttl_s.get(lease)
            # It may have been revoked since, or granted anew.
            if ttl_s is not None and lease not in self._look_at:
                look_at = self._look_at[lease] = self._reset_at + ttl_s * self._units_per_s
                heappush(self._due, (look_at, lease))
        del self._to_enter[-ENTER_LEASES:]

    def _rebuild(self) -> None:
        self._due = [(look_at, lease) for lease, look_at in self._look_at.items()]
        heapify(self._due)

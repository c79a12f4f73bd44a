"""What a store holds, and what can be asked of it. Nothing here changes anything.

Ranges and hashes over very many keys come in two forms: at once, and in short steps between which the store may change.
"""

from collections.abc import Generator

from troth.kv import refusals
from troth.kv.checks import check_range
from troth.kv.keyspace import KeySpace
from troth.kv.leases import LeaseTable, LeaseView
from troth.kv.ranges import range_steps, read_range, unreadable
from troth.kv.requests import AlarmMember, AlarmType, Failure, Range, RangeResult
from troth.kv.snapshot import SnapshotView, state_hash

LEASE_OVERHEAD_BYTES = 256
"""What a lease adds to the size of the store."""


class StoreState:
    """The keys, the leases and the alarms. `Store` is where they change."""

    def __init__(self) -> None:
        self.space = KeySpace()
        self.lease_table = LeaseTable()
        self.alarms_raised: frozenset[tuple[int, AlarmType]] = frozenset()
        """By member and type. Another object whenever it has changed, so that a look at it costs little."""

    # ---- where it stands -------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The current revision; 1 when nothing was ever written."""
        return self.space.revision

    @property
    def compact_revision(self) -> int:
        """The oldest revision that can be read is this one, if not 0."""
        return self.space.compact_revision

    @property
    def db_size_bytes(self) -> int:
        """About what the data takes: each version that is not compacted away, each lease, with their overhead."""
        return self.space.size_bytes + len(self.lease_table) * LEASE_OVERHEAD_BYTES

    @property
    def alarms(self) -> list[AlarmMember]:
        """The alarms raised, by member and type."""
        return [AlarmMember(member, alarm) for member, alarm in sorted(self.alarms_raised)]

    def lease(self, lease: int) -> LeaseView | None:
        """A lease with its keys, or None if there is no such lease."""
        return self.lease_table.view(lease)

    def leases(self) -> list[int]:
        """The ids of all leases, sorted."""
        return sorted(self.lease_table.ttl_s)

    def lease_ids(self) -> list[int]:
        """The ids of all leases, as they come."""
        return list(self.lease_table.ttl_s)

    def granted_ttls_s(self) -> dict[int, int]:
        """Every lease with its granted time to live: what a new leader's `Lessor` starts from."""
        return dict(self.lease_table.ttl_s)

    def hash(self, revision: int = 0) -> int:
        """A 64-bit fingerprint of the uncompacted history up to *revision* (0: the current one).

        Equal on replicas that hold the same keys, values, leases and revisions since the same compaction. It
        covers what `Range` and watches can see; lease times and alarms are not in it.

        Raises:
            ValueError: *revision* is compacted or in the future; ask `readable` first.
        """
        steps = self.hash_steps(revision)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return int(done.value)

    def hash_steps(self, revision: int = 0) -> Generator[None, None, int]:
        """`hash` in short steps, between which the store may change."""
        failure = self.readable(revision)
        if failure is not None:
            raise ValueError(failure.text)
        steps = state_hash(self.space, revision if revision > 0 else self.space.revision)
        next(steps)
        return steps

    def readable(self, revision: int) -> Failure | None:
        """Why *revision* cannot be read; None if it can. 0 and below mean the current one."""
        failure = unreadable(self.space, revision)
        return None if failure is None else self._refuse(failure)

    def _refuse(self, failure: Failure) -> Failure:
        space = self.space
        return refusals.at(failure, revision=space.revision, compact_revision=space.compact_revision)

    # ---- reads -----------------------------------------------------------------------------------------------

    def range(self, request: Range) -> RangeResult | Failure:
        """Read a range; nothing changes."""
        space = self.space
        if (
            request.range_end
            or request.revision > 0
            or request.keys_only
            or request.count_only
            or request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        ):
            return self._range(request)
        # The common read, one key as it is now, needs none of the rest.
        versions = space.index.get(request.key)
        if versions is None:
            return RangeResult(space.revision, [], 0) if request.key else self._refuse(refusals.EMPTY_KEY)
        if isinstance(versions, list):
            versions = versions[-1]
            if not versions.version:
                return RangeResult(space.revision, [], 0)
        return RangeResult(space.revision, [versions], 1)

    def range_steps(self, request: Range) -> Generator[None, None, RangeResult] | Failure:
        """`range`, of a range_end and very many keys, in short steps, between which the store may change: what is read
        is what there is now."""
        failure = self._unreadable(request)
        if failure is not None:
            return failure
        steps = self._range_steps(request)
        next(steps)
        return steps

    def _range_steps(self, request: Range) -> Generator[None, None, RangeResult]:
        revision = self.space.revision
        kvs, count, more = yield from range_steps(self.space, request)
        return RangeResult(revision, kvs, count, more)

    def _unreadable(self, request: Range) -> Failure | None:
        failure = check_range(request)
        return self.readable(request.revision) if failure is None else self._refuse(failure)

    def _range(self, request: Range) -> RangeResult | Failure:
        failure = self._unreadable(request)
        if failure is not None:
            return failure
        space = self.space
        past = request.revision if 0 < request.revision < space.revision else None
        kvs, count, more = read_range(space, request, past)
        return RangeResult(space.revision, kvs, count, more)

    def snapshot(self) -> SnapshotView:
        """The whole state as it is now, to be read in chunks while writes go on. Close it."""
        return SnapshotView(self.space, self.lease_table, self.alarms)

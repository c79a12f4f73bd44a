"""The store beside a store too simple to be wrong: same commands, same answers, whatever happens in between."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kv_twin import Twin, within

from troth.kv.requests import (
    Alarm,
    AlarmType,
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    EventType,
    LeaseGrant,
    LeaseRevoke,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
)
from troth.kv.snapshot import SnapshotView
from troth.kv.store import Store
from troth.kv.watch import WatchBatch, WatchCreated, WatchHub, WatchRequest

KEYS = [b"a", b"b", b"b\0", b"ba", b"bb", b"c", b"\xff", b"\xff\xff"]
RANGE_ENDS = [b"", b"\0", b"a", b"b", b"bb", b"c", b"d", b"\xff\xff"]

keys = st.sampled_from(KEYS)
keys_or_none = st.sampled_from([*KEYS, *KEYS, b""])
range_ends = st.sampled_from(RANGE_ENDS)
values = st.sampled_from([b"", b"x", b"y", b"long" * 30])
lease_ids = st.sampled_from([0, 0, 0, 1, 2, -3, 99])
numbers = st.integers(0, 12)
seldom = st.sampled_from([False, False, False, False, True])

plain_puts = st.builds(Put, keys, values)
puts = st.builds(Put, keys_or_none, values, lease_ids, st.booleans(), seldom, seldom)
deletes = st.builds(DeleteRange, keys_or_none, range_ends, st.booleans())
ranges = st.builds(
    Range,
    keys_or_none,
    range_ends,
    limit=st.integers(-1, 4),
    revision=st.sampled_from([0, 0, 0, -1]) | st.integers(0, 40),
    sort_order=st.sampled_from(SortOrder),
    sort_target=st.sampled_from(SortTarget),
    keys_only=seldom,
    count_only=seldom,
    min_mod_revision=st.just(0) | numbers,
    max_mod_revision=st.just(0) | numbers,
    min_create_revision=st.just(0) | numbers,
    max_create_revision=st.just(0) | numbers,
)
compares = st.builds(
    Compare,
    keys_or_none,
    st.sampled_from(CompareTarget),
    st.sampled_from(CompareResult),
    numbers,
    values,
    st.just(b"") | range_ends,
)


simple_operations = st.builds(Put, keys, values, st.just(0) | lease_ids, st.booleans()) | puts | deletes | ranges


@st.composite
def txns(draw: st.DrawFn, depth: int = 2) -> Txn:
    operations = simple_operations | txns(depth - 1) if depth else simple_operations
    branches = st.lists(operations, max_size=3).map(tuple)
    return Txn(tuple(draw(st.lists(compares, max_size=2))), draw(branches), draw(branches))


grants = st.builds(LeaseGrant, st.sampled_from([1, 2, -3, 99]), st.sampled_from([-1, 1, 5, 9_000_000_001]))
revokes = st.builds(LeaseRevoke, st.sampled_from([1, 2, -3, 99]))
alarms = st.builds(Alarm, st.booleans(), st.integers(0, 1), st.sampled_from(AlarmType))
commands = plain_puts | plain_puts | puts | deletes | txns() | grants | revokes


class StoreBesideTwin(RuleBasedStateMachine):
    """Each rule does one thing to both, or one thing to the store that must not be visible."""

    @initialize(quota=st.sampled_from([1 << 40, 1 << 40, 1 << 40, 6000]))
    def start(self, quota: int) -> None:
        self.store = Store(quota_bytes=quota)
        self.twin = Twin(quota=quota)
        self.views: list[tuple[SnapshotView, list[bytes], list[bytes]]] = []
        self.hub = WatchHub(self.store, page_versions_max=3, page_bytes_max=200)
        self.told: dict[tuple[int, int], int] = {}
        self.requests: dict[tuple[int, int], WatchRequest] = {}
        self.paused: set[int] = set()

    # ---- the same for both -----------------------------------------------------------------------------------

    @rule(batch=st.lists(commands, min_size=1, max_size=6))
    def apply(self, batch: list) -> None:
        assert self.store.apply_batch(batch) == [self.twin.apply(command) for command in batch]

    @rule(command=alarms | commands)
    def apply_one(self, command: object) -> None:
        refused = self.store.validate(command)
        result = self.store.apply(command)
        assert result == self.twin.apply(command)
        if refused is not None:
            assert result == refused

    @rule(back=st.integers(-1, 8), then=st.lists(plain_puts, max_size=3))
    def compact(self, back: int, then: list) -> None:
        # A compaction in the middle of a batch, so that watchers have not been told of what is compacted.
        batch = [*then, Compact(self.twin.revision - back), *then]
        assert self.store.apply_batch(batch) == [self.twin.apply(command) for command in batch]

    @rule(request=ranges, back=st.none() | st.integers(-1, 6))
    def read(self, request: Range, back: int | None) -> None:
        if back is not None:
            fields = {name: getattr(request, name) for name in request.__struct_fields__}
            request = Range(**{**fields, "revision": self.twin.revision - back})
        assert self.store.range(request) == self.twin.range(request)

    @invariant()
    def counters_agree(self) -> None:
        if hasattr(self, "store"):
            assert self.store.revision == self.twin.revision
            assert self.store.compact_revision == self.twin.compact_revision
            assert self.store.db_size_bytes == self.twin.size()
            assert {(raised.member, raised.alarm) for raised in self.store.alarms} == self.twin.alarms

    @rule()
    def all_keys_agree(self) -> None:
        found = self.store.range(Range(b"\0", b"\0"))
        assert found.kvs == list(self.twin.now().values())
        for key in KEYS:
            one = self.store.range(Range(key))
            assert one.kvs == [kv for kv in self.twin.now().values() if kv.key == key]

    @rule()
    def leases_agree(self) -> None:
        assert self.store.leases() == sorted(self.twin.leases)
        assert self.store.granted_ttls_s() == self.twin.leases
        for lease, ttl_s in self.twin.leases.items():
            view = self.store.lease(lease)
            assert (view.granted_ttl_s, list(view.keys)) == (ttl_s, self.twin.keys_of(lease))

    # ---- what must not be visible ----------------------------------------------------------------------------

    @rule(versions_max=st.integers(1, 20))
    def scavenge(self, versions_max: int) -> None:
        self.store.scavenge(versions_max)

    @rule(frame_bytes=st.sampled_from([1, 200, 1 << 20]))
    def open_view(self, frame_bytes: int) -> None:
        view = self.store.snapshot()
        self.views.append((view, list(view.chunks(frame_bytes)), []))

    @precondition(lambda self: self.views)
    @rule(frame_bytes=st.sampled_from([1, 200, 1 << 20]), close=st.booleans())
    def read_view(self, frame_bytes: int, close: bool) -> None:
        view, at_once, _ = self.views[0]
        restored = Store.restore(view.chunks(frame_bytes))
        assert restored.hash() == Store.restore(at_once).hash()
        assert b"".join(restored.snapshot().chunks(1)) == b"".join(Store.restore(at_once).snapshot().chunks(1))
        if close:
            view.close()
            del self.views[0]

    @rule()
    def go_on_with_a_restored_store(self) -> None:
        with self.store.snapshot() as view:
            stream = b"".join(view)
        quota_bytes = self.store.quota_bytes
        restored = Store(quota_bytes=quota_bytes)
        for _ in restored.load([stream[:7], stream[7:100], stream[100:]]):
            pass
        assert restored.hash() == self.store.hash()
        for revision in range(max(1, self.twin.compact_revision), self.twin.revision):
            assert restored.hash(revision) == self.store.hash(revision)
        self.store = restored
        self.hub.attach(restored)

    @rule()
    def memory_is_freed(self) -> None:
        for view, _, _ in self.views:
            view.close()
        self.views = []
        while self.hub.has_work:
            self.poll()
        while self.store.scavenge(2):
            pass
        kept = self.twin.retained()
        held = [kv for versions in self.store.space.index.values() for kv in versions_of(versions)]
        # What is pinned for a watcher may be there still.
        if not self.hub.has_work and not len(self.hub):
            assert sorted(held, key=order) == sorted(kept, key=order)

    # ---- watches ---------------------------------------------------------------------------------------------

    @rule(
        owner=st.integers(1, 2),
        key=keys_or_none,
        range_end=range_ends,
        back=st.none() | st.integers(-2, 8),
        filters=st.tuples(seldom, seldom, st.booleans()),
        watch_id=st.sampled_from([0, 0, 7]),
    )
    def watch(
        self, owner: int, key: bytes, range_end: bytes, back: int | None, filters: tuple, watch_id: int
    ) -> None:
        start = 0 if back is None else max(0, self.twin.revision - back)
        request = WatchRequest(
            key=key,
            range_end=range_end,
            start_revision=start,
            no_put=filters[0],
            no_delete=filters[1],
            prev_kv=filters[2],
            watch_id=watch_id,
        )
        created = self.hub.create(owner, request)
        empty = range_end not in (b"", b"\0") and range_end <= (key or b"\0")
        taken = watch_id and (owner, watch_id) in self.requests
        assert isinstance(created, WatchCreated) == (not empty and not taken)
        if isinstance(created, WatchCreated):
            assert created.revision == self.twin.revision
            assert (owner, created.watch_id) not in self.requests
            self.requests[owner, created.watch_id] = request
            self.told[owner, created.watch_id] = start - 1 if start else self.twin.revision

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        owner, watch_id = data.draw(st.sampled_from(sorted(self.requests)))
        assert self.hub.cancel(owner, watch_id)
        assert not self.hub.cancel(owner, watch_id)
        del self.requests[owner, watch_id]

    @rule(owner=st.integers(1, 2))
    def pause(self, owner: int) -> None:
        self.hub.pause(owner)
        self.paused.add(owner)

    @rule(owner=st.integers(1, 2))
    def resume(self, owner: int) -> None:
        self.hub.resume(owner)
        self.paused.discard(owner)

    @rule()
    def owner_leaves(self) -> None:
        self.hub.cancel_owner(2)
        self.paused.discard(2)
        self.requests = {name: request for name, request in self.requests.items() if name[0] != 2}

    @rule()
    def poll(self) -> None:
        for batch in self.hub.poll():
            self.on_batch(batch)

    @rule()
    def everything_is_told(self) -> None:
        polls = 0
        while self.hub.has_work:
            self.poll()
            polls += 1
            assert polls < 1000
        for owner, watch_id in self.requests:
            if owner not in self.paused:
                assert not self.due((owner, watch_id), self.twin.revision)
                assert self.hub.progress(owner, watch_id) == self.twin.revision
        assert len(self.hub) == len(self.requests)

    def on_batch(self, batch: WatchBatch) -> None:
        name = (batch.owner, batch.watch_id)
        assert batch.owner not in self.paused
        if batch.canceled:
            assert self.told[name] + 1 < self.twin.compact_revision == batch.compact_revision
            assert not batch.events
            del self.requests[name]
            return
        due = self.due(name, batch.revision)
        assert [event.kv for event in batch.events] == [self.twin.log[place] for place in due]
        assert due
        for event, place in zip(batch.events, due, strict=True):
            assert event.type == (EventType.PUT if event.kv.version else EventType.DELETE)
            if not self.requests[name].prev_kv:
                assert event.prev_kv is None
            elif event.prev_kv is not None or event.kv.mod_revision > self.twin.compact_revision:
                assert event.prev_kv == self.twin.replaced_by(place)
        self.told[name] = batch.revision

    def due(self, name: tuple[int, int], revision: int) -> list[int]:
        """Where in the twin's log the changes stand that this watch has still to be told, up to *revision*."""
        request = self.requests[name]
        return [
            place
            for place, kv in enumerate(self.twin.log)
            if self.told[name] < kv.mod_revision <= revision
            and within(kv.key, request.key or b"\0", request.range_end)
            and not (request.no_put if kv.version else request.no_delete)
        ]


def versions_of(versions: object) -> list:
    return versions if isinstance(versions, list) else [versions]


def order(kv: object) -> tuple:
    return kv.mod_revision, kv.key, kv.version


TestStoreBesideTwin = StoreBesideTwin.TestCase
TestStoreBesideTwin.settings = settings(
    max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
class TestStoreBesideTwinAtLength(StoreBesideTwin.TestCase):
    settings = settings(max_examples=200, stateful_step_count=40, suppress_health_check=list(HealthCheck))

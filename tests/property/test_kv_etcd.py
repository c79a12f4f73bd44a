"""The store beside a real etcd: same commands, same answers, same error texts, same events."""

from collections.abc import Iterator

import pytest
from etcd_kit import LEASES, SENTINEL, BriefLease, Etcd, LeaseList, TimeToLive, running_etcd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from troth.kv.requests import (
    Compact,
    Compare,
    CompareTarget,
    DeleteRange,
    Event,
    Failure,
    LeaseGrant,
    LeaseGrantResult,
    LeaseRevoke,
    Put,
    Range,
    Txn,
)
from troth.kv.store import Store
from troth.kv.watch import WatchHub, WatchRequest

pytestmark = pytest.mark.integration

KEYS = [b"a", b"b", b"b\0", b"ba", b"bb", b"c", b"\xff", b"\0"]
TTL_MAX_S = 9_000_000_000

keys = st.sampled_from([*KEYS, *KEYS, b""])
range_ends = st.sampled_from([b"", b"", b"\0", b"a", b"b", b"bb", b"c", b"d", b"\xff"])
values = st.sampled_from([b"", b"x", b"y"])
numbers = st.integers(-1, 8)
seldom = st.sampled_from([False, False, False, True])
lease_ids = st.sampled_from([*LEASES, 0])
leases = st.sampled_from([0, 0, 0, *LEASES])
puts = st.builds(Put, keys, values, leases, st.booleans(), seldom, seldom)
deletes = st.builds(DeleteRange, keys, range_ends, st.booleans())
# etcd overlooks some puts beside a deletion to the end (docs/divergences.md).
bounded_deletes = deletes.filter(lambda delete: delete.range_end != b"\0")
ranges = st.builds(
    Range,
    keys,
    range_ends,
    limit=st.integers(-1, 4),
    revision=st.sampled_from([0, 0, 0]) | st.integers(-1, 25),
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    keys_only=seldom,
    count_only=seldom,
    min_mod_revision=st.just(0) | numbers,
    max_mod_revision=st.just(0) | numbers,
    min_create_revision=st.just(0) | numbers,
    max_create_revision=st.just(0) | numbers,
)
compares = st.builds(
    Compare,
    keys,
    st.sampled_from(CompareTarget),
    st.integers(0, 3),
    numbers | lease_ids,
    values,
    st.just(b"") | range_ends,
)


@st.composite
def txns(draw: st.DrawFn, depth: int = 2) -> Txn:
    operations = puts | puts | bounded_deletes | ranges
    if depth:
        operations |= txns(depth - 1)
    branches = st.lists(operations, max_size=4).map(tuple)
    return Txn(tuple(draw(st.lists(compares, max_size=2))), draw(branches), draw(branches))


steps = st.lists(
    puts
    | puts
    | deletes
    | ranges
    | txns()
    | txns()
    | st.builds(LeaseGrant, st.sampled_from(LEASES), st.sampled_from([600, 601, TTL_MAX_S, TTL_MAX_S + 1]))
    | st.builds(BriefLease, lease_ids, st.sampled_from([-5, 0, 1, 2, 3, TTL_MAX_S + 1, 1 << 62]))
    | st.builds(LeaseRevoke, lease_ids)
    | st.builds(TimeToLive, lease_ids)
    | st.just(LeaseList())
    | st.builds(Compact, st.integers(-1, 25)),
    min_size=4,
    max_size=25,
)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


def ask_store(store: Store, step: object) -> object:
    """What etcd's wire would show of the store's answer."""
    match step:
        case Range():
            result = store.range(step)
        case BriefLease():
            result = store.apply(LeaseGrant(step.id, step.ttl_s))
            if isinstance(result, LeaseGrantResult):
                store.apply(LeaseRevoke(result.id))
                return result.ttl_s
        case TimeToLive():
            view = store.lease(step.id)
            return -1 if view is None else (view.granted_ttl_s, list(view.keys))
        case LeaseList():
            return store.leases()
        case _:
            result = store.apply(step)
    if isinstance(result, Failure):
        return result.text
    if isinstance(result, LeaseGrantResult):
        return result.id, result.ttl_s
    if isinstance(step, LeaseRevoke | Compact):
        return result.revision
    return result


def begun(etcd: Etcd) -> Store:
    """Both are empty, and compacted at revision 1."""
    etcd.begin()
    store = Store()
    store.apply(Compact(1))
    return store


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=steps)
def test_etcd_answers_the_same(etcd: Etcd, steps: list) -> None:
    store = begun(etcd)
    for step in (*steps, Put(SENTINEL, b"")):
        assert ask_store(store, step) == etcd.ask(step)
    hub = WatchHub(store, page_versions_max=7)
    # From after the compaction: etcd 3.4 forgets a deletion at the compact revision itself.
    request = WatchRequest(key=b"", range_end=b"\0", start_revision=store.compact_revision + 1, prev_kv=True)
    hub.create(1, request)
    told: list[Event] = []
    while hub.has_work:
        told += [event for batch in hub.poll() for event in batch.events]
    assert told == etcd.watched(request)


watches = st.builds(
    dict,
    key=st.sampled_from(KEYS),
    range_end=st.sampled_from(
        [b"\0", b"\xff\xff\xff\xff"]
    ),  # the sentinel, which ends it, is among what is watched
    start=st.integers(-1, 30),
    no_put=st.booleans(),
    no_delete=st.booleans(),
    prev_kv=st.booleans(),
).filter(lambda wanted: not (wanted["no_put"] and wanted["no_delete"]))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=steps, wanted=st.lists(watches, min_size=2, max_size=4), fragment=st.booleans())
def test_watches_tell_what_etcd_tells(etcd: Etcd, steps: list, wanted: list[dict], fragment: bool) -> None:
    """From any revision (compacted ones too), over any span, with filters, with and without what was there before."""
    store = begun(etcd)
    for step in steps:
        assert ask_store(store, step) == etcd.ask(step)
    newest = store.revision
    for last in (Put(SENTINEL, b""), DeleteRange(SENTINEL)):
        assert ask_store(store, last) == etcd.ask(last)
    for each in wanted:
        fields = {name: value for name, value in each.items() if name != "start"}
        start = min(each["start"], newest + 1) or 1
        if start == store.compact_revision:
            start += 1  # etcd 3.4 forgets a deletion at the compact revision itself
        request = WatchRequest(start_revision=start, **fields)
        hub = WatchHub(store, page_versions_max=7)
        hub.create(1, request)
        told: list[Event] = []
        canceled = 0
        while hub.has_work:
            for batch in hub.poll():
                told += batch.events
                canceled = batch.compact_revision if batch.canceled else canceled
        theirs = etcd.watched(request, fragment=fragment)
        if isinstance(theirs, int):
            assert (canceled, told) == (theirs, [])
        else:
            # etcd may or may not have gone on to the sentinel's deletion when it was heard.
            assert not canceled and told[: len(theirs)] == theirs
            assert all(event.kv.key == SENTINEL for event in told[len(theirs) :])


live_watches = st.builds(
    WatchRequest,
    key=st.sampled_from([*KEYS, b""]),
    range_end=range_ends,
    start_revision=st.sampled_from([0, 0, 2, 3, 6]),
    no_put=seldom,
    no_delete=seldom,
    prev_kv=st.booleans(),
    watch_id=st.sampled_from([0, 0, 0, 1, 2, 7]),
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=steps, wanted=st.lists(live_watches, min_size=1, max_size=5), poll_every=st.integers(1, 4))
def test_watches_that_go_along_tell_what_etcd_tells(
    etcd: Etcd, steps: list, wanted: list[WatchRequest], poll_every: int
) -> None:
    """Watches of one stream from now on, or from a revision to come, told while the store changes."""
    store = begun(etcd)
    hub = WatchHub(store)
    created = [hub.create(1, request) for request in wanted]
    theirs = etcd.listen(wanted)
    assert [each.text if isinstance(each, Failure) else each.watch_id for each in created] == theirs.created[:-1]
    told: dict[int, list[Event]] = {}
    for number, step in enumerate((*steps, Put(SENTINEL, b""))):
        assert ask_store(store, step) == etcd.ask(step)
        if number % poll_every == 0 or number == len(steps):
            for batch in hub.poll():
                told.setdefault(batch.watch_id, []).extend(batch.events)
    assert hub.progress(1) == store.revision
    heard = theirs.told()
    for watch_id in {*told, *heard}:
        ours = [event for event in told.get(watch_id, []) if event.kv.key != SENTINEL]
        expected = [event for event in heard.get(watch_id, []) if event.kv.key != SENTINEL]
        assert [bare(event, store) for event in ours] == [bare(event, store) for event in expected]


def bare(event: Event, store: Store) -> Event:
    """*event* without what was there before, where etcd may or may not have looked that up before it was compacted."""
    is_sure = event.kv.mod_revision > store.compact_revision
    return event if is_sure else Event(event.type, event.kv)

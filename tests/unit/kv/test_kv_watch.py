"""Watches: what is told, to whom, in which state of lag."""

import pytest

from troth.kv.requests import Compact, DeleteRange, Event, EventType, Failure, KeyValue, Put, Txn
from troth.kv.store import Store
from troth.kv.watch import WatchBatch, WatchCreated, WatchHub, WatchRequest

ME = 1


def watching(*, key: bytes = b"a", range_end: bytes = b"", **options: object) -> tuple[Store, WatchHub]:
    store = Store()
    hub = WatchHub(store)
    assert hub.create(ME, WatchRequest(key=key, range_end=range_end, **options)) == WatchCreated(0, 1)
    return store, hub


def keys_told(batches: list[WatchBatch]) -> list[tuple[bytes, int]]:
    return [(event.kv.key, event.kv.mod_revision) for batch in batches for event in batch.events]


def poll_all(hub: WatchHub) -> list[WatchBatch]:
    batches = hub.poll()
    while hub.has_work:
        batches += hub.poll()
    return batches


def next_news(hub: WatchHub) -> list[WatchBatch]:
    """What the next poll tells that tells anything."""
    while hub.has_work:
        batches = hub.poll()
        if batches:
            return batches
    return []


def test_a_put_is_told_whole_and_a_deletion_by_key_and_revision() -> None:
    store, hub = watching(prev_kv=True)
    store.apply_batch([Put(b"a", b"1"), Put(b"a", b"2"), DeleteRange(b"a")])
    one, two = KeyValue(b"a", 2, 2, 1, b"1"), KeyValue(b"a", 2, 3, 2, b"2")
    assert hub.poll() == [
        WatchBatch(
            ME,
            0,
            4,
            [
                Event(EventType.PUT, one),
                Event(EventType.PUT, two, one),
                Event(EventType.DELETE, KeyValue(b"a", 0, 4, 0, b""), two),
            ],
        )
    ]
    assert hub.poll() == []


@pytest.mark.parametrize(
    ("key", "range_end", "told"),
    [
        (b"b", b"", [b"b"]),
        (b"b", b"c", [b"b", b"ba", b"b\xff"]),
        (b"b\xff", b"c", [b"b\xff"]),
        (b"ba", b"bb", [b"ba"]),
        (b"ba", b"\0", [b"ba", b"b\xff", b"c"]),
        (b"a", b"ba", [b"a", b"b"]),
        (b"", b"\0", [b"a", b"b", b"ba", b"b\xff", b"c"]),
        (b"baaaa", b"baaab", []),
        (b"", b"", []),
        (b"\xff", b"\0", []),
        (b"\xff\xff", b"\xff\xff\xff", []),
    ],
)
@pytest.mark.parametrize("start_revision", [0, 1])
def test_every_kind_of_range_finds_its_keys(
    key: bytes, range_end: bytes, told: list[bytes], start_revision: int
) -> None:
    store, hub = watching(key=key, range_end=range_end, start_revision=start_revision)
    hub.create(2, WatchRequest(key=key, range_end=range_end, start_revision=start_revision))
    store.apply_batch([Put(each, b"") for each in (b"a", b"b", b"ba", b"b\xff", b"c")])
    assert [name for name, _ in keys_told(hub.poll())] == told * 2
    for owner in (ME, 2):
        hub.cancel_owner(owner)
    hub.cancel_owner(3)
    store.apply(Put(b"b", b""))
    assert (hub.poll(), len(hub), hub.has_work) == ([], 0, False)


def test_filters_leave_nothing_to_send() -> None:
    store, hub = watching(no_put=True)
    hub.create(2, WatchRequest(key=b"a", no_delete=True))
    store.apply(Put(b"a", b""))
    assert [batch.owner for batch in hub.poll()] == [2]
    store.apply(DeleteRange(b"a"))
    assert [batch.owner for batch in hub.poll()] == [ME]


def test_ids_count_up_and_a_chosen_one_is_honoured_once() -> None:
    hub = WatchHub(Store())
    request = WatchRequest(key=b"a")
    chosen = WatchRequest(key=b"a", watch_id=1)
    answers = [hub.create(ME, each) for each in (request, chosen, request, chosen)]
    assert [answer.watch_id for answer in answers[:3]] == [0, 1, 2]
    assert answers[3] == Failure("invalid", "mvcc: duplicate watch ID provided on the WatchStream", 1, 0)
    assert hub.create(2, request) == WatchCreated(0, 1)


def test_an_empty_range_is_refused() -> None:
    refused = Failure("invalid", "mvcc: watcher range is empty", 1, 0)
    hub = WatchHub(Store())
    assert hub.create(ME, WatchRequest(key=b"b", range_end=b"a")) == refused
    assert hub.create(ME, WatchRequest(key=b"b", range_end=b"b")) == refused


def test_there_is_a_bound_on_watches() -> None:
    hub = WatchHub(Store(), watches_max=1)
    hub.create(ME, WatchRequest(key=b"a"))
    assert hub.create(ME, WatchRequest(key=b"a")).code == "overloaded"
    hub.cancel(ME, 0)
    assert hub.create(ME, WatchRequest(key=b"a")) == WatchCreated(1, 1)


def test_a_cancelled_watch_is_silent_and_an_unknown_one_is_nobody() -> None:
    store, hub = watching()
    store.apply(Put(b"a", b""))
    assert hub.cancel(ME, 0)
    assert not hub.cancel(ME, 0)
    assert not hub.cancel(9, 0)
    assert hub.poll() == []


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_the_past_is_told_in_bounded_pages_and_then_the_present(range_end: bytes) -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"")] * 10)
    hub = WatchHub(store, page_versions_max=3)
    hub.create(ME, WatchRequest(key=b"a", range_end=range_end, start_revision=4))
    assert hub.progress(ME) is None
    first = hub.poll()
    assert keys_told(first) == [(b"a", 4), (b"a", 5), (b"a", 6)]
    assert (first[0].revision, hub.has_work) == (6, True)
    store.apply(Put(b"a", b""))
    assert keys_told(poll_all(hub)) == [(b"a", revision) for revision in range(7, 13)]
    assert hub.progress(ME) == 12


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_a_page_ends_at_its_bytes(range_end: bytes) -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"x" * 60)] * 4)
    hub = WatchHub(store, page_bytes_max=100)
    hub.create(ME, WatchRequest(key=b"a", range_end=range_end, start_revision=1))
    assert keys_told(hub.poll()) == [(b"a", 2), (b"a", 3)]


def test_a_revision_is_never_split() -> None:
    store, hub = Store(), None
    hub = WatchHub(store, page_versions_max=2)
    hub.create(ME, WatchRequest(key=b"", range_end=b"\0"))
    keys = [b"a", b"b", b"c", b"d"]
    store.apply_batch([Put(b"x", b""), Txn(success=tuple(Put(key, b"") for key in keys)), Put(b"y", b"")])
    assert keys_told(next_news(hub)) == [(b"x", 2), *((key, 3) for key in keys)]
    assert hub.has_work
    assert keys_told(next_news(hub)) == [(b"y", 4)]
    hub.create(2, WatchRequest(key=b"", range_end=b"\0", start_revision=3))
    assert keys_told(next_news(hub)[:1]) == [(key, 3) for key in keys]


def large(start_revision: int = 0) -> tuple[Store, WatchHub, list[tuple[bytes, int]]]:
    """Two watches, at a revision of a hundred deletions; and what each is to be told of it."""
    store = Store()
    keys = [b"k%02d" % number for number in range(100)]
    store.apply_batch([Put(key, b"") for key in keys])
    hub = WatchHub(store, page_versions_max=8)
    if start_revision:
        store.apply(DeleteRange(b"k", b"l"))
    for owner in (ME, 2):
        hub.create(owner, WatchRequest(key=b"k", range_end=b"l", start_revision=start_revision, prev_kv=True))
    if not start_revision:
        store.apply(DeleteRange(b"k", b"l"))
    return store, hub, [(key, 102) for key in keys]


@pytest.mark.parametrize("start_revision", [0, 102])
def test_a_revision_of_very_many_changes_takes_several_polls_and_is_told_in_one_piece(start_revision: int) -> None:
    store, hub, told = large(start_revision)
    news: list[WatchBatch] = []
    polls = 0
    while hub.has_work:
        polls += 1
        assert polls < 100
        news += hub.poll()
        if polls == 3:
            store.apply(Put(b"k50", b"later"))  # and life goes on
            store.apply(Compact(store.revision))
            store.scavenge()
    assert polls >= 13
    assert [(batch.owner, keys_told([batch])) for batch in news[:2]] == [(ME, told), (2, told)]
    assert [keys_told([batch]) for batch in news[2:]] == [[(b"k50", 103)]] * 2
    if not start_revision:
        assert all(event.prev_kv for event in news[0].events)
    assert hub.progress(ME) == hub.progress(2) == 103


@pytest.mark.parametrize("start_revision", [0, 102])
def test_who_comes_and_goes_while_a_large_revision_is_gone_through_misses_nothing(start_revision: int) -> None:
    store, hub, told = large(start_revision)
    for _ in range(3):
        assert hub.poll() == []
    hub.create(3, WatchRequest(key=b"k", range_end=b"l", start_revision=102))
    hub.create(4, WatchRequest(key=b"k00", start_revision=102))
    hub.create(5, WatchRequest(key=b"k", range_end=b"l"))
    hub.pause(2)
    hub.poll()
    hub.resume(2)
    assert hub.progress(2) is None
    hub.poll()
    hub.cancel_owner(ME)
    store.apply(Put(b"k99", b""))
    news = poll_all(hub)
    seen = {owner: keys_told([b for b in news if b.owner == owner]) for owner in (ME, 2, 3, 4, 5)}
    later = [(b"k99", 103)]
    assert seen == {ME: [], 2: told + later, 3: told + later, 4: told[:1], 5: later}


@pytest.mark.parametrize("start_revision", [0, 102])
def test_who_goes_in_the_middle_of_a_large_revision_is_told_none_of_it(start_revision: int) -> None:
    """Nor is who was paused told anything of it twice, while somebody else is told all of it in one piece."""
    _, hub, told = large(start_revision)
    hub.create(3, WatchRequest(key=b"k", range_end=b"l", start_revision=102))
    for _ in range(3):
        assert hub.poll() == []
    hub.cancel(ME, 0)
    hub.pause(2)
    hub.resume(2)
    news = poll_all(hub)
    seen = {owner: keys_told([batch for batch in news if batch.owner == owner]) for owner in (ME, 2, 3)}
    assert seen == {ME: [], 2: told, 3: told}


@pytest.mark.parametrize("start_revision", [0, 102])
def test_when_all_go_a_large_revision_is_given_up(start_revision: int) -> None:
    store, hub, told = large(start_revision)
    hub.poll()
    hub.cancel_owner(ME)
    hub.cancel_owner(2)
    assert not hub.has_work
    hub.create(3, WatchRequest(key=b"k", range_end=b"l", start_revision=102))
    assert keys_told(poll_all(hub)) == told
    other = Store.restore(store.snapshot())
    hub.create(6, WatchRequest(key=b"k", range_end=b"l", start_revision=102))
    hub.poll()
    hub.attach(other)
    assert keys_told(poll_all(hub)) == told


def test_put_and_deletion_of_a_key_at_one_revision_stay_together() -> None:
    store = Store()
    store.apply(Txn(success=(Txn(success=(Put(b"a", b""),)), Txn(success=(DeleteRange(b"a"),)))))
    hub = WatchHub(store, page_versions_max=1)
    hub.create(ME, WatchRequest(key=b"a", start_revision=1, prev_kv=True))
    (batch,) = hub.poll()
    assert [event.type for event in batch.events] == [EventType.PUT, EventType.DELETE]
    assert [event.prev_kv for event in batch.events] == [None, None]


def test_what_was_there_before_an_event_was_there_before_its_revision() -> None:
    """Of a key that one transaction puts and then deletes, both events tell what there was before the transaction."""
    store, hub = watching(prev_kv=True)
    put_and_delete = Txn(success=(Txn(success=(Put(b"a", b"2"),)), Txn(success=(DeleteRange(b"a"),))))
    store.apply_batch([Put(b"a", b"1"), put_and_delete])
    (batch,) = hub.poll()
    before = KeyValue(b"a", 2, 2, 1, b"1")
    assert [event.prev_kv for event in batch.events] == [None, before, before]


def test_a_watch_from_below_the_first_revision_is_told_all_or_that_some_is_gone() -> None:
    store = Store()
    store.apply(Put(b"a", b""))
    for compact_revision, told in ((0, [(b"a", 2)]), (1, [])):
        if compact_revision:
            store.apply(Compact(compact_revision))
        hub = WatchHub(store)
        hub.create(ME, WatchRequest(key=b"a", start_revision=-1))
        batches = poll_all(hub)
        assert keys_told(batches) == told
        assert [batch.compact_revision for batch in batches if batch.canceled] == [1] * compact_revision


def test_a_watch_from_the_future_drops_what_comes_before() -> None:
    store, hub = watching(start_revision=4)
    store.apply_batch([Put(b"a", b"")] * 4)
    assert keys_told(poll_all(hub)) == [(b"a", 4), (b"a", 5)]


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_a_watch_on_what_is_compacted_is_created_and_then_cancelled(range_end: bytes) -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"")] * 5 + [Compact(4)])
    hub = WatchHub(store)
    hub.create(ME, WatchRequest(key=b"a", range_end=range_end, start_revision=3))
    hub.create(ME, WatchRequest(key=b"a", range_end=range_end, start_revision=4))
    assert hub.poll() == [
        WatchBatch(ME, 0, 6, [], canceled=True, compact_revision=4),
        WatchBatch(
            ME, 1, 6, [Event(EventType.PUT, kv) for kv in store.space.versions(b"a") if kv.mod_revision > 3]
        ),
    ]
    assert len(hub) == 1


def test_all_lagging_watches_may_be_cancelled_at_once() -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"")] * 5 + [Compact(4)])
    hub = WatchHub(store)
    hub.create(ME, WatchRequest(key=b"a", range_end=b"b", start_revision=3))
    assert [batch.canceled for batch in hub.poll()] == [True]


def test_a_lagging_watch_does_not_run_ahead_of_the_synced_ones() -> None:
    store = Store()
    hub = WatchHub(store, page_versions_max=2)
    hub.create(ME, WatchRequest(key=b"", range_end=b"\0"))
    store.apply(Put(b"a", b""))
    hub.poll()
    store.apply_batch([Txn(success=(Put(b"b", b""), Put(b"c", b""))), Put(b"a", b"")])
    hub.create(2, WatchRequest(key=b"a", start_revision=2))
    batches = hub.poll()
    assert [(batch.owner, batch.revision) for batch in batches] == [(ME, 3), (2, 3)]
    assert keys_told(batches) == [(b"b", 3), (b"c", 3), (b"a", 2)]
    assert keys_told(poll_all(hub)) == [(b"a", 4), (b"a", 4)]


def test_lagging_watches_at_different_places_share_a_pass() -> None:
    store = Store()
    store.apply_batch([Put(b"a", b"")] * 6)
    hub = WatchHub(store, page_versions_max=2)
    hub.create(1, WatchRequest(key=b"a", range_end=b"b", start_revision=5))
    hub.create(2, WatchRequest(key=b"a", range_end=b"c", start_revision=2))
    pages = []
    while hub.has_work:
        pages.append({batch.owner: [revision for _, revision in keys_told([batch])] for batch in hub.poll()})
    assert pages == [{2: [2, 3]}, {2: [4, 5], 1: [5]}, {2: [6, 7], 1: [6, 7]}]


def test_a_key_shorter_than_some_prefix_watched_is_told_once() -> None:
    store, hub = watching(key=b"b", range_end=b"c")
    hub.create(2, WatchRequest(key=b"bcd", range_end=b"bce"))
    store.apply(Put(b"b", b""))
    assert keys_told(hub.poll()) == [(b"b", 2)]


def test_a_prefix_is_found_after_another_of_its_length_has_gone() -> None:
    store, hub = watching(key=b"a", range_end=b"b")
    hub.create(2, WatchRequest(key=b"b", range_end=b"c"))
    hub.cancel(ME, 0)
    store.apply_batch([Put(b"a1", b""), Put(b"b1", b"")])
    assert keys_told(hub.poll()) == [(b"b1", 3)]


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_a_deletion_at_the_compact_revision_is_still_told(range_end: bytes) -> None:
    store = Store()
    store.apply_batch([Put(b"a", b""), DeleteRange(b"a"), Compact(3), Put(b"z", b"")])
    store.scavenge()
    hub = WatchHub(store)
    hub.create(ME, WatchRequest(key=b"a", range_end=range_end, start_revision=3, prev_kv=True))
    assert [batch.events for batch in hub.poll()] == [[Event(EventType.DELETE, KeyValue(b"a", 0, 3, 0, b""))]]


def test_compaction_does_not_take_news_from_a_synced_watch() -> None:
    store, hub = watching(prev_kv=True)
    store.apply(Put(b"a", b"1"))
    hub.poll()
    store.apply_batch([Put(b"a", b"2"), Put(b"a", b"3"), Compact(4)])
    store.scavenge()
    (batch,) = hub.poll()
    assert [(event.kv.value, event.prev_kv.value) for event in batch.events] == [(b"2", b"1"), (b"3", b"2")]
    store.scavenge()
    assert len(store.space.versions(b"a")) == 1


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_a_paused_owner_is_told_from_the_history_when_it_resumes(range_end: bytes) -> None:
    store, hub = watching(range_end=range_end)
    hub.pause(ME)
    hub.pause(ME)
    store.apply_batch([Put(b"a", b"")] * 3)
    assert (hub.poll(), hub.has_work, hub.progress(ME)) == ([], False, None)
    hub.create(ME, WatchRequest(key=b"a", start_revision=3))
    hub.resume(ME)
    hub.resume(ME)
    assert sorted(keys_told(poll_all(hub))) == [(b"a", 2), (b"a", 3), (b"a", 3), (b"a", 4), (b"a", 4)]


def test_a_paused_owner_can_lose_its_watch_to_compaction() -> None:
    store, hub = watching()
    hub.pause(ME)
    store.apply_batch([Put(b"a", b"")] * 3 + [Compact(4)])
    hub.resume(ME)
    assert [(batch.canceled, batch.compact_revision) for batch in poll_all(hub)] == [(True, 4)]


def test_progress_says_up_to_where_everything_was_told() -> None:
    store, hub = watching()
    assert hub.progress(9) == 1
    store.apply(Put(b"z", b""))
    assert hub.progress(ME) == 1
    hub.poll()
    assert (hub.progress(ME), hub.progress(ME, 0), hub.progress(ME, 5)) == (2, 2, None)
    hub.create(ME, WatchRequest(key=b"z", start_revision=1))
    assert (hub.progress(ME), hub.progress(ME, 0), hub.progress(ME, 1)) == (None, 2, None)


def test_many_lagging_watches_of_single_keys_share_a_budget() -> None:
    store = Store()
    store.apply_batch([Put(b"%d" % number, b"") for number in range(10)])
    hub = WatchHub(store, page_versions_max=4)
    for number in range(10):
        hub.create(ME, WatchRequest(key=b"%d" % number, start_revision=1))
    assert len(hub.poll()) == 2
    assert len(poll_all(hub)) == 8


def test_watches_go_on_with_the_store_of_an_installed_snapshot() -> None:
    ahead, (behind, hub) = Store(), watching()
    hub.create(2, WatchRequest(key=b"a"))
    hub.create(3, WatchRequest(key=b"b"))
    hub.pause(3)
    for store in (ahead, behind):
        store.apply(Put(b"a", b"1"))
    hub.poll()
    ahead.apply_batch([Put(b"a", b"2"), Put(b"b", b"")])
    with ahead.snapshot() as view:
        installed = Store.restore(view)
    hub.attach(installed)
    installed.apply(Put(b"a", b"3"))
    assert sorted((batch.owner, len(batch.events)) for batch in poll_all(hub)) == [(1, 2), (2, 2)]
    hub.resume(3)
    assert keys_told(poll_all(hub)) == [(b"b", 4)]


def test_an_installed_snapshot_that_was_compacted_further_ends_the_watch() -> None:
    store, hub = watching()
    ahead = Store()
    ahead.apply_batch([Put(b"a", b"")] * 5 + [Compact(5)])
    with ahead.snapshot() as view:
        hub.attach(Store.restore(view))
    assert [batch.canceled for batch in poll_all(hub)] == [True]
    assert store.revision == 1


@pytest.mark.parametrize("freed", [False, True])
def test_what_one_revision_put_and_deleted_is_told_from_there_whether_or_not_garbage_is_freed(freed: bool) -> None:
    store = Store()
    store.apply(Txn(success=(Txn(success=(Put(b"a", b"1"),)), Txn(success=(DeleteRange(b"a"),)))))
    store.space.compact(2)
    if freed:
        assert not store.scavenge()
    hub = WatchHub(store)
    hub.create(ME, WatchRequest(key=b"a", start_revision=2))
    (batch,) = poll_all(hub)
    assert [event.type for event in batch.events] == [EventType.PUT, EventType.DELETE]


@pytest.mark.parametrize("range_end", [b"", b"b"])
def test_what_was_not_told_before_a_pause_is_told_after_it(range_end: bytes) -> None:
    store, hub = watching(range_end=range_end)
    store.apply(Put(b"a", b"1"))
    hub.pause(ME)
    store.apply(Put(b"a", b"2"))
    hub.resume(ME)
    assert keys_told(poll_all(hub)) == [(b"a", 2), (b"a", 3)]

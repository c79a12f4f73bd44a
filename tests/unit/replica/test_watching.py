"""Watches as one server keeps them: what each client is told, how far, and what is left when it has gone."""

from replica_cluster import Cluster, client_of

from troth.kv.requests import Command, Compact, EventType, LeaseGrant, LeaseGrantResult, Put
from troth.kv.requests import DeleteRange as Delete
from troth.replica.protocol import (
    FetchSnapshot,
    LeaseIds,
    LeaseKeepAlive,
    LeaseList,
    LeaseTimeToLive,
    LeaseTtls,
    LeaseView,
    Results,
    ServerMessage,
    WatchCancel,
    WatchCanceled,
    WatchCreate,
    WatchCreated,
    WatchEvents,
    WatchProgress,
    Writes,
)

SECOND = 100
NOTIFIED = 6 * SECOND
"""Longer than an idle watch waits to be told how far it is."""


def write(cluster: Cluster, *commands: Command) -> Results:
    (answer,) = [
        reply for reply in cluster.ask(cluster.leader, Writes(0, 1, 0, commands)) if isinstance(reply, Results)
    ]
    return answer


def events_of(replies: list[ServerMessage]) -> list[tuple[EventType, bytes]]:
    return [
        (event.type, event.kv.key) for reply in replies if isinstance(reply, WatchEvents) for event in reply.events
    ]


# ---- what is told ----


def test_a_watch_may_leave_out_puts_or_deletions() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.ask(leader, WatchCreate(1, b"a", no_put=True))
    write(cluster, Put(b"a", b""), Delete(b"a"))
    cluster.ask(leader, WatchCreate(2, b"b", start_revision=1, no_delete=True))
    cluster.ask(leader, WatchCreate(3, b"a", start_revision=1, no_put=True))
    heard = cluster.ask(leader, WatchCreate(4, b"a", start_revision=1, no_delete=True))
    assert events_of(heard) == [(EventType.PUT, b"a")]
    cluster.say(leader, Writes(0, 1, 0, (Put(b"b", b""), Delete(b"b"), Put(b"a", b""), Delete(b"a"))))
    cluster.settle()
    told = {reply.watch: events_of([reply]) for reply in cluster.heard(leader) if isinstance(reply, WatchEvents)}
    assert told == {
        1: [(EventType.DELETE, b"a")],
        2: [(EventType.PUT, b"b")],
        3: [(EventType.DELETE, b"a")],
        4: [(EventType.PUT, b"a")],
    }


def test_a_watch_that_could_not_be_made_tells_why_in_a_word_and_in_a_code() -> None:
    cluster = Cluster()
    (answer,) = cluster.ask(cluster.leader, WatchCreate(1, b"b", b"a"))
    assert isinstance(answer, WatchCanceled)
    assert answer.code == "invalid" and answer.reason


def test_history_of_many_pages_is_told_without_waiting_for_anything_else() -> None:
    cluster = Cluster()
    leader = cluster.leader
    write(cluster, *[Put(b"a%d" % number, b"") for number in range(20)])
    cluster.replicas[leader]._hub._page_versions_max = 3
    cluster.say(leader, WatchCreate(1, b"a", b"b", start_revision=1))
    first = cluster.replicas[leader].take_effects()
    assert first.again
    cluster.settle()
    assert len(events_of([reply for _, reply in first.replies] + cluster.heard(leader))) == 20


# ---- how far ----


def test_a_watch_from_now_on_has_nothing_to_be_told_at_first() -> None:
    cluster = Cluster()
    assert cluster.ask(cluster.leader, WatchCreate(1, b"a", progress_notify=True)) == [WatchCreated(1, 1)]
    cluster.step(NOTIFIED)
    assert cluster.heard(cluster.leader) == []


def test_a_watch_from_the_past_that_missed_nothing_is_told_so() -> None:
    cluster = Cluster()
    leader = cluster.leader
    write(cluster, Put(b"z", b""))
    heard = cluster.ask(leader, WatchCreate(1, b"a", start_revision=1, progress_notify=True), ticks=NOTIFIED)
    assert heard == [WatchCreated(1, 2), WatchEvents(1, 2, [])]


def test_events_tell_how_far_a_watch_is() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.ask(leader, WatchCreate(1, b"a", progress_notify=True))
    write(cluster, Put(b"a", b""))
    cluster.heard(leader)
    cluster.step(NOTIFIED)
    assert cluster.heard(leader) == []


def test_a_number_that_is_used_again_wants_what_it_says_and_not_what_its_first_watch_did() -> None:
    cluster = Cluster()
    leader = cluster.leader
    write(cluster, Put(b"a", b""), Put(b"a", b""), Compact(3))
    cluster.ask(leader, WatchCreate(1, b"a", progress_notify=True))
    cluster.ask(leader, WatchCancel(1))
    lost = cluster.ask(leader, WatchCreate(2, b"a", start_revision=1, progress_notify=True))
    assert isinstance(lost[-1], WatchCanceled)
    for watch in (1, 2):
        cluster.ask(leader, WatchCreate(watch, b"a"))
    write(cluster, Put(b"z", b""))
    cluster.heard(leader)
    cluster.step(NOTIFIED)
    assert cluster.heard(leader) == []


# ---- clients that go ----


def test_nothing_is_kept_of_a_client_that_has_gone() -> None:
    cluster = Cluster()
    leader = cluster.leader
    replica, client = cluster.replicas[leader], client_of(leader)
    cluster.ask(leader, WatchCreate(1, b"a", start_revision=1, progress_notify=True))
    cluster.ask(leader, FetchSnapshot(1))
    replica.client_paused(client, True)
    cluster.say(leader, WatchProgress())
    replica.client_gone(client)
    assert len(replica._hub) == 0
    kept = (replica._paused, replica._progress_wanted, replica._notified, replica._fetches)
    assert not any(kept)


# ---- leases ----


def grants(cluster: Cluster, *ids: int) -> None:
    results = write(cluster, *[LeaseGrant(lease, 2) for lease in ids]).results
    assert all(isinstance(result, LeaseGrantResult) for result in results)


def test_every_grant_of_a_batch_starts_its_clock() -> None:
    cluster = Cluster()
    grants(cluster, 7, 8, 9)
    assert cluster.ask(cluster.leader, LeaseKeepAlive(1, (7, 8, 9))) == [LeaseTtls(1, [2, 2, 2])]
    cluster.step(3 * SECOND)
    assert cluster.ask(cluster.leader, LeaseList(1)) == [LeaseIds(1, [])]


def test_the_keys_of_a_lease_are_told_to_who_asks_for_them() -> None:
    cluster = Cluster()
    grants(cluster, 7)
    write(cluster, Put(b"k", b"", 7))
    keys = {}
    for wanted in (False, True):
        (view,) = cluster.ask(cluster.leader, LeaseTimeToLive(1, 7, wanted))
        assert isinstance(view, LeaseView)
        keys[wanted] = view.keys
    assert keys == {False: [], True: [b"k"]}

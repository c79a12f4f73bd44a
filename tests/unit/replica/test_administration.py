"""Leases, watches, snapshots, membership and recovery, seen from a client's connection."""

import pytest
from msgspec.structs import replace
from replica_cluster import Cluster, client_of, encode

from troth.core.config import EngineConfig
from troth.core.interface import (
    ORIGIN,
    Entry,
    EntryId,
    EntryKind,
    Member,
    Membership,
    MembershipChange,
    SnapshotMeta,
)
from troth.core.membership import decode_membership
from troth.core.raft.messages import AppendEntries, Heartbeat
from troth.errors import Corrupt
from troth.ids import LogIndex, NodeId, Term, Tick
from troth.kv.requests import (
    Alarm,
    AlarmType,
    Compact,
    EventType,
    LeaseGrant,
    LeaseGrantResult,
    LeaseRevoke,
    Put,
    Range,
)
from troth.kv.store import Store
from troth.models import linearizable
from troth.replica.admin import survives
from troth.replica.effects import SaveSnapshot, StoreChunk
from troth.replica.machine import StateMachine
from troth.replica.peers import SnapshotAck, SnapshotChunk
from troth.replica.protocol import (
    CallRefused,
    ChangeMembers,
    Done,
    FetchSnapshot,
    GetStatus,
    LeaseIds,
    LeaseKeepAlive,
    LeaseList,
    LeaseTimeToLive,
    LeaseTtls,
    LeaseView,
    OpenSession,
    Ping,
    Reads,
    Results,
    ServerStatus,
    SessionOpened,
    SnapshotPart,
    TransferLeadership,
    WatchCancel,
    WatchCanceled,
    WatchCreate,
    WatchCreated,
    WatchEvents,
    WatchProgress,
    Writes,
    WritesRefused,
)
from troth.replica.reads import Serve
from troth.replica.state import ReplicaConfig
from troth.replica.watching import FETCHES_MAX

SECOND = 100


def write(cluster: Cluster, *commands: object) -> Results:
    (answer,) = cluster.ask(cluster.leader, Writes(0, 1, 0, commands))  # type: ignore[arg-type]
    assert isinstance(answer, Results)
    return answer


def grant(cluster: Cluster, ttl_s: int = 2) -> int:
    result = write(cluster, LeaseGrant(0, ttl_s)).results[0]
    assert isinstance(result, LeaseGrantResult)
    return result.id


# ---- leases ----


def test_a_lease_runs_out_on_all_replicas_at_one_revision() -> None:
    cluster = Cluster()
    lease = grant(cluster)
    write(cluster, Put(b"a", b"", lease), Put(b"b", b"", lease))
    cluster.step(3 * SECOND)
    for replica in cluster.replicas.values():
        store = replica.machine.store
        assert store.leases() == []
        assert store.revision == 4
        assert not store.range(Range(b"a")).kvs  # type: ignore[union-attr]


def test_a_lease_kept_alive_lives() -> None:
    cluster = Cluster()
    lease = grant(cluster)
    for _ in range(10):
        cluster.step(SECOND)
        assert cluster.ask(cluster.leader, LeaseKeepAlive(1, (lease, 999))) == [LeaseTtls(1, [2, -1])]
    cluster.step(3 * SECOND)
    assert cluster.ask(cluster.leader, LeaseKeepAlive(1, (lease,))) == [LeaseTtls(1, [-1])]


def test_a_new_leader_gives_every_lease_its_full_time() -> None:
    cluster = Cluster()
    lease = grant(cluster, 5)
    cluster.step(4 * SECOND)
    target = cluster.follower
    cluster.ask(cluster.leader, TransferLeadership(1, target), ticks=2)
    cluster.step(4 * SECOND)
    assert cluster.replicas[target].machine.store.leases() == [lease]


def test_followers_send_lease_calls_to_the_leader() -> None:
    cluster = Cluster()
    for message in (LeaseKeepAlive(1, (1,)), LeaseTimeToLive(1, 1)):
        (answer,) = cluster.ask(cluster.follower, message)
        assert isinstance(answer, CallRefused)
        assert (answer.code, answer.leader) == ("not_leader", f"host{cluster.leader}")


def test_a_deposed_leader_renews_nothing() -> None:
    cluster = Cluster()
    lease = grant(cluster)
    leader = cluster.leader
    cluster.isolate(leader)
    answers = cluster.ask(leader, LeaseKeepAlive(1, (lease,)), ticks=4 * SECOND)
    assert [type(answer) for answer in answers] == [CallRefused]


def test_time_to_live_counts_down_and_lists_keys() -> None:
    cluster = Cluster()
    lease = grant(cluster, 10)
    write(cluster, Put(b"k", b"", lease))
    cluster.step(3 * SECOND)
    (view,) = cluster.ask(cluster.leader, LeaseTimeToLive(1, lease, True))
    assert isinstance(view, LeaseView)
    assert (view.granted_ttl_s, view.keys) == (10, [b"k"])
    assert 6 <= view.ttl_s <= 7
    (gone,) = cluster.ask(cluster.leader, LeaseTimeToLive(1, 12345))
    assert isinstance(gone, LeaseView)
    assert gone.ttl_s == -1


def test_a_grant_that_is_retried_after_its_lease_has_ended_brings_nothing_back() -> None:
    cluster = Cluster()
    (opened,) = cluster.ask(cluster.leader, OpenSession(1, 5))
    assert isinstance(opened, SessionOpened)
    batch = Writes(opened.session, 1, 0, (LeaseGrant(7, 2),))
    answer = cluster.ask(cluster.leader, batch)
    cluster.step(4 * SECOND)
    assert cluster.ask(cluster.leader, LeaseList(1)) == [LeaseIds(1, [])]
    assert cluster.ask(cluster.leader, batch) == answer
    assert cluster.ask(cluster.leader, LeaseKeepAlive(1, (7,))) == [LeaseTtls(1, [-1])]


def test_a_revocation_that_is_retried_leaves_the_clock_of_a_lease_granted_meanwhile() -> None:
    cluster = Cluster()
    (opened,) = cluster.ask(cluster.leader, OpenSession(1, 5))
    assert isinstance(opened, SessionOpened)
    write(cluster, LeaseGrant(7, 2))
    batch = Writes(opened.session, 1, 0, (LeaseRevoke(7),))
    cluster.ask(cluster.leader, batch)
    write(cluster, LeaseGrant(7, 2))
    cluster.ask(cluster.leader, batch)
    assert cluster.ask(cluster.leader, LeaseKeepAlive(1, (7,))) == [LeaseTtls(1, [2])]
    cluster.step(4 * SECOND)
    assert cluster.ask(cluster.leader, LeaseList(1)) == [LeaseIds(1, [])]


def test_a_revocation_that_is_retried_gives_a_lease_granted_meanwhile_no_time_anew() -> None:
    cluster = Cluster()
    (opened,) = cluster.ask(cluster.leader, OpenSession(1, 5))
    assert isinstance(opened, SessionOpened)
    write(cluster, LeaseGrant(7, 10))
    batch = Writes(opened.session, 1, 0, (LeaseRevoke(7),))
    cluster.ask(cluster.leader, batch)
    write(cluster, LeaseGrant(7, 10))
    cluster.step(5 * SECOND)
    cluster.ask(cluster.leader, batch)
    (view,) = cluster.ask(cluster.leader, LeaseTimeToLive(1, 7))
    assert isinstance(view, LeaseView)
    assert view.ttl_s <= 6


def test_a_leader_that_was_paused_does_not_hand_the_end_of_a_lease_to_the_new_one() -> None:
    cluster = Cluster()
    lease = grant(cluster)
    old = cluster.leader
    assert cluster.follower != old
    paused = cluster.replicas.pop(old)
    cluster.step_until(lambda: any(r.engine.leader()[1] not in (0, old) for r in cluster.replicas.values()))
    new = cluster.leader
    for _ in range(4):
        cluster.step(SECOND // 2)
        assert cluster.ask(new, LeaseKeepAlive(1, (lease,))) == [LeaseTtls(1, [2])]
    # It wakes up: by its clock the lease has run out; then, in the same turn, it hears of the new leader.
    paused.tick(cluster.now)
    term, _ = cluster.replicas[new].engine.leader()
    paused.on_peer(new, [Heartbeat(term, ORIGIN, 1)], cluster.now)
    cluster.replicas[old] = paused
    cluster.step(5)
    assert paused.engine.leader()[1] == new
    assert cluster.ask(new, LeaseKeepAlive(1, (lease,))) == [LeaseTtls(1, [2])]


def test_an_expiry_under_way_spares_a_lease_that_was_granted_anew_before_it() -> None:
    cluster = Cluster()
    leader = cluster.replicas[cluster.leader]
    write(cluster, LeaseGrant(7, 2))
    client = client_of(cluster.leader)
    anew = Writes(0, 1, 0, (LeaseRevoke(7), LeaseGrant(7, 5), Put(b"a", b"", 7)))
    cluster.step(2 * SECOND - 1)
    leader.on_client(client, anew, encode(anew), cluster.now)
    # In the same turn, behind what the client sent, the leader finds that the lease it knows has run out.
    cluster.step(1)
    assert cluster.replicas[cluster.leader].machine.store.revision == 2
    cluster.step(4 * SECOND)
    for replica in cluster.replicas.values():
        assert replica.machine.store.leases() == [7]
    cluster.step(2 * SECOND)
    for replica in cluster.replicas.values():
        assert replica.machine.store.leases() == []


def test_a_revoked_lease_is_not_revoked_again() -> None:
    cluster = Cluster()
    lease = grant(cluster)
    write(cluster, LeaseRevoke(lease))
    assert cluster.ask(cluster.leader, LeaseList(1)) == [LeaseIds(1, [])]
    before = cluster.replicas[cluster.leader].engine.commit_index
    cluster.step(5 * SECOND)
    assert cluster.replicas[cluster.leader].engine.commit_index == before


# ---- watches ----


def test_a_watch_on_a_follower_sees_what_the_leader_took() -> None:
    cluster = Cluster()
    follower = cluster.follower
    assert cluster.ask(follower, WatchCreate(3, b"a", b"b")) == [WatchCreated(3, 1)]
    write(cluster, Put(b"a1", b"x"), Put(b"c", b"y"))
    cluster.step(2)
    (events,) = cluster.heard(follower)
    assert isinstance(events, WatchEvents)
    assert [(event.type, event.kv.key) for event in events.events] == [(EventType.PUT, b"a1")]


def test_a_watch_from_the_past_begins_there() -> None:
    cluster = Cluster()
    for number in range(5):
        write(cluster, Put(b"a", str(number).encode()))
    answers = cluster.ask(cluster.leader, WatchCreate(1, b"a", start_revision=3), ticks=2)
    events = [event for reply in answers if isinstance(reply, WatchEvents) for event in reply.events]
    assert [event.kv.value for event in events] == [b"1", b"2", b"3", b"4"]


def test_a_watch_of_compacted_history_is_cancelled_with_where_to_begin() -> None:
    cluster = Cluster()
    for _ in range(5):
        write(cluster, Put(b"a", b""))
    write(cluster, Compact(4))
    answers = cluster.ask(cluster.leader, WatchCreate(1, b"a", start_revision=2), ticks=2)
    (canceled,) = [reply for reply in answers if isinstance(reply, WatchCanceled)]
    assert canceled.compact_revision == 4


def test_a_cancelled_watch_hears_nothing_more() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.ask(leader, WatchCreate(1, b"a"))
    assert [type(reply) for reply in cluster.ask(leader, WatchCancel(1))] == [WatchCanceled]
    assert cluster.ask(leader, WatchCancel(1)) == []
    assert [type(reply) for reply in cluster.ask(leader, Writes(0, 1, 0, (Put(b"a", b""),)))] == [Results]


@pytest.mark.parametrize("watch", [0, -4])
def test_a_watch_number_must_be_positive(watch: int) -> None:
    cluster = Cluster()
    (answer,) = cluster.ask(cluster.leader, WatchCreate(watch, b"a"))
    assert isinstance(answer, WatchCanceled)


def test_a_watch_number_in_use_is_refused() -> None:
    cluster = Cluster()
    cluster.ask(cluster.leader, WatchCreate(1, b"a"))
    (answer,) = cluster.ask(cluster.leader, WatchCreate(1, b"b"))
    assert isinstance(answer, WatchCanceled)
    assert "duplicate" in answer.reason


def test_progress_says_up_to_where_everything_was_told() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.ask(leader, WatchCreate(1, b"a"))
    write(cluster, Put(b"z", b""))
    assert cluster.ask(leader, WatchProgress(), ticks=1) == [WatchEvents(-1, 2, [])]


def test_an_idle_watch_that_asks_for_it_is_told_how_far_it_is() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.ask(leader, WatchCreate(1, b"a", progress_notify=True))
    cluster.ask(leader, WatchCreate(2, b"a"))
    assert cluster.ask(leader, Ping(1), ticks=6 * SECOND) == [Done(1)], "nothing was written: nothing to tell"
    write(cluster, Put(b"z", b""))
    cluster.step(6 * SECOND)
    assert cluster.heard(leader) == [WatchEvents(1, 2, [])]
    cluster.step(6 * SECOND)
    assert cluster.heard(leader) == []


def test_an_idle_watch_is_told_how_far_it_is_before_it_could_miss_a_compaction() -> None:
    cluster = Cluster()
    leader = cluster.leader
    write(cluster, Put(b"a", b""))
    cluster.ask(leader, WatchCreate(1, b"a", start_revision=2, progress_notify=True))
    cluster.step(6 * SECOND)
    write(cluster, *[Put(b"z", b"") for _ in range(9)])
    cluster.heard(leader)
    answers = cluster.ask(leader, Writes(0, 1, 0, (Compact(11),)))
    assert [type(answer) for answer in answers] == [Results, WatchEvents]
    assert answers[1] == WatchEvents(1, 11, [])


def test_watches_that_are_over_are_told_nothing() -> None:
    cluster = Cluster()
    leader = cluster.leader
    for watch in (1, 2):
        cluster.ask(leader, WatchCreate(watch, b"a", progress_notify=True))
    cluster.ask(leader, WatchCancel(1))
    cluster.replicas[leader].client_gone(client_of(leader))
    cluster.replicas[leader].client_connected(client_of(leader))
    write(cluster, Put(b"z", b""))
    cluster.heard(leader)
    cluster.step(6 * SECOND)
    assert cluster.heard(leader) == []


def test_a_paused_client_catches_up_when_it_reads_again() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.ask(leader, WatchCreate(1, b"a"))
    cluster.replicas[leader].client_paused(client_of(leader), True)
    write(cluster, Put(b"a", b"1"))
    assert cluster.heard(leader) == []
    cluster.replicas[leader].client_paused(client_of(leader), False)
    cluster.step(2)
    assert [type(reply) for reply in cluster.heard(leader)] == [WatchEvents]


# ---- membership and leadership ----


def test_a_server_is_added_as_a_learner_and_becomes_a_voter_by_itself() -> None:
    cluster = Cluster()
    for number in range(50):
        write(cluster, Put(b"k", str(number).encode()))
    newcomer = NodeId(9)
    cluster.add(newcomer, SnapshotMeta(ORIGIN, Membership(voters=())))
    change = MembershipChange(add_learners={newcomer: Member("n9", "", "host9")})
    assert cluster.ask(cluster.leader, ChangeMembers(1, change), ticks=1) == [Done(1)]
    cluster.step(SECOND)
    membership = cluster.replicas[newcomer].engine.status().membership
    assert newcomer in membership.voters
    assert not membership.is_joint
    assert cluster.replicas[newcomer].machine.store.revision == 51


def test_a_change_is_done_once_the_membership_that_it_ends_in_has_committed() -> None:
    """Until then the servers that leave are needed, and whoever hears that it is done stops them."""
    cluster = Cluster()
    leader, leaving = cluster.leader, cluster.follower

    def is_last(entry: Entry) -> bool:
        return entry.kind == EntryKind.MEMBERSHIP and not decode_membership(entry.payload).is_joint

    def hold_back(sender: NodeId, to: NodeId, message: object) -> bool:
        return not (isinstance(message, AppendEntries) and any(map(is_last, message.entries)))

    cluster.on_send = hold_back
    change = ChangeMembers(1, MembershipChange(remove=(leaving,)))
    assert cluster.ask(leader, change, ticks=20) == []
    assert not cluster.replicas[leader].engine.status().membership.is_joint, "it is in the log"
    cluster.on_send = lambda sender, to, message: True
    cluster.step(20)
    assert cluster.heard(leader) == [Done(1)]


def test_a_removed_leader_hands_over() -> None:
    cluster = Cluster()
    leader = cluster.leader
    answers = cluster.ask(leader, ChangeMembers(1, MembershipChange(remove=(leader,))), ticks=5)
    assert Done(1) in answers
    survivors = [node for node in cluster.ids if node != leader]
    assert cluster.replicas[survivors[0]].engine.leader()[1] in survivors


def test_only_a_leader_that_knows_what_was_committed_before_says_that_a_server_was_removed() -> None:
    """Anybody else may not have heard yet that it was added."""
    cluster = Cluster()
    leader, stranger = cluster.leader, NodeId(77)
    assert cluster.replicas[leader].was_removed(stranger)
    assert not cluster.replicas[leader].was_removed(cluster.follower)
    assert not cluster.replicas[cluster.follower].was_removed(stranger)
    cluster.on_send = lambda sender, to, message: not isinstance(message, AppendEntries)
    cluster.isolate(leader)
    others = [cluster.replicas[node] for node in cluster.ids if node != leader]
    while not (leading := [each for each in others if each.engine.leader()[1] == each.engine.node_id]):
        cluster.step(1)
    assert not leading[0].was_removed(stranger)
    cluster.on_send = lambda sender, to, message: True
    cluster.step(SECOND)
    assert leading[0].was_removed(stranger)


def test_who_is_joining_or_leaving_has_not_been_removed_yet() -> None:
    """It would stop, and could be needed: what is proposed may be taken back, and what is not committed decides."""
    cluster = Cluster()
    leader, follower, newcomer = cluster.leader, cluster.follower, NodeId(4)
    cluster.on_send = lambda sender, to, message: not isinstance(message, AppendEntries)
    joining = MembershipChange(add_learners={newcomer: Member("n4", promote=False)}, remove=(follower,))
    cluster.ask(leader, ChangeMembers(1, joining))
    replica = cluster.replicas[leader]
    assert newcomer in replica.engine.status().membership.everyone()
    assert not replica.was_removed(newcomer)
    assert not replica.was_removed(follower)
    assert replica.was_removed(NodeId(77))


def test_an_impossible_change_is_refused_with_the_reason() -> None:
    cluster = Cluster()
    (answer,) = cluster.ask(cluster.leader, ChangeMembers(1, MembershipChange(remove=(NodeId(77),))))
    assert isinstance(answer, CallRefused)
    assert answer.code == "invalid"
    assert "not a member" in answer.text


def test_a_follower_refuses_changes_and_names_the_leader() -> None:
    cluster = Cluster()
    for message in (ChangeMembers(1, MembershipChange()), TransferLeadership(1, NodeId(1))):
        (answer,) = cluster.ask(cluster.follower, message)
        assert isinstance(answer, CallRefused)
        assert (answer.code, answer.leader) == ("not_leader", f"host{cluster.leader}")


def test_a_change_whose_leader_falls_has_an_unknown_outcome() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.isolate(leader)
    change = MembershipChange(remove=(cluster.ids[0] if leader != cluster.ids[0] else cluster.ids[1],))
    answers = cluster.ask(leader, ChangeMembers(1, change), ticks=2 * SECOND)
    assert [answer.code for answer in answers if isinstance(answer, CallRefused)] == ["leadership_lost"]


def test_leadership_goes_where_it_is_sent() -> None:
    cluster = Cluster()
    target = cluster.follower
    assert cluster.ask(cluster.leader, TransferLeadership(1, target), ticks=2) == [Done(1)]
    assert cluster.leader == target
    assert cluster.ask(target, TransferLeadership(2, target)) == [Done(2)]


def test_a_transfer_is_not_called_done_when_another_server_than_the_one_named_leads() -> None:
    cluster = Cluster()
    leader, target = cluster.leader, cluster.follower
    (other,) = set(cluster.replicas) - {leader, target}
    cluster.isolate(target)
    write(cluster, Put(b"a", b""))
    cluster.say(leader, TransferLeadership(1, target))
    cluster.settle()
    term, _ = cluster.replicas[leader].engine.leader()
    cluster.replicas[leader].on_peer(other, [Heartbeat(Term(term + 1), ORIGIN, 1)], cluster.now)
    cluster.settle()
    answers = cluster.heard(leader)
    assert [answer.code for answer in answers if isinstance(answer, CallRefused)] == ["unavailable"]
    assert Done(1) not in answers


def test_a_transfer_to_a_server_that_is_cut_off_is_given_up() -> None:
    cluster = Cluster()
    leader, target = cluster.leader, cluster.follower
    cluster.isolate(target)
    write(cluster, Put(b"a", b""))
    answers = cluster.ask(leader, TransferLeadership(1, target), ticks=3 * SECOND)
    assert [answer.code for answer in answers if isinstance(answer, CallRefused)] == ["timeout"]
    assert cluster.leader == leader
    assert write(cluster, Put(b"a", b""))


def test_status_says_how_many_more_may_fail() -> None:
    cluster = Cluster()
    leader = cluster.leader

    def told() -> int:
        (status,) = cluster.ask(leader, GetStatus(1))
        assert isinstance(status, ServerStatus)
        return status.survives

    assert told() == 1
    follower = cluster.follower
    cluster.isolate(follower)
    cluster.step(SECOND)
    assert told() == 0
    cluster.heal()
    cluster.isolate(leader)
    cluster.step(SECOND)
    assert told() == -1


def test_while_joint_as_many_more_may_fail_as_in_both_sets_of_voters() -> None:
    cluster = Cluster()
    cluster.step(SECOND)
    status = cluster.replicas[cluster.leader].engine.status()
    assert survives(status) == 1
    outgoing = (*status.membership.voters[:1], NodeId(4), NodeId(5))
    joint = Membership(voters=status.membership.voters, outgoing=outgoing)
    assert survives(replace(status, membership=joint)) == -1, "nothing is heard of two of those who are leaving"


def alarm_events(cluster: Cluster, node: int) -> list[tuple[str, object]]:
    return [
        (event.name, event.facts["kind"]) for at, event in cluster.events if at == node and "alarm" in event.name
    ]


def test_every_server_tells_once_of_an_alarm_that_is_raised_and_once_of_its_end() -> None:
    cluster = Cluster()
    for activate, revision in ((True, 1), (True, 2), (False, 3), (False, 4)):
        write(cluster, Alarm(activate, 0, AlarmType.NOSPACE), Alarm(activate, revision, AlarmType.NONE))
    cluster.step(SECOND)
    for node in cluster.ids:
        assert alarm_events(cluster, node) == [("alarm_raised", "nospace"), ("alarm_cleared", "nospace")]


def test_an_alarm_that_a_snapshot_brings_is_told_before_anything_else_is_applied() -> None:
    """While all writes are refused the next entry may be long in coming."""
    saved = StateMachine(Store)
    saved.store.apply(Alarm(True, 0, AlarmType.NOSPACE))
    cluster = Cluster()
    cluster.replicas[NodeId(1)].load(cluster.founding, saved.dump())
    cluster.settle()
    assert alarm_events(cluster, 1) == [("alarm_raised", "nospace")]


def test_a_ping_is_answered() -> None:
    cluster = Cluster()
    assert cluster.ask(cluster.follower, Ping(8)) == [Done(8)]


# ---- snapshots ----


def loaded_cluster() -> Cluster:
    """A cluster that has taken snapshots and compacted its log."""
    config = ReplicaConfig(snapshot_log_entries=20, log_kept_entries=2, lag_bytes_max=0, chunk_bytes=64)
    cluster = Cluster(replica=config)
    cluster.ask(cluster.leader, OpenSession(1, 1))
    for number in range(50):
        write(cluster, Put(b"k%d" % number, b"v" * 20))
    return cluster


def test_the_log_is_compacted_behind_a_snapshot() -> None:
    cluster = loaded_cluster()
    status = cluster.replicas[cluster.leader].engine.status()
    assert status.first_index > 20
    assert cluster.compacted


def test_behind_a_snapshot_so_many_entries_are_kept_and_not_one_more_goes() -> None:
    cluster = loaded_cluster()
    assert {work.keep_from - work.meta.last.index for _, work in cluster.compacted} == {1 - 2}
    bare = Cluster(replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=0))
    for number in range(30):
        write(bare, Put(b"k%d" % number, b""))
    assert {work.keep_from - work.meta.last.index for _, work in bare.compacted} == {1}


def test_a_snapshot_that_could_not_be_saved_lets_nothing_go_and_another_is_begun() -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=20, log_kept_entries=0))
    leader = cluster.replicas[cluster.leader]
    kept_from: list[int] = []
    real = cluster._work

    def failing(node: NodeId, work: object) -> None:
        if isinstance(work, SaveSnapshot) and node == leader.engine.node_id and len(kept_from) < 2:
            leader.snapshot_saved(work.meta, ok=False)
            kept_from.append(leader.engine.status().first_index)
        else:
            real(node, work)

    cluster._work = failing  # type: ignore[method-assign]
    while len(kept_from) < 2:
        write(cluster, Put(b"k", b""))
    write(cluster, Put(b"k", b""))
    assert kept_from == [1, 1]
    assert leader.engine.status().first_index > 1, "the third was saved"


@pytest.mark.parametrize("doubtful", [False, True])
def test_a_snapshot_that_was_due_and_could_not_be_saved_is_due_still(doubtful: bool) -> None:
    """Not only when the log has grown by as much again: the disk that it grows on is full."""
    bound = 1 << 30 if doubtful else 10_000
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_bytes=bound, snapshot_log_entries=1 << 30))
    leader = cluster.replicas[cluster.leader]
    tried: list[SaveSnapshot] = []
    real = cluster._work

    def failing(node: NodeId, work: object) -> None:
        if isinstance(work, SaveSnapshot) and node == leader.engine.node_id and len(tried) < 2:
            tried.append(work)
        else:
            real(node, work)

    cluster._work = failing  # type: ignore[method-assign]
    leader._doubtful = doubtful
    while not tried:
        write(cluster, Put(b"k", b"v" * 1000))
    write(cluster, Put(b"k", b""))
    leader.snapshot_saved(tried[0].meta, ok=False)
    cluster.settle()
    assert len(tried) == 2
    leader.snapshot_saved(tried[1].meta, ok=False)
    cluster.settle()
    assert leader._snapshot.last.index == leader._applied


@pytest.mark.parametrize("values, factor", [(5, 1), (30, 3), (200, 8)])
def test_a_large_state_is_not_written_again_before_the_log_has_grown_as_much(values: int, factor: int) -> None:
    """Else 2 GiB would be written for each 64 MiB of new log; but no log grows beyond eight times those."""
    config = ReplicaConfig(snapshot_log_entries=10, log_kept_entries=0, snapshot_log_bytes=100_000)
    cluster = Cluster(replica=config)
    leader = cluster.replicas[cluster.leader]

    def entries_until_saved() -> int:
        before, count = leader._snapshot, 0
        while leader._snapshot == before:
            write(cluster, Put(b"small", b""))
            count += 1
        return count

    for number in range(values):
        write(cluster, Put(b"k%d" % number, b"v" * 10_000))
    entries_until_saved()
    assert entries_until_saved() // 10 == factor


def test_one_snapshot_is_made_at_a_time() -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=5))
    leader = cluster.replicas[cluster.leader]
    begun: list[SaveSnapshot] = []
    real = cluster._work

    def slow(node: NodeId, work: object) -> None:
        if isinstance(work, SaveSnapshot) and node == leader.engine.node_id:
            begun.append(work)
        else:
            real(node, work)

    cluster._work = slow  # type: ignore[method-assign]
    for _ in range(20):
        write(cluster, Put(b"k", b""))
    assert len(begun) == 1
    leader.snapshot_saved(begun[0].meta, ok=True)
    cluster.settle()
    assert len(begun) == 2
    assert begun[1].meta.last.index > begun[0].meta.last.index


def test_no_snapshot_is_made_of_a_state_that_is_being_replaced() -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=5))
    node = cluster.follower
    replica = cluster.replicas[node]
    replica._loading, replica._doubtful = cluster.founding, True
    for _ in range(20):
        write(cluster, Put(b"k", b""))
    cluster.step(5)
    assert not any(work for server, work in cluster.compacted if server == node)
    assert any(cluster.compacted)


def test_a_snapshot_has_the_membership_of_its_end_and_not_a_newer_one_that_is_not_committed() -> None:
    cluster = Cluster(replica=ReplicaConfig(snapshot_log_entries=5))
    leader = cluster.leader
    replica = cluster.replicas[leader]
    for _ in range(3):
        write(cluster, Put(b"k", b""))
    cluster.isolate(leader)
    change = MembershipChange(add_learners={NodeId(9): Member("n9", "", "host9")})
    cluster.say(leader, ChangeMembers(1, change))
    begun: list[SaveSnapshot] = []

    def work(node: NodeId, wanted: object) -> None:
        begun.extend([wanted] if isinstance(wanted, SaveSnapshot) else [])

    cluster._work = work  # type: ignore[method-assign]
    cluster.settle()
    assert NodeId(9) in replica.engine.status().membership.learners
    replica._doubtful = True
    cluster.settle()
    (snapshot,) = begun
    assert snapshot.meta.membership.learners == ()


def test_a_snapshot_has_the_membership_of_its_end_and_not_that_of_what_has_committed_behind_it() -> None:
    """The two differ while a server catches up piece by piece."""
    cluster = Cluster(
        replica=ReplicaConfig(snapshot_log_entries=5, log_kept_entries=1000),
        engine=EngineConfig(append_bytes_max=150),
    )
    node, leader = cluster.follower, cluster.leader
    cluster.isolate(node)
    for number in range(30):
        write(cluster, Put(b"k%d" % number, b"v"))
    before = cluster.replicas[leader].engine.commit_index
    change = MembershipChange(add_learners={NodeId(9): Member("n9", "", "host9")})
    cluster.ask(leader, ChangeMembers(1, change), ticks=5)
    cluster.heal()
    cluster.step(2 * SECOND)
    metas = [work.meta for server, work in cluster.compacted if server == node]
    assert metas[0].last.index <= before < cluster.replicas[node].engine.commit_index
    assert not any(meta.membership.learners for meta in metas if meta.last.index <= before)


def test_who_waits_for_a_write_that_only_a_snapshot_brings_is_told_that_its_outcome_is_unknown() -> None:
    cluster = loaded_cluster()
    node = cluster.follower
    cluster.heard(node)
    held = False

    def on_send(sender: NodeId, to: NodeId, message: object) -> bool:
        return not (held and to == node)

    cluster.on_send = on_send
    held = True
    cluster.say(node, Writes(0, 7, 0, (Put(b"forwarded", b"v"),)))
    cluster.settle()
    for number in range(60):
        write(cluster, Put(b"later%d" % number, b""))
    assert cluster.replicas[cluster.leader].machine.store.range(Range(b"forwarded")).kvs  # type: ignore[union-attr]
    assert cluster.heard(node) == []
    held = False
    cluster.step_until(lambda: cluster.replicas[node].machine.store.revision > 100)
    refused = [reply for reply in cluster.heard(node) if isinstance(reply, WritesRefused)]
    assert [(reply.first_seq, reply.code) for reply in refused] == [(7, "leadership_lost")]


def test_a_server_far_behind_is_sent_a_snapshot_in_chunks() -> None:
    cluster = loaded_cluster()
    follower = cluster.follower
    cluster.isolate(follower)
    for number in range(60):
        write(cluster, Put(b"n%d" % number, b"v"))
    cluster.heal()
    leader = cluster.leader
    wanted = cluster.replicas[leader].machine.store.hash()
    cluster.step_until(lambda: cluster.replicas[follower].machine.store.revision == 111)
    assert cluster.replicas[follower].machine.store.hash() == wanted
    assert len(cluster.replicas[follower].machine.sessions) == 1


def test_a_snapshot_that_was_being_saved_when_a_newer_one_was_installed_does_not_take_its_place() -> None:
    """It ends in front of what the log still has: a server that is sent it is no nearer, and would be sent it again."""
    cluster = loaded_cluster()
    former, follower = cluster.leader, cluster.follower
    cluster.isolate(follower)
    for number in range(60):
        write(cluster, Put(b"n%d" % number, b"v"))
    cluster.heal()
    lagging = cluster.replicas[follower]
    cluster.step_until(lambda: lagging.machine.store.revision == 111)
    installed = max(cluster.snapshots[follower])
    assert lagging.engine.status().first_index == installed.index + 1
    older = EntryId(installed.term, LogIndex(installed.index - 1))
    lagging.snapshot_saved(SnapshotMeta(older, cluster.founding.membership), ok=True)
    empty = next(node for node in cluster.ids if node not in (former, follower))
    cluster.isolate(former)
    del cluster.replicas[former]
    cluster.add(empty, cluster.founding)
    cluster.step_until(lambda: cluster.replicas[empty].machine.store.revision == 111)
    assert cluster.replicas[empty].machine.store.hash() == lagging.machine.store.hash()


def test_a_watch_goes_on_over_an_installed_snapshot() -> None:
    cluster = loaded_cluster()
    follower = cluster.follower
    cluster.ask(follower, WatchCreate(1, b"n", b"o"))
    cluster.isolate(follower)
    for number in range(60):
        write(cluster, Put(b"n%d" % number, b"v"))
    cluster.heal()
    cluster.step_until(lambda: cluster.replicas[follower].machine.store.revision == 111)
    cluster.step(5)
    seen = [event for reply in cluster.heard(follower) if isinstance(reply, WatchEvents) for event in reply.events]
    assert [event.kv.key for event in seen] == [b"n%d" % number for number in range(60)]


def test_a_lost_chunk_is_sent_again() -> None:
    cluster = loaded_cluster()
    follower = cluster.follower
    cluster.isolate(follower)
    for number in range(60):
        write(cluster, Put(b"n%d" % number, b"v"))
    cluster.heal()
    sent: list[object] = []

    def lose_every_third(sender: int, to: int, message: object) -> bool:
        if isinstance(message, SnapshotChunk | SnapshotAck):
            sent.append(message)
            return len(sent) % 3 != 0
        return True

    cluster.on_send = lose_every_third
    cluster.step_until(lambda: cluster.replicas[follower].machine.store.revision == 111, ticks=20_000)
    assert len(sent) >= 3, "none was lost"


def test_a_transfer_to_a_silent_server_is_given_up_and_begun_again() -> None:
    cluster = loaded_cluster()
    follower = cluster.follower
    cluster.isolate(follower)
    for number in range(60):
        write(cluster, Put(b"n%d" % number, b"v"))
    cluster.heal()
    held_back: list[SnapshotChunk] = []

    def hold_chunks_back(sender: int, to: int, message: object) -> bool:
        if isinstance(message, SnapshotChunk):
            held_back.append(message)
            return False
        return True

    cluster.on_send = hold_chunks_back
    cluster.step(15 * SECOND)
    assert held_back
    cluster.on_send = lambda sender, to, message: True
    cluster.step_until(lambda: cluster.replicas[follower].machine.store.revision == 111, ticks=5000)


def test_a_snapshot_that_is_gone_is_given_up() -> None:
    cluster = loaded_cluster()
    follower = cluster.follower
    cluster.isolate(follower)
    for number in range(60):
        write(cluster, Put(b"n%d" % number, b"v"))
    leader = cluster.leader
    kept = dict(cluster.snapshots[leader])
    cluster.snapshots[leader].clear()
    cluster.heal()
    cluster.step(SECOND)
    assert cluster.replicas[follower].machine.store.revision < 111
    cluster.snapshots[leader].update(kept)
    cluster.step_until(lambda: cluster.replicas[follower].machine.store.revision == 111, ticks=5000)


def test_the_whole_state_can_be_downloaded_and_read_back() -> None:
    cluster = loaded_cluster()
    answers = cluster.ask(cluster.leader, FetchSnapshot(1), ticks=200)
    parts = [reply for reply in answers if isinstance(reply, SnapshotPart)]
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    machine = StateMachine(Store)
    machine.load(part.data for part in parts if part.data)
    assert machine.store.hash() == cluster.replicas[cluster.leader].machine.store.hash()
    assert len(machine.sessions) == 1


def test_downloads_are_bounded() -> None:
    cluster = loaded_cluster()
    leader = cluster.leader
    cluster.replicas[leader].client_paused(client_of(leader), True)
    for call in range(FETCHES_MAX + 2):
        cluster.say(leader, FetchSnapshot(call))
    cluster.step(5)
    assert [type(reply) for reply in cluster.heard(leader)] == [CallRefused] * 2


def test_a_client_that_leaves_ends_its_download() -> None:
    cluster = loaded_cluster()
    leader = cluster.leader
    cluster.ask(leader, FetchSnapshot(1))
    cluster.replicas[leader].client_gone(client_of(leader))
    cluster.step(5)
    assert cluster.heard(leader) == []


@pytest.mark.parametrize("chunks", [[], [b"\x01"], [b"\xff\x00\x00\x00"], [b"\x01\x00\x00\x00\xc1"]])
def test_a_state_that_is_cut_or_no_state_is_corrupt(chunks: list[bytes]) -> None:
    with pytest.raises(Corrupt):
        StateMachine(Store).load(chunks)


# ---- recovery ----


def test_a_server_that_lost_entries_gets_its_vote_back_when_it_has_caught_up() -> None:
    cluster = Cluster(amnesiacs=[3])
    write(cluster, Put(b"a", b""))
    cluster.step(SECOND)
    assert cluster.replicas[NodeId(3)].machine.store.revision == 2
    assert cluster.leader != 3
    cluster.ask(cluster.leader, TransferLeadership(1, NodeId(3)), ticks=5)
    assert cluster.leader == 3


def test_a_server_that_lost_entries_does_not_stand_or_vote_before() -> None:
    cluster = Cluster(amnesiacs=[2, 3])
    for _ in range(300):
        cluster.step()
    assert {replica.engine.leader()[1] for replica in cluster.replicas.values()} == {0}
    answers = cluster.ask(NodeId(1), Reads(1, linearizable, (Range(b"a"),)), ticks=4 * SECOND)
    assert [type(answer) for answer in answers] == [CallRefused]


def test_a_download_waits_for_a_client_that_reads_slowly() -> None:
    cluster = loaded_cluster()
    leader = cluster.leader
    cluster.replicas[leader].client_paused(client_of(leader), True)
    assert cluster.ask(leader, FetchSnapshot(1), ticks=50) == []
    cluster.replicas[leader].client_paused(client_of(leader), False)
    cluster.step(200)
    parts = cluster.heard(leader)
    assert isinstance(parts[-1], SnapshotPart)
    assert parts[-1].last


def test_a_download_that_never_began_holds_no_history_back() -> None:
    cluster = Cluster()
    write(cluster, Put(b"a", b"1"), Put(b"a", b"2"))
    leader = cluster.leader
    cluster.replicas[leader].client_paused(client_of(leader), True)
    cluster.ask(leader, FetchSnapshot(1))
    cluster.replicas[leader].client_gone(client_of(leader))
    store = cluster.replicas[leader].machine.store
    store.apply(Compact(3))
    assert not store.scavenge()
    assert [version.mod_revision for version in store.space.versions(b"a")] == [3]


def test_downloads_of_a_client_that_went_before_they_began_take_no_place() -> None:
    cluster = Cluster()
    leader, gone = cluster.leader, 999
    replica = cluster.replicas[leader]
    write(cluster, Put(b"a", b"1"))
    replica.client_connected(gone)
    cluster.replies[gone] = []
    for call in range(FETCHES_MAX):
        replica.on_client(gone, FetchSnapshot(call), b"", cluster.now)
    replica.client_gone(gone)
    cluster.settle()
    assert not any(isinstance(answer, CallRefused) for answer in cluster.ask(leader, FetchSnapshot(1)))


def test_a_snapshot_that_is_not_taken_is_not_acknowledged_as_done() -> None:
    cluster = Cluster()
    replica = cluster.replicas[cluster.follower]
    last = EntryId(Term(1), LogIndex(500))
    meta = SnapshotMeta(last, cluster.founding.membership)
    work = StoreChunk(
        sender=cluster.leader, term=Term(0), meta=meta, offset=0, data=b"x", last=True
    )  # of a leader of an earlier term
    replica.chunk_stored(work, 1, True, cluster.now)
    assert not [message for _, message in replica.take_effects().send if isinstance(message, SnapshotAck)]


def test_who_led_when_a_renewal_was_asked_for_renews_nothing_if_another_leads_when_it_is_sure() -> None:
    cluster = Cluster()
    lease = grant(cluster)
    old = cluster.leader
    asked: list[Serve] = []
    replica = cluster.replicas[old]
    replica._at_point = lambda client, call, serve: asked.append(serve)  # type: ignore[method-assign]
    cluster.ask(old, LeaseKeepAlive(1, (lease,)))
    cluster.ask(old, LeaseTimeToLive(2, lease))
    cluster.ask(old, TransferLeadership(3, cluster.follower), ticks=5)
    assert cluster.leader != old
    for serve in asked:
        serve(0)
    cluster.settle()
    codes = [answer.code for answer in cluster.heard(old) if isinstance(answer, CallRefused)]
    assert codes == ["not_leader", "not_leader"]


def test_a_leader_that_is_loading_a_snapshot_ends_no_lease_by_what_it_had_before() -> None:
    cluster = Cluster()
    grant(cluster)
    replica = cluster.replicas[cluster.leader]
    replica._loading = cluster.founding
    cluster.now = Tick(cluster.now + 5 * SECOND)
    replica.tick(cluster.now)
    assert not replica._inbox
    replica._loading = None
    replica.tick(cluster.now)
    assert len(replica._inbox) == 1

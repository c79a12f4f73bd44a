"""Snapshots on their way to a follower: what is lost, damaged or overtaken, and what comes of it."""

from dataclasses import replace

import pytest
from replica_cluster import Cluster

from troth.core.interface import Effects, Entry, EntryId, EntryKind, Member, Membership, SnapshotMeta
from troth.core.raft.messages import AppendEntries, HigherTerm
from troth.ids import LogIndex, NodeId, Term
from troth.kv.requests import Put
from troth.replica.effects import ReadChunk, StoreChunk
from troth.replica.peers import SnapshotAck, SnapshotChunk
from troth.replica.protocol import Writes
from troth.replica.state import ReplicaConfig

SMALL = ReplicaConfig(
    snapshot_log_entries=20,
    log_kept_entries=2,
    chunk_bytes=128,
    ticks_per_second=10,
    snapshot_bytes_per_second=1 << 20,
)


AHEAD = LogIndex(1000)
"""Of what is committed anywhere: behind that a chunk is not needed, and not looked at."""


def with_one_behind(config: ReplicaConfig = SMALL) -> tuple[Cluster, NodeId]:
    """A cluster, and a follower that is cut off and needs a snapshot."""
    cluster = Cluster(replica=config)
    node = cluster.follower
    cluster.isolate(node)
    for number in range(60):
        cluster.ask(cluster.leader, Writes(0, 1, 0, (Put(b"k%d" % number, b"v"),)))
    return cluster, node


class Rotting(Cluster):
    """A receiver finds that the snapshots in `rotten` do not add up, however often they are sent."""

    rotten: frozenset[EntryId] = frozenset()

    def _work(self, node: NodeId, work: object) -> None:
        if isinstance(work, StoreChunk) and work.last and work.meta.last in self.rotten:
            self.partial.pop(node, None)
            self.replicas[node].chunk_stored(work, 0, False, self.now)
            return
        super()._work(node, work)


def test_a_snapshot_that_has_rotted_on_the_leaders_disk_is_replaced_by_a_new_one() -> None:
    """Also when nobody writes any more: else the follower would be sent the same bad bytes for ever."""
    cluster, node = with_one_behind()
    cluster.__class__ = Rotting
    newest = max(cluster.snapshots[cluster.leader])
    cluster.rotten = frozenset({newest})  # type: ignore[attr-defined]
    cluster.heal()
    leader = cluster.replicas[cluster.leader]
    cluster.step_until(lambda: cluster.replicas[node]._applied == leader._applied, ticks=2000)
    assert max(cluster.snapshots[node]) > newest
    assert cluster.replicas[node].machine.store.hash() == leader.machine.store.hash()


def test_a_follower_that_falls_back_once_goes_on_with_the_same_snapshot() -> None:
    """It was started again, say, and the last bytes were not on its disk."""
    cluster, node = with_one_behind()
    newest = max(cluster.snapshots[cluster.leader])
    fell_back = []

    def fall_back(sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, SnapshotAck) and message.offset >= 384 and not fell_back:
            fell_back.append(message)
            cluster.partial[node] = cluster.partial[node][:128]
            cluster.replicas[to].on_peer(sender, [SnapshotAck(message.last, 128, False)], cluster.now)
            return False
        return True

    cluster.on_send = fall_back
    cluster.heal()
    cluster.step_until(lambda: newest in cluster.snapshots[node], ticks=500)
    assert fell_back


def test_a_chunk_read_for_a_leader_that_has_just_been_deposed_does_not_leave() -> None:
    """It would bear the new term, and its receiver would follow one who does not lead in it."""
    cluster, node = with_one_behind()
    leader = cluster.replicas[cluster.leader]
    reads: list[ReadChunk] = []
    work = cluster._work
    cluster._work = lambda owner, each: (  # type: ignore[method-assign]
        reads.append(each) if isinstance(each, ReadChunk) else work(owner, each)
    )
    cluster.heal()
    cluster.step_until(lambda: bool(reads))
    leader.on_peer(node, [HigherTerm(Term(9))], cluster.now)
    leader.chunk_read(reads[0], b"bytes", True)
    sent = [message for _, message in leader.take_effects().send if isinstance(message, SnapshotChunk)]
    assert sent == []


@pytest.mark.parametrize(
    ("last", "offset", "voters"),
    [
        (EntryId(Term(1), LogIndex(-1)), 0, (1,)),
        (EntryId(Term(-1), AHEAD), 0, (1,)),
        (EntryId(Term(1), AHEAD), -1, (1,)),
        (EntryId(Term(1), AHEAD), 0, ()),
    ],
)
def test_a_chunk_that_no_leader_sends_does_not_reach_the_disk(
    last: EntryId, offset: int, voters: tuple[int, ...]
) -> None:
    """A file with such a name, say, would keep the server from starting again."""
    cluster = Cluster()
    replica = cluster.replicas[cluster.follower]
    meta = SnapshotMeta(last, Membership(voters=tuple(map(NodeId, voters))))
    replica.on_peer(cluster.leader, [SnapshotChunk(Term(99), meta, offset, b"bytes", False)], cluster.now)
    assert replica.take_effects().snapshot_work == []


def test_who_leads_no_longer_keeps_nothing_for_those_it_was_sending_to() -> None:
    """Neither the file nor the log behind it: another leader sends its own."""
    cluster, behind = with_one_behind()
    leader = cluster.leader
    cluster.on_send = lambda sender, to, message: not isinstance(message, SnapshotAck)
    cluster.heal()
    sender = cluster.replicas[leader]._sender
    cluster.step_until(lambda: bool(sender.sending))
    cluster.replicas[leader].on_peer(behind, [HigherTerm(Term(99))], cluster.now)
    cluster.replicas[leader].take_effects()
    assert (sender.sending, sender.sent_to(behind)) == (frozenset(), 0)


def test_an_acknowledgement_of_less_than_nothing_is_not_heard() -> None:
    cluster, node = with_one_behind()
    work = cluster._work
    cluster._work = lambda owner, each: (  # type: ignore[method-assign]
        None if isinstance(each, StoreChunk) else work(owner, each)
    )
    cluster.heal()
    leader = cluster.replicas[cluster.leader]
    cluster.step_until(lambda: bool(leader._sender.sending))
    (last,) = leader._sender.sending
    leader.on_peer(node, [SnapshotAck(last, -1, False)], cluster.now)
    leader.tick(cluster.now)
    offsets = [each.offset for each in leader.take_effects().snapshot_work if isinstance(each, ReadChunk)]
    assert -1 not in offsets


@pytest.mark.parametrize("snapshots_count", [1, 4])
def test_a_snapshot_and_the_log_behind_it_are_kept_for_who_is_still_being_sent_that(snapshots_count: int) -> None:
    """Else, while others write much, each snapshot is too old once it has arrived, and another is sent, for ever."""
    cluster, node = with_one_behind()
    leader = cluster.leader
    begun: list[EntryId] = []
    held: list[object] = []

    def on_send(sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, SnapshotChunk) and message.meta.last not in begun:
            begun.append(message.meta.last)
        if isinstance(message, SnapshotChunk) and message.last and not held:
            held.append(message)
            return False
        return True

    cluster.on_send = on_send
    cluster.heal()
    cluster.step_until(lambda: bool(held), ticks=100)
    before = cluster.replicas[leader]._snapshot
    write_until_saved(cluster, snapshots_count)
    assert cluster.replicas[leader].engine.status().first_index == before.last.index + 1
    assert all(before.last in work.sending for owner, work in cluster.compacted[-2:] if owner == leader)
    cluster.step_until(lambda: cluster.replicas[node]._applied == cluster.replicas[leader]._applied, ticks=200)
    assert begun == [before.last]


def test_who_has_just_been_sent_a_snapshot_goes_on_from_the_log_while_it_loads_that() -> None:
    """Loading a large one takes longer than others take to make the next ones due."""
    cluster, node = with_one_behind()
    cluster.in_steps = True
    cluster.heal()
    cluster.step_until(lambda: node in cluster.loads)
    cluster.on_send = lambda sender, to, message: to != node or not isinstance(message, AppendEntries)
    write_until_saved(cluster, 4)
    begun: list[object] = []
    cluster.on_send = lambda sender, to, message: (
        not isinstance(message, SnapshotChunk) or begun.append(message) is None
    )
    for _ in cluster.loads[node]:
        pass
    leader = cluster.replicas[cluster.leader]
    cluster.step_until(lambda: cluster.replicas[node]._applied == leader._applied, ticks=200)
    assert begun == []


def test_the_log_that_is_kept_for_who_lags_has_a_bound() -> None:
    cluster, _ = with_one_behind(replace(SMALL, lag_bytes_max=1))
    cluster.on_send = lambda sender, to, message: not isinstance(message, SnapshotChunk)
    cluster.heal()
    leader = cluster.replicas[cluster.leader]
    cluster.step_until(lambda: bool(leader._sender.sending))
    write_until_saved(cluster, 1)
    before = leader._snapshot
    write_until_saved(cluster, 1)
    assert leader.engine.status().first_index == before.last.index + 1, "no more than that of one snapshot before"


def write_until_saved(cluster: Cluster, count: int) -> None:
    """Write until the leader has saved so many more snapshots."""
    leader = cluster.leader
    for _ in range(count):
        before = cluster.replicas[leader]._snapshot
        while cluster.replicas[leader]._snapshot == before:
            cluster.ask(leader, Writes(0, 1, 0, (Put(b"more", b"v"),)))


def test_the_last_answer_of_a_transfer_may_be_lost_without_sending_the_snapshot_again() -> None:
    cluster, node = with_one_behind()
    sent: list[int] = []
    lost: list[SnapshotAck] = []

    def on_send(sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, SnapshotChunk):
            sent.append(message.offset)
        if isinstance(message, SnapshotAck) and message.done and not lost:
            lost.append(message)
            return False
        return True

    cluster.on_send = on_send
    cluster.heal()
    leader = cluster.replicas[cluster.leader]
    cluster.step_until(lambda: bool(lost) and not leader._sender.sending, ticks=200)
    assert sent.count(0) == 1, "from the beginning only once"
    assert sent.count(max(sent)) == 2
    cluster.ask(cluster.leader, Writes(0, 1, 0, (Put(b"after", b"v"),)), ticks=20)
    assert cluster.replicas[node].machine.store.space.get(b"after") is not None


def test_what_waited_to_be_applied_is_in_the_snapshot_that_is_installed() -> None:
    """Applied after it, it would be applied twice."""
    cluster, node = with_one_behind()
    replica = cluster.replicas[node]
    cluster.in_steps = True
    entry = Entry(LogIndex(3), Term(1), EntryKind.COMMANDS, b"\x90")
    replica._absorb(Effects(committed=(entry,), install=max_snapshot(cluster)))
    waiting = list(replica._backlog)
    replica._absorb(Effects(install=max_snapshot(cluster)))
    assert (waiting, list(replica._backlog)) == ([entry], [])


def max_snapshot(cluster: Cluster) -> SnapshotMeta:
    return SnapshotMeta(max(cluster.snapshots[cluster.leader]), cluster.founding.membership)


def test_where_the_leader_is_found_follows_the_membership() -> None:
    cluster = Cluster()
    follower, leader = cluster.follower, cluster.leader
    replica = cluster.replicas[follower]
    moved = {node: Member(f"n{node}", "", f"moved{node}") for node in cluster.ids}
    replica._absorb(Effects(membership=Membership(voters=tuple(cluster.ids), members=moved)))
    assert replica._leader_address() == f"moved{leader}"


def test_a_follower_whose_disk_was_full_is_sent_a_snapshot_once_there_is_room() -> None:
    cluster, node = with_one_behind()
    leader = cluster.replicas[cluster.leader]
    before = leader._snapshot
    refused: list[int] = []
    work = cluster._work

    def full(owner: NodeId, each: object) -> None:
        if isinstance(each, StoreChunk) and each.offset >= 256 and len(refused) < 3:
            refused.append(cluster.now)
            cluster.partial.pop(owner)
            cluster.replicas[owner].chunk_refused(each)
        else:
            work(owner, each)

    cluster._work = full  # type: ignore[method-assign]
    cluster.heal()
    cluster.step_until(lambda: cluster.replicas[node]._applied == leader._applied, ticks=500)
    first, second, third = refused
    assert third - second > second - first > 2 * SMALL.ticks_per_second
    assert leader._snapshot == before, "nothing is wrong with it"

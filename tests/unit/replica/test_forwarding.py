"""Writes between two servers: each is in the log once, and whoever handed it over hears what came of it."""

import msgspec
from replica_cluster import Cluster, client_of, encode

from troth.core.interface import EntryId, RefusalReason, Refused
from troth.core.raft.messages import AppendReply, Heartbeat
from troth.errors import LeadershipLost
from troth.ids import LogIndex, NodeId, Term
from troth.kv.requests import LeaseRevoke, Put
from troth.replica.peers import Forward, ForwardRefused
from troth.replica.protocol import Results, Writes, WritesRefused
from troth.replica.replica import Replica
from troth.replica.state import ReplicaConfig
from troth.replica.writes import refusal


def raw(key: bytes, value: bytes = b"v") -> msgspec.Raw:
    return msgspec.Raw(encode(Writes(0, 1, 0, (Put(key, value),))))


def hand_over(cluster: Cluster, to: NodeId, sender: NodeId, *proposals: tuple[int, msgspec.Raw]) -> None:
    cluster.replicas[to].on_peer(sender, [Forward(list(proposals))], cluster.now)


def listen(cluster: Cluster) -> list[tuple[NodeId, object]]:
    """What is sent from now on beside the engine's messages: (to, message)."""
    heard: list[tuple[NodeId, object]] = []

    def on_send(sender: NodeId, to: NodeId, message: object) -> bool:
        if isinstance(message, Forward | ForwardRefused):
            heard.append((to, message))
        return True

    cluster.on_send = on_send
    return heard


def revision(cluster: Cluster, node: NodeId) -> int:
    return cluster.replicas[node].machine.store.revision


def test_a_hand_over_that_is_repeated_is_in_the_log_once() -> None:
    """Without a session nothing else would notice the second copy."""
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    hand_over(cluster, leader, follower, (5, raw(b"a")))
    hand_over(cluster, leader, follower, (5, raw(b"a")), (6, raw(b"b")))
    cluster.settle()
    assert revision(cluster, leader) == 3


def test_what_can_not_be_read_is_refused_and_what_comes_with_it_is_not() -> None:
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    heard = listen(cluster)
    hand_over(cluster, leader, follower, (5, msgspec.Raw(b"\xc1")), (6, raw(b"b")))
    cluster.settle()
    assert [message.requests for _, message in heard if isinstance(message, ForwardRefused)] == [[5]]
    assert revision(cluster, leader) == 2


def test_a_full_queue_is_told_as_such() -> None:
    """A client that is told "not the leader" would ask the next server at once, and the one after it."""
    assert refusal(Refused(RefusalReason.QUEUE_FULL, NodeId(1)))[0] == "overloaded"


def test_who_is_to_ask_again_is_told_what_is_waited_for() -> None:
    not_yet = Refused(RefusalReason.NOT_READY, NodeId(1), "n1: not heard by this leader yet")
    assert refusal(not_yet) == ("unavailable", "n1: not heard by this leader yet")
    assert refusal(Refused(RefusalReason.NOT_READY))[1] == RefusalReason.NOT_READY.value


def test_what_was_forwarded_here_is_not_forwarded_on() -> None:
    """Two servers that err about the leader would send it to and fro."""
    cluster = Cluster()
    follower = cluster.follower
    other = next(node for node in cluster.ids if node not in (follower, cluster.leader))
    heard = listen(cluster)
    hand_over(cluster, follower, other, (5, raw(b"a")))
    cluster.say(follower, Writes(0, 9, 0, (Put(b"own", b"v"),)))
    cluster.settle()
    refusals = [(to, message) for to, message in heard if isinstance(message, ForwardRefused)]
    assert [(to, message.requests, message.code) for to, message in refusals] == [(other, [5], "not_leader")]
    (forward,) = [message for _, message in heard if isinstance(message, Forward)]
    assert len(forward.proposals) == 1
    assert [type(reply) for reply in cluster.heard(follower)] == [Results]
    assert revision(cluster, cluster.leader) == 2


def test_what_the_leader_refuses_is_refused_to_the_client_of_the_follower() -> None:
    cluster = Cluster(replica=ReplicaConfig(proposals_bytes_max=1000))
    leader, follower = cluster.leader, cluster.follower
    hand_over(cluster, leader, follower, (5, raw(b"a", b"x" * 900)))
    heard = listen(cluster)
    hand_over(cluster, leader, follower, (6, raw(b"b", b"x" * 900)), (7, raw(b"c", b"x")))
    cluster.settle()
    assert [(to, message) for to, message in heard if isinstance(message, ForwardRefused)] == [
        (follower, ForwardRefused([6], "overloaded", "too many writes wait at the leader; send less at once"))
    ]
    assert revision(cluster, leader) == 3, "what has room is taken"
    cluster.on_send = lambda sender, to, message: not isinstance(message, Forward)
    cluster.ask(follower, Writes(0, 3, 0, (Put(b"d", b""),)))
    (request,) = cluster.replicas[follower]._pending
    cluster.replicas[follower].on_peer(leader, [ForwardRefused([request], "overloaded", "full")], cluster.now)
    cluster.settle()
    (refused,) = cluster.heard(follower)
    assert isinstance(refused, WritesRefused)
    assert (refused.first_seq, refused.code, refused.text) == (3, "overloaded", "full")


def test_a_leader_that_falls_tells_the_server_that_handed_over() -> None:
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    heard = listen(cluster)
    cluster.isolate(leader)
    hand_over(cluster, leader, follower, (5, raw(b"a")))
    cluster.settle()
    cluster.cut.discard((leader, follower))
    cluster.step_until(lambda: cluster.replicas[leader].engine.leader()[1] != leader)
    told = [(to, message.requests, message.code) for to, message in heard if isinstance(message, ForwardRefused)]
    assert told == [(follower, [5], "leadership_lost")]


def test_a_leader_that_led_again_meanwhile_may_have_lost_what_was_handed_over() -> None:
    """To who missed the time between, it is the same leader in a newer term."""
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    cluster.on_send = lambda sender, to, message: not isinstance(message, Forward)
    assert cluster.ask(follower, Writes(0, 1, 0, (Put(b"a", b"v"),))) == []
    term, _ = cluster.replicas[follower].engine.leader()
    again = Heartbeat(Term(term + 2), EntryId(Term(0), LogIndex(0)), 1)
    cluster.replicas[follower].on_peer(leader, [again], cluster.now)
    cluster.settle()
    (refused,) = cluster.heard(follower)
    assert isinstance(refused, WritesRefused)
    assert refused.code == LeadershipLost.code


def test_a_hand_over_that_comes_again_may_wait_here_while_the_first_is_decided() -> None:
    """Proposed, given up when leadership was lost, found in the log by the same server when it led again."""
    cluster = Cluster(replica=ReplicaConfig(entries_in_flight_max=1))
    leader, follower = cluster.leader, cluster.follower
    others = [node for node in cluster.ids if node != leader]
    replica = cluster.replicas[leader]
    cluster.isolate(leader)
    cluster.cut |= {(one, other) for one in others for other in others}
    hand_over(cluster, leader, follower, (5, raw(b"a")))
    cluster.step_until(lambda: replica.engine.leader()[1] != leader)
    cluster.cut = {(one, other) for one in others for other in others}
    handed, first_of_term, own = LogIndex(2), LogIndex(3), 4
    cluster.on_send = lambda _sender, _to, message: not isinstance(message, AppendReply) or message.match <= handed
    cluster.step_until(lambda: replica.engine.leader()[1] == leader)
    cluster.say(leader, Writes(0, 1, 0, (Put(b"own", b""),)))
    cluster.settle()
    hand_over(cluster, leader, follower, (5, raw(b"a")))
    cluster.settle()
    assert (revision(cluster, leader), replica.engine.status().last.index) == (1, own)
    for node in others:
        replica.on_peer(node, [AppendReply(replica.engine.leader()[0], first_of_term)], cluster.now)
    cluster.settle()
    assert revision(cluster, leader) == 2, "the first is applied, the other waits for room"
    cluster.on_send = lambda sender, to, message: True
    cluster.step(100)
    assert {revision(cluster, node) for node in cluster.ids} == {3}
    assert replica.pending_bytes == 0


def test_requests_of_two_lives_of_a_server_have_different_numbers() -> None:
    """An entry of the life before comes out of the log in this one; it is nobody's here."""
    cluster = Cluster()
    lives = [cluster.add(NodeId(node), cluster.founding) for node in range(1, 20)]
    numbers = set()
    for replica in lives:
        client = client_of(replica.engine.node_id)
        message = Writes(0, 1, 0, (Put(b"a", b""),))
        replica.on_client(client, message, encode(message), cluster.now)
        numbers |= set(replica._pending)
    assert len(numbers) == len(lives)
    assert all(0 < number < 1 << 63 for number in numbers)


def in_flight(replica: Replica) -> int:
    status = replica.engine.status()
    return status.last.index - status.commit_index


def test_so_many_entries_wait_for_a_quorum_and_no_more() -> None:
    cluster = Cluster(replica=ReplicaConfig(entries_in_flight_max=2))
    leader = cluster.leader
    cluster.step(5)
    cluster.isolate(leader)
    for number in range(5):
        cluster.say(leader, Writes(0, number, 0, (Put(b"%d" % number, b""),)))
        cluster.settle()
        assert in_flight(cluster.replicas[leader]) == min(number + 1, 2)
    cluster.heal()
    cluster.step(20)
    assert in_flight(cluster.replicas[leader]) == 0
    assert len(cluster.heard(leader)) == 5


def test_a_write_waits_for_a_leader_exactly_as_long_as_it_may() -> None:
    cluster = Cluster(replica=ReplicaConfig(hold_ticks=20))
    node = cluster.leader
    cluster.isolate(node)
    cluster.step_until(lambda: cluster.replicas[node].engine.leader()[1] == 0)
    cluster.heard(node)
    cluster.say(node, Writes(0, 1, 0, (Put(b"a", b""),)))
    cluster.step(20)
    assert cluster.heard(node) == []
    cluster.step(1)
    (refused,) = cluster.heard(node)
    assert isinstance(refused, WritesRefused)
    assert refused.code == "unavailable"


def test_a_write_under_way_is_given_up_exactly_when_it_may_be() -> None:
    cluster = Cluster(replica=ReplicaConfig(write_timeout_ticks=20))
    follower = cluster.follower
    cluster.on_send = lambda sender, to, message: not isinstance(message, Forward)
    cluster.ask(follower, Writes(0, 1, 0, (Put(b"a", b""),)))
    cluster.step(20)
    assert cluster.heard(follower) == []
    cluster.step(1)
    (refused,) = cluster.heard(follower)
    assert isinstance(refused, WritesRefused)
    assert refused.code == "timeout"


def test_nothing_of_a_refused_write_keeps_its_room() -> None:
    cluster = Cluster(replica=ReplicaConfig(proposals_bytes_max=500, write_timeout_ticks=5))
    follower = cluster.follower
    cluster.on_send = lambda sender, to, message: not isinstance(message, Forward)
    for number in range(3):
        answers = cluster.ask(follower, Writes(0, number, 0, (Put(b"a", b"x" * 400),)), ticks=7)
        assert [reply.code for reply in answers if isinstance(reply, WritesRefused)] == ["timeout"]
    assert cluster.replicas[follower].pending_bytes == 0


def test_what_a_server_wants_by_its_own_clock_is_not_handed_to_the_next_leader() -> None:
    """Only that is taken back: what clients and other servers asked for goes on."""
    cluster = Cluster()
    leader = cluster.leader
    replica = cluster.replicas[leader]
    own = Writes(0, 0, 0, (LeaseRevoke(7),))
    replica._take_in(0, own, encode(own))
    cluster.say(leader, Writes(0, 1, 0, (Put(b"client", b""),)))
    hand_over(cluster, leader, cluster.follower, (5, raw(b"forwarded")))
    replica._withdraw_own()
    kept = [replica._pending[request] for request in replica._inbox]
    assert [(bool(pending.client), bool(pending.origin)) for pending in kept] == [(True, False), (False, True)]
    assert len(replica._pending) == 2
    assert replica.pending_bytes == sum(pending.size_bytes for pending in kept)


def test_a_lone_write_is_taken_however_large_it_is() -> None:
    """Refused it would be for ever; what comes behind it waits its turn."""
    cluster = Cluster(replica=ReplicaConfig(proposals_bytes_max=100))
    leader, follower = cluster.leader, cluster.follower
    assert [type(reply) for reply in cluster.ask(leader, Writes(0, 1, 0, (Put(b"a", b"x" * 500),)))] == [Results]
    hand_over(cluster, leader, follower, (5, raw(b"b", b"x" * 500)))
    cluster.settle()
    assert revision(cluster, leader) == 3


def twins() -> tuple[Cluster, NodeId, NodeId]:
    """A cluster whose leader and one follower number their requests alike: (cluster, leader, follower)."""
    cluster = Cluster()
    leader, follower = cluster.leader, cluster.follower
    cluster.replicas[leader]._next_request = cluster.replicas[follower]._next_request = 7 << 33
    return cluster, leader, follower


def test_what_the_log_says_is_applied_whoever_else_has_that_request_id() -> None:
    """A follower that has handed a write over meets another server's in the log, under the same id."""
    cluster, leader, follower = twins()
    cluster.on_send = lambda sender, to, message: not isinstance(message, Forward)
    cluster.say(follower, Writes(0, 1, 0, (Put(b"lost", b"v"),)))
    cluster.settle()
    cluster.heard(follower)
    cluster.ask(leader, Writes(0, 1, 0, (Put(b"kept", b"v"),)))
    cluster.step(10)
    for node in cluster.ids:
        space = cluster.replicas[node].machine.store.space
        assert (space.get(b"kept") is not None, space.get(b"lost") is not None) == (True, False)
    assert cluster.heard(follower) == [], "its own write has not been applied"


def test_a_hand_over_under_a_request_id_that_is_taken_is_refused() -> None:
    cluster, leader, follower = twins()
    cluster.isolate(leader)
    cluster.say(leader, Writes(0, 1, 0, (Put(b"a", b"v"),)))
    cluster.heal()
    cluster.say(follower, Writes(0, 2, 0, (Put(b"b", b"v"),)))
    cluster.replicas[follower].take_effects()
    heard = listen(cluster)
    hand_over(cluster, leader, follower, (cluster.replicas[follower]._next_request, raw(b"b")))
    cluster.settle()
    assert [(to, type(message).__name__) for to, message in heard] == [(follower, "ForwardRefused")]
    assert [reply.code for reply in cluster.heard(follower) if isinstance(reply, WritesRefused)] == ["unavailable"]

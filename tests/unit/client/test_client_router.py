"""Where requests go and when they are sent again, with the servers and the time in the test's hand."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from router_net import TIMEOUT_S, Ask, Call, Net, Server

from troth.client import router as router_module
from troth.client import servers as servers_module
from troth.client.request import ANY, LEADER
from troth.client.router import (
    DEAD_AFTER_S,
    HOPS_MAX,
    PING_EVERY_S,
    PROBE_AFTER_S,
    SUSPECT_AFTER_S,
    TICK_S,
)
from troth.client.servers import ASK_STATUS, UNTRACKED
from troth.core.interface import Member
from troth.errors import (
    InvalidRequest,
    NotApplied,
    NotLeader,
    OutcomeUnknown,
    ProtocolError,
    RequestTimeout,
    Unavailable,
    WrongCluster,
)
from troth.ids import NodeId
from troth.replica.protocol import CallRefused, Done, LeaseTtls, PeerView, ServerStatus


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    loop = Net.__new__(Net)
    asyncio_ = SimpleNamespace(**{**vars(asyncio), "get_running_loop": lambda: loop})
    monkeypatch.setattr(servers_module, "asyncio", asyncio_)
    monkeypatch.setattr(servers_module, "Link", Server)
    monkeypatch.setattr(router_module.random, "random", lambda: 0.5)
    monkeypatch.setattr(router_module.random, "choice", lambda links: links[0])
    loop.__init__()  # type: ignore[misc]
    yield loop


# ---- whether it goes ----


def refuse_to_greet(net: Net, server: Any) -> None:
    server.connection, server.error = None, WrongCluster("this is cluster c2")
    net.router.on_attempt_failed(server)


def test_nothing_is_sent_to_either_of_two_clusters_once_both_are_known(net: Net) -> None:
    """Which of them got it would be chance. What was sent before may have been applied, and is carried through."""
    before = net.submit("before")
    net.s3.node_id = NodeId(0)
    refuse_to_greet(net, net.s3)
    after = net.submit("after")
    assert (net.sent(before), before.error) == (["s1"], None)
    assert net.sent(after) == [] and isinstance(after.error, WrongCluster)
    assert "s3: this is cluster c2" in str(after.error)
    net.s1.connection, net.s1.up = None, net.s1
    net.router.on_down(net.s1, net.s1)
    assert (net.sent(before), before.error) == (["s1", "s2"], None)
    net.s1.connection = net.s1
    net.s3.connection, net.s3.node_id = net.s3, NodeId(3)
    net.router.on_up(net.s3, SimpleNamespace(cluster_id=7))  # type: ignore[arg-type]
    assert net.sent(net.submit("corrected")) == ["s1"]


def test_what_waits_for_a_server_fails_when_another_cluster_is_known(net: Net) -> None:
    for server in net.servers:
        server.connection = None
    waiting = net.submit("a")
    net.s3.node_id = NodeId(0)
    refuse_to_greet(net, net.s3)
    net.s1.connection = net.s1
    net.router.on_up(net.s1, SimpleNamespace(cluster_id=7))  # type: ignore[arg-type]
    assert net.sent(waiting) == [] and isinstance(waiting.error, WrongCluster)


def test_each_request_that_goes_to_neither_of_two_clusters_hears_of_it_by_itself(net: Net) -> None:
    """It was certainly not sent. (One error for all would keep the frames of all who have caught it.)"""
    net.s3.node_id = NodeId(0)
    refuse_to_greet(net, net.s3)
    first, second = net.submit("a").error, net.submit("b").error
    assert isinstance(first, WrongCluster) and isinstance(first, NotApplied)
    assert first is not second and str(first) == str(second)


def test_another_cluster_that_is_gone_again_stops_nobody(net: Net) -> None:
    net.s3.node_id = NodeId(0)
    refuse_to_greet(net, net.s3)
    net.s3.error = ConnectionRefusedError("nobody there")
    net.router.on_attempt_failed(net.s3)
    assert net.sent(net.submit("a")) == ["s1"]


@pytest.mark.parametrize(
    ("changes_state", "answer", "goes_on"),
    [
        (True, Done(1), True),
        (False, Done(1), False),
        (False, LeaseTtls(1, [-1, 4]), True),
        (False, LeaseTtls(1, [-1]), False),
    ],
)
def test_who_has_something_in_its_cluster_goes_on_when_another_appears_at_an_address(
    net: Net, caplog: pytest.LogCaptureFixture, changes_state: bool, answer: Any, goes_on: bool
) -> None:
    """It is known which was meant. Who has only asked there may have been answered by either."""
    call = Call(1)
    call.changes_state = changes_state
    net.router.submit(call)
    net.router.on_message(net.s1, answer)
    net.s3.node_id = NodeId(0)
    for _ in range(2):
        refuse_to_greet(net, net.s3)
    assert net.sent(net.submit("a")) == (["s1"] if goes_on else [])
    assert "s3: this is cluster c2" in net.router.describe()
    assert [record.getMessage() for record in caplog.records] == [
        "the addresses belong to different clusters; correct the list (s3: this is cluster c2)"
    ]


@pytest.mark.parametrize("named", [True, False])
def test_an_address_that_was_given_to_another_cluster_is_no_mixed_list(net: Net, named: bool) -> None:
    """Neither is one that the user did not write down."""
    if named:
        gone = net.s3
    else:
        gone = cast(Any, net.router._add_link("s9"))
        gone.node_id = NodeId(0)
    refuse_to_greet(net, gone)
    assert net.sent(net.submit("a")) == ["s1"]


# ---- where it goes ----


def test_writes_go_to_the_leader_and_to_somebody_else_while_that_is_silent(net: Net) -> None:
    assert net.sent(net.submit("a")) == ["s1"]
    net.s1.is_suspect = True
    request = net.submit("b")
    assert net.sent(request) in (["s2"], ["s3"])


def test_who_has_just_refused_is_asked_last(net: Net) -> None:
    net.router.leader = None
    net.s2.is_suspect = True
    assert net.router.pick(LEADER, net.s1) is net.s3
    net.s3.connection = None
    assert net.router.pick(LEADER, net.s1) is net.s1, "a suspect is worse"
    net.s1.connection = None
    assert net.router.pick(LEADER, net.s1) is net.s2
    net.s2.connection = None
    assert net.router.pick(LEADER, net.s1) is None


def test_reads_of_any_server_stay_with_one_that_does_not_lead_while_it_answers(net: Net) -> None:
    assert net.router.pick(ANY) is net.s2
    net.router.leader = net.s3
    for _ in range(3):
        assert net.router.pick(ANY) is net.s2
    assert net.router.pick(ANY, net.s2) is net.s1
    assert net.router.pick(ANY, net.s1) is net.s2, "not who has just refused, though it comes first"
    net.s1.is_suspect = True
    assert net.router.pick(ANY) is net.s2
    net.s2.connection = None
    assert net.router.pick(ANY) is net.s3, "rather the leader than a suspect"


def test_what_is_for_one_server_goes_there_or_nowhere(net: Net) -> None:
    assert net.router.pick("s3") is net.s3
    net.s3.connection = None
    assert net.router.pick("s3") is None


def test_what_was_given_up_before_it_was_sent_never_is(net: Net) -> None:
    request = Ask("a")
    request.given_up = True
    net.router.submit(request)
    assert net.sent(request) == [] and isinstance(request.error, Unavailable)
    sent = net.submit("b")
    sent.given_up = True
    net.router.on_down(net.s1, net.s1)
    assert sent.error is None, "it may have been applied"


# ---- refusals ----


def test_who_does_not_lead_is_followed_where_it_points_so_often(net: Net) -> None:
    net.router.leader, net.router.leader_id = None, NodeId(0)
    net.s1.connection = net.s3.connection = None
    request = net.submit("a")
    net.s1.connection, net.s3.connection = net.s1, net.s3
    assert net.sent(request) == ["s2"]
    asked = [net.s2, net.s3]
    for hop in range(HOPS_MAX):
        net.router.leader = None
        refuser, named = asked[hop % 2], asked[(hop + 1) % 2]
        net.refuse(refuser, request, NotLeader.code, named.address)
        assert request.connection is named and request.pause is None
    net.router.leader = None
    net.refuse(request.connection, request, NotLeader.code, asked[(HOPS_MAX + 1) % 2].address)
    assert request.connection is None and request.pause is not None
    assert (request.open_sends, request.hops) == (0, 0)
    assert request.refused_by is asked[HOPS_MAX % 2]


def test_who_names_itself_or_nobody_is_asked_again_in_a_moment(net: Net) -> None:
    request = net.submit("a")
    net.refuse(net.s1, request, NotLeader.code, "s1")
    assert net.sent(request) == ["s1"] and request.pause is not None
    net.pass_s(0.02)
    assert len(net.sent(request)) == 2 and request.hops == 0


def test_pauses_grow_with_each_refusal_and_end_with_the_request(net: Net) -> None:
    request = net.submit("a")
    pauses = []
    for _ in range(3):
        net.refuse(request.connection, request, "overloaded")
        assert request.connection is None and request.pause is not None
        pauses.append(request.pause.when_s - net.now_s)  # type: ignore[attr-defined]
        net.lead(net.s1, 1)
        net.router._serve_waiting()
        assert request.connection is None, "its pause is not over"
        net.pass_s(pauses[-1])
    assert pauses == sorted(set(pauses))
    net.refuse(request.connection, request, "overloaded")
    count = len(net.sent(request))
    net.router.forget(request)
    net.pass_s(2)
    assert len(net.sent(request)) == count


def test_a_refusal_of_an_earlier_sending_settles_that_sending_only(net: Net) -> None:
    request = net.submit("a")
    net.lead(net.s2, 2)
    assert net.sent(request) == ["s1", "s2"] and request.open_sends == 2
    net.refuse(net.s1, request, InvalidRequest.code)
    assert request.error is None and request.open_sends == 1 and request.connection is net.s2
    net.refuse(net.s2, request, InvalidRequest.code)
    assert isinstance(request.error, InvalidRequest)


def test_what_was_refused_at_last_may_have_been_applied_by_an_earlier_sending(net: Net) -> None:
    doubtful, read = net.submit("a"), net.submit("b")
    read.changes_state = False
    net.lead(net.s2, 2)
    for request in (doubtful, read):
        net.refuse(net.s2, request, InvalidRequest.code)
    assert isinstance(doubtful.error, OutcomeUnknown)
    assert isinstance(read.error, InvalidRequest)


def test_what_is_in_doubt_is_asked_again_under_its_id_or_told(net: Net) -> None:
    same, once = net.submit("a"), net.submit("b", once=True)
    for request in (same, once):
        net.refuse(net.s1, request, OutcomeUnknown.code)
        assert request.open_sends == 1, "that sending may have been applied"
    assert same.pause is not None and same.error is None
    assert isinstance(once.error, OutcomeUnknown)


# ---- servers that come, go, lead ----


def test_a_new_leader_is_sent_what_waits_for_one_and_nobody_may_apply_twice(net: Net) -> None:
    same, once, read = net.submit("a"), net.submit("b", once=True), net.submit("c", ANY)
    net.lead(net.s3, 2)
    assert (net.sent(same), net.sent(once), net.sent(read)) == (["s1", "s3"], ["s1"], ["s2"])
    net.lead(net.s3, 3)
    assert net.sent(same) == ["s1", "s3"], "it is there already"


def test_what_a_lost_connection_owed_is_asked_elsewhere_or_in_doubt(net: Net) -> None:
    same, once, other = net.submit("a"), net.submit("b", once=True), net.submit("c", "s2")
    net.s1.connection = None
    net.router.on_down(net.s1, net.s1)
    assert len(net.sent(same)) == 2
    assert isinstance(once.error, OutcomeUnknown)
    assert net.sent(other) == ["s2"] and other.error is None
    refused = net.submit("d", "s2", once=True)
    refused.open_sends = 0
    net.router.on_down(net.s2, net.s2)
    assert refused.error is None and len(net.sent(refused)) == 2, "it was certainly not applied"


def test_what_found_nobody_goes_to_whoever_comes_up(net: Net) -> None:
    for server in net.servers:
        server.connection = None
    request = net.submit("a")
    assert net.sent(request) == []
    net.s3.connection = net.s3
    net.router._serve_waiting()
    assert net.sent(request) == ["s3"]


def test_an_answer_is_handed_over_once(net: Net) -> None:
    call = Call(net.router.next_call())
    net.router.submit(call)
    for _ in range(2):
        net.router.on_message(net.s1, Done(call.call))
    assert call.answers == [Done(call.call)]
    net.router.on_message(net.s1, CallRefused(call.call, "overloaded", "no"))
    assert call.pause is None
    net.router.on_down(net.s1, net.s1)
    assert net.s1.sent.count(b"call") == 1


# ---- time ----


def test_what_came_to_nothing_says_why_it_was_not_served(net: Net) -> None:
    request, named = net.submit("a"), net.submit("b", "s9")
    net.refuse(net.s1, request, "overloaded")
    net.pass_s(2 * TIMEOUT_S)
    assert str(request.error).endswith("; last answer: no")
    assert str(named.error).endswith("; no server is called 's9'")


def test_time_is_over_for_each_request_by_itself(net: Net) -> None:
    sent, short, read = net.submit("a"), net.submit("b", within_s=1.0), net.submit("c")
    read.changes_state = False
    for server in net.servers:
        server.connection = None
    never = net.submit("d")
    for _ in range(4):
        net.pass_s(0.3)
        for server in net.servers:
            server.heard_at_s = net.now_s
    assert isinstance(short.error, RequestTimeout) and sent.error is None
    net.pass_s(TIMEOUT_S)
    assert [type(request.error) for request in (sent, read, never)] == [RequestTimeout, Unavailable, Unavailable]


def test_a_silent_server_is_pinged_then_suspected_then_given_up(net: Net) -> None:
    same, once, named = net.submit("a"), net.submit("b", once=True), net.submit("c", "s1")

    def rest_is_heard() -> None:
        net.s2.heard_at_s = net.s3.heard_at_s = net.now_s

    net.pass_s(PROBE_AFTER_S + 2 * TICK_S)
    rest_is_heard()
    assert router_module._PING in net.s1.sent
    assert ASK_STATUS in net.s2.sent and ASK_STATUS in net.s3.sent and ASK_STATUS not in net.s1.sent
    assert not net.s1.is_suspect
    net.pass_s(SUSPECT_AFTER_S - PROBE_AFTER_S)
    rest_is_heard()
    assert net.s1.is_suspect and len(net.sent(same)) == 2
    assert (net.sent(once), net.sent(named)) == (["s1"], ["s1"])
    while net.now_s < 100.0 + DEAD_AFTER_S - 4 * TICK_S:
        net.pass_s(TICK_S)
        rest_is_heard()
    assert not net.s1.aborted and not net.s2.aborted
    for request in (once, named):
        request.deadline_s += 10
    net.pass_s(6 * TICK_S)
    assert net.s1.aborted and not net.s2.aborted


def test_a_server_that_had_nothing_to_say_is_not_late_with_what_it_was_just_asked(net: Net) -> None:
    net.pass_s(SUSPECT_AFTER_S + 0.1)
    net.submit("a")
    net.pass_s(2 * TICK_S)
    assert not net.s1.is_suspect


def test_an_answer_that_makes_no_sense_leaves_its_request(net: Net) -> None:
    call = Call(net.router.next_call())
    call.broken = True
    net.router.submit(call)
    with pytest.raises(ProtocolError):
        net.router.on_message(net.s1, Done(call.call))
    net.router.on_down(net.s1, net.s1)
    assert net.s1.sent.count(b"call") == 2, "it is asked for once more"


def test_an_idle_connection_is_pinged_now_and_then(net: Net) -> None:
    net.pass_s(3 * PING_EVERY_S)
    assert all(router_module._PING in server.sent and not server.aborted for server in net.servers)


def test_the_end_tells_everybody_what_may_have_happened(net: Net) -> None:
    sent, read = net.submit("a"), net.submit("b")
    read.changes_state = False
    for server in net.servers:
        server.connection = None
    never = net.submit("c")
    net.router.close()
    assert [type(request.error) for request in (sent, read, never)] == [OutcomeUnknown, Unavailable, Unavailable]
    assert all(server.closed for server in net.servers)
    assert all(timer.cancelled for timer in net.timers)


def status(of: int, leader: int, members: list[int], term: int = 4) -> ServerStatus:
    peers = [PeerView(NodeId(each), Member(f"n{each}", "", f"s{each}"), True) for each in members]
    return ServerStatus(UNTRACKED, NodeId(of), "", 7, "", "", term, NodeId(leader), *[0] * 7, 0, False, peers)


def test_a_status_tells_who_leads_and_whom_else_there_is_and_the_leaders_who_has_gone(net: Net) -> None:
    net.router.on_message(net.s2, status(2, 3, [1, 2, 3, 4]))
    assert net.router.leader is net.s3
    assert list(net.router.links) == ["s1", "s2", "s3", "s4"]
    learned = cast(Any, net.router.links["s4"])
    net.router.on_message(net.s2, status(2, 3, [1, 3]))
    assert not learned.closed, "only the leader knows for sure"
    net.router.on_message(net.s3, status(3, 3, [1, 3]))
    assert learned.closed
    assert list(net.router.links) == ["s1", "s2", "s3"], "those that were named stay"

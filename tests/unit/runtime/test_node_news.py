"""What a node makes of news that are rare, of time, and of the end: with its clock in the test's hand."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from node_rig import CODEC, ME, OTHER, PEER, Rig, append, message, persist

from troth.core.interface import RefusalReason, Trace
from troth.errors import NotLeader, Removed, Unavailable
from troth.ids import NodeId, Term, Tick
from troth.replica.effects import ClearAmnesia, ReplicaEffects
from troth.replica.protocol import Done
from troth.runtime.node import BACKLOG_WRITES_MAX, STRANGERS_TICKS

LED_TERM = 5
"""The term in which a rig's replica says that PEER leads."""


class Hands:
    """A clock that the test sets."""

    tick_ms = 1000

    def __init__(self) -> None:
        self.tick = Tick(100)

    def now(self) -> Tick:
        return self.tick


def timed() -> tuple[Rig, Hands]:
    rig, hands = Rig(), Hands()
    rig.node._clock = cast(Any, hands)
    rig.node._told = rig.node._ran_at = hands.tick
    return rig, hands


async def turn(rig: Rig) -> None:
    rig.node.after_work()
    await asyncio.sleep(0)


# ---- who is no member any more ----


@pytest.mark.parametrize(("term", "ends"), [(LED_TERM - 1, False), (LED_TERM, True), (LED_TERM + 1, True)])
async def test_a_server_believes_that_it_was_removed_when_no_older_leader_says_so(term: int, ends: bool) -> None:
    rig = Rig()
    rig.node.on_removed(PEER, term, "you were removed")
    assert rig.node.failed.done() == ends
    if ends:
        assert isinstance(rig.node.failed.exception(), Removed)
    rig.node.stop()


async def test_only_the_leader_says_that_a_server_was_removed_and_in_which_term() -> None:
    rig = Rig()
    rig.replica.removed = {OTHER}
    assert rig.node.refuse_stranger(OTHER) is None, "another one leads"
    rig.replica.engine.leader = lambda: (Term(LED_TERM), ME)
    assert rig.node.refuse_stranger(PEER) is None, "it is a member"
    refusal = rig.node.refuse_stranger(OTHER)
    assert refusal is not None and (refusal.code, refusal.term) == (Removed.code, LED_TERM)
    rig.node.stop()


async def test_strangers_are_looked_for_now_and_then() -> None:
    rig, hands = timed()
    looked = []
    for _ in range(2 * STRANGERS_TICKS):
        hands.tick = Tick(hands.tick + 1)
        await turn(rig)
        looked.append(rig.transport.looked_for_strangers)
    assert looked[-1] == 2
    rig.node.stop()


# ---- leadership ----


@pytest.mark.parametrize(
    ("reason", "error"), [(RefusalReason.NOT_LEADER, NotLeader), (RefusalReason.BAD_TARGET, Unavailable)]
)
async def test_a_transfer_that_is_refused_is_told_as_what_it_is(
    reason: RefusalReason, error: type[Exception]
) -> None:
    rig = Rig()
    asked: list[NodeId] = []

    def transfer(target: NodeId) -> object:
        asked.append(target)
        return SimpleNamespace(reason=reason, leader=PEER, detail="")

    rig.replica.engine.transfer = transfer
    with pytest.raises(error):
        rig.node.transfer(PEER)
    assert asked == [PEER]
    rig.node.stop()


async def test_a_transfer_that_begins_has_a_turn() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    before = rig.node.counters.turns
    rig.node.transfer(PEER)
    await asyncio.sleep(0)
    assert rig.node.counters.turns == before + 1
    rig.node.stop()


# ---- turns ----


async def test_whatever_is_rare_has_a_turn_and_two_of_them_share_one() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    before = rig.node.counters.turns
    rig.node.client_gone(7)
    rig.node.on_unreachable(PEER)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rig.node.counters.turns == before + 1
    rig.node.stop()


async def test_a_lone_input_has_one_turn() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    before = rig.node.counters.turns
    rig.node.on_peer_frame(PEER, CODEC.encode([message(1)]))
    rig.node.on_heard()
    assert rig.node.counters.turns == before + 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rig.node.counters.turns == before + 1
    rig.node.stop()


async def test_several_writes_become_durable_at_once_and_what_was_for_oneself_has_its_turn() -> None:
    rig = Rig()
    await rig.turn(
        ReplicaEffects(
            persists=[persist(1), persist(2), persist(3)], after_persist=[(ME, message(1)), (PEER, message(2))]
        )
    )
    assert rig.node.backlog == 3
    turns = rig.node.counters.turns
    rig.node.on_durable(3)
    assert rig.node.backlog == 0
    assert rig.transport.sent == [(PEER, [message(2)])]
    assert rig.replica.heard == [("peer", ME, message(1))]
    assert rig.node.counters.turns == turns + 1
    rig.node.stop()


async def test_entries_are_taken_while_no_more_than_the_bound_waits_for_the_disk() -> None:
    rig = Rig()
    rig.node._submitted = BACKLOG_WRITES_MAX
    rig.node.on_peer_frame(PEER, CODEC.encode([append(1)]))
    rig.node._submitted += 1
    rig.node.on_peer_frame(PEER, CODEC.encode([append(2)]))
    assert rig.replica.heard == [("peer", PEER, append(1)), ("peer", PEER)]
    assert rig.node.counters.peer_messages_refused == 1
    rig.node.stop()


# ---- time ----


async def test_a_tick_is_told_once() -> None:
    rig, hands = timed()
    await turn(rig)
    hands.tick = Tick(101)
    for _ in range(3):
        await turn(rig)
    hands.tick = Tick(103)
    await turn(rig)
    assert rig.replica.ticks == [101, 103]
    rig.node.stop()


async def test_a_server_that_has_turns_is_not_late() -> None:
    rig, hands = timed()
    for _ in range(20):
        hands.tick = Tick(hands.tick + 1)
        await turn(rig)
    assert rig.replica.ticks[-1] == hands.tick
    assert rig.node.counters.ticks_late_max == 0
    rig.node.stop()


async def test_of_two_times_to_look_at_the_clock_the_earlier_one_holds_alone() -> None:
    rig, _ = timed()
    rig.replica.sleeps_until = Tick(1000)
    rig.node._on_timer()
    before = rig.node._timer
    rig.replica.sleeps_until = Tick(101)
    await turn(rig)
    assert before is not None and before.cancelled()
    assert rig.node._timer is not None and not rig.node._timer.cancelled()
    assert rig.node._timer_at == 101
    rig.node.stop()


# ---- the end ----


async def test_a_node_that_was_stopped_looks_at_no_clock_and_has_no_turn() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    rig.node.stop()
    turns = rig.node.counters.turns
    rig.node._on_timer()
    rig.node.after_work()
    await asyncio.sleep(0)
    assert rig.node._timer is not None and rig.node._timer.cancelled()
    assert rig.node.counters.turns == turns


async def test_why_a_node_has_failed_is_its_first_failure() -> None:
    rig = Rig()
    first = ValueError("first")
    rig.node.fail(first)
    rig.node.fail(ValueError("second"))
    assert rig.node.failed.exception() is first


# ---- what a turn gives ----


async def test_answers_leave_when_what_they_rest_on_was_given_to_the_disk() -> None:
    rig = Rig()
    done: list[str] = []
    rig.writer.submit = lambda persist: done.append("disk")  # type: ignore[method-assign]
    rig.clients.deliver = lambda replies: done.append("answers")  # type: ignore[method-assign]
    await rig.turn(ReplicaEffects(persists=[persist(1)], replies=[(7, Done(1))]))
    assert done == ["disk", "answers"]
    rig.node.stop()


async def test_what_is_for_this_very_server_is_heard_and_has_a_turn() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    turns = rig.node.counters.turns
    await rig.turn(ReplicaEffects(send=[(ME, message(1)), (PEER, message(2))]))
    assert rig.replica.heard == [("peer", ME, message(1))]
    assert rig.transport.sent == [(PEER, [message(2)])]
    await asyncio.sleep(0)
    assert rig.node.counters.turns == turns + 2
    rig.node.stop()


async def test_a_turn_that_is_not_over_goes_on_in_the_next() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    turns = rig.node.counters.turns
    await rig.turn(ReplicaEffects(again=True))
    await asyncio.sleep(0)
    assert rig.node.counters.turns == turns + 2
    rig.node.stop()


async def test_all_of_the_snapshot_work_of_a_turn_is_begun() -> None:
    rig = Rig()
    begun: list[object] = []
    rig.node._snapshots = cast(Any, SimpleNamespace(start=begun.append))
    work = [ClearAmnesia(), ClearAmnesia()]
    await rig.turn(ReplicaEffects(snapshot_work=[*work]))
    assert begun == work
    rig.node.stop()


async def test_all_that_waited_for_what_is_durable_now_leaves_in_one_frame() -> None:
    rig = Rig()
    await rig.turn(
        *[
            ReplicaEffects(persists=[persist(number)], after_persist=[(PEER, message(number))])
            for number in (1, 2, 3)
        ]
    )
    rig.node.on_durable(2)
    assert rig.transport.sent == [(PEER, [message(1), message(2)])]
    rig.node.stop()


async def test_elections_and_leaders_are_counted_and_votes_before_an_election_are_not() -> None:
    rig = Rig()
    names = ("pre_candidate", "candidate", "leader", "pre_candidate", "candidate")
    await rig.turn(ReplicaEffects(events=[Trace(name=name) for name in names]))
    assert (rig.node.counters.elections, rig.node.counters.leader_changes) == (2, 1)
    assert [event.name for event in rig.events] == list(names)
    rig.node.stop()

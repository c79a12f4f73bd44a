"""The driver's duties, shown on a replica that is a script and a disk that is a switch."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from node_rig import CODEC, ME, OTHER, PEER, Rig, append, message, persist

from troth.core.interface import Membership, Persist, Trace
from troth.errors import DecodeError, InvariantViolation, SyncFailed
from troth.ids import Tick
from troth.replica.effects import ReplicaEffects
from troth.replica.protocol import Done, Ping
from troth.runtime.clock import Clock
from troth.runtime.node import (
    BACKLOG_WRITES_MAX,
    LATE_TICKS,
    LONE_BYTES_MAX,
    SLEEP_TICKS_MAX,
    STRANGERS_TICKS,
    Node,
)
from troth.runtime.writer import StorageWriter


async def test_what_may_leave_now_leaves_in_one_frame_per_peer_and_answers_go_out() -> None:
    rig = Rig()
    await rig.turn(
        ReplicaEffects(
            send=[(PEER, message(1)), (OTHER, message(2)), (PEER, message(3))],
            persists=[persist(1)],
            replies=[(7, Done(1)), (8, Done(2))],
        )
    )
    assert rig.transport.sent == [(PEER, [message(1), message(3)]), (OTHER, [message(2)])]
    assert rig.writer.writes == [persist(1)]
    assert rig.clients.delivered == [[(7, Done(1)), (8, Done(2))]]
    rig.node.stop()


async def test_what_waits_for_durability_waits_for_its_own_write_and_all_before() -> None:
    rig = Rig()
    await rig.turn(
        ReplicaEffects(persists=[persist(1)], after_persist=[(PEER, message(1))]),
        ReplicaEffects(persists=[persist(2), persist(3)], after_persist=[(PEER, message(3))]),
        ReplicaEffects(after_persist=[(OTHER, message(4))]),
    )
    assert rig.transport.sent == []
    rig.node.on_durable(1)
    assert rig.transport.sent == [(PEER, [message(1)])]
    rig.node.on_durable(1)
    assert len(rig.transport.sent) == 1, "the second of two writes is not durable yet"
    rig.node.on_durable(1)
    assert rig.transport.sent[1:] == [(PEER, [message(3)]), (OTHER, [message(4)])]
    rig.node.stop()


async def test_with_nothing_on_its_way_to_the_disk_nothing_waits() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects(after_persist=[(PEER, message(1))]))
    assert rig.transport.sent == [(PEER, [message(1)])]
    rig.node.stop()


async def test_messages_to_oneself_come_back_once_durable() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects(persists=[persist(1)], after_persist=[(ME, message(1)), (ME, message(2))]))
    assert rig.replica.heard == []
    rig.node.on_durable(1)
    assert rig.replica.heard == [("peer", ME, message(1), message(2))]
    assert rig.transport.sent == []
    rig.node.stop()


async def test_under_load_all_that_arrives_in_one_turn_is_answered_by_one_take_effects() -> None:
    rig = Rig()
    await rig.turn()
    await asyncio.sleep(0.01)
    rig.replica.pending_bytes = LONE_BYTES_MAX + 1
    before = rig.node.counters.turns
    for number in range(5):
        rig.node.on_client(number, Ping(number), b"raw")
        rig.node.on_heard()
    rig.node.on_peer_frame(PEER, CODEC.encode([message(1)]))
    rig.node.on_heard()
    rig.node.on_suspect(PEER)
    rig.node.on_unreachable(OTHER)
    assert rig.node.counters.turns == before
    await asyncio.sleep(0)
    assert len(rig.replica.heard) == 8
    assert rig.node.counters.turns == before + 1
    rig.node.stop()


async def test_a_lone_request_has_its_turn_at_once_and_what_comes_with_it_shares_the_next() -> None:
    rig = Rig()
    await rig.turn()
    await asyncio.sleep(0.01)
    before = rig.node.counters.turns
    rig.replica.script.append(ReplicaEffects(replies=[(7, Done(1))]))
    rig.node.on_client(7, Ping(1), b"raw")
    rig.node.on_heard()
    assert rig.clients.delivered == [[(7, Done(1))]]
    for number in range(5):
        rig.node.on_client(number, Ping(number), b"raw")
        rig.node.on_heard()
    assert rig.node.counters.turns == before + 1
    await asyncio.sleep(0)
    assert rig.node.counters.turns == before + 2
    await asyncio.sleep(0)
    assert rig.node.counters.turns == before + 2, "nothing came, so there is no turn"
    rig.node.stop()


async def test_what_is_durable_for_others_alone_takes_no_turn() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects(persists=[persist(1)], after_persist=[(PEER, message(1))]))
    await asyncio.sleep(0)
    before = rig.node.counters.turns
    rig.node.on_durable(1)
    assert rig.transport.sent == [(PEER, [message(1)])]
    await asyncio.sleep(0)
    assert rig.node.counters.turns == before
    rig.node.stop()


async def test_frames_that_are_no_messages_are_refused() -> None:
    rig = Rig()
    with pytest.raises(DecodeError):
        rig.node.on_peer_frame(PEER, b"\x93\x01\x02\x03")
    assert rig.replica.heard == []
    rig.node.stop()


async def test_while_the_disk_hangs_repeated_answers_are_kept_once() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects(persists=[persist(1)], after_persist=[(PEER, message(1))]))
    for number in (1, 2, 2, 1, 2):
        await rig.turn(ReplicaEffects(after_persist=[(PEER, message(number)), (OTHER, message(7))]))
    rig.node.on_durable(1)
    assert rig.transport.sent == [(PEER, [message(1), message(2)]), (OTHER, [message(7)])]
    rig.node.stop()


async def test_while_the_disk_hangs_entries_are_dropped_not_queued_and_all_else_is_heard() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects(persists=[persist(1)] * (BACKLOG_WRITES_MAX + 1)))
    rig.node.on_peer_frame(PEER, CODEC.encode([message(1), append(1), append(0), message(2)]))
    assert rig.replica.heard == [("peer", PEER, message(1), append(0), message(2))]
    assert rig.node.counters.peer_messages_refused == 1
    rig.node.on_durable(2)
    rig.node.on_peer_frame(PEER, CODEC.encode([append(1)]))
    assert rig.replica.heard[1:] == [("peer", PEER, append(1))]
    assert rig.node.counters.peer_messages_refused == 1
    rig.node.stop()


async def test_time_passes_also_when_nothing_happens() -> None:
    rig = Rig(tick_ms=1)
    async with asyncio.timeout(5):
        while len(rig.replica.ticks) < 5:  # noqa: ASYNC110 - it is the clock that is waited for
            await asyncio.sleep(0.001)
    assert rig.replica.ticks == sorted(set(rig.replica.ticks))
    rig.node.stop()


async def test_a_late_tick_tells_the_true_time_after_what_had_arrived() -> None:
    rig = Rig(tick_ms=1)
    loop = asyncio.get_running_loop()
    order: list[str] = []
    replica_tick: Callable[[Tick], None] = rig.replica.tick

    def tick(now: Tick) -> None:
        order.append("tick")
        replica_tick(now)

    def on_readable() -> None:
        order.append("arrived")
        loop.remove_reader(left)

    left, right = socket.socketpair()
    # A busy machine may have kept us from the loop: not in the middle of that.
    while not rig.replica.ticks or rig.node._turn_scheduled or rig.node._listened:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    told = rig.replica.ticks[-1]
    rig.replica.tick = tick  # type: ignore[method-assign]
    loop.add_reader(left, on_readable)
    right.send(b"x")
    block_until = loop.time() + 0.05
    while loop.time() < block_until:
        pass
    async with asyncio.timeout(5):
        while "tick" not in order:  # noqa: ASYNC110 - it is the clock that is waited for
            await asyncio.sleep(0.001)
    assert order[:2] == ["arrived", "tick"]
    assert rig.replica.ticks[-1] >= told + 49, "two clocks, either of which may be read a little later"
    assert rig.node.counters.ticks_late_max >= 45
    rig.node.stop()
    left.close()
    right.close()


async def set_clock(rig: Rig, now: int) -> None:
    """Let the timer find it *now*."""
    rig.node._clock.now = lambda: Tick(now)  # type: ignore[method-assign]
    rig.node._on_timer()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_replica_that_sleeps_is_told_the_time_when_it_wants_to_know() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects())
    began, turns = rig.node._told, rig.node.counters.turns
    rig.replica.sleeps_until = Tick(began + 9)
    for passed in (4, 8):
        await set_clock(rig, began + passed)
    assert rig.node.counters.turns == turns
    await set_clock(rig, began + 9)
    assert rig.replica.ticks[-1] == began + 9
    assert rig.node.counters.turns == turns + 1
    assert rig.node.counters.ticks_late_max == 0, "it was asleep, not late"
    rig.node.stop()


async def test_a_pause_is_noticed_while_the_replica_sleeps() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects())
    began = rig.node._told
    rig.replica.sleeps_until = Tick(began + 100)
    await set_clock(rig, began + 4)
    await set_clock(rig, began + 4 + LATE_TICKS + 1)
    assert rig.node.counters.ticks_late_max == LATE_TICKS + 1
    assert rig.replica.ticks[-1] == began + 4 + LATE_TICKS + 1
    rig.node.stop()


async def test_a_leader_says_once_whom_it_does_not_hear_and_whom_it_hears_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    caplog.set_level("INFO", "troth.node")
    await rig.turn(ReplicaEffects())
    now = rig.node._told
    for silent in ((), (PEER, OTHER), (PEER, OTHER), (PEER,), (PEER,)):
        rig.replica.progress = {node: SimpleNamespace(active=node not in silent) for node in (ME, PEER, OTHER)}
        now += STRANGERS_TICKS
        await set_clock(rig, now)
        await set_clock(rig, now)
    rig.replica.progress = {}  # another one leads
    await set_clock(rig, now + STRANGERS_TICKS)
    told = [(each.getMessage(), each.facts["peer"]) for each in caplog.records if "peer" in each.getMessage()]  # type: ignore[attr-defined]
    names = {node: f"{node:x}" for node in (PEER, OTHER)}
    assert sorted(told[:2]) == sorted(("a peer is silent", name) for name in names.values())
    assert told[2:] == [("a peer is heard again", names[OTHER])]
    rig.node.stop()


async def test_a_process_that_stood_still_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects())
    caplog.clear()
    for late_s in (0.5, 20):
        now = rig.node._told + round(late_s * 1000 / rig.node._clock.tick_ms)
        await set_clock(rig, now)
        await set_clock(rig, now)
    assert [(each.getMessage(), each.facts) for each in caplog.records] == [  # type: ignore[attr-defined]
        ("this process stood still", {"seconds": 20.0})
    ]
    rig.node.stop()


async def test_the_clock_is_looked_at_before_a_pause_could_pass_unnoticed() -> None:
    rig = Rig()
    rig.replica.sleeps_until = Tick(rig.node._told + 100)
    await set_clock(rig, rig.node._told)
    assert rig.node._timer_at - rig.node._told == SLEEP_TICKS_MAX < LATE_TICKS
    rig.node.stop()


async def test_whoever_is_woken_by_something_that_time_may_end_is_told_the_time_at_the_next_tick() -> None:
    rig = Rig()
    now = rig.node._told
    rig.replica.sleeps_until = Tick(now + 100)
    await set_clock(rig, now)
    rig.replica.sleeps_until = Tick(0)
    await rig.turn(ReplicaEffects())
    assert rig.node._timer_at == now + 1
    rig.node.stop()


@pytest.mark.parametrize("input_", ["peer", "client", "durable"])
async def test_a_replica_that_failed_half_way_through_an_input_has_no_turn_any_more(input_: str) -> None:
    """What it would decide now must not leave: not even before the loop is told of the failure."""
    rig = Rig()
    await rig.turn(ReplicaEffects(persists=[persist(1)], after_persist=[(ME, message(1))]))
    rig.replica.chokes = True
    rig.replica.script.append(ReplicaEffects(send=[(PEER, message(9))], persists=[persist(9)]))
    match input_:
        case "peer":
            rig.node.on_peer_frame(PEER, CODEC.encode([message(2)]))
        case "client":
            rig.node.on_client(7, Ping(1), b"raw")
        case _:
            rig.node.on_durable(1)
    rig.node.on_heard()
    await asyncio.sleep(0)
    assert isinstance(rig.node.failed.exception(), InvariantViolation)
    assert rig.transport.sent == []
    assert rig.writer.writes == [persist(1)]


@pytest.mark.parametrize(
    "tell",
    [
        lambda node: node.on_suspect(PEER),
        lambda node: node.on_unreachable(PEER),
        lambda node: node.client_opened(7),
        lambda node: node.client_gone(7),
        lambda node: node.client_paused(7, paused=True),
    ],
    ids=["suspect", "unreachable", "opened", "gone", "paused"],
)
async def test_an_error_on_the_way_of_rare_news_stops_the_server_and_not_whoever_brought_them(
    tell: Callable[[Node], None],
) -> None:
    rig = Rig()
    rig.replica.chokes = True
    tell(rig.node)
    assert isinstance(rig.node.failed.exception(), InvariantViolation)


@pytest.mark.parametrize("error", [InvariantViolation("broken"), ValueError("unexpected")])
async def test_an_error_inside_a_turn_stops_the_server(error: Exception) -> None:
    rig = Rig()
    await rig.turn()
    rig.replica.broken = error
    rig.node.after_work()
    with pytest.raises(type(error)):
        await rig.node.failed
    turns = rig.node.counters.turns
    rig.node.after_work()
    await asyncio.sleep(0)
    assert rig.node.counters.turns == turns, "no turn after a failure"


async def test_a_request_is_judged_by_a_clock_that_was_read_after_it_had_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the clock of the turn, or of the last tick, a leader that was stopped would still have a lease."""
    rig = Rig()
    await rig.turn(ReplicaEffects())
    told = rig.node._told
    monkeypatch.setattr(rig.node._clock, "now", lambda: Tick(told + 1000))
    rig.node.on_client(7, Ping(1), b"")
    assert rig.replica.arrivals == [told + 1000]
    rig.node.stop()


async def test_a_new_membership_sets_the_peers() -> None:
    rig = Rig()
    await rig.turn(ReplicaEffects(membership=Membership(voters=(ME, PEER)), events=[Trace(name="leader")]))
    assert rig.transport.peers == {PEER: ""}
    assert [event.name for event in rig.events] == ["leader"]
    assert rig.node.counters.leader_changes == 1
    rig.node.stop()


class GatedLog:
    """A log whose first sync waits until the test opens the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.appended: list[list[Persist]] = []
        self.syncs = 0
        self.broken = False

    def append(self, persists: Sequence[Persist]) -> None:
        self.appended.append(list(persists))

    def sync(self) -> None:
        self.gate.wait(5)
        if self.broken:
            raise SyncFailed("the disk is gone")
        self.syncs += 1


async def test_writes_that_wait_are_merged_into_one_sync_in_order() -> None:
    log, durable, jobs = GatedLog(), [], []
    done = asyncio.Event()

    def on_durable(count: int) -> None:
        durable.append(count)
        if sum(durable) == 5:
            done.set()

    writer = StorageWriter(
        log=log,
        post=asyncio.get_running_loop().call_soon_threadsafe,
        on_durable=on_durable,
        on_failed=lambda error: pytest.fail(str(error)),
    )
    writer.start()
    writer.submit(persist(1))
    while not log.appended:  # noqa: ASYNC110 - the thread has taken the first write when this ends
        await asyncio.sleep(0)
    for term in range(2, 5):
        writer.submit(persist(term))
    writer.call(lambda: jobs.append(len(log.appended)))
    writer.submit(persist(5))
    log.gate.set()
    async with asyncio.timeout(5):
        await done.wait()
    assert log.appended == [[persist(1)], [persist(2), persist(3), persist(4)], [persist(5)]]
    assert durable == [1, 3, 1] and log.syncs == 3
    assert jobs == [2], "a job runs between the writes before and after it"
    assert writer.stop()
    assert writer.counters.syncs == 3 and writer.counters.writes == 5
    assert writer.counters.batch_sizes == {1: 2, 4: 1}


async def test_a_failed_sync_is_told_and_never_tried_again() -> None:
    log = GatedLog()
    log.broken = True
    log.gate.set()
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    durable: list[int] = []
    writer = StorageWriter(
        log=log,
        post=asyncio.get_running_loop().call_soon_threadsafe,
        on_durable=durable.append,
        on_failed=failed.set_result,
    )
    writer.start()
    writer.submit(persist(1))
    async with asyncio.timeout(5):
        assert isinstance(await failed, SyncFailed)
    writer.submit(persist(2))
    assert writer.stop()
    assert durable == [] and len(log.appended) == 1


def test_a_lease_s_clock_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux: CLOCK_MONOTONIC stands still then, CLOCK_BOOTTIME does not."""
    monotonic_ns = boottime_ns = 10**12

    def gettime_ns(clock: int) -> int:
        return boottime_ns if clock == time.CLOCK_BOOTTIME else monotonic_ns

    monkeypatch.setattr(time, "clock_gettime_ns", gettime_ns)
    monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic_ns)
    clock = Clock(10)
    before = clock.now()
    boottime_ns += 3600 * 10**9
    assert clock.now() - before == 360_000

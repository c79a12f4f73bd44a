"""The registers' simulation is told lies, one at a time: each is noticed, and the faults that it counts are ones."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from troth.core.register import changes
from troth.core.register.messages import (
    ZERO,
    AcceptedRecord,
    Ballot,
    Prepare,
    PromisedRecord,
    State,
)
from troth.core.register.task import Outcome
from troth.errors import InvariantViolation, OutcomeUnknown, Unavailable
from troth.ids import NodeId
from troth.simulate.registers.disks import AcceptorDisk, FileDisk, RecordDisk
from troth.simulate.registers.oracle import Oracle
from troth.simulate.registers.plan import Plan, draw
from troth.simulate.registers.run import Simulation
from troth.simulate.registers.stage import Ledger, Network
from troth.simulate.world import World
from troth.verify.history import EventType

KEY = "list0"


def plan(**given: object) -> Plan:
    """Three acceptors without any fault, but for those *given*."""
    messages, disks = ("delay_long", "loss", "duplicate"), ("keep_unsynced", "crash_us", "crash_all", "compact_us")
    others = ("partition_us", "client_crash_us", "change_us", "spares", "clients")
    calm = dict.fromkeys((*messages, *disks, *others), 0)
    made = {
        **calm,
        "acceptors": 3,
        "prepare": 2,
        "accept": 2,
        "keys": 1,
        "real_storage": False,
        "wipe": False,
        **given,
    }
    return replace(draw(1, chaos_ms=1), **made)  # type: ignore[arg-type]


# ---- what is said about changes ----


def told(tag: str, *, held: str = "", error: Exception | None = None) -> Oracle:
    """An append of *tag* that was answered with *held*, or with *error*."""
    oracle = Oracle()
    oracle.asked[tag] = KEY
    oracle.on_append(KEY, tag, Outcome(value=held.encode(), changed=True, error=error))  # type: ignore[arg-type]
    return oracle


@pytest.mark.parametrize(
    ("oracle", "final", "says"),
    [
        (told("a", held="a"), None, "an acknowledged change is lost"),
        (told("a", held="a"), "b", "an acknowledged change is lost"),
        (told("a", error=Unavailable("no")), "a", "has happened"),
        (told("a", held="a"), "a,b,a", "applied twice"),
        (told("a", error=OutcomeUnknown("?")), "a,a", "applied twice"),
        (told("a", held="b,a"), "c,b,a", "two pasts"),
    ],
)
def test_what_the_registers_hold_in_the_end_is_held_against_the_answers(
    oracle: Oracle, final: str | None, says: str
) -> None:
    oracle.on_final(KEY, final)
    with pytest.raises(InvariantViolation, match=says):
        oracle.judge()


@pytest.mark.parametrize(
    ("oracle", "final"),
    [
        (told("a", held="b,a"), "b,a,c"),
        (told("a", error=Unavailable("no")), "b"),
        (told("a", error=OutcomeUnknown("?")), "a"),
        (told("a", error=OutcomeUnknown("?")), None),
    ],
)
def test_what_may_be_is_no_violation(oracle: Oracle, final: str | None) -> None:
    oracle.on_final(KEY, final)
    oracle.judge()


def test_an_answer_without_its_own_change_is_noticed_at_once() -> None:
    with pytest.raises(InvariantViolation, match="answered wrongly"):
        told("a", held="b")


def test_two_decisions_of_one_register_are_noticed() -> None:
    oracle = Oracle()
    oracle.on_decided("once", Outcome(value=b"x", decided=True))
    oracle.on_decided("once", Outcome(value=b"x", decided=True))
    with pytest.raises(InvariantViolation, match="decided twice"):
        oracle.on_decided("once", Outcome(value=b"y", decided=True))


def test_two_values_at_one_ballot_are_noticed() -> None:
    ledger = Ledger()
    for key, value in ((b"k", b"x"), (b"j", b"y"), (b"k", b"x")):
        ledger.on_record(1, AcceptedRecord(key, Ballot(1, 1), State(value, 1, Ballot(1, 1), ZERO), Ballot(2, 1)))
    with pytest.raises(InvariantViolation, match="two values at one ballot"):
        ledger.on_record(1, AcceptedRecord(b"k", Ballot(1, 1), State(b"y", 1, Ballot(1, 1), ZERO), Ballot(2, 1)))


def test_a_promise_that_is_gone_after_a_restart_is_noticed() -> None:
    simulation = Simulation(plan())
    node = simulation.nodes["a1"]
    node.on_request(node.id, Prepare(simulation.first.id, b"k", Ballot(5, 1)), lambda reply: None)
    simulation.world.run_until(10 * simulation.plan.delay_us + simulation.plan.disk_us)
    node.crash()
    node.disk = RecordDisk(node.id, random.Random(1), 0)
    with pytest.raises(InvariantViolation, match="a promise was forgotten"):
        node.restart()


# ---- what registers are found to hold in the end ----


def lost_append(simulation: Simulation) -> None:
    tag = simulation.tag(KEY)
    simulation.oracle.on_append(KEY, tag, Outcome(value=tag.encode(), changed=True))


def lost_put(simulation: Simulation) -> None:
    simulation.history.ok(simulation.invoke("put", "key0", "v"), value="v", time=simulation.world.now_us)


def other_decision(simulation: Simulation) -> None:
    client = simulation.operator()
    simulation.finish(client, client.proposer.change(b"once0", changes.propose(b"x")), "")
    simulation.oracle.on_decided("once0", Outcome(value=b"y", decided=True))


@pytest.mark.parametrize(
    ("lie", "says"), [(lost_append, "is lost"), (lost_put, "not linearizable"), (other_decision, "decided twice")]
)
def test_registers_are_read_once_more_when_all_is_over(lie: Callable[[Simulation], None], says: str) -> None:
    simulation = Simulation(plan())
    lie(simulation)
    with pytest.raises(InvariantViolation, match=says):
        simulation.calm()
        simulation.judge()


def test_a_comparison_that_was_refused_is_told_as_what_it_has_seen() -> None:
    simulation = Simulation(plan(clients=2, processes=2, chaos_us=40 * draw(1, chaos_ms=1).delay_us))
    assert not simulation.run().violation
    operations = simulation.history.history().operations
    refused = [each for each in operations if each.f == "cas" and each.result is False]
    assert all(each.outcome is EventType.OK for each in refused)
    assert len(refused) == simulation.counts["comparison refused"] > 0
    simulation.history.ok(simulation.invoke("put", "key0", "v"), value="v", time=simulation.world.now_us)
    simulation.history.ok(simulation.invoke("cas", "key0", ("v", "w")), value=False, time=simulation.world.now_us)
    with pytest.raises(InvariantViolation, match="not linearizable"):
        simulation.judge()


def test_what_was_not_applied_counts_as_what_never_happened() -> None:
    """As unknown it would be allowed to happen."""
    simulation = Simulation(plan(loss=700, clients=2, processes=2, chaos_us=40 * draw(1, chaos_ms=1).delay_us))
    assert not simulation.run().violation
    failed = [each for each in simulation.history.history().operations if each.outcome is EventType.FAIL]
    assert len(failed) == simulation.counts["not applied"] > 0


# ---- faults ----


def test_a_crash_takes_acceptors_down_until_they_are_started_again() -> None:
    simulation = Simulation(plan(crash_all=1000))
    simulation._crash()
    assert [node.up for node in simulation.nodes.values()] == [False] * 3
    simulation.world.run_until(2 * simulation.plan.patience_us)
    assert [node.up for node in simulation.nodes.values()] == [True] * 3


def test_a_partition_cuts_somebody_off_for_a_while() -> None:
    simulation = Simulation(plan())
    simulation._partition()
    cut = set(simulation.network.cut)
    assert cut
    arrived: list[bool] = []
    simulation.network.carry(min(cut), arrived.append, True)
    simulation.world.run_until(2 * simulation.plan.patience_us)
    assert not arrived and not simulation.network.cut


def test_a_wiped_acceptor_is_another_one() -> None:
    simulation = Simulation(plan(wipe=True, spares=1))
    before = {node.id for node in simulation.nodes.values()}
    while not simulation.wiped:
        simulation._change_acceptors()
    assert len(before - {node.id for node in simulation.nodes.values()}) == 1


def carried(**given: object) -> list[int]:
    """When each of 50 messages arrives, in mean delays."""
    world, arrived = World(), []
    made = plan(told=0, **given)
    network = Network(world, made, random.Random(1), Counter())
    for _ in range(50):
        network.carry((1, "a1"), lambda: arrived.append(world.now_us // made.delay_us))
    world.run_until(1000 * made.delay_us)
    return arrived


def test_messages_are_lost_late_and_doubled_as_often_as_the_plan_says() -> None:
    assert len(carried()) == 50 and max(carried()) <= 1
    assert not carried(loss=1000)
    assert 10 < len(carried(loss=500)) < 40
    assert max(carried(delay_long=1000)) > 10
    assert len(carried(duplicate=1000)) == 100


@pytest.mark.parametrize("kind", [RecordDisk, FileDisk])
def test_power_loss_takes_what_was_not_synced_and_nothing_else(kind: type[AcceptorDisk]) -> None:
    lost = 0
    for seed in range(10):
        rng = random.Random(seed)
        disk = RecordDisk(NodeId(1), rng, 500) if kind is RecordDisk else FileDisk(NodeId(1), rng)
        disk.append(PromisedRecord(b"safe", Ballot(1, 1)))
        disk.sync()
        disk.append(PromisedRecord(b"not", Ballot(1, 1)))
        disk.lose()
        held = disk.recover().idle
        assert b"safe" in held
        lost += b"not" not in held
    assert 0 < lost < 10

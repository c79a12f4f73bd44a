"""Rare changes of membership that are made likely: what they take, and that they leave other seeds alone."""

from dataclasses import replace

import pytest

from troth.core.interface import Ballot, Entry, EntryId, EntryKind, Membership, SnapshotMeta
from troth.core.membership import encode_membership
from troth.core.paxos.messages import Accept
from troth.core.raft.messages import AppendEntries, Heartbeat
from troth.ids import LogIndex, NodeId, Term
from troth.simulate.plan import Plan, draw
from troth.simulate.rarely import EarlySnapshot, LostChange, Succession
from troth.simulate.run import Simulation, run_seed

VOTERS = (NodeId(1), NodeId(2), NodeId(3))
SPARES = (NodeId(4), NodeId(5))
SEEDS = range(40)


def plan_of(seed: int, *, changes: int = 50, spares: int = 2) -> Plan:
    return replace(draw(seed, chaos_seconds=2), voters=3, spares=spares, changes=changes)


def carrier(kind: EntryKind) -> tuple[AppendEntries, Accept]:
    """An append and an accept with one entry of *kind*."""
    entry = Entry(LogIndex(1), Term(1), kind, encode_membership(Membership(voters=VOTERS)))
    append = AppendEntries(Term(1), EntryId(Term(0), LogIndex(0)), (entry,), LogIndex(0))
    return append, Accept(Ballot(Term(1), NodeId(1)), (entry,), LogIndex(0))


def test_only_messages_that_carry_a_membership_are_lost_for_that() -> None:
    losing = next(lost for seed in SEEDS if (lost := LostChange(plan_of(seed))).share)
    losing.share = 1.0
    assert all(losing.takes(message) for message in carrier(EntryKind.MEMBERSHIP))
    assert not any(losing.takes(message) for message in carrier(EntryKind.NOOP))
    assert not losing.takes(Heartbeat(Term(1), EntryId(Term(0), LogIndex(0)), 1))


def test_a_succession_replaces_voters_by_servers_from_outside() -> None:
    found = [Succession(plan_of(seed)).instead(VOTERS, SPARES) for seed in SEEDS]
    changes = [change for change in found if change is not None]
    assert changes
    assert any(change is None for change in found)
    assert all(set(change.remove) <= set(VOTERS) for change in changes)
    assert all(set(change.add_voters) <= set(SPARES) and change.add_voters for change in changes)
    assert any(set(change.remove) == set(VOTERS) for change in changes)


def test_nobody_is_replaced_when_nobody_is_outside() -> None:
    assert all(Succession(plan_of(seed)).instead(VOTERS, ()) is None for seed in SEEDS)


def test_all_crash_when_a_leader_has_proposed_the_last_step_of_its_going() -> None:
    ending = [Succession(plan_of(seed)) for seed in SEEDS]
    facts = {"joint": False, "voters": SPARES}
    assert any(each.is_end(NodeId(1), facts) for each in ending)
    assert not any(each.is_end(NodeId(4), facts) for each in ending)
    assert not any(each.is_end(NodeId(1), {**facts, "joint": True}) for each in ending)


def test_seeds_without_changes_know_none_of_it() -> None:
    for seed in SEEDS:
        quiet = plan_of(seed, changes=0)
        assert not LostChange(quiet).share
        assert Succession(quiet).instead(VOTERS, SPARES) is None


def test_seeds_without_snapshots_or_crashes_know_no_early_one() -> None:
    assert any(EarlySnapshot(plan_of(seed)).comes() for seed in SEEDS)
    for seed in SEEDS:
        assert not EarlySnapshot(replace(plan_of(seed), compactions=0)).comes()
        assert not EarlySnapshot(replace(plan_of(seed), crashes=0)).comes()


@pytest.mark.parametrize(("seed", "consensus"), [(31_091, "raft"), (31_020, "paxos")])
def test_who_starts_in_an_earlier_term_than_its_snapshot_was_taken_in_is_noticed(
    seed: int, consensus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run_seed(seed, chaos_seconds=10, consensus=consensus)
    assert outcome.faults["early_snapshot"] and not outcome.violation
    monkeypatch.setattr(SnapshotMeta, "floor", property(lambda meta: Ballot(meta.last.term, NodeId(0))))
    outcome = run_seed(seed, chaos_seconds=10, consensus=consensus)
    assert outcome.violation.startswith("starts before what it knows was agreed upon")


def test_a_newcomer_to_a_cluster_in_which_nobody_writes_is_served() -> None:
    """It joins when all is compacted and no entry follows (Raft: openraft afd6508b)."""
    joined = 0
    for seed in range(6):
        for consensus in ("raft", "paxos"):
            simulation = Simulation(replace(plan_of(seed, changes=0), consensus=consensus, partitions=0))
            outcome = simulation.run()
            assert not outcome.violation
            leaders = [node for node in simulation.nodes.values() if node.view.leads]
            joined += any(set(SPARES) & set(leader.view.membership.learners) for leader in leaders)
    assert joined > 2

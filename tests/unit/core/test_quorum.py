"""Quorum arithmetic against twins that try every subset."""

import random
from collections.abc import Mapping
from itertools import combinations, product

import pytest

from troth.core.quorum import (
    VoteResult,
    check_flexible,
    joint_quorum_value,
    joint_vote_result,
    majority,
    quorum_value,
    vote_result,
)
from troth.errors import UsageError
from troth.ids import NodeId


def nodes(*numbers: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(number) for number in numbers)


def quorums(voters: tuple[NodeId, ...], size: int) -> list[set[NodeId]]:
    return [set(subset) for count in range(size, len(voters) + 1) for subset in combinations(voters, count)]


def naive_vote_result(voters: tuple[NodeId, ...], votes: Mapping[NodeId, bool], size: int) -> VoteResult:
    """Won: some quorum has agreed to a voter. Lost: however the silent ones decide, none can."""
    silent = [voter for voter in voters if voter not in votes]
    if any(all(votes.get(voter) is True for voter in quorum) for quorum in quorums(voters, size)):
        return VoteResult.WON
    best = {**votes, **dict.fromkeys(silent, True)}
    if any(all(best[voter] for voter in quorum) for quorum in quorums(voters, size)):
        return VoteResult.PENDING
    return VoteResult.LOST


def naive_quorum_value(held: Mapping[NodeId, int], voters: tuple[NodeId, ...], size: int) -> int:
    """The highest value that all members of some quorum have reached."""
    return max(min(held.get(voter, 0) for voter in quorum) for quorum in quorums(voters, size))


def smallest_meeting_size(count: int) -> int:
    everyone = range(count)
    return next(
        size
        for size in range(1, count + 1)
        if all(
            set(one) & set(other) for one in combinations(everyone, size) for other in combinations(everyone, size)
        )
    )


@pytest.mark.parametrize("count", range(1, 8))
def test_majority_is_the_smallest_size_of_which_any_two_meet(count: int) -> None:
    assert majority(count) == smallest_meeting_size(count)


@pytest.mark.parametrize("count", range(1, 6))
def test_vote_result_equals_the_twin_for_all_votes(count: int) -> None:
    voters = nodes(*range(1, count + 1))
    for cast in product((True, False, None), repeat=count):
        votes = {voter: vote for voter, vote in zip(voters, cast, strict=True) if vote is not None}
        strangers = {NodeId(90): True, NodeId(91): False}
        assert vote_result(voters, {**votes, **strangers}) is naive_vote_result(voters, votes, majority(count))
        for size in range(1, count + 1):
            assert vote_result(voters, votes, size=size) is naive_vote_result(voters, votes, size)


def test_no_voters_agree_with_everything() -> None:
    assert vote_result((), {NodeId(1): False}) is VoteResult.WON


def test_joint_vote_needs_both_sets() -> None:
    """Equal to the twin: won only if both have won, lost as soon as one has lost."""
    rng = random.Random(1)
    for _ in range(3000):
        voters = tuple(rng.sample(nodes(*range(1, 8)), rng.randint(1, 5)))
        outgoing = tuple(rng.sample(nodes(*range(1, 8)), rng.randint(0, 5)))
        votes = {node: rng.random() < 0.6 for node in nodes(*range(1, 8)) if rng.random() < 0.7}
        both = [naive_vote_result(one, votes, majority(len(one))) for one in (voters, outgoing) if one]
        expected = VoteResult.WON
        if VoteResult.LOST in both:
            expected = VoteResult.LOST
        elif VoteResult.PENDING in both:
            expected = VoteResult.PENDING
        assert joint_vote_result(voters, outgoing, votes) is expected


def test_quorum_value_equals_the_twin() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        voters = tuple(rng.sample(nodes(*range(1, 8)), rng.randint(1, 6)))
        held = {node: rng.randint(0, 5) for node in nodes(*range(1, 9)) if rng.random() < 0.8}
        size = rng.randint(1, len(voters))
        assert quorum_value(held, voters, 0) == naive_quorum_value(held, voters, majority(len(voters)))
        assert quorum_value(held, voters, 0, size=size) == naive_quorum_value(held, voters, size)


def test_joint_quorum_value_is_the_lesser_of_both_sets() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        voters = tuple(rng.sample(nodes(*range(1, 8)), rng.randint(1, 5)))
        outgoing = tuple(rng.sample(nodes(*range(1, 8)), rng.randint(0, 5)))
        held = {node: rng.randint(0, 5) for node in nodes(*range(1, 8)) if rng.random() < 0.8}
        expected = min(naive_quorum_value(held, one, majority(len(one))) for one in (voters, outgoing) if one)
        assert joint_quorum_value(held, voters, outgoing, 0) == expected


def test_a_silent_voter_holds_what_the_caller_calls_zero() -> None:
    assert quorum_value({NodeId(1): 7}, nodes(1, 2, 3), -1) == -1


@pytest.mark.parametrize("count", range(1, 7))
def test_flexible_quorums_are_accepted_exactly_when_they_always_meet(count: int) -> None:
    everyone = range(count)
    for phase1, phase2 in product(range(-1, count + 2), repeat=2):
        fits = 1 <= phase1 <= count and 1 <= phase2 <= count
        meet = fits and all(
            set(one) & set(other)
            for one in combinations(everyone, phase1)
            for other in combinations(everyone, phase2)
        )
        if meet:
            check_flexible(count, phase1, phase2)
        else:
            with pytest.raises(UsageError):
                check_flexible(count, phase1, phase2)


def test_flexible_refusals_say_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="quorum sizes 0 and 3 must lie between 1 and 3 voters"):
        check_flexible(3, 0, 3)
    with pytest.raises(UsageError, match="quorums of 2 and 2 out of 4 need not meet; their sum must be above 4"):
        check_flexible(4, 2, 2)

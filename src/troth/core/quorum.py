"""Quorum arithmetic, shared by Raft and Paxos: who has won, what is held widely enough.

A quorum system is one or two sets of voters (two while a membership change is under way) and a size for each.
The default size is a majority. Paxos may use different sizes for its two phases, as long as every phase-1 quorum
meets every phase-2 quorum (Howard, Malkhi, Spiegelman 2016, "Flexible Paxos").

Sources: Raft paper §5.2, §5.4.2 and §6 (joint consensus: agreement needs separate majorities of both sets).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import repeat
from typing import TypeVar

from troth.errors import UsageError
from troth.ids import NodeId

Number = TypeVar("Number", bound=int)


class VoteResult(Enum):
    """Three answers, since "not won" is not yet "lost"."""

    WON = "won"
    LOST = "lost"
    PENDING = "pending"


def majority(count: int) -> int:
    """Smallest size of which any two subsets of *count* voters must share a member."""
    return count // 2 + 1


def vote_result(
    voters: Collection[NodeId], votes: Mapping[NodeId, bool], *, size: int | None = None
) -> VoteResult:
    """Outcome among *voters* given the *votes* heard so far; votes of others are ignored.

    Args:
        size: how many must agree; a majority if not given. An empty set of voters agrees with everything (it is
            the missing half of a membership that is not joint).
    """
    needed = (majority(len(voters)) if voters else 0) if size is None else size
    granted = refused = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is True:
            granted += 1
        elif vote is False:
            refused += 1
    if granted >= needed:
        return VoteResult.WON
    if refused > len(voters) - needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def combined(results: Collection[VoteResult]) -> VoteResult:
    """Outcome when all of *results* are needed."""
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def joint_vote_result(
    voters: Collection[NodeId], outgoing: Collection[NodeId], votes: Mapping[NodeId, bool]
) -> VoteResult:
    """Outcome when both sets must agree; *outgoing* is empty outside a membership change (Raft §6)."""
    if not outgoing:
        return vote_result(voters, votes)
    return combined((vote_result(voters, votes), vote_result(outgoing, votes)))


def quorum_value(
    held: Mapping[NodeId, Number], voters: Collection[NodeId], zero: Number, *, size: int | None = None
) -> Number:
    """Highest value that a quorum of *voters* has reached; a silent voter holds *zero*. *voters* is not empty."""
    descending = sorted(map(held.get, voters, repeat(zero)), reverse=True)
    return descending[len(voters) // 2 if size is None else size - 1]


def joint_quorum_value(
    held: Mapping[NodeId, Number], voters: Collection[NodeId], outgoing: Collection[NodeId], zero: Number
) -> Number:
    """Highest value that quorums of both sets have reached (Raft §6)."""
    value = quorum_value(held, voters, zero)
    return min(value, quorum_value(held, outgoing, zero)) if outgoing else value


def check_flexible(count: int, phase1: int, phase2: int) -> None:
    """Check that any *phase1* voters and any *phase2* voters out of *count* share one.

    Raises:
        UsageError: they need not meet, or a size is out of range.
    """
    if not (1 <= phase1 <= count and 1 <= phase2 <= count):
        raise UsageError(f"quorum sizes {phase1} and {phase2} must lie between 1 and {count} voters")
    if phase1 + phase2 <= count:
        raise UsageError(
            f"quorums of {phase1} and {phase2} out of {count} need not meet; their sum must be above {count}"
        )


@dataclass(frozen=True, slots=True)
class QuorumSizes:
    """How many voters each phase of Paxos needs ("Flexible Paxos"); 0 stands for a majority.

    The sizes hold for sets of voters in which they are sure to meet, and majorities for all other sets: a membership
    change to another number of servers falls back to what is always right. All servers must be given the same sizes.
    """

    phase1_given: int = 0
    phase2_given: int = 0

    def _apply_to(self, count: int) -> bool:
        one, two = self.phase1_given, self.phase2_given
        return 0 < one <= count and 0 < two <= count and one + two > count

    def phase1(self, count: int) -> int:
        """How many of *count* voters must promise."""
        return self.phase1_given if self._apply_to(count) else majority(count)

    def phase2(self, count: int) -> int:
        """How many of *count* voters must accept."""
        return self.phase2_given if self._apply_to(count) else majority(count)

    def leading(self, count: int) -> int:
        """How many of *count* voters must be willing before somebody tries to lead: it takes a phase-1 quorum to begin
        and a phase-2 quorum to go on. With less, one server that is cut off would depose a leader that works."""
        return max(self.phase1(count), self.phase2(count))

    def blocking(self, count: int) -> int:
        """The fewest of *count* voters without which nobody gets a phase-1 quorum: enough to confirm a leader."""
        return count - self.phase1(count) + 1

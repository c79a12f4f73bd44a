"""Which servers suffice for what, worked out here anew: what watches `core.quorum` must not use it."""

from collections.abc import Callable, Collection

from troth.core.interface import Ballot, Membership
from troth.core.paxos.messages import PaxosMessage
from troth.core.raft.messages import RaftMessage
from troth.ids import NodeId
from troth.simulate.paxos_view import PaxosView
from troth.simulate.view import EngineView


def half_and_one(count: int) -> int:
    return count // 2 + 1


def lacks_quorum(
    membership: Membership, those: Collection[NodeId], size: Callable[[int], int] = half_and_one
) -> bool:
    """Whether *those* are fewer of the voters of either set than it takes."""
    for voters in (membership.voters, membership.outgoing):
        if voters and len([voter for voter in voters if voter in those]) < size(len(voters)):
            return True
    return False


def _sizes(view: EngineView, count: int) -> tuple[int, int]:
    """How many of *count* must promise, and how many must accept."""
    one, two = view.config.phase1_size, view.config.phase2_size
    fit = 0 < one <= count and 0 < two <= count and one + two > count
    return (one, two) if fit else (half_and_one(count), half_and_one(count))


def confirming(view: EngineView) -> Callable[[int], int]:
    """How many must answer, that nobody else can have led when they were asked: in Raft the voters of no majority are
    left, in Paxos no phase-1 quorum is."""
    if isinstance(view, PaxosView):
        return lambda count: count - _sizes(view, count)[0] + 1
    return half_and_one


def working(view: EngineView) -> Callable[[int], int]:
    """How many a leader must hear from to get anything done."""
    return lambda count: _sizes(view, count)[1]


def promising(view: EngineView) -> Callable[[int], int]:
    """How many must promise before anybody may lead (Paxos)."""
    return lambda count: _sizes(view, count)[0]


def is_of_reign(message: RaftMessage | PaxosMessage, view: EngineView) -> bool:
    """Whether *message* belongs to the very term (ballot) that *view*'s server is in."""
    ballot: Ballot | None = getattr(message, "ballot", None)
    if ballot is None:
        return message.term == view.term  # type: ignore[union-attr]
    return ballot == view.ballot


def reign(message: RaftMessage | PaxosMessage) -> Ballot:
    """What a message belongs to, to be compared with `EngineView.ballot`."""
    # Not asked with `isinstance`, which takes longer with a union than the rule that wants to know.
    ballot: Ballot | None = getattr(message, "ballot", None)
    return Ballot(message.term, NodeId(0)) if ballot is None else ballot  # type: ignore[union-attr]

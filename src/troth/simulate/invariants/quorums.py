"""Whether a set of servers is a quorum, worked out here anew: what watches `core.quorum` must not use it."""

from collections.abc import Collection

from troth.core.interface import Membership
from troth.ids import NodeId


def lacks_quorum(membership: Membership, those: Collection[NodeId]) -> bool:
    """Whether *those* are half or less of the voters of either set."""
    return any(
        2 * sum(voter in those for voter in voters) <= len(voters)
        for voters in (membership.voters, membership.outgoing)
        if voters
    )

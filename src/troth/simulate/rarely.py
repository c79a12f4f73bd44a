"""Changes of membership at the moments that its rules were made for, each in some seeds only and from a stream of its
own, so that all other draws stay what they are (FoundationDB's "buggify").

*Succession*: all voters are replaced at once by servers that are not members, who are replaced in turn; and all crash
when the last step of that is in one log. *A lost change*: a message that carries a membership is lost more often than
others. *A quiet newcomer*: when all faults have ended and nobody writes, the leader compacts all it has, and somebody
joins. *An early snapshot*: one is durable, the term in which all of it was agreed upon is not, and its server dies.
"""

import random
from collections.abc import Mapping, Sequence

from troth.core.interface import EntryKind, Member, MembershipChange
from troth.core.paxos.messages import Accept
from troth.core.raft.messages import AppendEntries
from troth.ids import NodeId
from troth.simulate.plan import Plan
from troth.simulate.rng import stream

CARRIERS = (AppendEntries, Accept)


class Succession:
    """What an operator of such a seed asks for in place of another change."""

    def __init__(self, plan: Plan) -> None:
        self._rng = stream(plan.seed, "rare", "succession")
        can_be = bool(plan.changes and plan.spares)
        self._share = self._rng.choice((0.0, 0.0, 0.4, 0.9)) if can_be else 0.0
        self.crashes = self._share > 0 and self._rng.random() < 0.7
        """Whether all crash soon after a membership without its leader has been proposed."""

    def instead(self, voters: Sequence[NodeId], outside: Sequence[NodeId]) -> MembershipChange | None:
        """The replacement of all voters, or None if this change stays what it is."""
        if self._share == 0.0 or self._rng.random() >= self._share or not outside:
            return None
        rng = self._rng
        # One alone, mostly: nobody else knows then what that one did last.
        count = 1 if rng.random() < 0.6 else rng.randint(1, len(outside))
        coming = sorted(rng.sample(outside, count))
        going = voters if rng.random() < 0.7 else rng.sample(voters, rng.randint(1, len(voters)))
        return MembershipChange(add_voters={node: Member(f"n{node}") for node in coming}, remove=tuple(going))

    def is_end(self, node: NodeId, facts: Mapping[str, object]) -> bool:
        """Whether *node* has just proposed the last step of its own going: the moment at which all crash."""
        voters = facts.get("voters", ())
        return (
            self.crashes
            and not facts.get("joint")
            and isinstance(voters, tuple)
            and node not in voters
            and self._rng.random() < 0.8
        )

    def delay(self, most_us: int) -> int:
        """How long after that: mostly soon."""
        return int(self._rng.random() ** 2 * most_us)


class LostChange:
    """Whether a message with a membership in it is lost for that."""

    def __init__(self, plan: Plan) -> None:
        rng: random.Random = stream(plan.seed, "rare", "lost change")
        self._draw = rng.random
        self.share = rng.choice((0.0, 0.0, 0.3, 0.7)) if plan.changes else 0.0

    def takes(self, message: object) -> bool:
        """Ask only where `share` is not 0."""
        return (
            isinstance(message, CARRIERS)
            and any(entry.kind == EntryKind.MEMBERSHIP for entry in message.entries)
            and self._draw() < self.share
        )


class EarlySnapshot:
    """Whether the log of who hears of a new leader hangs, until it has died with a snapshot of what that one told."""

    def __init__(self, plan: Plan) -> None:
        rng: random.Random = stream(plan.seed, "rare", "early snapshot")
        self._draw = rng.random
        self.share = rng.choice((0.0, 0.0, 0.5, 1.0)) if plan.compactions and plan.crashes else 0.0

    def comes(self) -> bool:
        return self.share > 0 and self._draw() < self.share

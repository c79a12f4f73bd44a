"""A proposer is one client; it makes a task (task.py) for each request.

Paper: CASPaxos §2.1 (phases), §2.2.1 (one round trip), §3.1 (deletion).

**What is promised about a change.** Every attempt proposes a state that bears its ballot as the proposer's mark. Later
states inherit it, so any of them says whether that attempt is part of its past (`fate`). Therefore a retry never
applies a change twice, and an error is exact: `NotApplied` only if no accept of any attempt can still come true, else
`OutcomeUnknown`. Knowledge ends where `MARKS_KEPT` other proposers have changed the register between two attempts, or
a deletion was collected; then the outcome is reported as unknown rather than guessed.
"""

from troth.core.register.collection import Collection, Look
from troth.core.register.messages import State
from troth.core.register.round import Round
from troth.core.register.states import Change, Decision, Keep
from troth.core.register.task import ProposerState


class Proposer(ProposerState):
    """One client. Each method begins a task."""

    def change(self, key: bytes, change: Change, *, bound: bool = False) -> Round:
        """Apply *change* to *key*, once. *bound*: under the present configuration or not at all."""
        return Round(self, key, change, bound=bound)

    def read(self, key: bytes) -> Round:
        """The present state of *key*, in one round trip if a quorum agrees about it."""
        return Round(self, key, _identity, reading=True)

    def confirm(self, key: bytes) -> Round:
        """The identity change: whatever *key* holds is accepted once more, under the present configuration (§2.3)."""
        return Round(self, key, _identity, bound=True)

    def look(self, key: bytes) -> Look:
        """What all acceptors hold of *key*; fails if one is silent, and disturbs nobody."""
        return Look(self, key)

    def collect(self, key: bytes) -> Collection:
        """Remove the tombstone of *key* from all acceptors (§3.1); ends when one is silent."""
        return Collection(self, key)


def _identity(state: State | None) -> Decision:
    del state
    return Keep()

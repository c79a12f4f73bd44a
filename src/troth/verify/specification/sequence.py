"""What Raft and Multi-Paxos both are to those who use them: one append-only sequence of chosen commands.

Its state is the sequence, and its only action puts something behind its end. A protocol refines it when every step of
the protocol, seen through the sequence that it has agreed on, is such an action or changes nothing."""

from collections.abc import Hashable, Sequence


def appended(before: Sequence[Hashable], after: Sequence[Hashable]) -> str:
    """Why the step from *before* to *after* is none of the sequence's; empty when it is one, or none at all."""
    same = next(
        (at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new),
        min(len(before), len(after)),
    )
    if same == len(before):
        return ""
    if same == len(after):
        return f"what was chosen at {same + 1} is chosen no longer"
    return f"what was chosen at {same + 1} is another value now"

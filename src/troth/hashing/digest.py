"""Do two processes have the same ring? Content and age of one, in a few bytes."""

from dataclasses import dataclass
from enum import Enum

from typing_extensions import override


class Agreement(Enum):
    """How two processes' views of a ring relate; see `Digest.compare`."""

    SAME = "same"
    BEHIND = "behind"
    AHEAD = "ahead"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Content and age of a ring, small enough to send with every message.

    Attributes:
        value: 128 bits of XXH3 in hex over the algorithm, its settings and its nodes with their weights. For
            an algorithm that is `order_free` it does not depend on the order in which nodes came.
        epoch: how many changes of membership this ring has seen. It is no part of `value`: two processes may
            reach the same ring along different ways.
    """

    value: str
    epoch: int

    @override
    def __str__(self) -> str:
        return f"{self.epoch}:{self.value}"

    def agrees(self, other: "Digest") -> bool:
        """Whether every key has the same place in both rings, whatever their epochs."""
        return self.value == other.value

    def compare(self, other: "Digest") -> Agreement:
        """Where this ring stands against *other*: CONFLICT is the same epoch with different content."""
        if self.value == other.value:
            return Agreement.SAME
        if self.epoch == other.epoch:
            return Agreement.CONFLICT
        return Agreement.BEHIND if self.epoch < other.epoch else Agreement.AHEAD

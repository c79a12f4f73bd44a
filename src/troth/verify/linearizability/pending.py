"""What is open at one place of the timeline, by what it wants and what it makes; and how to come back to it.

Masks have one bit for each open operation; bits of operations that have returned are dealt again.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from troth.verify.history import FOREVER, Value
from troth.verify.linearizability.observers import DEAD, Observers
from troth.verify.linearizability.outcome import Budget, Configuration, Outcome, Pending
from troth.verify.linearizability.presence import Presence
from troth.verify.primitives import CAS, READ, Primitive

Checkpoint: TypeAlias = tuple[
    list[Configuration],
    int,
    int,
    tuple[dict[int, int], list[int], dict[int, int]],
    tuple[dict[Value, int], dict[Value, int], dict[Value, int], dict[Value, int], dict[Value, int]],
    dict[Value, dict[Value, int]],
    tuple[int, int, int, int, int],
]
"""Where a narrowed search can be taken up again in full: configurations, place, and all that is open there."""


_CHECKPOINTS_MAX: Final = 64


class OpenOperations:
    """The operations of one register that are open, and what can be said about them."""

    __slots__ = (
        "appends",
        "apps",
        "bits",
        "budget",
        "cas_from",
        "cas_to",
        "checkpoints",
        "crashed",
        "furthest",
        "initial",
        "least",
        "limit",
        "makers",
        "not_of",
        "nots",
        "observers",
        "op_at",
        "partial",
        "place",
        "presence",
        "primitives",
        "returns",
        "spare",
        "steps",
        "timeline",
        "top",
        "totals",
        "wanted",
    )  # fmt: skip

    def __init__(self, primitives: Sequence[Primitive | None], timeline: Sequence[int], budget: Budget) -> None:
        self.primitives, self.timeline, self.budget = primitives, timeline, budget
        self.bits: dict[int, int] = {}
        self.spare: list[int] = []
        self.top = 1
        self.checkpoints: list[Checkpoint] = []
        self.initial: Value = None
        self.furthest = -1
        """the furthest place at which a narrowed search came to nothing"""
        self.least = 0
        """the narrowest beam"""
        self.limit = 0
        """placements that may be tried for one return; 0 is all"""
        self.op_at: dict[int, int] = {}
        """bit -> operation index"""
        self.wanted: dict[Value, int] = {}
        """state -> open READs and live WRITEs that leave that state alone"""
        self.not_of: dict[Value, int] = {}
        """state -> open NOTs that it forbids"""
        self.makers: dict[Value, int] = {}
        """state -> open WRITEs of it, crashed ones too"""
        self.cas_from: dict[Value, dict[Value, int]] = {}
        """from -> to -> open CASes, crashed ones too"""
        self.cas_to: dict[Value, int] = {}
        """to -> the same CASes"""
        self.appends: dict[Value, int] = {}
        """text -> open APPENDs, crashed ones too"""
        self.nots = self.apps = self.partial = self.totals = self.crashed = 0
        self.place = self.steps = 0
        self.observers: Observers | None = None
        self.presence: Presence | None = None
        self.returns: dict[int, int] = {}

    def narrow(self, configs: list[Configuration], place: int, beam: int, top: int) -> list[Configuration]:
        """Keep the *beam* configurations that have spent the least, first those whose state is asked for next; remember
        all of them, to come back to."""
        self.checkpoints.append(
            (
                configs,
                place + 1,
                top,
                (dict(self.bits), list(self.spare), dict(self.op_at)),
                (dict(self.wanted), dict(self.not_of), dict(self.makers), dict(self.cas_to), dict(self.appends)),
                {value: dict(onward) for value, onward in self.cas_from.items()},
                (self.nots, self.apps, self.partial, self.totals, self.crashed),
            )
        )
        if len(self.checkpoints) > _CHECKPOINTS_MAX:
            # The first must stay: before it nothing was left out.
            del self.checkpoints[1 : _CHECKPOINTS_MAX // 2]
        return sorted(configs, key=self._rank)[:beam]

    def _rank(self, config: Configuration) -> tuple[int, int]:
        state, used, free, _ = config
        spent = 2 * (used & self.crashed).bit_count() - (free & self.partial).bit_count()
        return spent, FOREVER if self.observers is None or state is DEAD else self.observers.until(state)

    def go_back(self, steps: int) -> tuple[list[Configuration], int]:
        """To how things stood when configurations were left out *steps* times ago."""
        at = max(0, len(self.checkpoints) - steps)
        configs, place, self.top, (bits, spare, op_at), masks, cas_from, counts = self.checkpoints[at]
        del self.checkpoints[max(1, at) :]
        self.bits, self.spare, self.op_at = dict(bits), list(spare), dict(op_at)
        self.wanted, self.not_of, self.makers, self.cas_to, self.appends = (dict(mask) for mask in masks)
        self.cas_from = {value: dict(onward) for value, onward in cas_from.items()}
        self.nots, self.apps, self.partial, self.totals, self.crashed = counts
        return configs, place

    def pick(self, mask: int, free: int) -> int:
        """Those of several identical operations that are worth trying, as a mask.

        A live one does whatever a crashed one could; what is left over after it can do as much as before. Among live
        ones the same holds for the first to return, unless it is free and another still has something to prove.
        """
        live = mask & ~self.crashed
        if not live:
            return mask & -mask
        if not live & (live - 1):
            return live
        if not self.returns:
            self.returns = {code >> 1: place for place, code in enumerate(self.timeline) if code & 1}
        owing, owing_until = self._soonest(live & ~free)
        settled, settled_until = self._soonest(live & free)
        if not owing:
            return settled
        return owing | settled if settled_until < owing_until else owing

    def _soonest(self, mask: int) -> tuple[int, int]:
        best, soonest = 0, FOREVER
        while mask:
            one = mask & -mask
            mask ^= one
            returned = self.returns[self.op_at[one]]
            if returned < soonest:
                best, soonest = one, returned
        return best, soonest

    def hopeful(self) -> int:
        """Open operations that might be placed once something else is placed first."""
        partial = self.partial
        if self.appends:
            return partial
        hopeful = partial & self.nots
        rest = partial ^ hopeful
        while rest:
            one = rest & -rest
            rest ^= one
            primitive = self.primitives[self.op_at[one]]
            # A CAS may be possible from the present state already.
            if primitive is not None and (
                primitive[0] == CAS or primitive[1] in self.makers or primitive[1] in self.cas_to
            ):
                hopeful |= one
        return hopeful

    def nowhere(self, configs: list[Configuration], index: int, place: int, beam: int) -> Outcome | None:
        """The operation that returned fits nowhere: None if that may be because configurations were left out."""
        if not (beam and self.checkpoints):
            return self.illegal(configs, index, place)
        why = self._certainly_not(index, place)
        if not why:
            return None
        return Outcome(
            status="illegal", trail=configs[0][3], failed=index, events_done=place, steps=self.steps, reason=why
        )

    def _certainly_not(self, index: int, place: int) -> str:
        """Why no order at all has room for a READ or CAS: what it saw was not there yet, or was gone for certain."""
        primitive = self.primitives[index]
        if primitive is None or primitive[0] not in (READ, CAS):
            return ""
        if self.presence is None:
            self.presence = Presence(self.primitives, self.timeline)
        return self.presence.refutes(primitive[1], index, place, self.initial)

    def illegal(self, configs: list[Configuration], index: int, place: int) -> Outcome:
        shown = tuple(self._shown(config) for config in configs[:64])
        return Outcome(
            status="illegal",
            trail=configs[0][3],
            failed=index,
            configurations=shown,
            events_done=place,
            steps=self.steps,
        )

    def unknown(self, configs: list[Configuration], place: int, reason: str) -> Outcome:
        return Outcome(status="unknown", trail=configs[0][3], events_done=place, steps=self.steps, reason=reason)

    def _shown(self, config: Configuration) -> Pending:
        state, used, free, trail = config
        free |= self.wanted.get(state, 0) | (self.nots & ~self.not_of.get(state, 0))
        placed: list[int] = []
        still_open: list[int] = []
        everything = self.partial | self.totals | self.crashed
        while everything:
            one = everything & -everything
            everything ^= one
            (placed if one & (used | free) else still_open).append(self.op_at[one])
        return Pending(state, trail, tuple(sorted(placed)), tuple(sorted(still_open)))

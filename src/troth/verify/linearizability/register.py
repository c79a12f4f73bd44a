"""Linearizability of one register or one key: configurations just in time, with reductions.

Theory of operation
-------------------
Everything a single register, cas-register or key of a key-value store does is one of five *primitives* (see
`troth.verify.primitives`): READ v, NOT v (a failed cas saw another value), WRITE v, CAS a b, APPEND x.

The search keeps a set of *configurations*: a state, and what has become of each operation that is open. Invocations
only open an operation. When operation o returns, every configuration in which o has not been placed yet must place
it now, if need be after other open operations; a configuration that cannot is dropped, and when none is left the
history is not linearizable and o is the operation that cannot be placed. (Lowe, "Testing for linearizability",
2017, just-in-time linearization; the complete search it refines is Wing & Gong, 1993.) Slots of operations are reused
once these return, so the bit masks stay as narrow as the history is concurrent.

What keeps the set small, beyond Lowe:

1.  An operation that leaves the state alone is placed the moment some state allows it, and costs no branch.
2.  *Covering.* When a WRITE is placed, every other open WRITE or APPEND may be thought to sit directly before it, where
    nobody sees it. Such an operation is *free*: it may still be placed for real until it returns, but need not be.
    The same holds for any operation that would not change the current state. A configuration is therefore
    (state, used, free): used operations are placed for real, free ones have nothing left to prove.
3.  A search for a place for o ends with o. Before it, a WRITE is worth placing only if something sees it: an open
    operation that it allows, or a CAS or APPEND that goes on from it. So two WRITEs never follow each other unseen.
4.  Crashed operations are never forced; of several identical ones only one is tried.
5.  *Dominance.* For the same state, (used, free) is no better than (used', free') if used' is within used and free
    within free'; only the best are kept.
6.  *Observation.* A state that no operation still to return will ever look at (for APPEND: that is no prefix of
    anything that will be read) is the same as any other such state: DEAD. As long as no NOT is to come, any state at
    all does better than DEAD.

Cost: with k configurations and p open operations O(k p) a return in the common case; exponential in the number of
open operations at worst, as it must be (Gibbons & Korach 1997: the problem is NP-complete). Memory is that of the
configurations plus their trails: every configuration carries the chain of operations it placed, from which
`witness.py` makes a whole order.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from troth.verify.history import Value
from troth.verify.linearizability.observers import DEAD, Observers
from troth.verify.linearizability.outcome import (
    UNBOUNDED,
    Budget,
    Configuration,
    GaveUp,
    Outcome,
)
from troth.verify.linearizability.placing import Placing
from troth.verify.primitives import APPEND, CAS, NOT, READ, WRITE, Primitive

_BEAM: Final = 1
"""How many configurations are followed at once at first; where that comes to nothing, more (`_Search.run`)."""
_BEAM_OF_APPENDS: Final = 2
"""The same where texts grow: which order was right shows later."""
_WIDER: Final = 6
_BEAM_MAX: Final = 216
_STEPS_MAX: Final = 30
"""Placements that a narrowed search tries for one return, a configuration followed."""


def search(
    primitives: Sequence[Primitive | None],
    timeline: Sequence[int],
    *,
    initial: Value,
    budget: Budget = UNBOUNDED,
) -> Outcome:
    """Decide whether the operations of one register have a legal order.

    Args:
        primitives: by operation index; None for operations that say nothing.
        timeline: ``2 * index`` where an operation is invoked, ``2 * index + 1`` where it returns, in order. Crashed
            operations have no return in it.
        initial: the state before everything.
        budget: when to give up.
    """
    return _Search(primitives, timeline, budget).run(initial)


class _Search(Placing):
    """One run."""

    __slots__ = ()

    def run(self, initial: Value) -> Outcome:
        """Follow the most promising configurations only. Where they come to nothing, go back a little and follow more
        of them until past that place; each time it is in vain go back further. In the end all are followed from where
        the first was left out: only that may say illegal."""
        self.initial = initial
        configs: list[Configuration] = [(initial, 0, 0, None)]
        kinds = {primitive[0] for code in self.timeline if (primitive := self.primitives[code >> 1]) is not None}
        self.least = beam = _BEAM_OF_APPENDS if APPEND in kinds else _BEAM
        back, start = 1, 0
        while True:
            outcome = self._scan(configs, start, beam)
            if outcome is not None:
                return outcome
            if self.place > self.furthest:
                self.furthest, beam, back = self.place, self.least, 1
            beam *= _WIDER
            back *= 2
            if beam > _BEAM_MAX:
                beam, back = 0, len(self.checkpoints)
            configs, start = self.go_back(back)

    def _scan(self, configs: list[Configuration], start: int, beam: int) -> Outcome | None:
        """Go through the timeline from *start* on. With a *beam*, None means that the search was cut too narrow."""
        primitives, timeline = self.primitives, self.timeline
        wanted, not_of, makers, op_at = self.wanted, self.not_of, self.makers, self.op_at
        bits, spare, top = self.bits, self.spare, self.top
        expired = self.budget.expired
        state, used, free, trail = configs[0]
        single = len(configs) == 1
        self.limit = beam * _STEPS_MAX if self.checkpoints else 0
        place = start - 1
        for code in islice(timeline, start, None) if start else timeline:
            place += 1
            index = code >> 1
            primitive = primitives[index]
            if primitive is None:
                continue
            kind, a, b, crash = primitive
            if not code & 1:
                if spare:
                    bit = spare.pop()
                else:
                    bit = top
                    top <<= 1
                bits[index] = bit
                op_at[bit] = index
                if kind == READ:
                    wanted[a] = wanted.get(a, 0) | bit
                    self.partial |= bit
                elif kind == WRITE:
                    makers[a] = makers.get(a, 0) | bit
                    if crash:
                        self.crashed |= bit
                    else:
                        wanted[a] = wanted.get(a, 0) | bit
                        self.totals |= bit
                elif kind == CAS:
                    onward = self.cas_from.setdefault(a, {})
                    onward[b] = onward.get(b, 0) | bit
                    self.cas_to[b] = self.cas_to.get(b, 0) | bit
                    if crash:
                        self.crashed |= bit
                    else:
                        self.partial |= bit
                elif kind == NOT:
                    not_of[a] = not_of.get(a, 0) | bit
                    self.nots |= bit
                    self.partial |= bit
                else:
                    if self.observers is None:
                        self.observers = Observers(primitives, timeline)
                    self.appends[a] = self.appends.get(a, 0) | bit
                    if crash:
                        self.crashed |= bit
                    else:
                        self.apps |= bit
                        self.totals |= bit
                continue

            bit = bits.pop(index)
            self.place = place
            if single:
                # The shortcut for the common case: one configuration, and what returns fits it as it stands.
                if used & bit:
                    used ^= bit
                    free &= ~bit
                elif (kind == READ and (state == a or free & bit)) or (kind == NOT and (state != a or free & bit)):
                    free &= ~bit
                else:
                    if (
                        kind == WRITE
                        and not free & bit
                        and self.observers is None
                        and not self.partial
                        & ~(used | free | wanted.get(state, 0) | (self.nots & ~not_of.get(state, 0)))
                    ):
                        free |= wanted.get(state, 0) | self.totals
                        if self.nots:
                            free |= self.nots & ~not_of.get(state, 0)
                        free &= ~bit
                        state = a
                        trail = (trail, index, place, a)
                    else:
                        before = [(state, used, free, trail)]
                        try:
                            configs = self._return(before, bit, kind, a, b)
                        except GaveUp as why:
                            return self.unknown(before, place, str(why))
                        if not configs:
                            return self.nowhere(before, index, place, beam)
                        if len(configs) == 1:
                            state, used, free, trail = configs[0]
                        else:
                            single = False
            else:
                before = configs
                try:
                    configs = self._return(before, bit, kind, a, b)
                except GaveUp as why:
                    return self.unknown(before, place, str(why))
                if not configs:
                    return self.nowhere(before, index, place, beam)
                if len(configs) == 1:
                    state, used, free, trail = configs[0]
                    single = True

            # Close the operation: forget its bit everywhere.
            spare.append(bit)
            if kind == READ:
                _drop(wanted, a, bit)
                self.partial ^= bit
            elif kind == WRITE:
                _drop(wanted, a, bit)
                _drop(makers, a, bit)
                self.totals ^= bit
            elif kind == CAS:
                onward = self.cas_from[a]
                _drop(onward, b, bit)
                if not onward:
                    del self.cas_from[a]
                _drop(self.cas_to, b, bit)
                self.partial ^= bit
            elif kind == NOT:
                _drop(not_of, a, bit)
                self.nots ^= bit
                self.partial ^= bit
            else:
                _drop(self.appends, a, bit)
                self.apps ^= bit
                self.totals ^= bit
            if beam and not single:
                if beam > self.least and place > self.furthest:
                    beam = self.least
                if len(configs) > beam:
                    configs = self.narrow(configs, place, beam, top)
                    self.limit = beam * _STEPS_MAX
            if expired is not None and not place & 1023 and expired():
                rest = [(state, used, free, trail)] if single else configs
                return self.unknown(rest, place, "out of time")
        if not single:
            trail = configs[0][3]
        return Outcome(status="ok", trail=trail, events_done=place + 1, steps=self.steps)

    def _return(
        self, configs: list[Configuration], bit: int, kind: int, a: Value, b: Value
    ) -> list[Configuration]:
        """The configurations after the operation of *bit* returned: every one of them has placed it."""
        keep = ~bit
        place, index = self.place, self.op_at[bit]
        wanted, not_of, nots, partial, totals = self.wanted, self.not_of, self.nots, self.partial, self.totals
        reachable = self.makers.get(a, 0) | self.cas_to.get(a, 0) if kind == READ else 0
        target: Value = a
        if kind == WRITE and self.observers is not None and self.observers.until(a) <= place:
            target = DEAD
        hopeful = -1
        results: list[Configuration] = []
        todo: list[Configuration] = []
        for config in configs:
            state, used, free, trail = config
            if used & bit:
                results.append((state, used & keep, free & keep, trail))
            elif kind == READ:
                if free & bit or state == a:
                    results.append((state, used, free & keep, trail))
                elif reachable & ~used or self.appends:
                    todo.append(config)
            elif kind == NOT:
                if free & bit or state != a:
                    results.append((state, used, free & keep, trail))
                else:
                    todo.append(config)
            else:
                if free & bit:
                    results.append((state, used, free & keep, trail))
                if kind == WRITE:
                    # Nothing is worth placing before an overwrite unless it lets something else be placed.
                    settled = free | wanted.get(state, 0) | (nots & ~not_of.get(state, 0))
                    owed = partial & ~(used | settled)
                    if owed and hopeful < 0:
                        hopeful = self.hopeful()
                    if not owed & hopeful:
                        results.append((target, used, (settled | totals) & keep, (trail, index, place, target)))
                        continue
                todo.append(config)
        if todo:
            self.place_before(todo, results, bit, kind, a, b, hopeful)
        found = len(results)
        if found > 2 or (found == 2 and (self.observers is not None or results[0][0] == results[1][0])):
            return self.best(results)
        return results


def _drop(masks: dict[Value, int], value: Value, bit: int) -> None:
    left = masks[value] ^ bit
    if left:
        masks[value] = left
    else:
        # Loops run over what is there; values that are no longer open must not stay.
        del masks[value]

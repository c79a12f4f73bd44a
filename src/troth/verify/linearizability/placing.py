"""One step of the search in `register.py`: every useful way to place an operation that returns.

The operation goes last; before it may go others that are open, as far as they lead somewhere (reductions 2 to 4). Of
the configurations that come of it those are kept which none of the others dominates (5 and 6).
"""

from typing import Final

from troth.verify.history import Value
from troth.verify.linearizability.antichain import enqueue, insert
from troth.verify.linearizability.observers import DEAD, Observers
from troth.verify.linearizability.outcome import Configuration, GaveUp, Trail
from troth.verify.linearizability.pending import OpenOperations
from troth.verify.primitives import APPEND, CAS, NOT, READ, WRITE, joined

_COLLAPSE_FROM: Final = 12
_ASK_CLOCK_EVERY: Final = 64


class Placing(OpenOperations):
    """The operations that are open, and the ways to place them."""

    __slots__ = ()

    def place_before(
        self,
        todo: list[Configuration],
        results: list[Configuration],
        bit: int,
        kind: int,
        a: Value,
        b: Value,
        hopeful: int,
    ) -> None:
        """Append to *results* every useful way to place the operation of *bit* last, from each of *todo*."""
        wanted, not_of, nots, totals = self.wanted, self.not_of, self.nots, self.totals
        makers, cas_from, appends, op_at = self.makers, self.cas_from, self.appends, self.op_at
        partial, apps, crashed, place = self.partial, self.apps, self.crashed, self.place
        observers = self.observers
        keep = ~bit
        index = op_at[bit]
        passive = kind in (READ, NOT)
        maker_mask = makers.get(a, 0) | self.cas_to.get(a, 0) if kind == CAS else 0
        collapsed = (
            observers is not None and kind in (WRITE, CAS) and observers.until(b if kind == CAS else a) <= place
        )
        target: Value = DEAD if collapsed else (b if kind == CAS else a)
        # Configurations to go on from: (state, used, free, trail, seen), seen = whether the last step was worth it.
        queue: list[tuple[Value, int, int, Trail, bool]] = []
        for state, used, free, trail in todo:
            free |= wanted.get(state, 0) | (nots & ~not_of.get(state, 0))
            if state is DEAD:
                free |= apps
            if kind == CAS and state != a and not maker_mask & ~used and not appends:
                continue
            queue.append((state, used, free, trail, True))
        # Of every WRITE that could come before: what it would let be placed, and the CASes that could follow it.
        rows: list[tuple[Value, int, int, int]] = []
        for value, mask in makers.items():
            following = cas_from.get(value)
            onward = 0
            if following:
                for others in following.values():
                    onward |= others
            rows.append((value, mask & keep, wanted.get(value, 0) | (nots & ~not_of.get(value, 0)), onward))
        visited: dict[Value, list[tuple[int, int, bool]]] = {}
        limit, steps = self.limit, 0
        for state, used, free, trail, seen in queue:
            steps += 1
            if not steps & (_ASK_CLOCK_EVERY - 1):
                self._ask(len(queue))
            if limit and steps > limit:
                break
            # 1. Place the returning operation itself, last.
            if kind == WRITE:
                if seen:
                    results.append((target, used, (free | totals) & keep, (trail, index, place, target)))
            elif kind == CAS:
                if state == a:
                    results.append((target, used, free & keep, (trail, index, place, target)))
            elif kind == APPEND:
                if state is DEAD:
                    results.append((DEAD, used, free & keep, trail))
                else:
                    after = joined(state, a)
                    if observers is not None and observers.until(after) <= place:
                        after = DEAD
                    results.append((after, used, free & keep, (trail, index, place, after)))
            # 2. Place something else before it. Worth it only if it leads somewhere.
            owed = partial & ~(used | free)
            if not owed & keep and (kind == WRITE or (kind == CAS and state == a and not totals & ~free)):
                continue
            if kind == WRITE and not owed & hopeful:
                continue
            if seen:
                for value, mask, rests, onward in rows:
                    mask &= ~used
                    gain = rests & owed
                    if not mask or not (gain or onward & ~used or appends):
                        continue
                    if value == state and not totals & ~free:
                        continue
                    reached: Value = value
                    if observers is not None and observers.until(value) < place:
                        if not gain and (not appends or observers.last_not < place):
                            continue
                        reached = DEAD
                    placed_free = free | totals | rests
                    goal = passive and placed_free & bit
                    chosen = mask if not mask & (mask - 1) else self.pick(mask, free)
                    while chosen:
                        one = chosen & -chosen
                        chosen ^= one
                        step: Trail = (trail, op_at[one], place, reached)
                        if goal:
                            results.append((reached, used | one, placed_free & keep, step))
                        else:
                            enqueue(queue, visited, reached, used | one, placed_free, step, bool(gain))
            following = cas_from.get(state)
            if following:
                for value, mask in following.items():
                    mask &= ~used & keep
                    if not mask:
                        continue
                    rests = wanted.get(value, 0) | (nots & ~not_of.get(value, 0))
                    gain = rests & owed
                    placed_free = free | rests
                    goal = passive and placed_free & bit
                    live = mask & ~crashed
                    if not live and not (gain or appends or value in cas_from):
                        continue
                    reached = value
                    if observers is not None and observers.until(value) < place:
                        reached = DEAD
                    chosen = mask if not mask & (mask - 1) else self.pick(mask, free)
                    while chosen:
                        one = chosen & -chosen
                        chosen ^= one
                        step = (trail, op_at[one], place, reached)
                        settled = placed_free | (one & ~crashed)
                        if goal:
                            results.append((reached, used | one, settled & keep, step))
                        else:
                            worth = bool(gain) or not one & crashed
                            enqueue(queue, visited, reached, used | one, settled, step, worth)
            if appends and state is not DEAD:
                for text, mask in appends.items():
                    mask &= ~used & keep
                    if not mask:
                        continue
                    value = joined(state, text)
                    gain = (wanted.get(value, 0) | (nots & ~not_of.get(value, 0))) & owed
                    reached = value
                    placed_free = free | wanted.get(value, 0) | (nots & ~not_of.get(value, 0))
                    if observers is not None and observers.until(value) < place:
                        if not gain and observers.last_not < place:
                            continue
                        reached = DEAD
                        placed_free |= apps
                    goal = passive and placed_free & bit
                    chosen = mask if not mask & (mask - 1) else self.pick(mask, free)
                    while chosen:
                        one = chosen & -chosen
                        chosen ^= one
                        step = (trail, op_at[one], place, reached)
                        settled = placed_free | (one & ~crashed)
                        if goal:
                            results.append((reached, used | one, settled & keep, step))
                        else:
                            enqueue(queue, visited, reached, used | one, settled, step, bool(gain))
        self.steps += steps

    def best(self, configs: list[Configuration]) -> list[Configuration]:
        """Drop every configuration that another one dominates."""
        if self.observers is None and len(configs) >= _COLLAPSE_FROM:
            self.observers = Observers(self.primitives, self.timeline)
        observers, place = self.observers, self.place
        groups: dict[Value, list[Configuration]] = {}
        for config in configs:
            state = config[0]
            if observers is not None and state is not DEAD and observers.until(state) <= place:
                # It was worth looking at when it was reached; nobody is left who would.
                config = (DEAD, config[1], config[2], (config[3], -1, place, DEAD))
                state = DEAD
            group = groups.get(state)
            if group is None:
                groups[state] = [config]
            else:
                insert(group, config)
        if len(groups) == 1:
            best = next(iter(groups.values()))
        else:
            dead = groups.get(DEAD)
            if dead is not None and observers is not None and observers.last_not <= place:
                del groups[DEAD]
                best = [config for group in groups.values() for config in group]
                must = self.partial
                for config in dead:
                    used, owed = config[1], must & ~(config[2] | config[1])
                    for other in best:
                        satisfied = other[2] | other[1] | self.wanted.get(other[0], 0)
                        if not other[1] & ~used and not must & ~satisfied & ~owed:
                            break
                    else:
                        best.append(config)
            else:
                best = [config for group in groups.values() for config in group]
        if len(best) > self.budget.configurations_max:
            raise GaveUp(f"more than {self.budget.configurations_max} configurations")
        if len(best) > _ASK_CLOCK_EVERY:
            self._ask(len(best))
        return best

    def _ask(self, size: int) -> None:
        if size > self.budget.configurations_max:
            raise GaveUp(f"more than {self.budget.configurations_max} configurations")
        expired = self.budget.expired
        if expired is not None and expired():
            raise GaveUp("out of time")

"""Linearizability of any object that is a `Model`: just-in-time configurations without knowledge of the object.

The same search as `register.py` (which see for the theory), with the object's own `step` in place of five
primitives. Calls with the same content are one *kind*; `step` is asked once for each kind and state and
remembered, as Knossos does, so most of the work is looking up a dictionary. Kept of the reductions: operations
that leave the state alone are placed the moment they can be; covering, for calls of which the model says that they
are `total` or `overwrites`; crashed operations are optional and symmetric; dominance. States are compared, not
looked through, so there is no DEAD state here. A step may lead to `Several` states.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from troth.verify.history import Value
from troth.verify.linearizability.antichain import enqueue, insert
from troth.verify.linearizability.outcome import UNBOUNDED, Budget, Configuration, GaveUp, Outcome, Pending, Trail
from troth.verify.models import ILLEGAL, Call, Model, Several

_BEAM: Final = 2
"""How many configurations are followed at once at first; where that comes to nothing, more, as in `register.py`."""
_WIDER: Final = 6
_BEAM_MAX: Final = 432
_STEPS_MAX: Final = 40
"""Placements that a narrowed search tries for one return, a configuration followed."""
_CHECKPOINTS_MAX: Final = 64

_Checkpoint: TypeAlias = tuple[
    list[Configuration],
    int,
    tuple[dict[int, int], list[int], dict[int, int], dict[int, int], dict[int, int]],
    tuple[int, int, int],
]
"""Configurations, the place to go on from, what is open there, and how much of it."""


def search(
    model: Model, calls: Sequence[Call | None], timeline: Sequence[int], *, budget: Budget = UNBOUNDED
) -> Outcome:
    """Decide whether *calls* have a legal order. Arguments as in `register.search`.

    First with a few configurations and short searches only: enough for most legal histories. Only the try that leaves
    nothing out may say illegal.
    """
    return _Search(model, calls, timeline, budget).run()


class _Search:
    """One run."""

    def __init__(
        self, model: Model, calls: Sequence[Call | None], timeline: Sequence[int], budget: Budget
    ) -> None:
        self.model, self.calls, self.timeline, self.budget = model, calls, timeline, budget
        self.kinds: list[Call] = []
        self.kind_of: dict[tuple[object, ...], int] = {}
        self.total: list[bool] = []
        self.overwrites: list[bool] = []
        self.reads: list[bool] = []
        self.memo: list[dict[Value, tuple[Value, ...]]] = []
        self.bits: dict[int, int] = {}
        self.spare: list[int] = []
        self.open: dict[int, int] = {}
        """bit of a live operation -> kind"""
        self.idle: dict[int, int] = {}
        """kind -> bits of crashed operations"""
        self.op_at: dict[int, int] = {}
        self.top = 1
        self.partial = self.totals = self.place = self.steps = 0
        self.returning = {code >> 1 for code in timeline if code & 1}
        self.checkpoints: list[_Checkpoint] = []
        self.furthest = -1
        self.limit = 0
        """placements that may be tried for one return; 0 is all"""
        self.is_cut = False
        """whether that was too little"""

    def run(self) -> Outcome:
        """Follow a few configurations, more where they come to nothing; see `register._Search.run`."""
        configs: list[Configuration] = [(self.model.init(), 0, 0, None)]
        beam, back, start = _BEAM, 1, 0
        while True:
            outcome = self._scan(configs, start, beam)
            if outcome is not None:
                return outcome
            if self.place > self.furthest:
                self.furthest, beam, back = self.place, _BEAM, 1
            beam *= _WIDER
            back *= 2
            if beam > _BEAM_MAX:
                beam, back = 0, len(self.checkpoints)
            configs, start = self._go_back(back)

    def _scan(self, configs: list[Configuration], start: int, beam: int) -> Outcome | None:
        """Go through the timeline from *start* on. With a *beam*, None means that the search was cut too narrow."""
        bits = self.bits
        for place in range(start, len(self.timeline)):
            code = self.timeline[place]
            index = code >> 1
            call = self.calls[index]
            if call is None:
                continue
            if not code & 1:
                self._invoke(index, call)
                continue
            bit = bits.pop(index)
            self.place = place
            before = configs
            if beam > _BEAM and place > self.furthest:
                beam = _BEAM
            self.limit, self.is_cut = beam * _STEPS_MAX, False
            try:
                configs = self._return(configs, bit)
            except GaveUp as why:
                return Outcome(
                    status="unknown", trail=before[0][3], events_done=place, steps=self.steps, reason=str(why)
                )
            if self.is_cut and not self.checkpoints:
                self._mark(before, place, {**bits, index: bit})
            if not configs:
                if beam and self.checkpoints:
                    return None
                return Outcome(
                    status="illegal",
                    trail=before[0][3],
                    failed=index,
                    configurations=tuple(self._shown(config) for config in before[:64]),
                    events_done=place,
                    steps=self.steps,
                )
            self.spare.append(bit)
            del self.open[bit]
            self.totals &= ~bit
            self.partial &= ~bit
            if beam and len(configs) > beam:
                self._mark(configs, place + 1, dict(bits))
                crashed = sum(self.idle.values())
                configs = sorted(
                    configs, key=lambda config: 2 * (config[1] & crashed).bit_count() - config[2].bit_count()
                )[:beam]
        return Outcome(status="ok", trail=configs[0][3], events_done=len(self.timeline), steps=self.steps)

    def _invoke(self, index: int, call: Call) -> None:
        if self.spare:
            bit = self.spare.pop()
        else:
            bit = self.top
            self.top <<= 1
        kind = self._kind(call)
        self.op_at[bit] = index
        if index in self.returning:
            self.bits[index] = bit
            self.open[bit] = kind
            if self.total[kind]:
                self.totals |= bit
            else:
                self.partial |= bit
        else:
            self.idle[kind] = self.idle.get(kind, 0) | bit

    def _mark(self, configs: list[Configuration], place: int, bits: dict[int, int]) -> None:
        """Something is about to be left out: remember how things stand, to come back to it."""
        is_open = (bits, list(self.spare), dict(self.open), dict(self.idle), dict(self.op_at))
        self.checkpoints.append((configs, place, is_open, (self.top, self.partial, self.totals)))
        if len(self.checkpoints) > _CHECKPOINTS_MAX:
            # The first must stay: before it nothing was left out.
            del self.checkpoints[1 : _CHECKPOINTS_MAX // 2]

    def _go_back(self, steps: int) -> tuple[list[Configuration], int]:
        """To how things stood when something was left out *steps* times ago."""
        at = max(0, len(self.checkpoints) - steps)
        configs, place, is_open, (self.top, self.partial, self.totals) = self.checkpoints[at]
        del self.checkpoints[max(1, at) :]
        bits, spare, live, idle, op_at = is_open
        self.bits, self.spare = dict(bits), list(spare)
        self.open, self.idle, self.op_at = dict(live), dict(idle), dict(op_at)
        return configs, place

    def _kind(self, call: Call) -> int:
        # Python takes False for 0, which a model may well tell apart: so the class is part of the kind.
        classes = (call.argument.__class__, call.result.__class__)
        who = call.process if self.model.personal else 0
        key = (call.f, call.argument, call.result, classes, call.known, who, call.key)
        kind = self.kind_of.get(key)
        if kind is None:
            kind = self.kind_of[key] = len(self.kinds)
            self.kinds.append(call)
            overwrites = self.model.overwrites(call)
            self.overwrites.append(overwrites)
            self.total.append(overwrites or self.model.total(call))
            self.reads.append(call.f in self.model.pure)
            self.memo.append({})
        return kind

    def _next(self, kind: int, state: Value) -> tuple[Value, ...]:
        memo = self.memo[kind]
        found = memo.get(state)
        if found is None:
            after = self.model.step(state, self.kinds[kind])
            if after is ILLEGAL:
                found = ()
            elif isinstance(after, Several):
                found = after.states
            else:
                found = (after,)
            memo[state] = found
        return found

    def _resting(self, state: Value) -> int:
        """Open operations that can be placed in *state* without changing it."""
        mask = 0
        for bit, kind in self.open.items():
            if state in self._next(kind, state):
                mask |= bit
        return mask

    def _return(self, configs: list[Configuration], bit: int) -> list[Configuration]:
        keep = ~bit
        kind = self.open[bit]
        reads = self.reads[kind]
        results: dict[Value, list[Configuration]] = {}
        todo: list[Configuration] = []
        for config in configs:
            state, used, free, trail = config
            if used & bit:
                _insert(results, (state, used & keep, free & keep, trail))
            elif free & bit or (reads and state in self._next(kind, state)):
                _insert(results, (state, used, free & keep, trail))
                if not reads:
                    todo.append(config)
            else:
                todo.append(config)
        if todo:
            self._place(todo, results, bit, kind)
        flat = [config for group in results.values() for config in group]
        self._ask(len(flat))
        return flat

    def _place(
        self, todo: list[Configuration], results: dict[Value, list[Configuration]], bit: int, kind: int
    ) -> None:
        keep = ~bit
        index, place = self.op_at[bit], self.place
        overwrites, totals = self.overwrites[kind], self.totals
        queue: list[tuple[Value, int, int, Trail, bool]] = []
        visited: dict[Value, list[tuple[int, int, bool]]] = {}
        for state, used, free, trail in todo:
            enqueue(queue, visited, state, used, free | self._resting(state), trail, True)
        head = 0
        while head < len(queue):
            state, used, free, trail, seen = queue[head]
            head += 1
            if not head & 63:
                self._ask(len(queue))
            if self.limit and head > self.limit:
                self.is_cut = True
                break
            # Place the returning operation itself, last.
            if free & bit:
                _insert(results, (state, used, free & keep, trail))
            if seen or not overwrites:
                for after in self._next(kind, state):
                    if after != state or overwrites:
                        settled = free | totals if overwrites else free
                        _insert(results, (after, used, settled & keep, (trail, index, place, after)))
            if self.reads[kind] and free & bit:
                continue
            owed = self.partial & ~(used | free)
            if overwrites and not owed & keep:
                continue
            # Place something else before it.
            for one, other in self.open.items():
                if one & used or one == bit or (self.overwrites[other] and not seen):
                    continue
                self._step(queue, visited, state, used, free, trail, one, other, owed, live=True)
            for other, mask in self.idle.items():
                mask &= ~used
                if mask and (seen or not self.overwrites[other]):
                    self._step(queue, visited, state, used, free, trail, mask & -mask, other, owed, live=False)
        self.steps += head

    def _step(
        self,
        queue: list[tuple[Value, int, int, Trail, bool]],
        visited: dict[Value, list[tuple[int, int, bool]]],
        state: Value,
        used: int,
        free: int,
        trail: Trail,
        one: int,
        kind: int,
        owed: int,
        *,
        live: bool,
    ) -> None:
        covers = self.overwrites[kind]
        for after in self._next(kind, state):
            if after == state and not (covers and self.totals & ~free):
                continue
            settled = free | self._resting(after)
            if covers:
                settled |= self.totals
            worth = bool(owed & settled)
            if live:
                settled |= one
                worth = worth or not self.total[kind]
            enqueue(queue, visited, after, used | one, settled, (trail, self.op_at[one], self.place, after), worth)

    def _ask(self, size: int) -> None:
        if size > self.budget.configurations_max:
            raise GaveUp(f"more than {self.budget.configurations_max} configurations")
        if self.budget.expired is not None and self.budget.expired():
            raise GaveUp("out of time")

    def _shown(self, config: Configuration) -> Pending:
        state, used, free, trail = config
        free |= self._resting(state)
        every = [
            *self.open,
            *(1 << at for mask in self.idle.values() for at in range(mask.bit_length()) if mask >> at & 1),
        ]
        placed = sorted(self.op_at[bit] for bit in every if bit & (used | free))
        waiting = sorted(self.op_at[bit] for bit in every if not bit & (used | free))
        return Pending(self.model.shown(state), trail, tuple(placed), tuple(waiting))


def _insert(groups: dict[Value, list[Configuration]], config: Configuration) -> None:
    group = groups.get(config[0])
    if group is None:
        groups[config[0]] = [config]
    else:
        insert(group, config)

"""Sequential consistency: one legal order of everything that keeps each process's own order (Lamport 1979).

Not local (keys cannot be checked one by one) and NP-complete, even with unique values (Gibbons & Korach 1997,
section 3), so this is a search, made short by three things: a linearizable history is sequentially consistent,
with the same witness; a history of registers that is not causally consistent is not; and an operation that is next
in its process and only looks can always be taken at once. What remains is depth first over (how far
each process got, state), every such pair visited once, operations invoked earlier tried first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from troth.errors import UsageError
from troth.verify.accesses import starting_as
from troth.verify.causal import check_causal
from troth.verify.history import FOREVER, History, Process, Value, counted
from troth.verify.linearizability import Budget, check_linearizable
from troth.verify.linearizability.minimal import removable_calls, shrink, unseen
from troth.verify.models import ILLEGAL, Model, Register, Several
from troth.verify.verdict import Counterexample, Part, Status, Verdict

_FIRST_TRY: Final = 2_000
"""Configurations that the attempt as a linearizable history may hold."""
_SHRINK_STATES: Final = 5_000
_SHRINK_EVENTS: Final = 20_000
"""States of one try at shrinking, and events of all of them."""
_COST: Final = "exponential in the number of processes at worst"


def check_sequential(
    history: History, object: Model, *, expired: Callable[[], bool] | None = None, states_max: int = 2_000_000
) -> Verdict:
    """Decide whether *history* is sequentially consistent as *object*.

    Args:
        history: what happened.
        object: the sequential object.
        expired: asked now and then; True makes the verdict unknown.
        states_max: bound on the states visited.
    """
    model = object.reading(history.reading)
    quick = check_linearizable(
        history, object, budget=Budget(expired=expired, configurations_max=_FIRST_TRY), name="sequential"
    )
    if quick.status is Status.OK:
        return quick
    if isinstance(model, Register) and type(model).step is Register.step:
        try:
            causal = check_causal(starting_as(history, object), "causal", expired=expired)
        except UsageError:
            # Appends and deletes have no reads-from; the search alone decides.
            causal = None
        if causal is not None and causal.status is Status.ILLEGAL:
            return Verdict(
                Status.ILLEGAL,
                history=history,
                model="sequential",
                object=model.name,
                reason=f"not even causally consistent: {causal.reason}",
                counterexample=causal.counterexample,
                anomalies=causal.anomalies,
            )
    verdict = _Search(history, model, expired, states_max).run()
    if verdict.status is Status.ILLEGAL and any(model.unsaid(op) for op in history.operations):
        reason = "there is no legal order without what crashed and may have done anything"
        return Verdict(Status.UNKNOWN, history=history, model="sequential", object=model.name, reason=reason)
    return verdict


Order: TypeAlias = "tuple[Order, int] | None"
"""Operations placed so far, linked from the last one back."""
Node: TypeAlias = tuple[tuple[int, ...], tuple[Value, ...], Order, int]
"""(how far each lane got, states, order so far, its length)"""


class _Search:
    """Depth first over the frontier of all processes."""

    def __init__(
        self, history: History, model: Model, expired: Callable[[], bool] | None, states_max: int
    ) -> None:
        self.history, self.model, self.expired, self.states_max = history, model, expired, states_max
        lanes: dict[Process, list[int]] = {}
        ghosts: list[tuple[int, Process, int]] = []
        self.calls = model.calls(history)
        for op, call in zip(history.operations, self.calls, strict=True):
            lane = lanes.setdefault(op.process, [])
            if call is not None and op.returned == FOREVER:
                # Crashed: after what its process did before, but in no order with what the process did later.
                ghosts.append((op.index, op.process, len(lane)))
            elif call is not None:
                lane.append(op.index)
        number_of = {process: number for number, process in enumerate(lanes)}
        self.needs = {index: (number_of[process], count) for index, process, count in ghosts}
        self.lanes: Sequence[list[int]] = [*lanes.values(), *([index] for index, _, _ in ghosts)]
        keys = history.all_keys() if model.keyed else (None,)
        self.slot = {key: at for at, key in enumerate(keys)}
        self.memo: dict[tuple[int, Value], tuple[Value, ...]] = {}

    def run(self) -> Verdict:
        """Search; the deepest point reached explains a failure."""
        ends = tuple(len(lane) for lane in self.lanes)
        start = (tuple(0 for _ in self.lanes), tuple(self.model.init() for _ in self.slot))
        stack: list[Node] = [(*start, None, 0)]
        seen: set[tuple[tuple[int, ...], tuple[Value, ...]]] = set()
        deepest = stack[0]
        while stack:
            frontier, states, order, depth = self._rest(stack.pop())
            if depth > deepest[3]:
                deepest = (frontier, states, order, depth)
            if self._done(frontier, ends):
                return self._verdict(Status.OK, len(seen), depth, witness=_unlinked(order))
            if (frontier, states) in seen:
                continue
            seen.add((frontier, states))
            if len(seen) > self.states_max or (
                not len(seen) & 255 and self.expired is not None and self.expired()
            ):
                reason = (
                    f"gave up after {len(seen)} states, {deepest[3]} of {counted(sum(ends), 'operation')} placed"
                )
                return self._verdict(Status.UNKNOWN, len(seen), deepest[3], reason=reason)
            heads = [
                (lane[at], number)
                for number, (lane, at) in enumerate(zip(self.lanes, frontier, strict=True))
                if at < len(lane) and self._enabled(lane[at], frontier)
            ]
            for index, number in sorted(heads, reverse=True):
                slot = self._slot(index)
                for after in self._next(index, states[slot]):
                    moved = (*frontier[:number], frontier[number] + 1, *frontier[number + 1 :])
                    changed = (*states[:slot], after, *states[slot + 1 :])
                    stack.append((moved, changed, (order, index), depth + 1))
        prefix = _unlinked(deepest[2])
        stuck = tuple(lane[at] for lane, at in zip(self.lanes, deepest[0], strict=True) if at < len(lane))
        reason = f"after the longest legal order ({counted(len(prefix), 'operation')}) no process can go on"

        def example() -> Counterexample:
            kept = self._smallest()
            return Counterexample(
                operation=min(stuck, default=None) if not kept else None,
                reason="no order of these that keeps each process's own is legal" if kept else reason,
                prefix=tuple(prefix),
                involved=tuple(kept or sorted(stuck)),
                minimal=tuple(kept),
            )

        return self._verdict(Status.ILLEGAL, len(seen), deepest[3], reason=reason, counterexample=example)

    def _smallest(self) -> list[int]:
        """A small part that is illegal by itself; empty when that takes too long to say."""
        history, model = self.history, self.model

        def illegal(timeline: Sequence[int]) -> bool:
            part = history.where({code >> 1 for code in timeline})
            return _Search(part, model, self.expired, _SHRINK_STATES).run().status is Status.ILLEGAL

        if not illegal(history.timeline):
            return []
        removable = removable_calls(model, self.calls)
        if isinstance(model, Register):
            primitives = [model.primitive(op, history.reading) for op in history.operations]
            removable = partial(unseen, primitives)
        return shrink(history.timeline, removable, illegal, events_max=_SHRINK_EVENTS)

    def _slot(self, index: int) -> int:
        return self.slot[self.history.operations[index].key if self.model.keyed else None]

    def _next(self, index: int, state: Value) -> tuple[Value, ...]:
        found = self.memo.get((index, state))
        if found is None:
            call = self.calls[index]
            after = ILLEGAL if call is None else self.model.step(state, call)
            found = () if after is ILLEGAL else after.states if isinstance(after, Several) else (after,)
            self.memo[index, state] = found
        return found

    def _rest(self, node: Node) -> Node:
        """Take every next operation that only looks and is legal, until there is none."""
        frontier, states, order, depth = node
        ahead = list(frontier)
        moved = True
        while moved:
            moved = False
            for number, lane in enumerate(self.lanes):
                while ahead[number] < len(lane):
                    index = lane[ahead[number]]
                    if not self._looks_only(index):
                        # What does nothing in this state, such as a second write of the same, may be needed later.
                        break
                    state = states[self._slot(index)]
                    if state not in self._next(index, state):
                        break
                    ahead[number] += 1
                    order, depth, moved = (order, index), depth + 1, True
        return tuple(ahead), states, order, depth

    def _looks_only(self, index: int) -> bool:
        """Whether the operation changes no state at all."""
        call = self.calls[index]
        return call is not None and (call.f in self.model.pure or (call.f == "cas" and call.result is False))

    def _enabled(self, index: int, frontier: Sequence[int]) -> bool:
        """Whether a crashed operation's process has got as far as it had when it invoked it."""
        needs = self.needs.get(index)
        return needs is None or frontier[needs[0]] >= needs[1]

    def _done(self, frontier: tuple[int, ...], ends: tuple[int, ...]) -> bool:
        """Everything is placed, but for crashed operations."""
        return all(
            at == end or lane[0] in self.needs for lane, at, end in zip(self.lanes, frontier, ends, strict=True)
        )

    def _verdict(
        self,
        status: Status,
        states: int,
        depth: int,
        *,
        reason: str = "",
        counterexample: Callable[[], Counterexample] | None = None,
        witness: list[int] | None = None,
    ) -> Verdict:
        total = sum(len(lane) for lane in self.lanes)
        part = Part(
            key=None,
            status=status,
            algorithm="frontier-search",
            cost=_COST,
            steps=states,
            events_done=depth,
            events=total,
        )
        return Verdict(
            status,
            history=self.history,
            model="sequential",
            object=self.model.name,
            reason=reason,
            parts=(part,),
            counterexample=counterexample,
            witness=None if witness is None else (lambda: witness),
        )


def _unlinked(order: Order) -> list[int]:
    found: list[int] = []
    while order is not None:
        order, index = order
        found.append(index)
    found.reverse()
    return found

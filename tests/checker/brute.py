"""Oracles too simple to be wrong: they try every order. For histories of a dozen operations."""

from troth.verify.history import FOREVER, History, Value
from troth.verify.models import ILLEGAL, Call, Model, Several


def successors(model: Model, state: Value, call: Call) -> tuple[Value, ...]:
    """The states that may follow."""
    after = model.step(state, call)
    if after is ILLEGAL:
        return ()
    return after.states if isinstance(after, Several) else (after,)


def states_by_key(model: Model, history: History) -> Value:
    """All keys of a keyed object as one state: a tuple of (key, state)."""
    return tuple((key, model.init()) for key in history.all_keys())


def linearizable(history: History, object: Model, *, realtime: bool = True) -> bool:
    """Try all orders that respect real time (or, without it, only each process's own order)."""
    model = object.reading(history.reading)
    calls = [model.call(op, history.reading) for op in history.operations]
    operations = history.operations
    speaking = [op.index for op in operations if calls[op.index] is not None]
    must = sum(1 << index for index in speaking if operations[index].returned != FOREVER)
    before: dict[int, int] = {}
    for index in speaking:
        mask = 0
        for other in speaking:
            earlier = operations[other].returned < operations[index].invoked
            if earlier and (realtime or operations[other].process == operations[index].process):
                mask |= 1 << other
        before[index] = mask
    start = dict(states_by_key(model, history)) if model.keyed else {None: model.init()}
    seen: set[tuple[int, Value]] = set()
    stack: list[tuple[int, dict[Value, Value]]] = [(0, start)]
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        mark = (done, tuple(state.items()))
        if mark in seen:
            continue
        seen.add(mark)
        for index in speaking:
            if done >> index & 1 or before[index] & ~done:
                continue
            call = calls[index]
            assert call is not None
            key = operations[index].key if model.keyed else None
            for after in successors(model, state[key], call):
                stack.append((done | 1 << index, {**state, key: after}))
    return False


def replays(history: History, object: Model, order: tuple[int, ...], *, realtime: bool = True) -> str:
    """Why *order* is no legal order of *history*; "" if it is one."""
    model = object.reading(history.reading)
    operations = history.operations
    calls = [model.call(op, history.reading) for op in operations]
    if len(set(order)) != len(order):
        return "an operation occurs twice"
    missing = [
        op.index
        for op in operations
        if calls[op.index] is not None and op.returned != FOREVER and op.index not in set(order)
    ]
    if missing:
        return f"operations {missing} are missing"
    for at, index in enumerate(order):
        for later in order[at + 1 :]:
            earlier = operations[later].returned < operations[index].invoked
            if earlier and (realtime or operations[later].process == operations[index].process):
                return f"{later} precedes {index} in time but follows it in the order"
    states = {key: {model.init()} for key in (history.all_keys() if model.keyed else (None,))}
    for index in order:
        call = calls[index]
        if call is None:
            return f"{index} says nothing and should not be there"
        key = operations[index].key if model.keyed else None
        states[key] = {after for state in states[key] for after in successors(model, state, call)}
        if not states[key]:
            return f"{index} is illegal where it stands"
    return ""

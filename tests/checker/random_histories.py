"""Small random histories of every object: mostly legal ones from a simulated object, some with lies told on the way."""

import random
from collections.abc import Callable

from troth.verify.completions import pair
from troth.verify.formats.edn import Record
from troth.verify.history import Event, EventType, History, Reading, Value
from troth.verify.models import (
    ILLEGAL,
    Bank,
    Call,
    CasRegister,
    Counter,
    Kv,
    Lock,
    Model,
    MultiRegister,
    Mutex,
    Queue,
    Register,
    SetObject,
    Several,
    Stack,
    UnorderedQueue,
)
from troth.verify.primitives import joined

Request = tuple[str, Value, Value]
Script = Callable[[random.Random, int], Request]


def _letters(rng: random.Random, number: int) -> Request:
    f = rng.choice(("get", "get", "put", "append", "append"))
    text = chr(97 + number % 26) if rng.random() < 0.7 else rng.choice("abc")
    return f, rng.choice(("x", "x", "y")), None if f == "get" else text


def _unique_kv(rng: random.Random, number: int) -> Request:
    f = rng.choice(("get", "get", "put", "append", "append"))
    return f, rng.choice(("x", "x", "x", "y")), None if f == "get" else f"<{number}>"


def _whole_kv(rng: random.Random, number: int) -> Request:
    f = rng.choice(("get", "get", "put", "append", "delete", "cas"))
    text: Value = f"<{number}>" if rng.random() < 0.5 else rng.choice("ab")
    old = rng.choice((None, "a", "b", f"<{rng.randrange(number + 1)}>"))
    return f, rng.choice("xxy"), None if f in ("get", "delete") else (old, text) if f == "cas" else text


def _cas(rng: random.Random, number: int) -> Request:
    f = rng.choice(("read", "write", "cas", "cas"))
    values = rng.randrange(3), rng.randrange(3)
    return f, None, None if f == "read" else values[0] if f == "write" else values


def _unique_cas(rng: random.Random, number: int) -> Request:
    f = rng.choice(("read", "read", "write", "cas"))
    return f, None, None if f == "read" else number if f == "write" else (rng.randrange(number + 1), number)


def _register(rng: random.Random, number: int) -> Request:
    f = rng.choice(("read", "read", "write"))
    return f, None, None if f == "read" else rng.randrange(3)


def _unique_register(rng: random.Random, number: int) -> Request:
    f = rng.choice(("read", "write"))
    return f, None, None if f == "read" else number + 1


def _elements(rng: random.Random, number: int) -> Request:
    f = rng.choice(("add", "add", "remove", "contains"))
    return f, None, rng.randrange(3)


def _grow_only(rng: random.Random, number: int) -> Request:
    f = rng.choice(("add", "add", "read"))
    return f, None, None if f == "read" else number if rng.random() < 0.8 else rng.randrange(3)


def _counter(rng: random.Random, number: int) -> Request:
    f = rng.choice(("add", "add", "read"))
    return f, None, None if f == "read" else rng.choice((1, 1, 2, -1))


def _queue(rng: random.Random, number: int) -> Request:
    f = rng.choice(("enqueue", "dequeue"))
    return f, None, None if f == "dequeue" else rng.choice((number, number % 2))


def _unique_queue(rng: random.Random, number: int) -> Request:
    f = rng.choice(("enqueue", "enqueue", "dequeue"))
    return f, None, None if f == "dequeue" else number + 1


def _stack(rng: random.Random, number: int) -> Request:
    f = rng.choice(("push", "pop"))
    return f, None, None if f == "pop" else rng.choice((number, number % 2))


def _lock(rng: random.Random, number: int) -> Request:
    return rng.choice(("acquire", "release")), None, None


def _bank(rng: random.Random, number: int) -> Request:
    if rng.random() < 0.4:
        return "read", None, None
    return "transfer", None, (rng.randrange(2), rng.randrange(2), rng.randrange(1, 4))


def _multi(rng: random.Random, number: int) -> Request:
    return (
        "txn",
        None,
        tuple((rng.choice("rw"), rng.choice("xy"), rng.randrange(2)) for _ in range(rng.randrange(1, 3))),
    )


def _store(rng: random.Random, number: int) -> Request:
    """What a client of a store asks for: single keys, and transactions over two."""
    f = rng.choice(("txn", "get", "put", "delete", "cas"))
    key, value = rng.choice("xy"), rng.randrange(2)
    if f == "txn":
        return _multi(rng, number)
    return f, key, None if f in ("get", "delete") else (rng.randrange(2), value) if f == "cas" else value


OBJECTS: dict[str, tuple[Callable[[], Model], Script]] = {
    "register": (Register, _register),
    "register, unique values": (Register, _unique_register),
    "cas-register": (CasRegister, _cas),
    "cas-register, unique values": (CasRegister, _unique_cas),
    "kv": (Kv, _letters),
    "kv, unique values": (Kv, _unique_kv),
    "kv, all operations": (Kv, _whole_kv),
    "multi-register, all operations": (MultiRegister, _store),
    "mutex": (Mutex, _lock),
    "set": (SetObject, _elements),
    "set, grow-only": (SetObject, _grow_only),
    "counter": (Counter, _counter),
    "queue": (Queue, _queue),
    "queue, unique values": (Queue, _unique_queue),
    "unordered-queue": (UnorderedQueue, _queue),
    "unordered-queue, unique values": (UnorderedQueue, _unique_queue),
    "stack": (Stack, _stack),
    "lock": (Lock, _lock),
    "bank": (lambda: Bank({0: 5, 1: 5}), _bank),
    "multi-register": (MultiRegister, _multi),
}


def answers(model: Model, state: Value, f: str, key: Value, argument: Value, process: int) -> tuple[Value, Value]:
    """(state after, result) of one call, by asking the model which result it accepts."""
    candidates: list[Value] = [argument, None, True, False]
    if isinstance(state, tuple):
        candidates = [*state[-1:], *state[:1], None] if f in ("dequeue", "pop") else [argument]
        if isinstance(model, Queue) and type(model) is Queue:
            candidates = [*state[:1], None] if f == "dequeue" else [argument]
    if isinstance(model, MultiRegister) and f != "txn" and isinstance(state, frozenset):
        registers = dict(state)
        if f == "get":
            return state, registers.get(key)
        if isinstance(argument, tuple) and registers.get(key) != argument[0]:
            return state, False
        registers[key] = argument[1] if isinstance(argument, tuple) else argument
        after = Record((name, value) for name, value in registers.items() if value is not None)
        return after, True if f == "cas" else argument
    if f in ("read", "get"):
        candidates = [state]
    if f == "acquire":
        candidates = [argument]
    if f == "txn" and isinstance(argument, tuple) and isinstance(state, frozenset):
        registers = dict(state)
        seen = []
        for kind, name, value in argument:
            if kind == "w":
                registers[name] = value
            seen.append((kind, name, value if kind == "w" else registers.get(name)))
        candidates = [tuple(seen)]
    for result in candidates:
        call = Call(f=f, argument=argument, result=result, process=process, key=key)
        after = model.step(state, call)
        if isinstance(after, Several):
            after = after.states[0]
        if after is not ILLEGAL:
            return after, result
    return state, ILLEGAL


def random_history(name: str, seed: int, *, operations: int = 12) -> tuple[History, Model]:
    """A history of the object called *name*, and a model of it. The same seed gives the same history."""
    rng = random.Random(f"{name} {seed}")
    make, script = OBJECTS[name]
    reading = Reading(
        failed=rng.choice(("absent", "observed")),
        nil_read=rng.choice(("value", "value", "unknown")),
        initial=rng.choice(("", None)) if name.startswith("kv") else None,
    )
    model = make().reading(reading)
    size, clients = rng.randrange(2, operations + 1), rng.randrange(1, 6)
    crash, lie, busy = rng.choice((0.0, 0.1, 0.3)), rng.choice((0.0, 0.0, 0.08, 0.25)), rng.uniform(0.3, 0.8)
    states: dict[Value, Value] = {}
    history: list[Event] = []
    past: list[Value] = [None]
    working: dict[int, list[Value]] = {}
    processes = list(range(clients))
    fresh, begun = clients, 0
    ghosts: list[Request] = []

    def effect(process: int, request: Request) -> Value:
        f, key, argument = request
        key = key if model.keyed else None
        state = states.get(key, model.init())
        after, result = answers(model, state, f, request[1], argument, process)
        if result is ILLEGAL:
            # Some say that they did what they cannot have done.
            return argument if rng.random() < lie else ILLEGAL
        states[key] = after
        past.append(result)
        return rng.choice(past) if rng.random() < lie else result

    while begun < size or working:
        idle = [process for process in processes if process not in working]
        if begun < size and idle and (not working or rng.random() < busy):
            process = rng.choice(idle)
            f, key, argument = script(rng, begun)
            begun += 1
            working[process] = [f, key, argument, ILLEGAL, False]
            shown = None if f in ("read", "get") else argument
            history.append(Event(type=EventType.INVOKE, process=process, f=f, key=key, value=shown))
            continue
        if ghosts and rng.random() < 0.2:
            effect(-1, ghosts.pop())
        process = rng.choice(list(working))
        f, key, argument, result, applied = working[process]
        assert isinstance(f, str)
        crashed = rng.random() < crash
        if not applied and not (crashed and rng.random() < 0.5):
            result = effect(process, (f, key, argument))
            working[process] = [f, key, argument, result, True]
            if rng.random() < 0.5 and not crashed:
                continue
            applied = True
        del working[process]
        if crashed:
            history.append(Event(type=EventType.INFO, process=process, f=f, key=key, error="crash"))
            if not applied:
                ghosts.append((f, key, argument))
            processes[processes.index(process)] = fresh
            fresh += 1
        elif result is ILLEGAL:
            history.append(Event(type=EventType.FAIL, process=process, f=f, key=key, error="refused"))
        elif f == "cas" and result is False and rng.random() < 0.7:
            history.append(Event(type=EventType.FAIL, process=process, f=f, key=key, value=argument))
        elif f == "cas" and result is True:
            history.append(Event(type=EventType.OK, process=process, f=f, key=key, value=argument))
        elif f == "acquire":
            token = len(history) if rng.random() < 0.9 else rng.randrange(len(history) + 1)
            history.append(Event(type=EventType.OK, process=process, f=f, key=key, value=token))
        else:
            history.append(Event(type=EventType.OK, process=process, f=f, key=key, value=result))
    return pair(history, reading=reading), model


def crowded_register(seed: int) -> History:
    """Reads and writes of one register: up to twelve clients, two to twenty values, crashes, lies in some."""
    rng = random.Random(seed)
    clients, values, operations = rng.choice((2, 4, 8, 12)), rng.choice((2, 3, 5, 20)), rng.choice((8, 20, 50, 80))
    crash, lie = rng.choice((0.0, 0.0, 0.1)), rng.choice((0.0, 0.0, 0.03))
    busy = rng.choice((0.4, 0.7, 0.9))
    state: Value = None
    free, events = list(range(clients)), list[Event]()
    working: dict[int, tuple[str, Value, bool]] = {}
    fresh = clients
    while operations or working:
        if operations and free and (not working or rng.random() < busy):
            operations -= 1
            process, f = free.pop(rng.randrange(len(free))), rng.choice(("read", "write"))
            value = rng.randrange(values) if f == "write" else None
            working[process] = (f, value, False)
            events.append(Event(type=EventType.INVOKE, process=process, f=f, value=value))
            continue
        process = rng.choice(sorted(working))
        f, value, done = working[process]
        if not done:
            if f == "read":
                value = rng.randrange(values) if rng.random() < lie else state
            elif rng.random() >= lie:
                state = value
            working[process] = (f, value, True)
            continue
        del working[process]
        crashed = rng.random() < crash
        kind = EventType.INFO if crashed else EventType.OK
        events.append(Event(type=kind, process=process, f=f, value=None if crashed else value))
        free.append(fresh if crashed else process)
        fresh += crashed
    return pair(events)


def _texts_of(process: int, number: int) -> tuple[Value, ...]:
    """What one client may write: a text as clients of key-value stores make them, of more than one length."""
    return (f"x {process} {number} y",)


def _lists_of(process: int, number: int) -> tuple[Value, ...]:
    return ((process, number),)


def _lie(rng: random.Random, past: list[Value]) -> Value:
    """What was true before, or a part of it, or a mixture."""
    value, other = rng.choice(past), rng.choice(past)
    if isinstance(value, str) and isinstance(other, str) and rng.random() < 0.5:
        return value[rng.choice((0, 1, len(value) // 2)) :] + rng.choice(("", other))
    return value


def crowded_texts(seed: int) -> History:
    """Get, put and append of texts on one key by up to twelve clients, with crashes, lies in some.

    The texts are few, or all of them distinct."""
    rng = random.Random(f"texts {seed}")
    texts: tuple[Value, ...] | Callable[[int, int], tuple[Value, ...]] = rng.choice(
        (
            _texts_of,
            _texts_of,
            _lists_of,
            ("a", "b"),
            ("xy", "z", "xz", "zy"),
            ((1,), (2,), (3,)),
            ("a", "ab", "b"),
            ("", "a", "b"),
            ("", "x", "yx"),
        )
    )
    clients, operations = rng.choice((2, 4, 8, 12)), rng.choice((6, 10, 20, 40))
    crash, lie = rng.choice((0.0, 0.0, 0.1)), rng.choice((0.0, 0.0, 0.05))
    names = rng.choice(
        (("get", "append", "put"), ("get", "get", "append", "append", "append", "put"), ("get", "append"))
    )
    initial: Value = rng.choice(("", "", None))
    state: Value = initial
    past = [state]
    free, events = list(range(clients)), list[Event]()
    working: dict[int, tuple[str, Value, bool]] = {}
    fresh = clients
    while operations or working:
        if operations and free and (not working or rng.random() < 0.6):
            operations -= 1
            process, f = free.pop(rng.randrange(len(free))), rng.choice(names)
            # An append of nothing says nothing.
            known = texts(process, operations) if callable(texts) else texts
            value = None if f == "get" else rng.choice(known if f == "put" else [text for text in known if text])
            working[process] = (f, value, False)
            events.append(Event(type=EventType.INVOKE, process=process, f=f, value=value))
            continue
        process = rng.choice(sorted(working))
        f, value, done = working[process]
        if not done:
            if f == "get":
                value = _lie(rng, past) if rng.random() < lie else state
            elif rng.random() >= lie:
                state = joined(state, value) if f == "append" else value
                past.append(state)
            working[process] = (f, value, True)
            continue
        del working[process]
        crashed = rng.random() < crash
        kind = EventType.INFO if crashed else EventType.OK
        events.append(Event(type=kind, process=process, f=f, value=None if crashed else value))
        free.append(fresh if crashed else process)
        fresh += crashed
    return pair(events, reading=Reading(initial=initial))


def crowded_bag(seed: int) -> History:
    """An unordered queue of one to three values, found empty at times: up to six clients, crashes, lies in some."""
    rng = random.Random(f"bag {seed}")
    clients, values, operations = rng.choice((2, 4, 6)), rng.choice((1, 2, 3)), rng.choice((8, 14, 24, 40))
    crash, lie = rng.choice((0.0, 0.1, 0.25)), rng.choice((0.0, 0.0, 0.05, 0.15))
    takes, busy = rng.choice((0.4, 0.5, 0.6)), rng.choice((0.4, 0.7))
    held: list[int] = []
    free, events = list(range(clients)), list[Event]()
    working: dict[int, tuple[str, int | None, bool]] = {}
    fresh = clients
    while operations or working:
        if operations and free and (not working or rng.random() < busy):
            operations -= 1
            process, f = free.pop(rng.randrange(len(free))), "dequeue" if rng.random() < takes else "enqueue"
            value = rng.randrange(values) if f == "enqueue" else None
            working[process] = (f, value, False)
            events.append(Event(type=EventType.INVOKE, process=process, f=f, value=value))
            continue
        process = rng.choice(sorted(working))
        f, value, done = working[process]
        if not done and rng.random() >= crash / 2:
            if value is not None:
                held.append(value)
            else:
                value = held.pop(rng.randrange(len(held))) if held else None
                value = rng.choice([None, *range(values)]) if rng.random() < lie else value
            working[process] = (f, value, True)
            continue
        del working[process]
        crashed = not done or rng.random() < crash
        kind = EventType.INFO if crashed else EventType.OK
        events.append(Event(type=kind, process=process, f=f, value=None if crashed else value))
        free.append(fresh if crashed else process)
        fresh += crashed
    return pair(events)

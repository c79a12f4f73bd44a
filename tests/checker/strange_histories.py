"""Small histories that no store would record, for checkers that must not be misled by them.

Answers are drawn at random, not worked out by a simulated object. Processes go on after their operation crashed, the
history ends in the middle, nil is a value, texts are empty, elements repeat, faults stand in between.
"""

import random
from collections.abc import Callable

from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Reading, Value
from troth.verify.models import OBJECTS, Model

_VALUES: tuple[tuple[Value, ...], ...] = (
    (1, 2), (1, 2, 3), (None, 1, 2), ("a", "b"), ("", "a", "ab"), ((), (1,), (1, 2)), ("a", None, 1),
)  # fmt: skip
_TEXTS: tuple[Value, ...] = ("a", "b", "ab", "")
_LISTS: tuple[Value, ...] = ((1,), (2,), (1, 2), ())
_REGISTER = (
    ("read", "write"), ("read", "write", "cas"), ("get", "put", "append"), ("cas", "read"), ("append", "get"),
    ("get", "put", "append", "delete", "cas"),
)  # fmt: skip
_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "register": _REGISTER,
    "kv": _REGISTER,
    "queue": (("enqueue", "dequeue", "dequeue"),),
    "unordered-queue": (("enqueue", "dequeue", "dequeue"),),
    "stack": (("push", "pop", "pop"),),
    "set": (("add", "read"), ("add", "add", "remove", "contains", "read")),
    "counter": (("add", "increment", "decrement", "read"),),
    "mutex": (("acquire", "release"),),
    "lock": (("acquire", "release"),),
}
STRANGE = tuple(_NAMES)


class _Oddities:
    """What is asked and answered in one history."""

    def __init__(self, rng: random.Random, object: str) -> None:
        self.rng, self.object = rng, object
        self.names, self.values = rng.choice(_NAMES[object]), rng.choice(_VALUES)
        self.texts = _TEXTS if rng.random() < 0.6 else _LISTS
        self.keys: tuple[Value, ...] = rng.choice(((None,), (None,), ("x", "y"), (None, 1)))

    def request(self) -> tuple[str, Value, Value]:
        rng = self.rng
        f, key = rng.choice(self.names), rng.choice(self.keys)
        if f in ("read", "get", "delete", "dequeue", "pop", "acquire", "release", "increment", "decrement"):
            return f, key, None
        if f == "cas":
            return f, key, (rng.choice(self.values), rng.choice(self.values))
        if f in ("append", "put"):
            return f, key, rng.choice(self.texts)
        return f, key, rng.choice((1, 2, -1) if self.object == "counter" else self.values)

    def answer(self, f: str, argument: Value) -> Value:
        rng = self.rng
        choices: dict[str, Callable[[], Value]] = {
            "get": lambda: rng.choice((*self.texts, self.texts[1], None)),
            "dequeue": lambda: rng.choice((*self.values, None)),
            "pop": lambda: rng.choice((*self.values, None)),
            "contains": lambda: rng.choice((True, False)),
            "cas": lambda: rng.choice((argument, argument, None, True, False)),
            "acquire": lambda: rng.choice((None, 1, 2, 3)),
            "add": lambda: rng.choice((None, argument, True, False)),
            "remove": lambda: rng.choice((None, argument, True, False)),
        }
        if f != "read":
            return choices.get(f, lambda: rng.choice((argument, None)))()
        if self.object == "set":
            return tuple(rng.sample(self.values, rng.randrange(len(self.values) + 1)))
        return rng.randrange(-1, 4) if self.object == "counter" else rng.choice((*self.values, None))


def strange_history(object: str, seed: int, *, operations: int = 9) -> tuple[History, Model]:
    """A history of the object called *object*, and a model of it. The same seed gives the same history."""
    rng = random.Random(f"strange {object} {seed}")
    odd = _Oddities(rng, object)
    events: list[Event] = []
    working: dict[int, tuple[str, Value, Value]] = {}
    processes = list(range(rng.randrange(1, 5)))
    left = rng.randrange(2, operations)
    while left or working:
        idle = [process for process in processes if process not in working]
        if left and idle and (not working or rng.random() < 0.55):
            process, (f, key, argument) = rng.choice(idle), odd.request()
            left -= 1
            working[process] = (f, key, argument)
            events.append(Event(type=EventType.INVOKE, process=process, f=f, key=key, value=argument))
            continue
        if not left and rng.random() < 0.1:
            break
        process = rng.choice(list(working))
        f, key, argument = working.pop(process)
        kind = rng.choices((EventType.OK, EventType.FAIL, EventType.INFO), (8, 1, 1))[0]
        value, error = None, None
        if kind is EventType.OK:
            value = odd.answer(f, argument)
        else:
            value, error = rng.choice((argument, None)), rng.choice((None, "timed-out"))
            if kind is EventType.INFO and rng.random() < 0.5:
                processes[processes.index(process)] = max(processes) + 1
        events.append(Event(type=kind, process=process, f=f, key=key, value=value, error=error))
        if rng.random() < 0.1:
            events.append(Event(type=EventType.INFO, process="nemesis", f="start", value="a wall"))
    initial: Value = None
    if object in ("register", "kv"):
        initial = rng.choice((None, None, *odd.values))
    elif object == "counter":
        initial = rng.choice((None, 0, 2))
    reading = Reading(
        failed=rng.choice(("absent", "observed")), nil_read=rng.choice(("value", "unknown")), initial=initial
    )
    return pair(events, reading=reading), OBJECTS[object]()

"""Histories of few operations that nearly all overlap, over few values: what the searches have to try the most for."""

import random

from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Reading, Value
from troth.verify.models import ILLEGAL, Model

from .random_histories import OBJECTS, answers

TANGLED = tuple(name for name in OBJECTS if name not in ("lock", "mutex"))
"""Objects of which it does not matter who calls: every operation has a process of its own here."""


def tangled_history(name: str, seed: int, *, operations: int = 9) -> tuple[History, Model]:
    """A history of the object called *name*, and a model of it."""
    rng = random.Random(f"tangled {name} {seed}")
    make, script = OBJECTS[name]
    reading = Reading(
        failed=rng.choice(("absent", "observed")),
        initial=rng.choice(("", None)) if name.startswith("kv") else None,
    )
    model = make().reading(reading)
    length, crash, lie = rng.choice((2, 4, 7)), rng.choice((0.0, 0.15, 0.4)), rng.choice((0.0, 0.1, 0.3))
    marks: list[tuple[float, int, str]] = []
    asked = [script(rng, number) for number in range(rng.randrange(3, operations + 1))]
    one_key = rng.random() < 0.7
    for number in range(len(asked)):
        start = rng.uniform(number, number + 2)
        end = start + rng.uniform(0, length)
        marks += [
            (start, number, "invoke"),
            (rng.uniform(start, end), number, "happens"),
            (end, number, "returns"),
        ]
    states: dict[Value, Value] = {}
    results: dict[int, Value] = {}
    lost = {number for number in range(len(asked)) if rng.random() < crash}
    events: list[Event] = []
    for _, number, what in sorted(marks):
        f, key, argument = asked[number]
        key = "x" if one_key and key is not None else key
        if what == "invoke":
            shown = None if f in ("read", "get") else argument
            events.append(Event(type=EventType.INVOKE, process=number, f=f, key=key, value=shown))
        elif what == "happens":
            if number in lost and rng.random() < 0.5:
                continue
            slot = key if model.keyed else None
            after, result = answers(model, states.get(slot, model.init()), f, key, argument, number)
            if result is not ILLEGAL:
                states[slot] = after
            results[number] = rng.choice([*results.values(), result]) if rng.random() < lie else result
        elif number in lost:
            # Most never return at all.
            if rng.random() < 0.3:
                events.append(Event(type=EventType.INFO, process=number, f=f, key=key))
        else:
            result = results[number]
            if result is ILLEGAL or (f == "cas" and result is False and rng.random() < 0.7):
                events.append(Event(type=EventType.FAIL, process=number, f=f, key=key, value=argument))
            else:
                told = argument if f == "cas" and result is True else result
                events.append(Event(type=EventType.OK, process=number, f=f, key=key, value=told))
    return pair(events, reading=reading), model

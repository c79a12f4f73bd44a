"""Small random histories of replicated registers that break, or keep, the weak models."""

import random

from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Value


def weak_history(seed: int, *, operations: int = 9) -> History:
    """Sessions on replicas that hear of writes late, out of order, or one session at a time."""
    rng = random.Random(f"weak {seed}")
    sessions, keys = rng.randrange(1, 4), "xy"[: rng.randrange(1, 3)]
    # How a replica hears of writes: any of them at random, in order of their session, or in the order made.
    manner = rng.choice(("random", "session", "made"))
    sticky = rng.random() < 0.5
    roam, lie = rng.choice((0.0, 0.3)), rng.choice((0.0, 0.0, 0.1))
    if rng.random() < 0.4:
        # Where causes get lost between three sessions and nothing else goes wrong.
        sessions, keys, manner, sticky, roam, lie = 3, "xy", "session", True, 0.0, 0.0
    writes: list[tuple[int, str, Value]] = []
    heard: list[set[int]] = [set() for _ in range(sessions)]
    states: list[dict[str, Value]] = [{} for _ in range(sessions)]
    events: list[Event] = []

    def hear(replica: int) -> None:
        unheard = [at for at in range(len(writes)) if at not in heard[replica]]
        if not unheard:
            return
        at = unheard[0] if manner == "made" else rng.choice(unheard)
        if manner == "session":
            at = next(other for other in unheard if writes[other][0] == writes[at][0])
        heard[replica].add(at)
        states[replica][writes[at][1]] = writes[at][2]

    for _ in range(rng.randrange(2, operations + 1)):
        session = rng.randrange(sessions)
        replica = session if sticky and rng.random() >= roam else rng.randrange(sessions)
        for _ in range(rng.randrange(3)):
            hear(rng.randrange(sessions))
        key = rng.choice(keys)
        if rng.random() < 0.45 and len(writes) < 5:
            value: Value = len(writes) + 1
            writes.append((session, key, value))
            heard[replica].add(len(writes) - 1)
            states[replica][key] = value
            f, argument, result = "write", value, value
        else:
            f, argument, result = "read", None, states[replica].get(key)
            if rng.random() < lie:
                result = rng.choice([None, *(value for _, name, value in writes if name == key)])
        events.append(Event(type=EventType.INVOKE, process=session, f=f, key=key, value=argument))
        events.append(Event(type=EventType.OK, process=session, f=f, key=key, value=result))
    return pair(events)

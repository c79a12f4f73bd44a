"""Generated histories to measure the checkers on: what real stores record, with and without bugs.

Every history comes from a small simulated store with one true order, so a legal one is legal by construction; a bug
is a stale read, a lost write or a wrong cas at a given rate. Shapes follow public test data:

* etcd_like: 5 clients on one cas-register with values 0..4, about 85 operations, 7 to 25 of them crashed;
* kv_like: 350 to 2000 get/put/append over 10 keys from 10 to 50 clients, values are unique strings;
* kv_rounds: the same in rounds, in each of which every client counts from 0 again, so that texts repeat;
* few_values: 20 000 reads and writes of one register by 8 to 20 clients, values 0..99;
* register_unique: reads and writes of one register, every value written once, of any length;
* crowded, repeating_kv, container, wrong_read: shapes that are hard on a checker, to know the worst case.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from msgspec import structs

from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Reading

INVOKE, OK, FAIL, INFO = EventType.INVOKE, EventType.OK, EventType.FAIL, EventType.INFO


@dataclass
class _Client:
    process: int
    request: tuple[str, object, object] | None = None
    answer: object = None
    applied: bool = False
    crashes: bool = False


@dataclass
class _Store:
    initial: object
    values: dict[object, object] = field(default_factory=dict)
    past: dict[object, list[object]] = field(default_factory=dict)

    def get(self, key: object) -> object:
        return self.values.get(key, self.initial)

    def put(self, key: object, value: object) -> None:
        self.past.setdefault(key, [self.initial]).append(self.get(key))
        self.values[key] = value

    def stale(self, key: object, rng: random.Random) -> object:
        return rng.choice(self.past.get(key, [self.initial])[-4:])


def _apply(store: _Store, client: _Client, rng: random.Random, bug: float) -> None:
    assert client.request is not None
    f, key, argument = client.request
    client.applied = True
    wrong = rng.random() < bug
    if f in ("read", "get"):
        client.answer = store.stale(key, rng) if wrong else store.get(key)
    elif f in ("write", "put"):
        if not wrong:
            store.put(key, argument)
        client.answer = argument
    elif f == "append":
        if not wrong:
            store.put(key, str(store.get(key)) + str(argument))
        client.answer = argument
    else:
        assert isinstance(argument, tuple)
        seen = store.stale(key, rng) if wrong else store.get(key)
        client.answer = seen == argument[0]
        if client.answer:
            store.put(key, argument[1])


def _run(
    rng: random.Random,
    *,
    operations: int,
    clients: int,
    request: object,
    initial: object,
    crash: float,
    bug: float,
    reading: Reading,
    busy: float = 0.5,
) -> History:
    """Interleave invocations, effects and returns at random. *busy* near 1 keeps all clients occupied."""
    assert callable(request)
    store = _Store(initial)
    crew = [_Client(process) for process in range(clients)]
    fresh = clients
    events: list[Event] = []
    lingering: list[_Client] = []
    begun = 0
    now = 0
    while True:
        idle = [client for client in crew if client.request is None]
        working = [client for client in crew if client.request is not None]
        if begun >= operations and not working:
            break
        now += rng.randrange(1, 2000)
        if idle and begun < operations and (not working or rng.random() < busy):
            client = rng.choice(idle)
            client.request = request(rng, begun)
            client.applied, client.answer = False, None
            client.crashes = rng.random() < crash
            begun += 1
            f, key, argument = client.request
            value = None if f in ("read", "get") else argument
            events.append(Event(type=INVOKE, process=client.process, f=f, key=key, value=value, time=now))
            continue
        if lingering and rng.random() < 0.1:
            # A crashed operation may still take effect long after its client gave up.
            ghost = lingering.pop(rng.randrange(len(lingering)))
            if rng.random() < 0.5:
                _apply(store, ghost, rng, 0.0)
        client = rng.choice(working)
        if not client.applied and not client.crashes:
            _apply(store, client, rng, bug)
            if rng.random() < 0.5:
                continue
        assert client.request is not None
        f, key, argument = client.request
        if client.crashes:
            if f in ("read", "get"):
                kind, value = FAIL, None
            else:
                kind, value = INFO, None
                lingering.append(_Client(client.process, client.request))
            events.append(
                Event(type=kind, process=client.process, f=f, key=key, value=value, time=now, error="timed-out")
            )
            if kind is INFO:
                client.process, fresh = fresh, fresh + 1
        elif f == "cas" and client.answer is False:
            events.append(Event(type=FAIL, process=client.process, f=f, key=key, value=argument, time=now))
        else:
            value = client.answer if f in ("read", "get") else argument
            events.append(Event(type=OK, process=client.process, f=f, key=key, value=value, time=now))
        client.request = None
    return pair(events, reading=reading)


def etcd_like(seed: int, *, bug: float | None = None, operations: int = 85, clients: int = 5) -> History:
    """A cas-register log with crashes and failed cas that must be placed."""
    rng = random.Random(seed)
    rate = rng.choice([0.0, 0.0, 0.02, 0.1]) if bug is None else bug

    def request(rng: random.Random, _: int) -> tuple[str, object, object]:
        f = rng.choice(("read", "write", "cas"))
        if f == "read":
            return f, None, None
        return (f, None, rng.randrange(5)) if f == "write" else (f, None, (rng.randrange(5), rng.randrange(5)))

    return _run(
        rng,
        operations=rng.randrange(operations - 15, operations + 16),
        clients=clients,
        request=request,
        initial=None,
        crash=rng.uniform(0.12, 0.35),
        bug=rate,
        reading=Reading(failed="observed"),
        busy=rng.uniform(0.4, 0.8),
    )


def kv_like(
    seed: int,
    *,
    bug: float | None = None,
    operations: int | None = None,
    clients: int | None = None,
    crash: float = 0.0,
) -> History:
    """Get, put and append on ten keys; values are strings that grow."""
    rng = random.Random(seed)
    crew = rng.choice((10, 25, 50)) if clients is None else clients
    rate = rng.choice([0.0, 0.0, 0.002]) if bug is None else bug

    def request(rng: random.Random, number: int) -> tuple[str, object, object]:
        f = rng.choice(("get", "get", "put", "append", "append"))
        return f, str(rng.randrange(10)), None if f == "get" else f"x {rng.randrange(crew)} {number} y"

    return _run(
        rng,
        operations=rng.randrange(350, 2001) if operations is None else operations,
        clients=crew,
        request=request,
        initial="",
        crash=crash,
        bug=rate,
        reading=Reading(initial=""),
        busy=rng.uniform(0.6, 0.95),
    )


def kv_rounds(seed: int, *, bug: float | None = None) -> History:
    """Get, put and append on ten keys in rounds: the texts of one are those of the next, if mostly on other keys."""
    rng = random.Random(seed)
    crew, rounds = rng.choice((1, 10, 50)), rng.choice((2, 3, 5))
    rate = rng.choice([0.0, 0.0, 0.002]) if bug is None else bug
    operations = rng.randrange(350, 2001)
    each = max(1, operations // crew // rounds)
    counts = [0] * crew

    def request(rng: random.Random, _: int) -> tuple[str, object, object]:
        f, key = rng.choice(("get", "get", "put", "append", "append", "append", "append")), str(rng.randrange(10))
        if f == "get":
            return f, key, None
        client = rng.randrange(crew)
        counts[client] += 1
        return f, key, f"x {client} {(counts[client] - 1) % each} y"

    return _run(
        rng,
        operations=operations,
        clients=crew,
        request=request,
        initial="",
        crash=0.0,
        bug=rate,
        reading=Reading(initial=""),
        busy=rng.uniform(0.6, 0.95),
    )


def few_values(seed: int, *, operations: int = 20_000, bug: float = 0.0) -> History:
    """Reads and writes of one register, values 0..99."""

    def request(rng: random.Random, _: int) -> tuple[str, object, object]:
        return ("write", None, rng.randrange(100)) if rng.random() < 0.5 else ("read", None, None)

    return _run(
        random.Random(seed),
        operations=operations,
        clients=(8, 12, 16, 20)[seed % 4],
        request=request,
        initial=None,
        crash=0.0,
        bug=bug,
        reading=Reading(failed="observed"),
        busy=0.8,
    )


def register_unique(seed: int, operations: int, *, clients: int = 10, bug: float = 0.0) -> History:
    """Reads and writes of one register, every value written once."""

    def request(rng: random.Random, number: int) -> tuple[str, object, object]:
        return ("write", None, number + 1) if rng.random() < 0.5 else ("read", None, None)

    return _run(
        random.Random(seed),
        operations=operations,
        clients=clients,
        request=request,
        initial=None,
        crash=0.0,
        bug=bug,
        reading=Reading(),
    )


def wrong_read(history: History, seed: int) -> History:
    """The same with one late read (or dequeue) that returned what another one did: illegal more often than not."""
    rng = random.Random(seed)
    looks = ("read", "get", "dequeue", "pop")
    reads = [op for op in history.operations if op.f in looks and op.outcome is OK and op.result is not None]
    late = reads[len(reads) * 3 // 4 :]
    if not late:
        return history
    chosen = rng.choice(late)
    others = [op.result for op in reads if op.result != chosen.result] or [chosen.result]
    operations = list(history.operations)
    operations[chosen.index] = structs.replace(chosen, result=rng.choice(others))
    return History(operations, timeline=history.timeline, reading=history.reading, length=history.length)


def crowded(seed: int, *, clients: int, operations: int, values: int, crash: float, cas: int = 1) -> History:
    """A cas-register under pressure: many clients, few values, crashes; *cas* times as many cas as reads."""

    def request(rng: random.Random, _: int) -> tuple[str, object, object]:
        f = rng.choices(("read", "write", "cas"), (1, 1, cas))[0]
        pair = rng.randrange(values), rng.randrange(values)
        return f, None, None if f == "read" else pair[0] if f == "write" else pair

    return _run(
        random.Random(seed),
        operations=operations,
        clients=clients,
        request=request,
        initial=None,
        crash=crash,
        bug=0.0,
        reading=Reading(failed="observed"),
        busy=0.9,
    )


def repeating_kv(seed: int, *, clients: int, operations: int, keys: int, crash: float) -> History:
    """Get, put and append of five texts over and over, so that nothing tells one write from another."""

    def request(rng: random.Random, _: int) -> tuple[str, object, object]:
        f = rng.choice(("get", "get", "put", "append", "append"))
        return f, str(rng.randrange(keys)), None if f == "get" else rng.choice("abcde")

    return _run(
        random.Random(seed),
        operations=operations,
        clients=clients,
        request=request,
        initial="",
        crash=crash,
        bug=0.0,
        reading=Reading(initial=""),
        busy=0.9,
    )


def container(
    seed: int, object: str, operations: int, *, clients: int = 5, crash: float = 0.0, values: int = 0
) -> History:
    """A queue or stack of distinct elements (or of *values* over and over), or a counter, found empty at times."""
    rng = random.Random(seed)
    names = {"queue": ("enqueue", "dequeue"), "stack": ("push", "pop"), "counter": ("add", "read")}[object]
    held: list[int] = []
    total = begun = 0
    events: list[Event] = []
    crew: dict[int, list[object] | None] = dict.fromkeys(range(clients))
    while begun < operations or any(crew.values()):
        idle = [process for process, work in crew.items() if work is None]
        working = [process for process, work in crew.items() if work is not None]
        if begun < operations and idle and (not working or rng.random() < 0.7):
            begun += 1
            process, f = rng.choice(idle), rng.choice(names)
            element = rng.randrange(1, 4) if object == "counter" else begun % values if values else begun
            value = None if f == names[1] else element
            crew[process] = [f, value, False]
            events.append(Event(type=INVOKE, process=process, f=f, value=value))
            continue
        process = rng.choice(working)
        work = crew[process]
        assert work is not None
        if not work[2]:
            work[2] = True
            if work[0] == names[0]:
                assert isinstance(work[1], int)
                held.append(work[1])
                total += work[1]
            elif object == "counter":
                work[1] = total
            else:
                work[1] = held.pop(0 if object == "queue" else -1) if held else None
            if rng.random() < 0.5:
                continue
        crashed = rng.random() < crash
        kind, value = (INFO, None) if crashed else (OK, work[1])
        events.append(Event(type=kind, process=process, f=str(work[0]), value=value))
        crew[process] = None
        if crashed:
            del crew[process]
            crew[max(crew, default=0) + clients + process + 1] = None
    return pair(events)


def cas_register(
    seed: int, operations: int, *, clients: int = 10, bug: float = 0.0, crash: float = 0.0
) -> History:
    """Reads, writes and cas of one register with five values, of any length."""

    def request(rng: random.Random, _: int) -> tuple[str, object, object]:
        f = rng.choice(("read", "write", "cas"))
        value = rng.randrange(5)
        return (f, None, None) if f == "read" else (f, None, value if f == "write" else (value, rng.randrange(5)))

    return _run(
        random.Random(seed),
        operations=operations,
        clients=clients,
        request=request,
        initial=None,
        crash=crash,
        bug=bug,
        reading=Reading(failed="observed"),
    )


def register_keys(seed: int, operations: int, *, clients: int = 8, keys: int = 5) -> History:
    """Reads and writes of some keys, every value written once."""

    def request(rng: random.Random, number: int) -> tuple[str, object, object]:
        key = str(rng.randrange(keys))
        return ("write", key, number + 1) if rng.random() < 0.5 else ("read", key, None)

    return _run(
        random.Random(seed),
        operations=operations,
        clients=clients,
        request=request,
        initial=None,
        crash=0.0,
        bug=0.0,
        reading=Reading(),
    )

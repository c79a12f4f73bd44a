"""Oracles for transactional models too simple to be wrong, and random histories to put to them.

They try every serial order, every interleaving of starts and commits, every commit order, every version order: nothing
of it is shared with `troth.verify.transactions`. For histories of half a dozen transactions.
"""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from troth.verify.completions import pair
from troth.verify.history import FOREVER, Event, EventType, History, Value

Store = dict[Value, tuple[Value, ...]]
LIST, REGISTER = "list-append", "rw-register"
_ORDERS_MAX = 3_000


@dataclass
class Txn:
    """One transaction: what it asked for and, if ok, what it was told."""

    number: int
    process: object
    outcome: EventType
    micros: tuple[tuple[str, Value, Value], ...]
    invoked: int
    completed: int


def transactions_of(history: History) -> list[Txn]:
    found = []
    for op in history.operations:
        asked = op.argument if isinstance(op.argument, tuple) else ()
        value: Value = asked
        if op.outcome is EventType.OK:
            # Ok without a value: it wrote, and nobody knows what it read.
            value = tuple(micro for micro in asked if micro[0] != "r") if op.result is None else op.result
        assert isinstance(value, tuple)
        end = op.completed if op.outcome is EventType.OK else FOREVER
        found.append(Txn(op.index, op.process, op.outcome, value, op.invoked, end))
    return found


def committed_subsets(txns: list[Txn]) -> Iterator[list[Txn]]:
    """Every choice of which transactions with an unknown outcome happened."""
    sure = [txn for txn in txns if txn.outcome is EventType.OK]
    open_ = [txn for txn in txns if txn.outcome is EventType.INFO]
    for size in range(len(open_) + 1):
        for chosen in itertools.combinations(open_, size):
            yield sorted([*sure, *chosen], key=lambda txn: txn.number)


def must_precede(first: Txn, second: Txn, level: str) -> bool:
    """Whether sessions ("process") or real time ("realtime") put *first* before *second*."""
    if first.outcome is not EventType.OK or level == "":
        return False
    if level == "process":
        return first.process == second.process and first.number < second.number
    return first.completed < second.invoked


def replay(txn: Txn, snapshot: Store) -> tuple[bool, Store]:
    """Run *txn* on a snapshot: (whether its reads return what was recorded, what it leaves behind)."""
    state = dict(snapshot)
    for f, key, value in txn.micros:
        if f == "append":
            state[key] = (*state.get(key, ()), value)
        elif f == "w":
            state[key] = (value,)
        elif txn.outcome is EventType.OK:
            now = state.get(key, ())
            seen = ((value,) if value is not None else ()) if not isinstance(value, tuple) else value
            if now != seen:
                return False, state
    return True, state


def written(txn: Txn) -> set[Value]:
    return {key for f, key, _ in txn.micros if f != "r"}


def serializable(txns: list[Txn], level: str = "") -> bool:
    """Try every serial order."""
    return any(_serial(chosen, level) for chosen in committed_subsets(txns))


def _serial(chosen: list[Txn], level: str) -> bool:
    before = {
        txn.number: {other.number for other in chosen if other is not txn and must_precede(other, txn, level)}
        for txn in chosen
    }
    seen: set[object] = set()
    stack: list[tuple[frozenset[int], Store]] = [(frozenset(), {})]
    while stack:
        done, store = stack.pop()
        if len(done) == len(chosen):
            return True
        mark = (done, frozenset(store.items()))
        if mark in seen:
            continue
        seen.add(mark)
        for txn in chosen:
            if txn.number not in done and before[txn.number] <= done:
                fits, after = replay(txn, store)
                if fits:
                    stack.append((done | {txn.number}, after))
    return False


def snapshot_isolated(txns: list[Txn], level: str = "") -> bool:
    """Try every interleaving of starts and commits; the first committer wins."""
    return any(_snapshots(chosen, level) for chosen in committed_subsets(txns))


def _snapshots(chosen: list[Txn], level: str) -> bool:
    before = {
        txn.number: {other.number for other in chosen if other is not txn and must_precede(other, txn, level)}
        for txn in chosen
    }
    seen: set[object] = set()
    # committed, open (number -> the store when it started), store
    stack: list[tuple[frozenset[int], tuple[tuple[int, frozenset[object]], ...], Store]] = [(frozenset(), (), {})]
    by_number = {txn.number: txn for txn in chosen}
    while stack:
        done, opened, store = stack.pop()
        if len(done) == len(chosen):
            return True
        mark = (done, opened, frozenset(store.items()))
        if mark in seen:
            continue
        seen.add(mark)
        running = dict(opened)
        for txn in chosen:
            if txn.number in done or txn.number in running or not before[txn.number] <= done:
                continue
            if replay(txn, store)[0]:
                snapshot = frozenset(store.items())
                stack.append((done, (*opened, (txn.number, snapshot)), store))
        for number, frozen in opened:
            txn, snapshot = by_number[number], dict(frozen)
            if all(store.get(key, ()) == snapshot.get(key, ()) for key in written(txn)):
                after = replay(txn, snapshot)[1]
                merged = {**store, **{key: after[key] for key in written(txn)}}
                rest = tuple(item for item in opened if item[0] != number)
                stack.append((done | {number}, rest, merged))
    return False


def _external(txn: Txn, workload: str) -> tuple[bool, dict[Value, Value], list[tuple[Value, Value]]]:
    """(internally consistent, key -> the version of others that was read first, all such reads in order)."""
    external: dict[Value, Value] = {}
    every: list[tuple[Value, Value]] = []
    own: dict[Value, list[Value]] = {}
    mine = {(key, value) for f, key, value in txn.micros if f != "r"}
    if txn.outcome is not EventType.OK:
        return True, {}, []
    fine = True
    for f, key, value in txn.micros:
        if f == "append":
            own.setdefault(key, []).append(value)
        elif f == "w":
            own[key] = [value]
        elif workload == LIST:
            seen = value if isinstance(value, tuple) else ()
            tail = tuple(own.get(key, []))
            if len(seen) < len(tail) or seen[len(seen) - len(tail) :] != tail:
                fine = False
            version = seen[: len(seen) - len(tail)]
            if any((key, element) in mine for element in version):
                fine = False
            fine = fine and external.setdefault(key, version) == version
        elif key in own:
            fine = fine and value == own[key][-1]
            if (key, value) not in mine:
                every.append((key, value))
        else:
            fine = fine and (key, value) not in mine and external.setdefault(key, value) == value
            every.append((key, value))
    return fine, external, every


def axiomatic(txns: list[Txn], workload: str, axiom: str, sessions: bool) -> bool:
    """Try every commit order against the axioms of Biswas & Enea. axiom: "committed", "atomic" or "causal"."""
    return any(_commit_orders(chosen, workload, axiom, sessions) for chosen in committed_subsets(txns))


def _commit_orders(chosen: list[Txn], workload: str, axiom: str, sessions: bool) -> bool:
    final: dict[tuple[Value, Value], Txn] = {}
    for txn in chosen:
        last = {key: value for f, key, value in txn.micros if f != "r"}
        for key, value in last.items():
            final[key, value] = txn
    reads: dict[int, list[tuple[Value, Value]]] = {}
    for txn in chosen:
        fine, external, every = _external(txn, workload)
        if axiom == "committed":
            own_writes: dict[Value, Value] = {}
            for f, key, value in txn.micros:
                if f == "w":
                    own_writes[key] = value
                elif txn.outcome is EventType.OK and own_writes.get(key, value) != value:
                    return False
            if any((k, v) in {(key, value) for f, key, value in txn.micros if f == "w"} for k, v in every):
                return False
            reads[txn.number] = every
        else:
            if not fine:
                return False
            reads[txn.number] = [(key, _last(version, workload)) for key, version in external.items()]
        for key, value in reads[txn.number]:
            if value is not None and (key, value) not in final:
                return False
    source: dict[int, list[tuple[Value, Txn | None]]] = {
        number: [(key, None if value is None else final[key, value]) for key, value in mine]
        for number, mine in reads.items()
    }
    direct: dict[int, set[int]] = {}
    for txn in chosen:
        known = {writer.number for _, writer in source[txn.number] if writer is not None and writer is not txn}
        if sessions:
            known |= {other.number for other in chosen if other is not txn and must_precede(other, txn, "process")}
        direct[txn.number] = known
    past = {number: set(known) for number, known in direct.items()}
    for _ in chosen:
        for known in past.values():
            for other in list(known):
                known |= past[other]
    for order in itertools.permutations(chosen):
        place = {txn.number: at for at, txn in enumerate(order)}
        if any(place[other] > place[number] for number, known in direct.items() for other in known):
            continue
        if workload == LIST and not _lists_match(order):
            continue
        if all(_explained(txn, source, direct, past, place, chosen, axiom) for txn in chosen):
            return True
    return False


def _last(version: Value, workload: str) -> Value:
    if workload == LIST:
        assert isinstance(version, tuple)
        return version[-1] if version else None
    return version


def _lists_match(order: tuple[Txn, ...]) -> bool:
    """Whether every list read is the list of a moment of *order* (own elements at its end aside)."""
    lists: dict[Value, list[Value]] = {}
    for txn in order:
        for f, key, value in txn.micros:
            if f == "append":
                lists.setdefault(key, []).append(value)
    for txn in order:
        if txn.outcome is EventType.OK:
            for f, key, value in txn.micros:
                if f == "r":
                    seen = value if isinstance(value, tuple) else ()
                    whole = tuple(lists.get(key, ()))
                    if whole[: len(seen)] != seen:
                        return False
    return True


def _explained(
    txn: Txn,
    source: dict[int, list[tuple[Value, Txn | None]]],
    direct: dict[int, set[int]],
    past: dict[int, set[int]],
    place: dict[int, int],
    chosen: list[Txn],
    axiom: str,
) -> bool:
    for at, (key, writer) in enumerate(source[txn.number]):
        if axiom == "committed":
            known = {other.number for _, other in source[txn.number][:at] if other is not None}
        else:
            known = direct[txn.number] if axiom == "atomic" else past[txn.number]
        for other in chosen:
            if other.number in known and other is not writer and other is not txn and key in written(other):
                if writer is txn:
                    continue
                if writer is None or place[other.number] > place[writer.number]:
                    return False
    return True


def phenomena(txns: list[Txn], workload: str, level: str, rw: bool, wr: bool = True) -> bool | None:
    """Whether some version order keeps the graph of ww (and wr, rw) and *level* edges free of cycles.

    None when there are more version orders than are worth trying.

    For list-append with lists that agree; crashed transactions count when somebody saw a write of theirs.
    """
    seen = set()
    for txn in txns:
        if txn.outcome is EventType.OK:
            for f, key, value in txn.micros:
                if f == "r" and value is not None:
                    seen |= {(key, e) for e in (value if isinstance(value, tuple) else (value,))}
    alive = [
        txn
        for txn in txns
        if txn.outcome is EventType.OK
        or (
            txn.outcome is EventType.INFO and any((key, value) in seen for f, key, value in txn.micros if f != "r")
        )
    ]
    writer = {(key, value): txn for txn in alive for f, key, value in txn.micros if f != "r"}
    values: dict[Value, list[Value]] = {}
    for txn in alive:
        finals: dict[Value, list[Value]] = {}
        for f, key, value in txn.micros:
            if f == "append":
                finals.setdefault(key, []).append(value)
            elif f == "w":
                finals[key] = [value]
        for key, mine in finals.items():
            values.setdefault(key, []).extend(mine)
    keys = sorted(values, key=str)
    # Lists that agree fix how an order begins; only what was never read can stand anywhere after it.
    begins: dict[Value, list[Value]] = {key: [] for key in keys}
    for txn in alive if workload == LIST else ():
        for f, key, value in txn.micros:
            if f == "r" and txn.outcome is EventType.OK and isinstance(value, tuple) and key in begins:
                begins[key] = max(begins[key], [e for e in value if (key, e) in writer], key=len)
    rests = {key: [value for value in values[key] if value not in begins[key]] for key in keys}
    if math.prod(math.factorial(len(rest)) for rest in rests.values()) > _ORDERS_MAX:
        return None
    choices = [[(*begins[key], *order) for order in itertools.permutations(rests[key])] for key in keys]
    for orders in itertools.product(*choices):
        if _acyclic(alive, dict(zip(keys, orders, strict=True)), writer, workload, level, rw, wr):
            return True
    return False


def _acyclic(
    alive: list[Txn],
    orders: dict[Value, tuple[Value, ...]],
    writer: dict[tuple[Value, Value], Txn],
    workload: str,
    level: str,
    rw: bool,
    wr: bool,
) -> bool:
    edges: set[tuple[int, int]] = set()
    for key, order in orders.items():
        for first, second in itertools.combinations(order, 2):
            edges.add((writer[key, first].number, writer[key, second].number))
            if writer[key, first] is writer[key, second] and workload == LIST:
                program = [value for f, k, value in writer[key, first].micros if k == key and f != "r"]
                if program.index(first) > program.index(second):
                    return False
    for txn in alive:
        if txn.outcome is not EventType.OK:
            continue
        for f, key, value in txn.micros:
            if f != "r":
                continue
            order = orders.get(key, ())
            if workload == LIST:
                known = [e for e in (value if isinstance(value, tuple) else ()) if (key, e) in writer]
                if tuple(known) != order[: len(known)]:
                    return False
                at = len(known)
            else:
                if value is not None and value not in order:
                    # An overwritten or unknown version: no place in the order.
                    continue
                at = 0 if value is None else order.index(value) + 1
            if at and wr:
                edges.add((writer[key, order[at - 1]].number, txn.number))
            if rw:
                edges |= {(txn.number, writer[key, later].number) for later in order[at:]}
    for first, second in itertools.permutations(alive, 2):
        if must_precede(first, second, level):
            edges.add((first.number, second.number))
    return not _has_cycle({txn.number for txn in alive}, {(a, b) for a, b in edges if a != b})


def _has_cycle(nodes: set[int], edges: set[tuple[int, int]]) -> bool:
    left = set(nodes)
    while left:
        free = {node for node in left if not any(a in left for a, b in edges if b == node)}
        if not free:
            return True
        left -= free
    return False


def random_transactions(seed: int, workload: str, *, count: int = 6) -> History:
    """A small history from a store of random quality: serial, snapshots, or careless; some lie on top."""
    rng = random.Random(f"{workload} {seed}")
    size, clients = rng.randrange(2, count + 1), rng.randrange(1, 5)
    keys = "xyz"[: rng.choice((1, 2, 2, 3))]
    style = rng.choice(("serial", "snapshot", "latest", "dirty", "stale"))
    lie, abort, crash = rng.choice((0.0, 0.0, 0.05, 0.2)), rng.choice((0.0, 0.15)), rng.choice((0.0, 0.2))
    wide, reading = rng.choice((1, 2, 3, 4)), rng.uniform(0.2, 0.8)
    many_elements = rng.random() < 0.2
    counter = itertools.count(1)
    store: Store = {}
    past: list[Store] = [{}]
    events: list[Event] = []
    open_: dict[int, dict[str, object]] = {}
    begun, fresh = 0, clients
    processes = list(range(clients))
    write = "append" if workload == LIST else "w"

    def put(state: Store, key: Value, value: Value) -> None:
        state[key] = (*state.get(key, ()), value) if workload == LIST else (value,)

    def seen(state: Store, key: Value) -> Value:
        value = state.get(key, ())
        if workload == LIST:
            return value if value or rng.random() < 0.5 else None
        return value[-1] if value else None

    while begun < size or open_:
        idle = [process for process in processes if process not in open_]
        if begun < size and idle and (not open_ or (rng.random() < 0.5 and (style != "serial" or len(open_) < 3))):
            process = rng.choice(idle)
            begun += 1
            micros = []
            for _ in range(rng.randrange(1, wide + 1)):
                f = "r" if rng.random() < reading else write
                micros.append((f, rng.choice(keys), None if f == "r" else next(counter)))
            if many_elements and rng.random() < 0.5:
                micros = [(f, keys[0], v) for f, _, v in micros]
            open_[process] = {"micros": micros, "at": 0, "out": [], "own": {}, "snapshot": dict(store)}
            events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=tuple(micros)))
            continue
        process = rng.choice(list(open_))
        txn = open_[process]
        micros, out, own, snapshot = txn["micros"], txn["out"], txn["own"], txn["snapshot"]
        assert isinstance(micros, list) and isinstance(out, list) and isinstance(own, dict)
        assert isinstance(snapshot, dict)
        steps = len(micros) if style == "serial" else 1
        if style == "serial" and not out:
            snapshot = dict(store)
        for f, key, value in micros[len(out) : len(out) + steps]:
            view = {"latest": store, "dirty": store, "stale": rng.choice(past)}.get(style, snapshot)
            state = dict(view)
            for own_key, mine in own.items():
                for element in mine:
                    if style != "dirty":
                        put(state, own_key, element)
            if f == "r":
                value = seen(state, key)
                if rng.random() < lie:
                    value = seen(rng.choice(past), key)
                out.append((f, key, value))
            else:
                own.setdefault(key, []).append(value)
                if style == "dirty":
                    put(store, key, value)
                out.append((f, key, value))
        if len(out) < len(micros):
            continue
        del open_[process]
        fails, crashes = rng.random() < abort, rng.random() < crash
        if style == "snapshot" and any(store.get(key) != snapshot.get(key) for key in own) and rng.random() < 0.9:
            fails = True
        if (not fails or rng.random() < 0.1) and not (crashes and rng.random() < 0.5) and style != "dirty":
            for key, mine in own.items():
                for element in mine:
                    put(store, key, element)
        past.append(dict(store))
        if crashes:
            events.append(Event(type=EventType.INFO, process=process, f="txn", value=tuple(micros)))
            processes[processes.index(process)] = fresh
            fresh += 1
        elif fails:
            events.append(Event(type=EventType.FAIL, process=process, f="txn", value=tuple(micros)))
        else:
            events.append(Event(type=EventType.OK, process=process, f="txn", value=tuple(out)))
    return pair(events)


def random_skews(seed: int, workload: str) -> History:
    """A few transactions that read little of what the others write: rich in write skew and in unread writes."""
    rng = random.Random(f"skew {workload} {seed}")
    size, keys, counter = rng.randrange(3, 6), "xyzuv"[: rng.randrange(2, 6)], itertools.count(1)
    write = "append" if workload == LIST else "w"
    asked: list[tuple[tuple[str, Value, Value], ...]] = []
    for _ in range(size):
        micros: list[tuple[str, Value, Value]] = []
        for key in rng.sample(keys, rng.randrange(1, len(keys) + 1)):
            if rng.random() < 0.5:
                micros.append(("r", key, None))
            else:
                micros.append((write, key, next(counter)))
        asked.append(tuple(micros))
    written_to: dict[Value, list[Value]] = {}
    for micros_ in asked:
        for f, key, value in micros_:
            if f != "r":
                written_to.setdefault(key, []).append(value)
    orders = {key: rng.sample(values, len(values)) for key, values in written_to.items()}
    answered: list[tuple[tuple[str, Value, Value], ...]] = []
    for micros_ in asked:
        out: list[tuple[str, Value, Value]] = []
        for f, key, value in micros_:
            if f == "r":
                order = orders.get(key, [])
                seen = order[: 0 if rng.random() < 0.75 else rng.randrange(len(order) + 1)]
                value = tuple(seen) if workload == LIST else (seen[-1] if seen else None)
            out.append((f, key, value))
        answered.append(tuple(out))
    events: list[Event] = []
    if rng.random() < 0.3:
        for request, answer in zip(asked, answered, strict=True):
            process = rng.randrange(2)
            events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=request))
            events.append(Event(type=EventType.OK, process=process, f="txn", value=answer))
        return pair(events)
    events = [Event(type=EventType.INVOKE, process=at, f="txn", value=request) for at, request in enumerate(asked)]
    for at in rng.sample(range(size), size):
        if rng.random() < 0.1:
            events.append(Event(type=EventType.INFO, process=at, f="txn", value=asked[at]))
        else:
            events.append(Event(type=EventType.OK, process=at, f="txn", value=answered[at]))
    return pair(events)


def random_answers(seed: int, workload: str) -> History:
    """Answers at random: empty transactions, ok without a value, processes that go on after a crash,
    an end in the middle, elements from nowhere."""
    rng = random.Random(f"answers {workload} {seed}")
    keys, counter, write = "xyz"[: rng.randrange(1, 4)], itertools.count(1), "append" if workload == LIST else "w"
    asked: list[tuple[tuple[str, Value, Value], ...]] = []
    written_to: dict[Value, list[Value]] = {}
    for _ in range(rng.randrange(1, 6)):
        micros: list[tuple[str, Value, Value]] = []
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4))):
            key = rng.choice(keys)
            micros.append(("r", key, None) if rng.random() < 0.5 else (write, key, next(counter)))
            if micros[-1][0] != "r":
                written_to.setdefault(key, []).append(micros[-1][2])
        asked.append(tuple(micros))
    orders = {key: rng.sample(all_, len(all_)) if rng.random() < 0.5 else all_ for key, all_ in written_to.items()}

    def answer(micros: tuple[tuple[str, Value, Value], ...]) -> Value:
        out: list[tuple[str, Value, Value]] = []
        own: dict[Value, list[Value]] = {}
        base: dict[Value, list[Value]] = {}
        for f, key, value in micros:
            if f != "r":
                own.setdefault(key, []).append(value)
                out.append((f, key, value))
                continue
            order = orders.get(key, [])
            if key not in base or rng.random() < 0.1:
                base[key] = order[: rng.randrange(len(order) + 1)]
            mine = own.get(key, [])
            seen = [item for item in base[key] if item not in mine or rng.random() < 0.2]
            seen += mine if rng.random() < 0.85 else []
            seen += [99] if rng.random() < 0.03 else []
            if workload == LIST:
                out.append((f, key, tuple(seen) if seen or rng.random() < 0.5 else None))
            else:
                out.append((f, key, seen[-1] if seen else None))
        return tuple(out)

    events: list[Event] = []
    open_: dict[int, tuple[tuple[str, Value, Value], ...]] = {}
    processes, silent = list(range(rng.randrange(1, 4))), rng.random() < 0.3
    while asked or open_:
        idle = [process for process in processes if process not in open_]
        if asked and idle and (not open_ or rng.random() < 0.5):
            process = rng.choice(idle)
            open_[process] = asked.pop(0)
            events.append(Event(type=EventType.INVOKE, process=process, f="txn", value=open_[process]))
            continue
        if not asked and rng.random() < 0.1:
            break
        process = rng.choice(list(open_))
        request = open_.pop(process)
        kind = rng.choices((EventType.OK, EventType.FAIL, EventType.INFO), (8, 1, 1))[0]
        value = rng.choice((request, None))
        if kind is EventType.OK:
            value = None if silent and rng.random() < 0.3 else answer(request)  # type: ignore[assignment]
        elif kind is EventType.INFO and rng.random() < 0.5:
            processes[processes.index(process)] = max(processes) + 1
        events.append(Event(type=kind, process=process, f="txn", value=value))
    return pair(events)

"""Checkers without search against their definitions, said as plainly as can be: for all pairs, for all subsets."""

import random
from collections.abc import Callable, Iterable
from itertools import combinations, product

import pytest

from troth.verify.accesses import accesses_of
from troth.verify.check import check
from troth.verify.history import FOREVER, EventType, History, Operation, Value
from troth.verify.models import ILLEGAL, Register
from troth.verify.recorder import Recorder
from troth.verify.transactions.scans import check_counter, check_set, check_set_full, check_unique_ids
from troth.verify.verdict import Status

from .weak_histories import weak_history

COUNTS = [
    pytest.param(0, 800, id="smoke"),
    pytest.param(5_000_000, 100_000, id="deep", marks=[pytest.mark.campaign, pytest.mark.timeout(3600)]),
]
Ask = Callable[[random.Random, int], tuple[str, Value, Value, Value]]
"""(f, key, argument, result) of the next operation of a process."""


def recorded(seed: int, ask: Ask, *, size: int = 8, crash: float = 0.1, fail: float = 0.1) -> History:
    """Operations of a few processes that overlap at random, with times that go on at random."""
    rng = random.Random(seed)
    recorder = Recorder()
    clients = rng.randrange(1, 4)
    waiting: dict[int, Value] = {}
    now = begun = 0
    names = list(range(clients))
    while begun < size or waiting:
        now += rng.randrange(4)
        idle = [name for name in names if name not in waiting]
        if begun < size and idle and (not waiting or rng.random() < 0.5):
            name = rng.choice(idle)
            f, key, argument, waiting[name] = ask(rng, name)
            begun += 1
            recorder.invoke(name, f, key=key, value=argument, time=now)
            continue
        name = rng.choice(list(waiting))
        result = waiting.pop(name)
        lot = rng.random()
        if lot < crash:
            recorder.info(name, time=now)
            names[names.index(name)] = max(names) + 1
        elif lot < crash + fail:
            recorder.fail(name, time=now)
        else:
            recorder.ok(name, value=result, time=now)
    return recorder.history()


def oks(history: History, *names: str) -> list[Operation]:
    return [op for op in history.operations if op.outcome is EventType.OK and op.f in names]


def judged(
    seeds: range, verdict: Callable[[History, int], bool], truth: Callable[[History, int], bool], ask: Ask
) -> None:
    """Both say the same of every history, and say both yes and no."""
    seen = set()
    for seed in seeds:
        history = recorded(seed, ask)
        said, true = verdict(history, seed), truth(history, seed)
        assert said == true, (seed, [op.describe() for op in history.operations])
        seen.add(true)
    assert seen == {True, False}


def ordered(history: History, before: Callable[[Operation, Operation], bool]) -> bool:
    """Whether some order that respects *before* is legal for one register."""
    model = Register()
    calls = {op.index: model.call(op, history.reading) for op in history.operations}
    speaking = [op for op in history.operations if calls[op.index] is not None]
    must = frozenset(op.index for op in speaking if op.returned != FOREVER)
    stack: list[tuple[frozenset[int], Value]] = [(frozenset(), model.init())]
    seen = set(stack)
    while stack:
        done, state = stack.pop()
        if must <= done:
            return True
        for op in speaking:
            call = calls[op.index]
            if op.index in done or call is None:
                continue
            if any(before(other, op) and other.index not in done for other in speaking):
                continue
            after = model.step(state, call)
            node = (done | {op.index}, after)
            if after is not ILLEGAL and node not in seen:
                seen.add(node)
                stack.append(node)
    return False


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_staleness_in_time_as_the_definition_says(start: int, count: int) -> None:
    """A read may lie so much earlier: it precedes nothing that the others do not."""

    def ask(rng: random.Random, _: int) -> tuple[str, Value, Value, Value]:
        f, value = rng.choice(("read", "write")), rng.randrange(3)
        return (f, None, None, value or None) if f == "read" else (f, None, value, value)

    def truth(history: History, seed: int) -> bool:
        bound = seed % 5

        def before(a: Operation, b: Operation) -> bool:
            if a.returned == FOREVER:
                return False
            assert a.end_ns is not None and b.start_ns is not None
            earlier = b.start_ns - (bound if b.f == "read" else 0)
            return (a.end_ns, a.completed) < (earlier, b.invoked)

        return ordered(history, before)

    def verdict(history: History, seed: int) -> bool:
        return bool(check(history, "bounded", "register", staleness_ns_max=seed % 5))

    judged(range(start, start + count), verdict, truth, ask)


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_atomic_commit_as_its_axioms_say(start: int, count: int) -> None:
    def ask(rng: random.Random, name: int) -> tuple[str, Value, Value, Value]:
        f = rng.choice(("vote", "commit", "commit", "abort"))
        value = None if f != "vote" else rng.random() < 0.9
        return f, rng.choice("tu"), value, value

    def truth(history: History, _: int) -> bool:
        for key in history.all_keys():
            mine = [op for op in history.operations if op.key == key]
            commits, aborts = ([op for op in oks(history, f) if op.key == key] for f in ("commit", "abort"))
            votes = [op for op in oks(history, "vote") if op.key == key]
            if commits and aborts:
                return False
            if commits and any(op.argument is False for op in votes):
                return False
            for commit in commits:
                possible = {op.process for op in mine if op.f == "vote" and op.outcome is not EventType.FAIL
                            and op.invoked < commit.completed}  # fmt: skip
                if not {op.process for op in mine if op.f == "vote"} <= possible:
                    return False
            everybody = {op.process for op in mine} <= {op.process for op in votes if op.argument}
            calm = all(op.outcome is EventType.OK for op in mine) and all(op.argument for op in votes)
            if aborts and everybody and calm:
                return False
        return True

    judged(range(start, start + count), lambda history, _: bool(check(history, "atomic-commit")), truth, ask)


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_lock_safety_as_pairs_say(start: int, count: int) -> None:
    tokens = iter(range(10**9))

    def ask(rng: random.Random, name: int) -> tuple[str, Value, Value, Value]:
        f = rng.choice(("acquire", "release", "release", "write"))
        token = next(tokens) if rng.random() < 0.8 else rng.randrange(5)
        if f == "acquire":
            return f, None, None, rng.choice((token, (token, rng.randrange(6)), None))
        return f, None, (token, "x") if f == "write" else None, None

    def token_of(op: Operation) -> int | None:
        value = op.result[0] if isinstance(op.result, tuple) else op.result
        return value if isinstance(value, int) else None

    def holds(history: History) -> Iterable[tuple[Operation, int, int | None]]:
        for op in oks(history, "acquire"):
            releases = [
                other.invoked
                for other in history.operations
                if other.f == "release" and other.process == op.process and other.index > op.index
                and other.outcome is not EventType.FAIL
            ]  # fmt: skip
            lease = op.result[1] if isinstance(op.result, tuple) else None
            assert op.start_ns is not None
            until = op.start_ns + lease if isinstance(lease, int) else None
            yield op, min(releases, default=FOREVER), until

    def truth(history: History, _: int) -> bool:
        for (a, a_end, a_until), (b, _b_end, b_until) in product(tuple(holds(history)), repeat=2):
            assert b.end_ns is not None
            if a.process != b.process and a.completed < b.completed < a_end:
                own_is_over = b_until is not None and b_until <= b.end_ns
                if not own_is_over and (a_until is None or a_until > b.end_ns):
                    return False
        given = [(op, token) for op in oks(history, "acquire") if (token := token_of(op)) is not None]
        for (a, first), (b, second) in product(given, repeat=2):
            if a is not b and first == second:
                return False
            if a.completed < b.invoked and first > second:
                return False
        writes = [(op, op.argument[0]) for op in oks(history, "write") if isinstance(op.argument, tuple)]
        return not any(
            a.completed < b.invoked and first > second for (a, first), (b, second) in product(writes, repeat=2)
        )

    judged(range(start, start + count), lambda history, _: bool(check(history, "lock-safety")), truth, ask)


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_eventual_convergence_as_quiet_reads_say(start: int, count: int) -> None:
    """A set, a counter and a register; a run in which nothing was read in the end says nothing."""
    numbers = iter(range(10**9))

    def asking(object: str) -> Ask:
        def ask(rng: random.Random, _: int) -> tuple[str, Value, Value, Value]:
            if rng.random() < 0.5:
                some = [rng.randrange(4) for _ in range(rng.randrange(4))]
                result: Value = frozenset(some) if object == "set" else sum(some)
                return "read", None, None, result if object != "register" else rng.choice([None, 1, 2])
            if object == "set":
                value = rng.randrange(4)
                return "add", None, value, value
            if object == "counter":
                return "add", None, 1, next(numbers) * 0 + 1
            value = rng.choice((1, 2))
            return "write", None, value, value

        return ask

    def sums(history: History) -> set[int]:
        sure = sum(1 for op in history.operations if op.f == "add" and op.outcome is EventType.OK)
        maybe = sum(1 for op in history.operations if op.f == "add" and op.outcome is EventType.INFO)
        return set(range(sure, sure + maybe + 1))

    for object in ("set", "counter", "register"):
        seen = set()
        for seed in range(start, start + count):
            history = recorded(seed, asking(object), size=6)
            updates = [op for op in history.operations if op.f != "read" and op.outcome is not EventType.FAIL]
            reads = oks(history, "read")
            last = max((op.completed for op in updates if op.outcome is EventType.OK), default=-1)
            quiet = [op for op in reads if op.invoked > last]
            added = [op for op in updates if op.outcome is EventType.OK]
            possible = True
            for op in reads:
                had = {other.argument for other in updates if other.invoked < op.completed}
                if object == "set" and isinstance(op.result, frozenset):
                    possible = possible and op.result <= had
                if object == "register":
                    possible = possible and (op.result is None or op.result in had)
            results = {op.result for op in quiet}
            crashed = {other.argument for other in updates if other.outcome is EventType.INFO}
            settled = {
                "set": {result - crashed for result in results if isinstance(result, frozenset)},
                "counter": results if not crashed else set(),
                "register": results if len(results) < 2 else results - crashed,
            }[object]
            agreed = len(settled) <= 1
            kept = True
            for op in quiet:
                if object == "set" and isinstance(op.result, frozenset):
                    kept = kept and {other.argument for other in added} <= op.result
                elif object == "counter":
                    kept = kept and op.result in sums(history)
                elif object == "register":
                    kept = kept and (op.result is not None or not added)
            verdict = check(history, "eventual", object)
            if not possible or not (agreed and kept):
                expected = Status.ILLEGAL
            else:
                expected = Status.OK if len(results) == 1 else Status.UNKNOWN
            if not history.operations:
                expected = Status.OK
            assert verdict.status is expected, (object, seed, [op.describe() for op in history.operations])
            seen.add(expected)
        assert len(seen) == 3


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_weakly_causal_as_patterns_say(start: int, count: int) -> None:
    """Bouajjani, Enea, Guerraoui, Hamza, POPL 2017: cyclic causality, thin air, and reads of what was overwritten."""
    seen = set()
    for seed in range(start, start + count):
        history = weak_history(seed)
        accesses = accesses_of(history, "test")
        rows = [access for session in accesses.sessions for access in session]
        by_op = {access.op: at for at, access in enumerate(rows)}
        size = len(rows)
        after = [[False] * size for _ in range(size)]
        for session in accesses.sessions:
            for first, second in combinations(session, 2):
                after[by_op[first.op]][by_op[second.op]] = True
        writer = {access.write: at for at, access in enumerate(rows) if access.is_write}
        for at, access in enumerate(rows):
            if not access.is_write and access.write >= 0:
                after[writer[access.write]][at] = True
        for middle, first, second in product(range(size), repeat=3):
            if after[first][middle] and after[middle][second]:
                after[first][second] = True
        fine = accesses.thin_air is None and not any(after[at][at] for at in range(size))
        for at, access in enumerate(rows):
            if access.is_write or not fine:
                continue
            for other, write in enumerate(rows):
                if write.is_write and write.key == access.key and write.write != access.write and after[other][at]:
                    source = writer.get(access.write)
                    if source is None or after[source][other]:
                        fine = False
        assert bool(check(history, "causal-weak")) == fine, seed
        seen.add(fine)
    assert seen == {True, False}


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_scans_as_subsets_say(start: int, count: int) -> None:
    def ask_counter(rng: random.Random, _: int) -> tuple[str, Value, Value, Value]:
        if rng.random() < 0.4:
            return "read", None, None, rng.randrange(-2, 5)
        amount = rng.choice((1, 1, 2, -1))
        return "add", None, amount, amount

    def counts(history: History, _: int) -> bool:
        for op in oks(history, "read"):
            adds = [
                other for other in history.operations if other.f == "add" and other.outcome is not EventType.FAIL
            ]
            must = [other for other in adds if other.outcome is EventType.OK and other.completed < op.invoked]
            may = [other for other in adds if other.invoked < op.completed and other not in must]
            amounts = [other.argument for other in must if isinstance(other.argument, int)]
            loose = [other.argument for other in may if isinstance(other.argument, int)]
            least = sum(amounts) + sum(value for value in loose if value < 0)
            most = sum(amounts) + sum(value for value in loose if value > 0)
            if not isinstance(op.result, int) or not least <= op.result <= most:
                return False
        return True

    judged(range(start, start + count), lambda history, _: bool(check_counter(history)), counts, ask_counter)

    def ask_set(rng: random.Random, _: int) -> tuple[str, Value, Value, Value]:
        if rng.random() < 0.5:
            return "read", None, None, tuple(element for element in range(4) if rng.random() < 0.8)
        value = rng.randrange(4)
        return "add", None, value, value

    def last_read(history: History, _: int) -> bool:
        reads = oks(history, "read")
        if not reads:
            return False
        final = max(reads, key=lambda op: op.invoked)
        adds = [op for op in history.operations if op.f == "add" and op.outcome is not EventType.FAIL]
        seen = final.result if isinstance(final.result, tuple) else ()
        sure = {op.argument for op in adds if op.outcome is EventType.OK and op.completed < final.invoked}
        return sure <= set(seen) <= {op.argument for op in adds}

    judged(range(start, start + count), lambda history, _: bool(check_set(history)), last_read, ask_set)

    def never_lost(history: History, _: int) -> bool:
        reads = oks(history, "read")
        adds = [op for op in history.operations if op.f == "add" and op.outcome is not EventType.FAIL]
        shown = {op.index: set(op.result if isinstance(op.result, tuple) else ()) for op in reads}
        if not reads or any(not seen <= {op.argument for op in adds} for seen in shown.values()):
            return False
        for element in range(4):
            known = [op.completed for op in adds if op.argument == element and op.outcome is EventType.OK]
            known += [op.completed for op in reads if element in shown[op.index]]
            for op in reads:
                later = [other for other in reads if other.invoked >= op.invoked]
                if min(known, default=FOREVER) < op.invoked and not any(element in shown[o.index] for o in later):
                    return False
        return True

    judged(range(start, start + count), lambda history, _: bool(check_set_full(history)), never_lost, ask_set)

    def ask_id(rng: random.Random, _: int) -> tuple[str, Value, Value, Value]:
        return "generate", None, None, rng.randrange(40)

    def unique(history: History, _: int) -> bool:
        ids = [op.result for op in oks(history, "generate")]
        return len(set(ids)) == len(ids)

    judged(range(start, start + count), lambda history, _: bool(check_unique_ids(history)), unique, ask_id)

"""Corners of the linearizability checkers that random histories reach too seldom."""

import random

import pytest
from msgspec import structs

from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.formats.edn import Record
from troth.verify.history import Event, EventType, History, Reading, Value
from troth.verify.linearizability import Budget, check_linearizable
from troth.verify.models import CasRegister, MultiRegister, Register
from troth.verify.verdict import Status

INVOKE, OK, INFO = EventType.INVOKE, EventType.OK, EventType.INFO


def script(text: str, *, reading: Reading | None = None) -> History:
    """Events as ``process+f:argument`` to invoke, ``process-result`` for ok, ``process?`` for info."""
    events: list[Event] = []
    asked: dict[int, tuple[str, Value]] = {}
    for word in text.split():
        process, mark, rest = int(word[0]), word[1], word[2:]
        if mark == "+":
            f, _, argument = rest.partition(":")
            asked[process] = (f, value(argument))
            events.append(Event(type=INVOKE, process=process, f=f, value=value(argument)))
            continue
        f, sent = asked[process]
        if mark == "?":
            events.append(Event(type=INFO, process=process, f=f))
        else:
            events.append(Event(type=OK, process=process, f=f, value=value(rest) if rest else sent))
    return pair(events, reading=reading)


def value(text: str) -> Value:
    """``3``, ``a``, ``1,2`` (a pair), ``[1,2]`` (a list) or nothing."""
    if text.startswith("["):
        return tuple(value(item) for item in text[1:-1].split(",") if item)
    if "," in text:
        return tuple(value(item) for item in text.split(","))
    if text in ("", "nil"):
        return None
    return int(text) if text.isdigit() else text


@pytest.mark.parametrize(
    ("text", "legal", "decided"),
    [
        # One chain of cas from the initial value, each the only possible next one.
        ("0+cas:nil,1 0- 0+cas:1,2 0- 1+read 1-2", True, "chains"),
        ("0+cas:1,2 0- 1+write:1 1-", False, "chains"),
        ("0+cas:1,2 1+write:1 0- 1- 2+read 2-2", True, "chains"),
        # Two cas that need each other first.
        ("0+cas:1,2 1+cas:2,1 0- 1-", False, "chains"),
        ("0+cas:1,2 0? 1+cas:2,1 1? 2+read 2-1", False, "chains"),
        # A crashed cas that somebody saw, and one that nobody saw.
        ("0+cas:nil,1 0? 1+read 1-1", True, "chains"),
        ("0+cas:nil,1 0? 1+read 1-nil", True, "chains"),
        ("0+cas:7,1 0? 1+read 1-1", False, "chains"),
        # One from which another went on happened, too, though nobody read what it made.
        ("0+write:1 0- 1+cas:1,2 1? 2+cas:2,3 2-", True, "chains"),
        ("0+write:1 0- 1+cas:1,2 1? 2+cas:2,3 2? 3+cas:3,4 3-", True, "chains"),
        # A circle of cas beside what is in order.
        ("0+cas:1,2 1+cas:2,1 0- 1- 2+read 2-nil", False, "chains"),
        ("0+cas:1,2 1+cas:2,1 0- 1- 3+write:5 3- 2+read 2-5", False, "chains"),
        # A value read before its write was invoked, or never written.
        ("1+read 1-5 0+write:5 0-", False, "chains"),
        ("1+read 1-5", False, "chains"),
        # Lists of appended elements.
        ("0+append:[1] 1+append:[2] 0- 1- 2+get 2-[2,1]", True, "chains"),
        ("0+append:[1] 0- 1+append:[2] 1- 2+get 2-[2,1]", False, "chains"),
        # Texts that are prefixes of one another: taken apart one way that fits, or searched.
        ("0+append:a 0- 1+append:ab 1- 2+get 2-aab", True, "chains"),
        ("0+append:a 1+append:ab 2+append:b 0- 1- 2- 3+get 3-abab", True, "jit"),
        ("0+append:ab 0- 1+append:a 1- 2+append:b 2- 3+get 3-abab", True, "jit"),
        ("0+append:[1,2] 0- 0+append:[1] 0- 1+get 1-[1,2,1] 0+append:[2,1] 0-", True, "jit"),
        # The same text twice.
        ("0+append:a 0- 0+append:a 0- 1+get 1-aa", True, "chains"),
        ("0+append:a 0- 1+append:b 0+append:a 0- 2+get 2-aa 1- 2+get 2-aab", True, "chains"),
        ("0+append:a 0- 1+append:b 0+append:a 0- 1- 2+get 2-aba 0+put:a 0- 2+get 2-a", True, "chains"),
        ("0+put:a 0- 0+append:b 0- 2+get 2-ab 0+put:a 0- 2+get 2-a 0+append:b 0- 2+get 2-ab", True, "chains"),
        ("0+put:a 0- 0+append:b 0- 2+get 2-ab 0+put:a 0- 2+get 2-ab", False, "jit"),
        ("0+append:a 0? 0+append:a 0- 1+get 1-a 1+get 1-aa", True, "chains"),
        ("0+append:a 0? 0+append:a 0- 1+get 1-aa 1+get 1-a", False, "jit"),
        # One that is put and appended, and one that begins two rows.
        ("0+append:a 0- 1+get 1-a 0+put:a 0- 0+append:c 0- 1+get 1-ac", True, "jit"),
        ("0+append:a 0- 0+put:a 0- 1+get 1-a", True, "chains"),
        ("0+append:a 0- 0+append:a 0- 1+get 1-nil", False, "jit"),
        ("0+append:a 0- 0+put:1 0- 0+append:a 0- 1+get 1-1", False, "jit"),
        ("0+append:a 0- 0+append:a 0- 1+get 1-a", False, "jit"),
        # A highest character in what is read.
        ("0+append:a 0- 0+append:a 1+get 0- 1-a\U0010ffff", False, "jit"),
        # Appends to something that cannot be joined.
        ("0+put:1 0- 0+append:a 0- 1+get 1-1", False, "jit"),
        # Writes that repeat, deletions among them: which one a read saw follows from when they were.
        ("0+put:1 0- 0+delete 0- 1+get 1-nil", True, "chains"),
        # What is appended after a deletion is appended to nothing.
        ("0+append:a 0- 0+delete 0- 1+get 1-nil 0+append:b 0- 1+get 1-b", True, "chains"),
        ("0+append:a 1+delete 0- 2+append:b 2- 3+get 3-b 3+get 3-b 1-", True, "chains"),
        ("0+append:a 0- 0+delete 0- 0+append:b 0- 1+get 1-ab", False, "jit"),
        ("0+write:1 0- 0+write:2 0- 0+write:1 0- 1+read 1-1", True, "chains"),
        ("0+write:1 0- 0+write:2 0- 1+write:2 1- 2+read 2-1", False, "chains"),
        ("0+write:1 1+write:2 2+write:1 3+read 3-1 3+read 3-2 3+read 3-1 0- 1- 2-", True, "chains"),
        ("0+write:1 1+write:2 0- 1- 2+read 2-2 2+read 2-1 2+read 2-2", False, "chains"),
        # Two crashed writes explain two of the three reads.
        (
            "1+write:1 1? 2+write:1 2? 3+write:2 3- 4+read 4-1 3+write:2 3- 4+read 4-1 3+write:2 3- 4+read 4-1",
            False,
            "jit",
        ),
        ("0+cas:1,1 0- 1+write:1 1-", False, "jit"),
        # A cas that goes on from the state just before it is overwritten. (That from nil to nil makes it a search.)
        ("9+cas:nil,nil 9- 0+write:1 0- 1+cas:1,2 2+write:3 2- 3+read 3-3 1-", True, "jit"),
        # Of two writes of 1 the one that was covered is needed now, the other once it has returned.
        (
            "9+cas:nil,nil 9- 0+write:1 1+write:2 1- 2+write:1 3+read 3-1 0- 1+write:2 1- 3+read 3-1 2-",
            True,
            "jit",
        ),
        # What crashed may be used at any time, so it is kept for later.
        (
            "9+cas:nil,nil 9- 5+write:1 5? 0+write:1 3+read 3-1 1+write:2 1- 3+read 3-2 0- 3+read 3-2 3+read 3-1",
            True,
            "jit",
        ),
    ],
)
def test_one_key(text: str, legal: bool, decided: str) -> None:
    """Verdict and which algorithm decided."""
    verdict = check(script(text), object="kv")
    assert (bool(verdict), verdict.algorithms) == (legal, (decided,))
    if legal:
        assert verdict.witness is not None
    else:
        assert verdict.counterexample is not None and verdict.counterexample.reason


def test_failed_cas_has_a_place_when_observed() -> None:
    """ok with a result of false says the same as an observed fail."""
    assert check(script("0+write:1 0- 1+cas:2,3 1-"), object="cas-register").status is Status.ILLEGAL
    events = [
        Event(type=INVOKE, process=0, f="write", value=1),
        Event(type=OK, process=0, f="write", value=1),
        Event(type=INVOKE, process=1, f="cas", value=(1, 2)),
        Event(type=OK, process=1, f="cas", value=False),
    ]
    assert check(pair(events), object="cas-register").status is Status.ILLEGAL
    events[2] = Event(type=INVOKE, process=1, f="cas", value=(3, 2))
    assert check(pair(events), object="cas-register").status is Status.OK


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        ("0+enqueue:1 0- 0+enqueue:2 0- 1+dequeue 1-1 1+dequeue 1-2", True),
        ("0+enqueue:1 0- 0+enqueue:2 0- 1+dequeue 1-2", False),
        ("0+enqueue:1 1+enqueue:2 0- 1- 1+dequeue 1-2 1+dequeue 1-1", True),
        ("1+dequeue 1-9", False),
        ("0+enqueue:1 0- 1+dequeue 1-1 2+dequeue 2-1", False),
        ("0+enqueue:1 0? 1+dequeue 1-1", True),
    ],
)
def test_queue_by_its_order(text: str, legal: bool) -> None:
    """First in, first out, without a search."""
    verdict = check(script(text), object="queue")
    assert (bool(verdict), verdict.algorithms) == (legal, ("queue-order",))
    assert (verdict.witness is not None) is legal


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        ("0+add:1 0- 1+read 1-[1] 0+add:2 0- 1+read 1-[1,2]", True),
        ("0+add:1 0- 1+read 1-[]", False),
        ("0+add:1 1+add:2 2+read 3+read 2-[1] 3-[2] 0- 1-", False),
        ("1+read 1-[4]", False),
        ("0+add:1 0? 1+read 1-[] 1+read 1-[1]", True),
        ("0+add:1 0- 1+add:1 2+read 2-[1] 1-", True),
        # The second of two adds of 1 returned before it was found missing.
        ("0+add:1 1+add:1 1- 2+read 2-[] 2+read 2-[1] 0-", False),
    ],
)
def test_grow_only_set_by_its_chain(text: str, legal: bool) -> None:
    """Whole reads must contain one another."""
    verdict = check(script(text), object="set")
    assert (bool(verdict), verdict.algorithms) == (legal, ("set-chain",))
    assert (verdict.witness is not None) is legal


def test_a_part_that_stayed_open_leaves_the_whole_open() -> None:
    """Set 0 takes a search, for which there is no time; set 1 is decided without, before or after it."""
    searched = [("add", 0, 5, 5), ("remove", 0, 5, 5), ("contains", 0, 5, False)]
    chained = [("add", 1, 5, 5), ("read", 1, None, (5,))]
    for rows in (searched + chained, chained + searched):
        events = []
        for f, key, asked, answer in rows:
            events.append(Event(type=INVOKE, process=0, f=f, key=key, value=asked))
            events.append(Event(type=OK, process=0, f=f, key=key, value=answer))
        assert check(pair(events), object="set").algorithms == tuple(
            dict.fromkeys("set-chain" if row[1] else "jit-model" for row in rows)
        )
        verdict = check(pair(events), object="set", expired=lambda: True)
        assert verdict.status is Status.UNKNOWN and "out of time" in verdict.reason


def test_narrow_tries_fall_back_to_the_full_search() -> None:
    """Many crashed operations of which just the right ones explain the reads."""
    words = [f"{process}+write:{process % 3}" for process in range(3)]
    words += ["3+cas:0,1", "4+cas:1,2", "5+cas:2,0", "6+cas:0,2"]
    reads = " ".join(f"9+read 9-{seen}" for seen in (0, 1, 2, 0, 2, 1))
    history = script(" ".join(words) + " " + reads)
    assert check_linearizable(history, CasRegister())
    tight = check_linearizable(history, CasRegister(), budget=Budget(configurations_max=1))
    assert tight.status in (Status.OK, Status.UNKNOWN)
    more = script(" ".join(words) + " " + reads + " 9+read 9-0 9+read 9-1 9+read 9-2 9+read 9-0 9+read 9-2")
    verdict = check_linearizable(more, CasRegister())
    assert verdict.status is Status.ILLEGAL
    assert verdict.counterexample is not None and verdict.counterexample.configurations


def test_a_register_with_its_own_step_is_searched_by_it() -> None:
    """A subclass that changes what happens is not taken for a register."""

    class Sticky(Register):
        name = "sticky"

        def step(self, state: Value, call: object) -> Value:
            return super().step(state, call) if state is None or getattr(call, "f", "") == "read" else state  # type: ignore[arg-type]

    history = script("0+write:1 0- 0+write:2 0- 1+read 1-1")
    assert check(history, object=Sticky())
    assert not check(history, object=Register())


@pytest.mark.parametrize(
    ("text", "decided", "smallest"),
    [
        ("0+add:2 0- 1+read 1-3", "counter-bounds", 2),
        ("0+add:2 0- 1+read 1-2 1+read 1-1", "counter-bounds", 2),
        ("0+add:2 0? 1+read 1-2 1+read 1-3 0+read", "counter-bounds", 2),
        ("0+add:2 0- 0+dec:3 1+read 1-3 0-", "counter-bounds", 3),
        # Between the bounds, and still nothing adds up to it.
        ("0+add:2 1+read 1-1 0-", "jit-model", 2),
        ("0+add:2 1+read 1-2 1+read 1-0 0-", "jit-model", 3),
    ],
)
def test_a_counter_that_was_read_wrong(text: str, decided: str, smallest: int) -> None:
    """Out of bounds it takes no search."""
    verdict = check(script(text), object="counter")
    assert (bool(verdict), verdict.algorithms) == (False, (decided,))
    example = verdict.counterexample
    assert example is not None and example.reason and len(example.minimal) == smallest


def test_a_repeated_value_of_one_key_leaves_the_other_keys_alone() -> None:
    """Each key is decided by what is cheapest for it."""
    words = [
        "0+append:ab 0- 1+append:a 1- 2+append:b 2- 3+get 3-abab",
        "0+append:a 0- 1+get 1-a",
        "0+put:1 0- 0+put:1 0- 1+get 1-1",
    ]
    events = [structs.replace(event, key=key) for key, text in enumerate(words) for event in script(text).events()]
    verdict = check(pair(events), object="kv")
    assert [part.algorithm for part in verdict.parts] == ["jit", "chains", "chains"]
    assert verdict.witness is not None


@pytest.mark.parametrize(("clients", "values"), [(12, 100), (20, 100), (12, 5)])
def test_a_long_log_of_repeated_values_takes_no_search(clients: int, values: int) -> None:
    """Half reads, half writes by clients that are always busy; then with a read of what was there long ago."""
    rng = random.Random(clients + values)
    state: Value = None
    events: list[Event] = []
    working: dict[int, tuple[str, Value, bool]] = {}
    for _ in range(15_000):
        process = rng.randrange(clients)
        if process not in working:
            f = rng.choice(("read", "write"))
            working[process] = (f, rng.randrange(values) if f == "write" else None, False)
            events.append(Event(type=INVOKE, process=process, f=f, value=working[process][1]))
            continue
        f, seen, done = working.pop(process)
        if done:
            events.append(Event(type=OK, process=process, f=f, value=seen))
        else:
            state = seen if f == "write" else state
            working[process] = (f, state, True)
    history = pair(events)
    verdict = check(history, object="register")
    assert verdict and verdict.algorithms == ("chains",) and verdict.witness is not None
    late = [op for op in history.operations if op.f == "read" and op.outcome is OK][-20]
    operations = list(history.operations)
    operations[late.index] = structs.replace(late, result=values)
    first = next(op for op in history.operations if op.f == "write" and op.outcome is OK)
    operations[first.index] = structs.replace(first, argument=values)
    wrong = History(operations, timeline=history.timeline, length=history.length)
    assert not check(wrong, object="register")


def test_texts_that_repeat_in_rounds_take_no_search() -> None:
    """Three clients count from 0 in each of five rounds, as test clients that are started anew do."""
    rng = random.Random(7)
    state = ""
    events: list[Event] = []
    for _ in range(5):
        working: dict[int, tuple[str, str, bool]] = {}
        counts = [0, 0, 0]
        for _ in range(240):
            process = rng.randrange(3)
            if process not in working:
                f = rng.choice(("get", "append", "append", "put"))
                counts[process] += f != "get"
                working[process] = (f, "" if f == "get" else f"x {process} {counts[process]} y", False)
                events.append(Event(type=INVOKE, process=process, f=f, value=working[process][1] or None))
                continue
            f, text, done = working[process]
            if done:
                del working[process]
                events.append(Event(type=OK, process=process, f=f, value=text))
                continue
            state = text if f == "put" else state + text if f == "append" else state
            working[process] = (f, state if f == "get" else text, True)
        for process, (f, text, done) in working.items():
            if not done:
                state = text if f == "put" else state + text if f == "append" else state
            events.append(Event(type=OK, process=process, f=f, value=state if f == "get" and not done else text))
    verdict = check(pair(events, reading=Reading(initial="")), object="kv")
    assert verdict and verdict.algorithms == ("chains",) and verdict.witness is not None


def test_a_multi_register_starts_as_it_is_told() -> None:
    """One value for every register, or a map; written back it is as if it never had been written."""
    rows = [(("r", "x", 0), ("r", "y", 0)), (("w", "x", 1),), (("r", "x", 1),), (("w", "x", 0),), (("r", "x", 0),)]
    events = [Event(type=kind, process=0, f="txn", value=row) for row in rows for kind in (INVOKE, OK)]
    history = pair(events)
    assert not check(history, object="multi-register")
    assert check(history, object=MultiRegister(0))
    for initial in (0, Record({"x": 0, "y": 0}.items())):
        assert check(history.with_reading(Reading(initial=initial)), object="multi-register")
    assert not check(history, object=MultiRegister({"x": 0}))

"""Small histories by hand, for every model: what must be ok, what must be illegal, and what it is called."""

from collections.abc import Callable, Sequence

import pytest
from msgspec import structs

from troth.errors import UsageError
from troth.verify.accesses import accesses_of
from troth.verify.check import MODELS, check
from troth.verify.completions import pair
from troth.verify.formats.edn import Record
from troth.verify.guess import guess
from troth.verify.history import Event, EventType, History, Reading, Value
from troth.verify.models import ILLEGAL, OBJECTS, Bank, Call, Model, Register, SetObject, Several, model_of
from troth.verify.sessions import _Observer
from troth.verify.transactions import check_transactions
from troth.verify.verdict import Status, Verdict, combine

Step = tuple[int, str, Value, Value, Value]
"""(process, f, key, argument, result): invoked and returned at once."""


def one_by_one(*steps: Step) -> History:
    """Operations that never overlap, at 1, 2, 3 ... milliseconds."""
    events = []
    for at, (process, f, key, argument, result) in enumerate(steps):
        time = 1_000_000 * (at + 1)
        events.append(Event(type=EventType.INVOKE, process=process, f=f, key=key, value=argument, time=time))
        events.append(Event(type=EventType.OK, process=process, f=f, key=key, value=result, time=time + 1000))
    return pair(events)


def w(process: int, key: str, value: Value) -> Step:
    """A write."""
    return (process, "write", key, value, value)


def r(process: int, key: str, value: Value) -> Step:
    """A read."""
    return (process, "read", key, None, value)


STALE = one_by_one(w(0, "x", 1), w(0, "x", 2), r(1, "x", 1))
OWN_LOST = one_by_one(w(0, "x", 1), r(0, "x", None))
BACKWARDS = one_by_one(w(0, "x", 1), w(0, "x", 2), r(1, "x", 2), r(1, "x", 1))
EFFECT_FIRST = one_by_one(w(0, "x", 1), r(1, "x", 1), w(1, "y", 2), r(2, "y", 2), r(2, "x", None))
WRITES_SWAPPED = one_by_one(w(0, "x", 1), w(0, "y", 2), r(1, "y", 2), r(1, "x", None))
OPPOSITE = one_by_one(
    w(0, "x", 1), w(1, "x", 2), r(2, "x", 1), r(3, "x", 2), r(2, "x", 2), r(3, "x", 1)
)  # fmt: skip
THIN_AIR = one_by_one(r(0, "x", 7))


@pytest.mark.parametrize(
    ("history", "legal"),
    [
        (STALE, {"sequential", "causal", "causal+", "pram", "session", "session-guarantees"}),
        (OWN_LOST, {"monotonic-reads", "monotonic-writes", "writes-follow-reads"}),
        (BACKWARDS, {"read-your-writes", "writes-follow-reads"}),
        (EFFECT_FIRST, {"pram", "session", "monotonic-writes", "read-your-writes", "monotonic-reads"}),
        (WRITES_SWAPPED, {"session", "read-your-writes", "monotonic-reads", "writes-follow-reads"}),
        (OPPOSITE, {"causal", "causal-weak", "pram", "session-guarantees"}),
        (THIN_AIR, set()),
    ],
    ids=["stale", "own-lost", "backwards", "effect-first", "writes-swapped", "opposite", "thin-air"],
)
def test_the_classic_anomalies(history: History, legal: set[str]) -> None:
    """Each is legal for exactly the models named (and what those imply), illegal for the rest."""
    asked = set(MODELS) - {"bounded", "eventual", "atomic-commit", "lock-safety", "watch", "scan"}
    found = {model for model in asked if check(history, model, "register").status is Status.OK}
    assert legal <= found
    strong = {"linearizable"} if legal else asked
    assert not strong & found
    for model in asked - found:
        verdict = check(history, model, "register")
        assert verdict.status is Status.ILLEGAL
        example = verdict.counterexample
        assert example is not None
        assert verdict.reason and len(verdict.text().splitlines()) <= 20


@pytest.mark.parametrize(
    ("history", "model", "illegal"),
    [
        (OWN_LOST, "read-your-writes", True),
        (BACKWARDS, "monotonic-reads", True),
        (BACKWARDS, "monotonic-writes", True),
        (WRITES_SWAPPED, "monotonic-writes", True),
        (EFFECT_FIRST, "writes-follow-reads", True),
        (EFFECT_FIRST, "causal", True),
        (EFFECT_FIRST, "causal-weak", True),
        (OPPOSITE, "causal+", True),
        (OPPOSITE, "sequential", True),
        (WRITES_SWAPPED, "pram", True),
    ],
)
def test_what_each_guarantee_forbids(history: History, model: str, illegal: bool) -> None:
    """By name, in `anomalies` for the session guarantees."""
    verdict = check(history, model, "register")
    assert (verdict.status is Status.ILLEGAL) is illegal
    if model in ("read-your-writes", "monotonic-reads", "monotonic-writes", "writes-follow-reads"):
        assert verdict.anomalies == (model,)


def test_ambiguous_reads_are_never_called_ok_nor_illegal() -> None:
    """A value written twice: unknown, unless something else is certainly wrong."""
    doubtful = one_by_one(w(0, "x", 1), w(0, "x", 1), r(1, "x", 1))
    assert check(doubtful, "causal").status is Status.UNKNOWN
    assert check(doubtful, "linearizable").status is Status.OK


def test_weak_models_refuse_what_they_cannot_read() -> None:
    """Append has no reads-from here."""
    with pytest.raises(UsageError, match="append"):
        check(one_by_one((0, "append", "x", "a", "a")), "causal")


def test_unknown_names_are_usage_errors() -> None:
    """And list what there is."""
    with pytest.raises(UsageError, match="linearizable"):
        check(STALE, "perfect")
    with pytest.raises(UsageError, match="kv"):
        check(STALE, object="teapot")
    with pytest.raises(UsageError, match="another object"):
        check(one_by_one((0, "boil", None, None, None)), object="register")


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 5])
def test_bounded_by_time(milliseconds: int) -> None:
    """The read at 3 ms returns a value overwritten at 2 ms: about one millisecond stale."""
    verdict = check(STALE, "bounded", "register", staleness_ns_max=milliseconds * 1_000_000)
    assert bool(verdict) is (milliseconds >= 1)
    if verdict:
        assert verdict.witness is not None and set(verdict.witness) == {0, 1, 2}
    else:
        assert verdict.counterexample is not None and verdict.counterexample.operation == 2


@pytest.mark.parametrize(("behind", "legal"), [(0, False), (1, True), (2, True)])
def test_bounded_by_versions(behind: int, legal: bool) -> None:
    """One version behind."""
    assert bool(check(STALE, "bounded", "register", versions_behind_max=behind)) is legal


@pytest.mark.parametrize(
    "bounds",
    [{}, {"staleness_ns_max": 1, "versions_behind_max": 1}, {"staleness_ns_max": -1}, {"versions_behind_max": -1}],
)
def test_bounds_must_make_sense(bounds: dict[str, int]) -> None:
    """Exactly one, not negative; a register; and times for a bound in time."""
    with pytest.raises(UsageError):
        check(STALE, "bounded", "register", **bounds)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not about a queue"):
        check(STALE, "bounded", "queue", versions_behind_max=1)
    timeless = pair([Event(type=EventType.INVOKE, process=0, f="read")])
    with pytest.raises(UsageError, match="lacks one"):
        check(timeless, "bounded", "register", staleness_ns_max=1)


@pytest.mark.parametrize(
    ("steps", "object", "status"),
    [
        ([w(0, "x", 1), r(1, "x", 1), r(2, "x", 1)], "register", Status.OK),
        ([w(0, "x", 1), r(1, "x", 1), r(2, "x", None)], "register", Status.ILLEGAL),
        ([w(0, "x", 1), r(1, "x", None), r(2, "x", None)], "register", Status.ILLEGAL),
        ([w(0, "x", 1), r(1, "x", 9)], "register", Status.ILLEGAL),
        ([r(1, "x", None), w(0, "x", 1)], "register", Status.UNKNOWN),
        ([(0, "append", "x", "a", "a"), (1, "get", "x", None, "a")], "kv", Status.OK),
        ([(0, "add", None, 1, 1), (0, "read", None, None, (1,))], "set", Status.OK),
        ([(0, "add", None, 1, 1), (0, "read", None, None, ())], "set", Status.ILLEGAL),
        (
            [(0, "read", None, None, (5,)), (0, "add", None, 1, 1), (0, "read", None, None, (1,))],
            "set",
            Status.ILLEGAL,
        ),
        ([(0, "add", None, 2, None), (0, "read", None, None, 2)], "counter", Status.OK),
        ([(0, "add", None, 2, None), (0, "read", None, None, 3)], "counter", Status.ILLEGAL),
        ([(0, "dec", None, None, None), (0, "read", None, None, -1)], "counter", Status.OK),
    ],
)
def test_convergence(steps: Sequence[Step], object: str, status: Status) -> None:
    """Quiet reads agree, on something written, and nothing acknowledged is lost."""
    assert check(one_by_one(*steps), "eventual", object).status is status


def test_convergence_waits_for_the_quiet_time() -> None:
    """Reads too soon after the last update show nothing either way."""
    history = one_by_one(w(0, "x", 1), r(1, "x", None), r(1, "x", 1))
    assert check(history, "eventual", "register").status is Status.ILLEGAL
    assert check(history, "eventual", "register", quiet_ns=1_500_000).status is Status.OK
    assert check(history, "eventual", "register", quiet_ns=9_000_000).status is Status.UNKNOWN
    with pytest.raises(UsageError, match="not for a queue"):
        check(history, "eventual", "queue")


def test_crashed_adds_may_or_may_not_count() -> None:
    """For a counter, any subset of them explains the rest."""
    events = [
        Event(type=EventType.INVOKE, process=0, f="add", value=5),
        Event(type=EventType.INFO, process=0, f="add"),
    ]
    for seen, status in ((0, Status.OK), (5, Status.OK), (4, Status.ILLEGAL)):
        read = [
            Event(type=EventType.INVOKE, process=1, f="read"),
            Event(type=EventType.OK, process=1, f="read", value=seen),
        ]
        assert check(pair(events + read), "eventual", "counter").status is status


def vote(process: int, yes: bool) -> Step:
    """A vote on transaction t."""
    return (process, "vote", "t", yes, yes)


def decide(process: int, what: str) -> Step:
    """A decision on transaction t."""
    return (process, what, "t", None, None)


@pytest.mark.parametrize(
    ("steps", "anomaly"),
    [
        ([vote(0, True), vote(1, True), decide(0, "commit"), decide(1, "commit")], ""),
        ([vote(0, True), vote(1, False), decide(0, "abort"), decide(1, "abort")], ""),
        ([vote(0, True), vote(1, True), decide(0, "commit"), decide(1, "abort")], "AC1"),
        ([vote(0, True), decide(0, "commit"), decide(0, "abort")], "AC2"),
        ([vote(0, True), vote(1, False), decide(0, "commit"), decide(1, "commit")], "AC3"),
        ([vote(0, True), vote(1, True), decide(0, "abort"), decide(1, "abort")], "AC4"),
        ([vote(0, True), vote(1, True), decide(0, "commit")], ""),
    ],
)
def test_atomic_commit(steps: Sequence[Step], anomaly: str) -> None:
    """AC1 to AC4; undecided participants are named, not blamed."""
    verdict = check(one_by_one(*steps), "atomic-commit")
    assert verdict.anomalies == ((anomaly,) if anomaly else ())
    assert bool(verdict) is (not anomaly)


def acquire(process: int, token: Value) -> Step:
    """The lock is granted with a token."""
    return (process, "acquire", "l", None, token)


def release(process: int) -> Step:
    """The lock is given back."""
    return (process, "release", "l", None, None)


@pytest.mark.parametrize(
    ("steps", "anomalies"),
    [
        ([acquire(0, 1), release(0), acquire(1, 2), release(1)], ()),
        ([acquire(0, 1), acquire(1, 2)], ("mutual-exclusion",)),
        ([acquire(0, 2), release(0), acquire(1, 1)], ("token-order",)),
        ([acquire(0, 1), release(0), acquire(1, 1)], ("token-order",)),
        ([acquire(0, (1, 900_000)), acquire(1, (2, 900_000))], ()),
        ([acquire(0, (1, 9_000_000)), acquire(1, (2, 9_000_000))], ("mutual-exclusion",)),
        ([(0, "write", "l", (2, "b"), None), (1, "write", "l", (1, "a"), None)], ("stale-write",)),
        ([(0, "write", "l", (1, "b"), None), (1, "write", "l", (2, "a"), None)], ()),
    ],
)
def test_lock_safety(steps: Sequence[Step], anomalies: tuple[str, ...]) -> None:
    """One holder, growing tokens, stale writers fenced off; leases end by themselves."""
    verdict = check(one_by_one(*steps), "lock-safety")
    assert verdict.anomalies == anomalies
    assert bool(verdict) is (not anomalies)


@pytest.mark.parametrize(
    ("object", "steps", "legal"),
    [
        ("lock", [acquire(0, 1), release(0), acquire(1, 2)], True),
        ("lock", [acquire(0, 1), acquire(1, 2)], False),
        ("lock", [acquire(0, 2), release(0), acquire(1, 1)], False),
        ("mutex", [acquire(0, None), release(1), acquire(1, None)], True),
        ("mutex", [release(1)], False),
        ("queue", [(0, "enqueue", None, 1, 1), (0, "enqueue", None, 2, 2), (1, "dequeue", None, None, 1)], True),
        ("queue", [(0, "enqueue", None, 1, 1), (0, "enqueue", None, 2, 2), (1, "dequeue", None, None, 2)], False),
        ("stack", [(0, "push", None, 1, 1), (0, "push", None, 2, 2), (1, "pop", None, None, 2)], True),
        ("stack", [(0, "push", None, 1, 1), (0, "push", None, 2, 2), (1, "pop", None, None, 1)], False),
        ("unordered-queue", [(0, "enqueue", None, 1, 1), (0, "dequeue", None, None, 2)], False),
        ("set", [(0, "add", None, 1, True), (0, "add", None, 1, True)], False),
        ("set", [(0, "add", None, 1, True), (0, "remove", None, 1, True), (0, "contains", None, 1, False)], True),
        ("counter", [(0, "increment", None, None, None), (0, "read", None, None, 1)], True),
        ("multi-register", [(0, "txn", None, (("w", "x", 1),), (("w", "x", 1),)),
                            (0, "txn", None, (("r", "x", None),), (("r", "x", 2),))], False),
        ("kv", [(0, "put", "x", "1", None), (0, "delete", "x", None, None), (0, "get", "x", None, None)], True),
        ("kv", [(0, "cas", "x", (None, "1"), True), (0, "cas", "x", (None, "2"), True)], False),
        ("kv", [(0, "cas", "x", (None, "1"), True), (0, "cas", "x", (None, "2"), False)], True),
    ],
)  # fmt: skip
def test_objects(object: str, steps: Sequence[Step], legal: bool) -> None:
    """What each object allows, one operation after the other."""
    verdict = check(one_by_one(*steps), object=object)
    assert bool(verdict) is legal
    assert verdict.object == object


def test_a_transfer_that_says_false_moved_nothing() -> None:
    read = (0, "read", None, None, Record({(0, 5), (1, 5)}))
    for told, legal in ((False, True), (True, False)):
        history = one_by_one((0, "transfer", None, (0, 1, 5), told), read)
        assert bool(check(history, object=Bank({0: 5, 1: 5}))) is legal


def test_bank() -> None:
    """Money moves and is never made; an overdraft cannot have succeeded; balances must be given."""
    read = (0, "read", None, None, Record({(0, 3), (1, 7)}))
    legal = one_by_one((0, "transfer", None, (0, 1, 2), None), read)
    assert check(legal, object=Bank({0: 5, 1: 5}))
    assert not check(legal, object=Bank({0: 5, 1: 6}))
    named = Record({("from", 0), ("to", 1), ("amount", 9)})
    overdraft = one_by_one((0, "transfer", None, named, None))
    assert not check(overdraft, object=Bank({0: 5, 1: 5}))
    assert check(overdraft, object=Bank({0: 5, 1: 5}, negative=True))
    with pytest.raises(UsageError, match="initial balances"):
        check(legal, object="bank")
    assert check(legal.with_reading(Reading(initial=Record({(0, 5), (1, 5)}))), object="bank")


def test_an_object_of_ones_own() -> None:
    """Ten lines, and a step that leads to several states."""

    class Coin(Model):
        name = "coin"

        def init(self) -> Value:
            return "heads"

        def step(self, state: Value, call: Call) -> Value:
            if call.f == "toss":
                return Several(("heads", "tails"))
            return state if not call.known or call.result == state else ILLEGAL

    def toss(seen: str) -> History:
        return one_by_one((0, "toss", None, None, None), (0, "read", None, None, seen))

    assert check(toss("tails"), object=Coin()) and check(toss("heads"), object=Coin())
    assert not check(toss("edge"), object=Coin())
    assert check(toss("tails"), "sequential", Coin())


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_refuse_operations_they_do_not_have(name: str) -> None:
    """Rather than take them for something else."""
    model = Bank({0: 1}) if name == "bank" else model_of(name)
    with pytest.raises(UsageError):
        model.step(model.init(), Call(f="boil"))


def crowd(writers: int) -> History:
    """Many crashed writes and cas, then reads that only a search can explain."""
    events = []
    for process in range(writers):
        argument: Value = (process % 5, (process * 3 + 1) % 5) if process % 2 else process % 5
        f = "cas" if process % 2 else "write"
        events.append(Event(type=EventType.INVOKE, process=process, f=f, value=argument))
        events.append(Event(type=EventType.INFO, process=process, f=f))
    for at in range(40):
        process = 1000 + at
        events.append(Event(type=EventType.INVOKE, process=process, f="read"))
        events.append(Event(type=EventType.OK, process=process, f="read", value=at % 5))
    return pair(events)


def test_out_of_time_is_unknown_and_says_how_far() -> None:
    """The clock is the caller's; a verdict is never guessed."""
    asked = 0

    def expired() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    verdict = check(crowd(40), object="cas-register", expired=expired)
    assert verdict.status is Status.UNKNOWN
    assert verdict.counterexample is None and verdict.witness is None
    assert "of" in verdict.reason
    assert asked > 3


def test_out_of_memory_is_unknown() -> None:
    """The bound on configurations."""
    verdict = check(crowd(40), object="cas-register", configurations_max=50)
    assert verdict.status is Status.UNKNOWN
    assert "50 configurations" in verdict.reason


def test_sequential_gives_up_too() -> None:
    """Bounded by states or by time."""
    history = one_by_one(
        *((0, "enqueue", None, at, at) for at in range(6)), *((1, "dequeue", None, None, at) for at in (1, 0, 2))
    )
    assert check(history, "sequential", "queue").status is Status.ILLEGAL
    verdict = check(history, "sequential", "queue", configurations_max=2)
    assert verdict.status is Status.UNKNOWN
    assert "gave up after 3 states" in verdict.reason


def test_all_parts_are_looked_at_when_asked() -> None:
    """Otherwise the first illegal key ends it."""
    history = one_by_one(r(0, "x", 1), r(0, "y", 1), w(0, "z", 1))
    assert len(check(history, object="kv").parts) == 1
    verdict = check(history, object="kv", every_part=True)
    assert [part.status for part in verdict.parts] == [Status.ILLEGAL, Status.ILLEGAL, Status.OK]
    assert verdict.algorithms == ("chains",)


def test_empty_history_is_fine() -> None:
    """Nothing happened, so nothing went wrong. (Without a watch nothing is said of watches: test_verify_watches.py.)"""
    for model in MODELS:
        if model not in ("bounded", "scan", "watch"):
            assert check(pair([]), model, "register")


def test_verdicts_say_what_they_are() -> None:
    """repr, truth, combination."""
    verdict = check(STALE, object="register")
    assert "illegal" in repr(verdict) and not verdict
    assert combine([Status.OK, Status.UNKNOWN]) is Status.UNKNOWN
    assert combine([Status.UNKNOWN, Status.ILLEGAL]) is Status.ILLEGAL
    assert combine([]) is Status.OK
    long: Callable[[], Verdict] = lambda: check(crowd(12), object="cas-register")  # noqa: E731
    assert len(long().text(lines_max=5).splitlines()) <= 5


def test_an_abort_under_faults_is_nobodys_fault() -> None:
    """AC4 asks for a commit only where nothing went wrong."""
    steps = [(0, "vote", "t", True, None), (1, "vote", "t", True, None), (0, "abort", "t", None, None)]
    calm = one_by_one(*steps)
    assert check(calm, "atomic-commit").anomalies == ("AC4",)
    disturbed = pair([*calm.events(), Event(type=EventType.INFO, process="nemesis", f="kill")])
    verdict = check(disturbed, "atomic-commit")
    assert verdict and verdict.reason == "1 participant had not decided when the history ended"


def test_a_commit_that_did_not_wait_for_a_vote_breaks_ac3() -> None:
    """A yes that was asked for once the commit had returned is not what it was decided upon, nor is a refused one."""
    early = one_by_one(vote(0, True), decide(0, "commit"), vote(1, True))
    assert check(early, "atomic-commit").anomalies == ("AC3",)
    assert check(one_by_one(vote(0, True), vote(1, True), decide(0, "commit")), "atomic-commit")
    never = one_by_one(vote(0, True), vote(1, True), decide(0, "commit"))
    refused = [
        structs.replace(event, type=EventType.FAIL) if at == 3 else event
        for at, event in enumerate(never.events())
    ]
    assert check(pair(refused), "atomic-commit").anomalies == ("AC3",)
    unsaid = one_by_one(vote(0, True), vote(1, None), decide(0, "commit"))
    verdict = check(unsaid, "atomic-commit")
    assert verdict.status is Status.UNKNOWN, "a vote whose answer was not recorded is no refusal, and no consent"
    assert "how process 1 voted is not known" in verdict.reason
    assert check(one_by_one(vote(0, True), vote(1, None), decide(0, "abort")), "atomic-commit")


@pytest.mark.parametrize("told", ["NO", "Yes", "maybe", 2, ()])
def test_a_vote_that_is_neither_yes_nor_no_is_refused(told: Value) -> None:
    history = one_by_one((0, "vote", "t", None, told), decide(0, "commit"))
    with pytest.raises(UsageError, match="a vote is true, yes"):
        check(history, "atomic-commit")


def test_what_a_transaction_read_that_is_ok_without_a_value_is_not_known() -> None:
    """As one object too: the nil of a request is no answer, and what it wrote counts."""
    asked = (("r", "x", None), ("w", "x", 2))
    for seen, legal in ((2, True), (1, False)):
        steps = [(0, "put", "x", 1, 1), (1, "txn", None, asked, None), (2, "get", "x", None, seen)]
        assert bool(check(one_by_one(*steps), object="multi-register")) is legal
    told = [(0, "put", "x", 1, 1), (1, "txn", None, asked, asked)]
    assert not check(one_by_one(*told), object="multi-register")


def test_a_lock_that_says_false_was_not_granted() -> None:
    refused = [acquire(0, None), acquire(1, False), release(0), acquire(1, None), (0, "release", "l", None, False)]
    for object in ("lock", "mutex"):
        assert check(one_by_one(*refused), object=object)
        assert not check(one_by_one(acquire(0, None), acquire(1, True)), object=object)
    assert check(one_by_one(*refused), "lock-safety")
    found = guess(one_by_one(*refused))
    assert (found.object, found.model) == ("mutex", "linearizable")


def test_a_counter_starts_where_its_header_says() -> None:
    history = one_by_one((0, "add", None, 2, None), (0, "read", None, None, 7))
    assert not check(history, object="counter")
    assert check(history.with_reading(Reading(initial=5)), object="counter")


def test_a_transaction_that_is_ok_without_a_value_wrote_and_says_nothing_of_its_reads() -> None:
    """The nil of a request is no answer."""
    asked, seen = (("r", "x", None), ("append", "x", 2)), (("r", "x", (1, 2)),)
    history = one_by_one(
        (0, "txn", None, (("append", "x", 1),), (("append", "x", 1),)),
        (1, "txn", None, asked, None),
        (2, "txn", None, (("r", "x", None),), seen),
    )
    assert check_transactions(history, "list-append", "strict-serializable")
    torn = structs.replace(history.operations[2], result=(("r", "x", (1,)),))
    lost = History([*history.operations[:2], torn], timeline=history.timeline, length=history.length)
    assert not check_transactions(lost, "list-append", "strict-serializable")


def test_atomic_commit_blames_whoever_decided_later() -> None:
    """Whichever of the two it was; and a result of a vote counts for more than what was asked."""
    for first, second in (("commit", "abort"), ("abort", "commit")):
        verdict = check(one_by_one((0, first, "t", None, None), (1, second, "t", None, None)), "atomic-commit")
        assert verdict.counterexample is not None and verdict.counterexample.operation == 1
        assert f"process 0 decided {first}" in verdict.reason
    refused = one_by_one((1, "vote", "t", True, False), (0, "commit", "t", None, None))
    assert check(refused, "atomic-commit").anomalies == ("AC3",)
    assert check(one_by_one((1, "vote", "t", True, None), (1, "commit", "t", None, None)), "atomic-commit")


def test_the_first_broken_transaction_is_the_example() -> None:
    """Of two that are broken, and of one that is whole; other operations are none of this check's business."""
    steps = [
        (0, "read", "s", None, 1),
        (0, "commit", "t", None, None), (1, "abort", "t", None, None),
        (0, "commit", "u", None, None), (1, "abort", "u", None, None),
    ]  # fmt: skip
    verdict = check(one_by_one(*steps), "atomic-commit")
    assert [part.key for part in verdict.parts] == ["t", "u"]
    assert verdict.counterexample is not None and verdict.counterexample.operation == 2


def test_what_a_lock_says_besides_tokens_is_no_token() -> None:
    """Texts, booleans, nothing; and a lease needs a number."""
    odd: list[Value] = ["granted", True, (), ("a", 5), (1, "soon"), (2,), None]
    steps = [step for value in odd for step in (acquire(0, value), release(0))]
    assert check(one_by_one(*steps), "lock-safety")
    # (1, "soon") is a token without a lease: it is held until it is released.
    assert check(one_by_one(acquire(0, (1, "soon")), acquire(1, (2, "soon"))), "lock-safety").anomalies == (
        "mutual-exclusion",
    )
    assert check(one_by_one(acquire(0, True), release(0), acquire(1, True)), "lock-safety")


@pytest.mark.parametrize("model", ["sequential", "causal", "causal+", "pram", "session", "session-guarantees"])
def test_weak_models_start_with_the_value_the_register_starts_with(model: str) -> None:
    """A late reader of 0 of a register that starts as 0 read nothing out of thin air."""
    late = one_by_one(w(0, "x", 1), r(1, "x", 0))
    assert check(late, model, Register(0))
    assert check(late, model, "register").status is Status.ILLEGAL


def crashed_then(*rows: tuple[int, str, str, Value]) -> History:
    """Process 0 crashes writing x = 1 and goes on all the same, then *rows* (process, f, key, value) one by one."""
    kind = EventType
    events = [
        Event(type=kind.INVOKE, process=0, f="write", key="x", value=1),
        Event(type=kind.INFO, process=0, f="write", key="x"),
    ]
    for process, f, key, value in rows:
        argument = None if f == "read" else value
        events.append(Event(type=kind.INVOKE, process=process, f=f, key=key, value=argument))
        events.append(Event(type=kind.OK, process=process, f=f, key=key, value=value))
    return pair(events)


@pytest.mark.parametrize("model", ["sequential", "causal", "causal+", "causal-weak", "pram", "session-guarantees"])
def test_a_crashed_write_is_in_no_order_with_what_its_process_did_next(model: str) -> None:
    """It may never have happened, or late."""
    never = crashed_then((0, "write", "y", 2), (0, "write", "y", 3), (1, "read", "y", 2), (1, "read", "x", None))
    assert check(never, model)
    late = crashed_then(
        (0, "write", "y", 2),
        (0, "write", "y", 3),
        (1, "read", "y", 2),
        (1, "read", "x", None),
        (1, "read", "x", 1),
    )
    assert check(late, model).status is (Status.OK if model == "sequential" else Status.UNKNOWN)


def test_quiet_reads_may_differ_by_what_crashed() -> None:
    """Nobody knows when a crashed write takes effect, so two reads after it show no divergence; three values do."""
    late = crashed_then((2, "read", "x", None), (1, "read", "x", 1))
    assert check(late, "eventual", "register").status is Status.UNKNOWN
    other = crashed_then((2, "write", "x", 2), (1, "read", "x", 2), (2, "read", "x", 1))
    assert check(other, "eventual", "register").status is Status.UNKNOWN
    apart = crashed_then((2, "write", "x", 2), (2, "write", "x", 3), (1, "read", "x", 2), (2, "read", "x", 3))
    assert check(apart, "eventual", "register").status is Status.ILLEGAL
    lost = crashed_then((2, "write", "x", 2), (1, "read", "x", None), (2, "read", "x", 1))
    assert check(lost, "eventual", "register").status is Status.ILLEGAL


@pytest.mark.parametrize("keys", [1, 4000])
def test_convergence_is_linear(keys: int) -> None:
    """Thousands of writes and reads, of one key or of as many: each is compared with a few others, not with all."""
    compared = 0

    class Name(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    steps = [w(0, Name(at % keys), Name(f"v{at}")) for at in range(4000)]
    steps += [r(1, Name(at % keys), Name(f"v{at}" if keys > 1 else "v3999")) for at in range(4000)]
    assert check(one_by_one(*steps), "eventual", "register")
    assert compared < 200_000


def test_a_set_of_ones_own_is_checked_by_its_own_step() -> None:
    """Neither a chain of reads nor one element at a time: a set that refuses a third element."""

    class Small(SetObject):
        def step(self, state: Value, call: Call) -> Value:
            after = super().step(state, call)
            return ILLEGAL if isinstance(after, frozenset) and len(after) > 2 else after

    adds: list[Step] = [(0, "add", None, at, None) for at in range(3)]
    assert not check(one_by_one(*adds), object=Small())
    assert not check(one_by_one(*adds, (0, "read", None, None, (0, 1, 2))), object=Small())
    assert check(one_by_one(*adds[:2], (0, "read", None, None, (0, 1))), object=Small())


@pytest.mark.parametrize("model", ["session", "session-guarantees", "monotonic-reads", "writes-follow-reads"])
def test_session_guarantees_stop_when_time_is_out(model: str) -> None:
    """What was not looked at is unknown."""
    fine = one_by_one(w(0, "x", 1), r(1, "x", 1))
    assert check(fine, model)
    verdict = check(fine, model, expired=lambda: True)
    assert verdict.status is Status.UNKNOWN and "time" in verdict.reason


def test_writes_follow_reads_looks_at_every_read_of_a_writer_once() -> None:
    """A session that reads and writes one key in turn: quadratic, this was some ten million looks."""
    steps: list[Step] = []
    for value in range(1, 4001):
        steps += [w(0, "x", value), r(0, "x", value)]
    steps += [(1, "read", "x", None, value) for value in range(1, 4001)]
    history = one_by_one(*steps)
    looked = 0

    class Counted(tuple[int, int]):
        def __getitem__(self, at: object) -> int:  # type: ignore[override]
            nonlocal looked
            looked += 1
            return super().__getitem__(at)  # type: ignore[index]

    observer = _Observer(accesses_of(history, "session"))
    observer.reads[0]["x"] = [Counted(row) for row in observer.reads[0]["x"]]
    assert observer.follow(1, "writes-follow-reads") is None
    assert looked <= 3 * 4001


def test_leases_without_times_prove_no_overlap() -> None:
    """When the first lease ran out cannot be known; and a lease may be a fraction."""
    steps = (acquire(0, (1, 1000)), acquire(1, (2, 1000)))
    timeless = [structs.replace(event, time=None) for event in one_by_one(*steps).events()]
    assert check(pair(timeless), "lock-safety")
    assert check(one_by_one(acquire(0, (1, 1500.5)), acquire(1, (2, 1500.5))), "lock-safety")
    assert not check(one_by_one(acquire(0, (1, 5e6)), acquire(1, (2, 5e6))), "lock-safety")


def test_the_first_broken_lock_is_the_example() -> None:
    """And operations of another kind do not count."""
    steps = [
        (0, "read", "other", None, 1),
        (0, "acquire", "a", None, 1), (1, "acquire", "a", None, 2),
        (2, "acquire", "b", None, 1), (3, "acquire", "b", None, 2),
    ]  # fmt: skip
    verdict = check(one_by_one(*steps), "lock-safety")
    assert [part.key for part in verdict.parts] == ["a", "b"]
    assert verdict.counterexample is not None and verdict.counterexample.operation == 2


def test_a_refused_cas_and_a_look_at_one_element_are_no_updates_that_must_settle() -> None:
    """The register keeps its initial value, and what a set was asked after its last add changes nothing."""
    refused = one_by_one((0, "cas", "x", (1, 2), False), r(1, "x", None))
    assert check(refused, "eventual", "register").status is Status.OK
    invented = one_by_one((0, "cas", "x", (1, 2), False), r(1, "x", 2))
    assert check(invented, "eventual", "register").status is Status.ILLEGAL
    asked = one_by_one((0, "add", None, 1, None), (1, "read", None, None, (1,)), (1, "contains", None, 1, True))
    assert check(asked, "eventual", "set").status is Status.OK

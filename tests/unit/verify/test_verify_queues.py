"""Queues without search, and queues and stacks that look ahead."""

import random
from collections.abc import Sequence

import pytest

from troth.errors import UsageError
from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Value
from troth.verify.linearizability import Budget
from troth.verify.linearizability.pairing import told_apart
from troth.verify.models import Queue
from troth.verify.verdict import Status

pytestmark = pytest.mark.timeout(20)

Step = tuple[int, str, str, Value]


def told(*steps: Step) -> History:
    """(process, "invoke" | "ok" | "info", f, value) as events."""
    return pair(
        [Event(type=EventType(kind), process=process, f=f, value=value) for process, kind, f, value in steps]
    )


def alone(process: int, f: str, value: Value) -> Sequence[Step]:
    """An operation that overlaps nothing."""
    asked = None if f in ("dequeue", "pop") else value
    return ((process, "invoke", f, asked), (process, "ok", f, value))


def test_an_empty_dequeue_needs_an_instant_at_which_nothing_is_in() -> None:
    full = told(*alone(0, "enqueue", 1), *alone(1, "dequeue", None), *alone(1, "dequeue", 1))
    verdict = check(full, object="queue")
    assert not verdict and verdict.algorithms == ("queue-order",)
    assert "something was in the queue all the while" in verdict.text()
    before = told(
        (1, "invoke", "dequeue", None),
        *alone(0, "enqueue", 1),
        (1, "ok", "dequeue", None),
        *alone(1, "dequeue", 1),
    )
    verdict = check(before, object="queue")
    assert verdict and verdict.witness == (0, 1, 2)


def test_the_order_of_a_long_queue_is_worked_out_in_time() -> None:
    """The page shows it; by looking at all that is left for each, this was minutes."""
    steps = [step for at in range(20_000) for step in (*alone(0, "enqueue", at), *alone(1, "dequeue", at))]
    verdict = check(told(*steps), object="queue")
    assert verdict.algorithms == ("queue-order",)
    assert verdict.witness == tuple(range(40_000))


def test_one_value_after_the_other_can_keep_a_queue_from_being_empty() -> None:
    """1 leaves only after 2 has come: in between there was always something."""
    steps = (
        *alone(0, "enqueue", 1),
        (1, "invoke", "dequeue", None),
        *alone(0, "enqueue", 2), *alone(2, "dequeue", 1),
        (1, "ok", "dequeue", None),
        *alone(2, "dequeue", 2),
    )  # fmt: skip
    assert not check(told(*steps), object="queue")
    # Let 1 leave earlier, and there is a moment.
    steps = (
        *alone(0, "enqueue", 1),
        (1, "invoke", "dequeue", None),
        *alone(2, "dequeue", 1), *alone(0, "enqueue", 2),
        (1, "ok", "dequeue", None),
        *alone(2, "dequeue", 2),
    )  # fmt: skip
    verdict = check(told(*steps), object="queue")
    assert verdict and verdict.witness is not None
    assert verdict.witness.index(1) < verdict.witness.index(3)


def test_a_crashed_dequeue_may_have_taken_what_is_missing() -> None:
    lost = (*alone(0, "enqueue", 1), *alone(0, "enqueue", 2))
    assert not check(told(*lost, *alone(1, "dequeue", 2)), object="queue")
    crashed = told(*lost, (2, "invoke", "dequeue", None), (2, "info", "dequeue", None), *alone(1, "dequeue", 2))
    verdict = check(crashed, object="queue")
    assert verdict and verdict.algorithms == ("queue-order",) and verdict.witness == (0, 1, 2, 3)
    # One that was invoked only afterwards cannot have.
    late = told(*lost, *alone(1, "dequeue", 2), (2, "invoke", "dequeue", None), (2, "info", "dequeue", None))
    assert not check(late, object="queue")


def test_a_crashed_dequeue_takes_the_most_urgent_first() -> None:
    """Two are missing; one crashed dequeue came in time for the first only, the other is for the second."""
    steps = (
        *alone(0, "enqueue", 1),
        (8, "invoke", "dequeue", None),
        *alone(0, "enqueue", 2), *alone(1, "dequeue", 2),
        *alone(0, "enqueue", 3),
        (9, "invoke", "dequeue", None),
        *alone(0, "enqueue", 4), *alone(1, "dequeue", 4),
    )  # fmt: skip
    assert check(told(*steps), object="queue")
    swapped = tuple(step for step in steps if step[0] != 8)
    assert not check(told(*swapped), object="queue")


@pytest.mark.parametrize(("object", "put", "take"), [("queue", "enqueue", "dequeue"), ("stack", "push", "pop")])
def test_many_that_overlap_are_put_in_order_by_what_is_taken_later(object: str, put: str, take: str) -> None:
    """Eight at once have forty thousand orders; the one that is taken later is found without trying them."""
    values = [0, 1, 2, 3, 0, 4, 5, 1] if object == "queue" else list(range(8))
    steps: list[Step] = [(at, "invoke", put, value) for at, value in enumerate(values)]
    steps += [(at, "ok", put, value) for at, value in enumerate(values)]
    for value in values:
        steps += alone(0, take, value)
    verdict = check(told(*steps), object=object, configurations_max=10_000)
    assert verdict and verdict.parts[0].steps < 2_000
    wrong = [*steps[:-1], (0, "ok", take, 77)]
    assert not check(told(*wrong), object=object, configurations_max=10_000)


@pytest.mark.parametrize("crash", [0.0, 0.05])
@pytest.mark.parametrize("elements", [2, 20])
@pytest.mark.parametrize("seed", range(3))
def test_elements_that_repeat_are_told_apart_by_their_times(seed: int, elements: int, crash: float) -> None:
    """Ten clients, 200 operations, many of which find nothing; a search alone gives up on most of these."""
    rng = random.Random(seed)
    inside: list[int] = []
    steps: list[Step] = []
    working: dict[int, tuple[str, Value]] = {}
    fresh = 10
    clients = list(range(fresh))
    while len(steps) < 400:
        process = rng.choice(clients)
        if process not in working:
            f = rng.choice(("enqueue", "dequeue"))
            value: Value = rng.randrange(elements) if f == "enqueue" else None
            steps.append((process, "invoke", f, value))
            working[process] = (f, value)
            if f == "enqueue":
                assert isinstance(value, int)
                inside.append(value)
            continue
        f, value = working.pop(process)
        if f == "dequeue":
            value = inside.pop(0) if inside else None
        if rng.random() < crash:
            steps.append((process, "info", f, None))
            clients[clients.index(process)] = fresh = fresh + 1
        else:
            steps.append((process, "ok", f, value))
    verdict = check(told(*steps), object="queue")
    assert verdict and verdict.algorithms == ("queue-order",)
    assert verdict.witness is not None


@pytest.mark.parametrize("seed", range(6))
def test_no_way_to_tell_elements_apart_is_found_without_a_long_search(seed: int) -> None:
    """Five clients, four elements over and over; late in the history a dequeue returns another than was first."""
    rng = random.Random(seed)
    steps: list[Step] = []
    held: list[int] = []
    working: dict[int, tuple[str, Value]] = {}
    for _ in range(400):
        process = rng.randrange(5)
        if process in working:
            f, value = working.pop(process)
            steps.append((process, "ok", f, value))
            continue
        f, value = rng.choice(("enqueue", "dequeue")), rng.randrange(4)
        steps.append((process, "invoke", f, value if f == "enqueue" else None))
        if f == "enqueue":
            held.append(value)
            working[process] = (f, value)
        else:
            working[process] = (f, held.pop(0) if held else None)
    assert check(told(*steps), object="queue").algorithms == ("queue-order",)
    late = [at for at, step in enumerate(steps) if step[1:3] == ("ok", "dequeue") and step[3] is not None][-10]
    process, kind, f, value = steps[late]
    assert isinstance(value, int)
    steps[late] = (process, kind, f, (value + 1) % 4)
    verdict = check(told(*steps), object="queue")
    assert verdict.status is Status.ILLEGAL and verdict.algorithms == ("queue-order",)
    example = verdict.counterexample
    assert example is not None and example.operation in example.minimal
    assert not check(told(*steps).where(example.minimal), object="queue")
    assert "some dequeue took what was not first" in verdict.text()


@pytest.mark.parametrize("stops", ["steps", "time"])
def test_a_search_for_pairs_that_was_cut_short_proves_nothing(stops: str) -> None:
    steps = [step for _ in range(300) for step in (*alone(0, "enqueue", 1), *alone(1, "dequeue", 1))]
    history = told(*steps)
    calls = Queue().calls(history)
    paired = told_apart(calls, history.timeline)
    assert paired.calls is not None and not paired.certain
    budget = Budget(configurations_max=10) if stops == "steps" else Budget(expired=lambda: True)
    paired = told_apart(calls, history.timeline, budget)
    assert paired.calls is None and not paired.certain


def test_dequeues_that_found_nothing_stand_in_any_order() -> None:
    """The one that returns first was invoked last: it comes after the element, the other before it."""
    history = told(
        (1, "invoke", "dequeue", None),
        *alone(0, "enqueue", 1), *alone(0, "dequeue", 1),
        *alone(2, "dequeue", None),
        *alone(0, "enqueue", 1),
        (1, "ok", "dequeue", None),
        *alone(0, "dequeue", 1),
    )  # fmt: skip
    verdict = check(history, object="queue")
    assert verdict and verdict.algorithms == ("queue-order",)


def test_an_element_that_crashed_waits_its_turn() -> None:
    """What a crashed enqueue put comes after all whose enqueue had returned before it began."""
    steps = (
        *alone(0, "enqueue", 1), *alone(0, "enqueue", 2),
        (1, "invoke", "enqueue", 1), (1, "info", "enqueue", None),
        *alone(2, "dequeue", 1), *alone(2, "dequeue", 2), *alone(2, "dequeue", 1),
    )  # fmt: skip
    assert check(told(*steps), object="queue")
    assert not check(told(*steps[:-4], *alone(2, "dequeue", 1)), object="queue")


def test_elements_that_nobody_takes_are_all_alike() -> None:
    """Overlapping pushes that stay in the stack have no order worth keeping."""
    steps: list[Step] = []
    for batch in range(20):
        steps += [(at, "invoke", "push", 3 * batch + at) for at in range(3)]
        steps += [(at, "ok", "push", 3 * batch + at) for at in range(3)]
    verdict = check(told(*steps), object="stack")
    assert verdict and verdict.parts[0].steps < 5_000


def test_a_pop_that_crashed_may_take_the_other_of_two_alike() -> None:
    """Pushed twice, popped once for sure: the crashed pop may have come long before that one."""
    steps = (
        *alone(0, "push", 5), *alone(0, "push", 1),
        (9, "invoke", "pop", None),
        *alone(0, "pop", 5),
        *alone(0, "push", 1), *alone(0, "pop", 1),
    )  # fmt: skip
    assert check(told(*steps), object="stack")
    late = (*steps, (8, "invoke", "pop", None))
    assert check(told(*late), object="stack")


@pytest.mark.parametrize("object", ["queue", "unordered-queue", "stack"])
def test_a_history_of_something_else_is_not_judged_as_a_queue(object: str) -> None:
    with pytest.raises(UsageError, match="has no operation 'put'"):
        check(told(*alone(0, "put", 1), *alone(1, "get", 1)), object=object)

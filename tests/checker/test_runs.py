"""The search for a run of transactions against one that tries every step, on random tasks that no history asks for."""

import random

import pytest

from troth.verify.history import Value
from troth.verify.transactions.serial import INITIAL, SearchBudget, Task, run

State = tuple[frozenset[int], tuple[int, ...], tuple[tuple[Value, int], ...]]


def random_task(seed: int) -> Task:
    rng = random.Random(seed)
    count = rng.randrange(2, 6)
    alive = range(count)

    def pairs(most: int) -> tuple[list[int], list[int]]:
        chosen = [tuple(rng.sample(alive, 2)) for _ in range(rng.randrange(most))]
        if rng.random() < 0.7:
            chosen = [(min(pair), max(pair)) for pair in chosen]
        return [one for one, _ in chosen], [other for _, other in chosen]

    writes = [tuple({rng.choice("xyz") for _ in range(rng.randrange(3))}) for _ in alive]
    writers = {key: [t for t in alive if key in writes[t]] for key in "xyz"}
    reads: list[tuple[tuple[Value, int], ...]] = []
    for t in alive:
        mine = {key: rng.choice([INITIAL, *writers[key]]) for key in rng.sample("xyz", rng.randrange(3))}
        reads.append(tuple((key, writer) for key, writer in mine.items() if writer != t))
    # What an anti-dependency leads to has written.
    overwrites = [(one, other) for one, other in zip(*pairs(4), strict=True) if writes[other]]
    rank = list(alive)
    rng.shuffle(rank)
    return Task(
        count=count,
        alive=alive,
        reads=reads,
        writes=writes,
        before=pairs(3),
        started_before=([one for one, _ in overwrites], [other for _, other in overwrites]),
        clock=None,
        rank=rank,
        snapshots=rng.random() < 0.5,
    )


def can_run(task: Task) -> bool:
    """Try every step from every state."""
    before, started_before = set(zip(*task.before, strict=True)), set(zip(*task.started_before, strict=True))
    stack: list[State] = [(frozenset(), (), ())]
    seen = set(stack)
    while stack:
        started, committed, stored = stack.pop()
        if len(committed) == len(task.alive):
            return True
        store = dict(stored)
        for t in task.alive:
            if t in committed:
                continue
            may_commit = all(one in started or one == t for one, other in started_before if other == t)
            after = started, committed
            if t not in started:
                busy = {key for other in started if other not in committed for key in task.writes[other]}
                if (
                    any(one not in committed for one, other in before if other == t)
                    or any(store.get(key, INITIAL) != writer for key, writer in task.reads[t])
                    or (task.snapshots and busy & set(task.writes[t]))
                    or (not task.snapshots and not may_commit)
                ):
                    continue
                after = started | {t}, committed
            elif not may_commit:
                continue
            if t in started or not task.snapshots:
                after = after[0], (*committed, t)
            then = store | dict.fromkeys(task.writes[t], t) if len(after[1]) > len(committed) else store
            state = (*after, tuple(sorted(then.items(), key=repr)))
            if state not in seen:
                seen.add(state)
                stack.append(state)
    return False


@pytest.mark.parametrize("count", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_run_is_found_exactly_where_there_is_one(count: int) -> None:
    found = 0
    for seed in range(count):
        task = random_task(seed)
        outcome = run(task, SearchBudget(steps_max=100_000, expired=lambda: False))
        assert outcome.proven, seed
        assert (outcome.order is not None) is can_run(task), seed
        if outcome.order is not None:
            assert sorted(outcome.order) == list(task.alive), seed
            place = {t: at for at, t in enumerate(outcome.order)}
            assert all(place[one] < place[other] for one, other in zip(*task.before, strict=True)), seed
            found += 1
    assert count // 10 < found < count - count // 10


@pytest.mark.parametrize("seed", [25_255, 38_112, 46_473, 7_064, 7_869, 18_223])
def test_what_is_undone_leaves_nothing_behind(seed: int) -> None:
    """Neither who might have started after it, nor keys that others may write."""
    task = random_task(seed)
    outcome = run(task, SearchBudget(steps_max=100_000, expired=lambda: False))
    assert (outcome.order is not None) is can_run(task)

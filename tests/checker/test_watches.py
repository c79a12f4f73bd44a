"""Watches against their promises, each asked again of all pairs."""

import os
import random
from collections import Counter

import pytest

from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History, Value
from troth.verify.verdict import Status

Shown = tuple[int, Value, Value]
SPANS = {"a": ("a", ""), "ab": ("a", "c"), "all": ("", "\0")}
COUNTS = [
    pytest.param(0, 2000, id="smoke"),
    pytest.param(
        1_000_000,
        int(os.environ.get("TROTH_FUZZ", "3000")) * 5,
        id="deep",
        marks=[pytest.mark.slow, pytest.mark.timeout(3600)],
    ),
]


def watched(seed: int) -> History:
    """A store of three keys, clients that may crash, and three watches; in most runs something small is wrong."""
    rng = random.Random(seed)
    log: list[Shown] = []
    sent = {name: rng.randrange(2) for name in SPANS}
    free, working = list(range(3)), dict[int, tuple[Value, Value, int]]()
    events: list[Event] = []
    left, fresh, wrong = rng.randrange(3, 9), 3, rng.choice((0.0, 0.05, 0.1))
    while left or working or any(upto < len(log) for upto in sent.values()):
        name = rng.choice(list(SPANS))
        if rng.random() < 0.3 and sent[name] < len(log):
            first, upto = sent[name] + 1, rng.randrange(sent[name] + 1, len(log) + 1)
            shown = [each for each in log if first <= each[0] <= upto and inside(each[1], name)]
            told = (*SPANS[name], first, upto, tuple(_spoilt(shown, rng) if rng.random() < wrong else shown))
            events.append(Event(type=EventType.INFO, process=name, f="watch", value=told))
            sent[name] = upto + (rng.choice((-1, 1)) if rng.random() < wrong else 0)
        elif left and free and rng.random() < 0.5:
            left -= 1
            process = free.pop(rng.randrange(len(free)))
            working[process] = rng.choice("abc"), rng.choice((left, None)), 0
            events.append(_event(EventType.INVOKE, process, working[process]))
        elif working:
            process = rng.choice(list(working))
            key, value, revision = working[process]
            if not revision:
                log.append((len(log) + 1, key, value))
                wide = rng.choice((-1, 1)) if rng.random() < wrong / 2 else 0
                working[process] = key, value, max(1, len(log) + wide)
                continue
            crashed = rng.random() < 0.2
            events.append(_event(EventType.INFO if crashed else EventType.OK, process, working.pop(process)))
            free.append(fresh if crashed else process)
            fresh += crashed
    return pair(events)


def _event(kind: EventType, process: int, asked: tuple[Value, Value, int]) -> Event:
    key, value, revision = asked
    f, made = "delete" if value is None else "put", revision if kind is EventType.OK else None
    return Event(type=kind, process=process, f=f, key=key, value=value, revision=made)


def _spoilt(shown: list[Shown], rng: random.Random) -> list[Shown]:
    if not shown:
        return [(rng.randrange(1, 9), rng.choice("abc"), rng.randrange(3))]
    spoilt, at = list(shown), rng.randrange(len(shown))
    revision, key, value = spoilt[at]
    match rng.randrange(5):
        case 0:
            del spoilt[at]
        case 1:
            spoilt.insert(rng.randrange(len(spoilt) + 1), spoilt[at])
        case 2:
            spoilt.reverse()
        case 3:
            spoilt[at] = revision, rng.choice("abc"), value
        case _:
            spoilt[at] = revision, key, rng.choice((None, 9))
    return spoilt


def inside(key: Value, name: Value) -> bool:
    return name == "all" or str(key) in str(name)


def kept(history: History) -> bool:
    """All promises, as questions about all pairs."""
    updates = [(op.revision, op.key, op.argument, op.invoked, op.completed) for op in history.operations]
    updates = [update for update in updates if update[0] is not None]
    # (position, watch, from, upto, revision, key, value), deliveries without events left out
    shown: list[tuple[int, Value, int, int, int, Value, Value]] = []
    handed: list[tuple[int, Value, int, int]] = []
    for fault in history.faults:
        assert isinstance(fault.value, tuple)
        _, _, first, upto, events = fault.value
        handed.append((fault.position, fault.process, first, upto))
        shown += [(fault.position, fault.process, first, upto, *event) for event in events]
    for revision, key, value, invoked, _ in updates:
        # Later than whatever was known when it was asked for.
        if any(other[0] >= revision for other in updates if other[4] < invoked):
            return False
        if sum(other[0] == revision for other in updates) > 1:
            return False
        if any(upto >= revision for position, _, _, upto in handed if position < invoked):
            return False
        for position, name, first, upto in handed:
            told = [known for before, mine, _, known in handed if mine == name and before < position]
            begun = min(first, max(told) + 1) if told else first
            if inside(key, name) and begun <= revision <= upto:
                upto_now = [each for each in shown if each[1] == name and each[0] <= position]
                if not any(each[4:] == (revision, key, value) for each in upto_now):
                    return False
        if any(each[4] == revision and (each[5:] != (key, value) or each[0] < invoked) for each in shown):
            return False
    for at, (position, name, first, upto, revision, key, value) in enumerate(shown):
        if not (first <= revision <= upto and inside(key, name)):
            return False
        for other in shown[:at]:
            if other[4:6] == (revision, key) and (other[1] == name or other[6] != value):
                return False
            if other[1] == name and other[4] > revision:
                return False
        if any(mine == name and before < position and known >= revision for before, mine, _, known in handed):
            return False
    return True


@pytest.mark.parametrize(("start", "count"), COUNTS)
def test_watches_as_all_pairs_say(start: int, count: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(start, start + count):
        history = watched(seed)
        verdict = check(history, "watch")
        if not any(fault.f == "watch" for fault in history.faults):
            assert verdict.status is Status.UNKNOWN
            continue
        assert verdict.status is (Status.OK if kept(history) else Status.ILLEGAL), (seed, verdict.text())
        seen.update(verdict.anomalies or ["ok"])
    assert min(seen.values()) > count // 100 and len(seen) == 8, seen

"""Plans carried out on nodes that are sets of hashes: at every step, after every crash, and backwards.

Rings of 8 bits have a few hundred places and many collisions, so everything can be looked at.
"""

import itertools
import random
from collections.abc import Mapping

import pytest

from troth.hashing import HashRing, Move, Plan, Progress

NAMES = [f"n{number}" for number in range(7)]
PLACES = range(256)


class Crash(Exception):
    """The process that carried the plan out has died."""


class Sets:
    """A mover over sets of hashes that dies now and then, before or after it did its work."""

    def __init__(self, held: dict[str, set[int]], rng: random.Random, crash: float) -> None:
        self.held, self.rng, self.crash = held, rng, crash

    def copy(self, move: Move) -> int:
        assert move.source is not None and self.range_of(move) <= self.held[move.source], (
            "copied from who lacks it"
        )
        self.maybe_die()
        self.held[move.target] |= self.range_of(move)
        self.maybe_die()
        return 1

    def switch(self, move: Move) -> None:
        self.maybe_die()

    def drop(self, move: Move) -> None:
        self.held[move.leaving] -= self.range_of(move)
        self.maybe_die()

    def range_of(self, move: Move) -> set[int]:
        assert move.first is not None and move.last is not None
        return set(range(move.first, move.last + 1))

    def maybe_die(self) -> None:
        if self.rng.random() < self.crash:
            raise Crash


def preferred(ring: HashRing, replicas: int) -> list[set[str]]:
    return [set(itertools.islice(ring.walk_hash(place), replicas)) for place in PLACES]


def holders(held: Mapping[str, set[int]]) -> list[set[str]]:
    return [{name for name in NAMES if place in held[name]} for place in PLACES]


def change(rng: random.Random) -> tuple[HashRing, HashRing, int, list[str]]:
    """(before, after, replicas, who left)."""
    weights = {name: rng.choice((1, 1, 2, 0.5)) for name in rng.sample(NAMES, rng.randrange(2, 6))}
    before = HashRing(weights, vnodes=rng.randrange(1, 9), bits=8)
    leaving = [name for name in weights if rng.random() < 0.3]
    joining = {name: rng.choice((1, 2)) for name in NAMES if name not in weights and rng.random() < 0.4}
    if len(leaving) == len(weights):
        leaving.pop()
    others = {name: rng.choice((1, 3)) for name in weights if name not in leaving and rng.random() < 0.3}
    after = before.changed(add=joining, remove=leaving, reweight=others)
    return before, after, min(len(before), len(after), rng.randrange(1, 4)), leaving


@pytest.mark.parametrize("seed", range(60))
def test_a_ring_is_the_same_along_any_way(seed: int) -> None:
    """Joins in another order, detours, weights that change: digest, owners and preference lists are the same."""
    rng = random.Random(seed)
    before, _, replicas, _ = change(rng)
    other = HashRing(vnodes=int(str(before.settings()["vnodes"])), bits=8)
    for name in rng.sample(list(before.weights), len(before)):
        other.add(name, rng.choice((1, 3)))
        if rng.random() < 0.3:
            other.add("guest", 2)
            other.remove("guest")
    for name, weight in before.weights.items():
        other.reweight(name, weight)
    assert other.digest.agrees(before.digest)
    for place in PLACES:
        assert list(itertools.islice(other.walk_hash(place), replicas)) == list(
            itertools.islice(before.walk_hash(place), replicas)
        )


@pytest.mark.parametrize("seed", range(60))
def test_no_key_ever_has_fewer_copies_and_all_end_where_they_belong(seed: int) -> None:
    """Wave by wave; also when nodes that leave, or one that stays, can be read no more."""
    rng = random.Random(seed)
    before, after, replicas, leaving = change(rng)
    lost = [name for name in leaving if rng.random() < 0.4]
    blind = {rng.choice(before.members)} if rng.random() < 0.3 else set()
    lost += sorted(blind - {*lost})
    plan = before.plan(after, replicas=replicas, moves_per_node=rng.randrange(1, 4), lost=lost)
    old, new = preferred(before, replicas), preferred(after, replicas)
    held = {name: {place for place in PLACES if name in old[place] and name not in lost} for name in NAMES}
    copies = [len(names) for names in holders(held)]
    mover = Sets(held, rng, 0.0)
    for wave in plan.waves:
        for step in ("copy", "drop"):
            for move in (plan.moves[index] for index in wave if step in plan.moves[index].steps):
                mover.copy(move) if step == "copy" else mover.drop(move)
                assert all(len(now) >= had for now, had in zip(holders(held), copies, strict=True))
    gone = {place for move in plan.unrecoverable for place in mover.range_of(move)}
    for place, (now, want) in enumerate(zip(holders(held), new, strict=True)):
        assert place in gone or now - blind == want - blind
    moved = sum(len(mover.range_of(move)) for move in plan.moves)
    assert moved == sum(len(want - had) for had, want in zip(old, new, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_survives_crashes_and_pauses_and_goes_back(seed: int) -> None:
    """Started again from its JSON after every crash; paused somewhere; then on to the end, or all the way back."""
    rng = random.Random(seed)
    before, after, replicas, _ = change(rng)
    plan = before.plan(after, replicas=replicas, moves_per_node=rng.randrange(1, 4))
    old = preferred(before, replicas)
    held = {name: {place for place in PLACES if name in old[place]} for name in NAMES}
    mover = Sets(held, rng, 0.1)

    def carried_out(plan: Plan, stop_at: int = -1) -> Plan:
        def on_progress(progress: Progress) -> None:
            if progress.moves_done == stop_at:
                plan.pause()

        while True:
            try:
                plan.apply(mover, on_progress=on_progress)
            except Crash:
                plan = Plan.from_json(plan.to_json())
                continue
            return plan

    plan = carried_out(plan, rng.randrange(1, len(plan.moves) + 2))
    assert all(len(names) >= replicas for names in holders(held))
    if rng.random() < 0.5:
        back = carried_out(Plan.from_json(plan.undo().to_json()))
        assert back.finished and holders(held) == old
    else:
        plan = Plan.from_json(plan.to_json())
        plan.resume()
        assert carried_out(plan).finished and holders(held) == preferred(after, replicas)


@pytest.mark.parametrize("seed", range(20))
def test_moves_count_the_keys_and_bytes_that_move(seed: int) -> None:
    """Each move its own; and the share of hashes that changes hands is exact."""
    rng = random.Random(seed)
    before, after, replicas, _ = change(rng)
    keys = [f"key {number}" for number in range(100)]
    sizes = [rng.randrange(1, 1000) for _ in keys]
    plan = before.plan(after, replicas=replicas, keys=keys, sizes_bytes=sizes)
    hashes = [int(hashed) for hashed in before.hash_batch(keys)]
    for move in plan.moves:
        inside = [size for hashed, size in zip(hashes, sizes, strict=True) if move.covers(hashed)]
        assert (move.key_count, move.value_bytes) == (len(inside), sum(inside))
    moved = sum(
        len(want - had) for had, want in zip(preferred(before, replicas), preferred(after, replicas), strict=True)
    )
    assert plan.moved_fraction == pytest.approx(moved / len(PLACES) / replicas)
    assert all(move.key_count is None for move in before.plan(after, replicas=replicas).moves)


class Versions:
    """A mover over values with versions, which clients write to meanwhile; its switch carries newer values over."""

    def __init__(self, ring: HashRing, replicas: int, rng: random.Random, crash: float) -> None:
        self.routed = preferred(ring, replicas)
        self.latest = dict.fromkeys(PLACES, 0)
        self.held = {name: {place: 0 for place in PLACES if name in self.routed[place]} for name in NAMES}
        self.rng, self.crash = rng, crash

    def maybe_die(self, rarely: float = 1.0) -> None:
        if self.rng.random() < self.crash * rarely:
            raise Crash

    def write(self) -> None:
        for place in self.rng.sample(PLACES, 5):
            self.latest[place] += 1
            for name in self.routed[place]:
                self.held[name][place] = self.latest[place]

    def copy(self, move: Move) -> int:
        for place in covered(move):
            assert move.source is not None
            self.held[move.target][place] = self.held[move.source][place]
            self.maybe_die(0.1)
        self.maybe_die()
        return 1

    def switch(self, move: Move) -> None:
        self.maybe_die()
        for place in covered(move):
            if move.leaving in self.routed[place]:
                self.held[move.target][place] = self.held[move.leaving][place]
                self.routed[place] = self.routed[place] - {move.leaving} | {move.target}
        self.maybe_die()

    def drop(self, move: Move) -> None:
        for place in covered(move):
            assert move.leaving not in self.routed[place], "dropped where clients still look"
            self.held[move.leaving].pop(place, None)
            self.maybe_die(0.1)
        self.maybe_die()


def covered(move: Move) -> range:
    assert move.first is not None and move.last is not None
    return range(move.first, move.last + 1)


def halfway(plan: Plan) -> set[int]:
    """Places of which nobody knows whether they have switched."""
    moves = [move for move in plan.moves if "switch" in move.steps and "copy" not in move.steps]
    unsure = [move for move in moves if move.id not in plan.done]
    unsure += [] if plan.switching is None else [plan.moves[plan.switching]]
    return {place for move in unsure for place in covered(move)}


@pytest.mark.parametrize("seed", range(20))
def test_holders_are_known_and_current_through_crashes_pauses_and_undone_undos(seed: int) -> None:
    """Killed anywhere and gone on from what was saved, undone anywhere, that undone again; clients write meanwhile. At
    every stop `holders` names who has the newest values; at the end nobody else has anything."""
    rng = random.Random(seed)
    before, after, replicas, _ = change(rng)
    plan = before.plan(after, replicas=replicas, moves_per_node=rng.randrange(1, 4))
    lists = [[list(itertools.islice(ring.walk_hash(p), replicas)) for p in PLACES] for ring in (before, after)]
    mover = Versions(before, replicas, rng, rng.choice((0, 0.05, 0.2)))
    undone = 0

    def settled() -> None:
        unsure = halfway(plan)
        for place in PLACES:
            told = set(plan.holders(b"", place, lists[undone % 2][place]))
            assert place in unsure or told == mover.routed[place]
            assert all(mover.held[name][place] == mover.latest[place] for name in mover.routed[place])

    saved = [plan.to_json()]
    finished = False
    for _ in range(300):
        settled()
        if finished and (undone > 1 or rng.random() < 0.5):
            break
        if undone < 3 and rng.random() < 0.15:
            plan, undone, finished = plan.undo(), undone + 1, False
            saved.append(plan.to_json())
            settled()
        stop_at = len(plan.done) + rng.randrange(1, 6)

        def on_switch(plan: Plan = plan) -> None:
            saved.append(plan.to_json())
            mover.write()

        def on_progress(progress: Progress, plan: Plan = plan, stop_at: int = stop_at) -> None:
            on_switch(plan)
            if progress.moves_done >= stop_at:
                plan.pause()

        plan.resume(copy_again=rng.random() < 0.5)
        try:
            finished = plan.apply(mover, on_progress=on_progress, on_switch=on_switch)
        except Crash:
            plan = Plan.from_json(saved[-1])
        mover.write()
    assert finished
    assert holders({name: set(values) for name, values in mover.held.items()}) == mover.routed
    if undone < 2:
        assert mover.routed == preferred((after, before)[undone], replicas)

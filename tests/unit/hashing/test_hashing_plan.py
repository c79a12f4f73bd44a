"""Plans: exact, bounded, repeatable, reversible."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from troth.errors import DecodeError, InvariantViolation
from troth.hashing import (
    BadSetting,
    HashRing,
    KetamaRing,
    Memento,
    Move,
    NoNodes,
    NotSupported,
    Plan,
    Progress,
    Rendezvous,
    Throttle,
)

NAMES = [f"node-{index}" for index in range(6)]
KEYS = [f"key-{index}" for index in range(400)]


class Store:
    """A mover over dictionaries: who has which key. Checks on each step that no key ever has too few copies."""

    def __init__(self, ring: HashRing, replicas: int, lost: str = "") -> None:
        self.ring, self.floor = ring, replicas - bool(lost)
        self.held: dict[str, set[str]] = defaultdict(set)
        self.routed = {key: set(ring.nodes(key, replicas)) for key in KEYS}
        for key in KEYS:
            for node in ring.nodes(key, replicas):
                if node != lost:
                    self.held[node].add(key)
        self.copies = 0

    def moved(self, move: Move) -> list[str]:
        listed = {key.decode() for key in move.key_bytes()}
        return [key for key in KEYS if key in listed or move.covers(self.ring.hash_of(key))]

    def copy(self, move: Move) -> int:
        assert move.source is not None
        for key in self.moved(move):
            assert key in self.held[move.source], "the source no longer has the key"
            self.held[move.target].add(key)
        self.copies += 1
        return 10

    def switch(self, move: Move) -> None:
        for key in self.moved(move):
            assert key in self.held[move.target]
            self.routed[key].discard(move.leaving)
            self.routed[key].add(move.target)

    def drop(self, move: Move) -> None:
        for key in self.moved(move):
            self.held[move.leaving].discard(key)
            assert sum(key in held for held in self.held.values()) >= self.floor

    def placed(self) -> dict[str, set[str]]:
        return {key: {node for node, held in self.held.items() if key in held} for key in KEYS}


def expected(ring: HashRing, replicas: int) -> dict[str, set[str]]:
    return {key: set(ring.nodes(key, replicas)) for key in KEYS}


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("moves_per_node", [1, 3])
def test_applying_a_plan_reaches_the_ring_after(replicas: int, moves_per_node: int) -> None:
    before = HashRing(NAMES, vnodes=12)
    after = before.changed(add={"x": 2.0}, remove=["node-1"], reweight={"node-2": 0.5})
    plan = before.plan(after, replicas=replicas, keys=KEYS, moves_per_node=moves_per_node)
    store = Store(before, replicas)
    seen: list[Progress] = []
    assert plan.apply(store, on_progress=seen.append)
    assert store.placed() == store.routed == expected(after, replicas)
    assert plan.finished and [step.moves_done for step in seen] == list(range(1, len(plan.moves) + 1))
    busiest = max(
        len([m for m in wave if node in plan.moves[m].touches()]) for wave in plan.waves for node in [*NAMES, "x"]
    )
    assert busiest <= moves_per_node
    moved = sum(
        len(a - b)
        for a, b in zip(expected(after, replicas).values(), expected(before, replicas).values(), strict=True)
    )
    assert sum(move.key_count or 0 for move in plan.moves) == moved


def test_moving_a_thousandth_costs_a_thousandth() -> None:
    before = HashRing([f"n{index}" for index in range(200)])
    after = before.changed(add=["new"])
    plan = before.plan(after)
    assert plan.ideal_fraction == pytest.approx(1 / 201)
    assert plan.moved_fraction == pytest.approx(after.shares()["new"], rel=1e-9)
    assert {move.target for move in plan.moves} == {"new"}
    assert not before.plan(before.copy()).moves and before.plan(before.copy()).finished


def test_ranges_are_exact_at_their_edges() -> None:
    before, after = HashRing(NAMES, vnodes=5), HashRing([*NAMES, "new"], vnodes=5)
    plan = before.plan(after)
    for move in plan.moves:
        assert move.first is not None and move.last is not None
        for hashed in (move.first, move.last):
            assert before.node_of_hash(hashed) == move.leaving and after.node_of_hash(hashed) == move.target
        for outside in (move.first - 1, move.last + 1):
            if 0 <= outside < 2**64 and not any(other.covers(outside) for other in plan.moves):
                assert before.node_of_hash(outside) == after.node_of_hash(outside)


def test_a_paused_plan_goes_on_after_a_restart() -> None:
    before = HashRing(NAMES, vnodes=8)
    after = before.changed(add=["x"])
    plan = before.plan(after, moves_per_node=4)
    store = Store(before, 1)

    def pause_at_five(progress: Progress) -> None:
        if progress.moves_done == 5:
            plan.pause()

    assert not plan.apply(store, on_progress=pause_at_five)
    assert len(plan.done) == 5 and not plan.finished
    restarted = Plan.from_json(plan.to_json())
    assert restarted == plan and restarted.paused and not restarted.apply(store)
    restarted.resume()
    copies = store.copies
    assert restarted.apply(store)
    assert store.placed() == expected(after, 1)
    assert store.copies - copies <= len(plan.moves) - 5


def test_what_was_copied_before_a_pause_can_be_copied_again() -> None:
    before = HashRing(NAMES[:3], vnodes=4)
    plan = before.plan(before.changed(add=["d"]), moves_per_node=9)
    store = Store(before, 1)
    assert not plan.apply(store, on_progress=lambda progress: plan.pause())
    first, *waiting = plan.copied
    assert plan.done == [first] and waiting
    plan.resume(copy_again=True)
    assert plan.copied == [first] and plan.copying == sorted(waiting), "an undo has these to drop"
    copies = store.copies
    assert plan.apply(store) and store.copies == copies + len(plan.moves) - 1
    _, _, plan = halted_plan()
    plan.resume(copy_again=True)
    assert plan.switching in plan.copied, "what may have switched is never copied again"


def test_a_failed_step_is_tried_again() -> None:
    before = HashRing(NAMES, vnodes=8)
    after = before.changed(remove=["node-0"])
    plan = before.plan(after)
    store = Store(before, 1)
    calls = 0
    whole = store.switch

    def breaks_once(move: Move) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ConnectionError("gone")
        whole(move)

    store.switch = breaks_once  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        plan.apply(store)
    assert len(plan.done) == 2
    assert plan.apply(store)
    assert store.placed() == expected(after, 1)


@pytest.mark.parametrize("stop", [0, 1, 7, 10_000])
def test_undo_restores_the_ring_before(stop: int) -> None:
    before = HashRing(NAMES, vnodes=8)
    after = before.changed(add=["x"], remove=["node-3"])
    plan = before.plan(after, replicas=2, moves_per_node=3)
    store = Store(before, 2)

    def maybe_pause(progress: Progress) -> None:
        if progress.moves_done == stop:
            plan.pause()

    if stop:
        plan.apply(store, on_progress=maybe_pause)
    undo = plan.undo()
    undo.check()
    assert undo.before == plan.after and undo.after == plan.before
    assert undo.apply(store)
    assert store.placed() == store.routed == expected(before, 2)


def test_undo_only_drops_what_was_copied_but_never_switched() -> None:
    plan = HashRing(["a", "b"], vnodes=4).plan(HashRing(["a", "b", "c"], vnodes=4), moves_per_node=9)
    plan.copied = [0]
    (back,) = plan.undo().moves
    assert back.steps == ("drop",) and back.source is None
    assert (back.leaving, back.target) == (plan.moves[0].target, plan.moves[0].leaving)


def test_a_lost_node_is_replaced_from_the_other_replicas() -> None:
    before = HashRing(NAMES, vnodes=8)
    after = before.changed(remove=["node-0"])
    plan = before.plan(after, replicas=2, lost=["node-0"], moves_per_node=2)
    assert not plan.unrecoverable
    assert all(
        move.source != "node-0" and "drop" not in move.steps for move in plan.moves if move.leaving == "node-0"
    )
    store = Store(before, 2, lost="node-0")
    plan.apply(store)
    assert store.placed() == expected(after, 2)
    alone = before.plan(after, replicas=1, lost=["node-0"])
    assert len(alone.unrecoverable) == len(alone.moves)
    assert all(move.source is None and move.steps == ("switch",) for move in alone.moves)


def test_a_source_is_not_dropped_before_the_others_have_read_it() -> None:
    """node-0 is lost and node-1 leaves as well: node-1 may be the only copy that can be read."""
    for replicas in (2, 3):
        before = HashRing(NAMES, vnodes=10)
        after = before.changed(remove=["node-0", "node-1"], add=["x", "y"])
        plan = before.plan(after, replicas=replicas, lost=["node-0"])
        store = Store(before, replicas, lost="node-0")
        assert plan.apply(store)
        assert store.placed() == expected(after, replicas)


def test_keys_stand_in_for_ranges() -> None:
    for before, after in (
        (Rendezvous(NAMES), Rendezvous([*NAMES, "x"])),
        (Memento(NAMES), Memento([*NAMES, "x"])),
    ):
        with pytest.raises(NotSupported, match="keys="):
            before.plan(after)
        plan = before.plan(after, keys=KEYS, sizes_bytes=[5] * len(KEYS))
        moved = [key for key in KEYS if before.node(key) != after.node(key)]
        assert sorted(key.decode() for move in plan.moves for key in move.key_bytes()) == sorted(moved)
        assert sum(move.value_bytes or 0 for move in plan.moves) == 5 * len(moved)
        assert plan.moved_fraction == len(moved) / len(KEYS)
        plan.done = [move.id for move in plan.moves]
        assert all(plan.holders(key.encode(), 0, [before.node(key)]) == [after.node(key)] for key in KEYS)


def test_ketama_plans_in_its_own_32_bits() -> None:
    before = KetamaRing(["a", "b", "c"])
    after = before.changed(add=["d"])
    plan = before.plan(after)
    for key in KEYS:
        hashed = before.hash_of(key)
        covering = [move for move in plan.moves if move.covers(hashed)]
        assert bool(covering) == (before.node(key) != after.node(key))
    assert max(move.last or 0 for move in plan.moves) < 2**32


def test_copies_of_a_wave_may_run_at_once() -> None:
    before = HashRing(NAMES, vnodes=8)
    after = before.changed(add=["x"])
    plan = before.plan(after, moves_per_node=4)
    store = Store(before, 1)
    with ThreadPoolExecutor(4) as pool:
        assert plan.apply(store, run=pool.map)
    assert store.placed() == expected(after, 1)


def test_the_throttle_waits_for_what_was_copied() -> None:
    now = [100.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    throttle = Throttle(bytes_per_second=10, clock=lambda: now[0], sleep=sleep)
    before = HashRing(NAMES, vnodes=8)
    plan = before.plan(before.changed(add=["x"]))
    plan.apply(Store(before, 1), throttle=throttle)  # 10 bytes each: a second's worth
    assert len(waits) == len(plan.moves) - 2
    assert now[0] - 100 == pytest.approx(len(plan.moves) - 2)
    with pytest.raises(BadSetting):
        Throttle(bytes_per_second=0, clock=lambda: 0, sleep=sleep)
    with pytest.raises(BadSetting):
        Throttle(bytes_per_second=float("nan"), clock=lambda: 0, sleep=sleep)


def test_the_throttle_counts_under_its_lock_and_sleeps_outside_of_it() -> None:
    holds: list[str] = []
    now = [0.0]

    class Lock:
        def __enter__(self) -> None:
            holds.append("held")

        def __exit__(self, *_: object) -> None:
            holds.append("free")

    def sleep(seconds: float) -> None:
        assert holds[-1] == "free"
        now[0] += seconds

    throttle = Throttle(bytes_per_second=10, clock=lambda: now[0], sleep=sleep, lock=Lock())
    for _ in range(3):
        throttle.admit()
        throttle.spend(20)
    assert now[0] == pytest.approx(3.0), (
        "60 bytes at 10 a second: a second's worth at once, the last 20 not waited for"
    )
    assert holds == ["held", "free"] * 6


def test_bad_plans_are_refused() -> None:
    ring = HashRing(NAMES)
    after = ring.changed(add=["x"])
    with pytest.raises(BadSetting, match="hash"):
        ring.plan(HashRing(NAMES, key_hash="md5"))
    with pytest.raises(BadSetting, match="sizes"):
        ring.plan(after, keys=KEYS, sizes_bytes=[1])
    with pytest.raises(BadSetting, match="sizes"):
        ring.plan(after, sizes_bytes=[1])
    with pytest.raises(BadSetting, match="moves_per_node"):
        ring.plan(after, moves_per_node=0)
    plan = ring.plan(after)
    for wrong in (b"", b"[]", b'{"format": 1}', b"\xff"):
        with pytest.raises(DecodeError):
            Plan.from_json(wrong)
    newer = msgspec.structs.replace(plan, format=2)
    with pytest.raises(DecodeError, match="format 2"):
        Plan.from_json(newer.to_json())
    torn = msgspec.structs.replace(plan, waves=plan.waves[1:])
    with pytest.raises(InvariantViolation):
        torn.check()
    with pytest.raises(DecodeError, match="contradicts"):
        Plan.from_json(torn.to_json())
    crowded = msgspec.structs.replace(plan, waves=(tuple(range(len(plan.moves))),))
    with pytest.raises(InvariantViolation, match="bound"):
        crowded.check()


class Halting(Store):
    """A store whose first drop deletes some of what it should, and fails."""

    halted = False

    def drop(self, move: Move) -> None:
        if not self.halted:
            self.halted = True
            self.held[move.leaving].difference_update(self.moved(move)[:1])
            raise OSError("the disk went away")
        super().drop(move)


def halted_plan() -> tuple[HashRing, Halting, Plan]:
    """A plan that was killed within its first drop, as it was last saved."""
    before = HashRing(NAMES[:3], vnodes=2)
    plan = before.plan(before.changed(add=["d"]), moves_per_node=9)
    store = Halting(before, 1)
    saved = [plan.to_json()]
    with pytest.raises(OSError, match="went away"):
        plan.apply(store, on_switch=lambda: saved.append(plan.to_json()))
    return before, store, Plan.from_json(saved[-1])


def test_undo_of_a_move_that_stopped_within_its_drop_loses_no_key() -> None:
    before, store, plan = halted_plan()
    back = plan.undo()
    back.check()
    assert Plan.from_json(back.to_json()).apply(store)
    assert all(key in store.held[before.node(key)] for key in KEYS)
    assert store.held["d"] == set()
    assert all(store.routed[key] == {before.node(key)} for key in KEYS)


def test_undo_of_an_undo_that_never_ran_finishes_the_move_that_stopped() -> None:
    _, store, plan = halted_plan()
    halfway = plan.moves[plan.switching or 0]
    assert plan.undo().undo().apply(store)
    assert all(key in store.held["d"] and key not in store.held[halfway.leaving] for key in store.moved(halfway))


def test_a_move_that_may_have_switched_is_not_copied_again() -> None:
    _, store, plan = halted_plan()
    copies = store.copies
    assert plan.apply(store)
    assert store.copies == copies + len(plan.moves) - len(plan.copied)
    assert plan.switching is None and all(key in store.held[node] for key in KEYS for node in store.routed[key])


def test_resuming_while_copies_were_being_skipped_drops_nothing_that_was_not_copied() -> None:
    before = HashRing(NAMES[:3], vnodes=4)
    plan = before.plan(before.changed(add=["d"]), moves_per_node=9)
    store = Store(before, 1)

    def run(copy_one: Callable[[Move], int], moves: Iterable[Move]) -> Iterator[int]:
        for number, move in enumerate(moves):
            plan.paused = number == 1
            yield copy_one(move)

    assert not plan.apply(store, run=run)
    assert plan.apply(store)
    assert all(key in store.held[node] for key in KEYS for node in store.routed[key])


def test_a_plan_from_or_to_an_empty_ring_is_refused() -> None:
    for before, after in ((HashRing(), HashRing(["a"])), (HashRing(["a"]), HashRing())):
        with pytest.raises(NoNodes):
            before.plan(after)


def test_a_move_lists_no_more_keys_than_a_commands_environment_takes() -> None:
    before = Rendezvous(["a"])
    keys = [f"{number:0100}" for number in range(1000)]
    plan = before.plan(before.changed(add=["b"], remove=["a"]), keys=keys)
    assert sorted(key.decode() for move in plan.moves for key in move.key_bytes()) == keys
    assert len(plan.moves) == 4 and all(301 * len(move.keys) <= 100_000 for move in plan.moves)


def test_undo_drops_what_a_failed_copy_left_behind() -> None:
    """As with a full disk at the target: half a range is there, and nothing is known to be copied."""
    before = HashRing(NAMES[:3], vnodes=4)
    plan = before.plan(before.changed(add=["d"]), moves_per_node=2)
    saved: list[bytes] = []

    class Full(Store):
        def copy(self, move: Move) -> int:
            self.held[move.target].update(self.moved(move)[:3])
            raise OSError("no space left")

    store = Full(before, 1)
    with pytest.raises(OSError, match="no space"):
        plan.apply(store, on_switch=lambda: saved.append(plan.to_json()))
    assert store.held["d"]
    for failed in (plan, Plan.from_json(saved[-1])):
        back = failed.undo()
        assert {move.steps for move in back.moves} == {("drop",)}
    assert back.apply(store)
    assert not store.held["d"] and store.placed() == expected(before, 1)


def test_a_pause_does_not_make_a_plan_forget_a_copy_that_a_crash_left_half_done() -> None:
    before = HashRing(NAMES[:3], vnodes=4)
    plan = before.plan(before.changed(add=["d"]), moves_per_node=2)
    plan.copying, plan.paused = [0], True
    assert not plan.apply(Store(before, 1))
    assert plan.copying == [0] and len(plan.undo().moves) == 1


def test_holders_of_an_undo_start_from_the_ring_that_was_to_come() -> None:
    """Also where the plan had not got that far: `untouched` says which ranges never moved."""
    before = HashRing(NAMES, vnodes=6)
    after = before.changed(add=["x"])
    plan = before.plan(after, replicas=2, moves_per_node=4)
    store = Store(before, 2)

    def pause_at_three(progress: Progress) -> None:
        if progress.moves_done == 3:
            plan.pause()

    plan.apply(store, on_progress=pause_at_three)
    back = Plan.from_json(plan.undo().to_json())
    assert back.before == str(after.digest) and back.untouched

    def holders(key: str) -> set[str]:
        return set(back.holders(key.encode(), before.hash_of(key), after.nodes(key, 2)))

    assert {key: holders(key) for key in KEYS} == store.routed != expected(before, 2)
    assert back.apply(store)
    assert {key: holders(key) for key in KEYS} == store.routed == expected(before, 2)


def test_a_record_that_would_skip_moves_or_fail_midway_is_refused() -> None:
    listed = Rendezvous(["a"]).plan(Rendezvous(["b"]), keys=KEYS)
    ranges = HashRing(["a"]).plan(HashRing(["b"]))
    first = ranges.moves[0]
    for plan in (
        msgspec.structs.replace(ranges, done=[0, 0]),  # as many as there are moves in a plan of two
        msgspec.structs.replace(ranges, copied=[0, 0]),
        msgspec.structs.replace(ranges, copying=[len(ranges.moves)]),
        msgspec.structs.replace(listed, moves=(msgspec.structs.replace(listed.moves[0], keys=("xyz",)),)),
        msgspec.structs.replace(ranges, moves=(msgspec.structs.replace(first, last=None), *ranges.moves[1:])),
        msgspec.structs.replace(
            ranges, moves=(msgspec.structs.replace(first, first=9, last=8), *ranges.moves[1:])
        ),
    ):
        with pytest.raises(DecodeError, match="contradicts"):
            Plan.from_json(plan.to_json())


def test_a_rest_is_good_for_one_burst_however_long_it_was() -> None:
    now = [0.0]
    waits: list[float] = []
    throttle = Throttle(bytes_per_second=10, clock=lambda: now[0], sleep=waits.append, burst_bytes=30)
    now[0] = 1000.0
    throttle.admit()
    throttle.spend(80)
    throttle.admit()
    assert waits == [5.0], "50 of the 80 bytes are above the burst"
    now[0] += 2.0
    throttle.admit()
    assert waits == [5.0, 3.0], "time pays the debt at the rate"

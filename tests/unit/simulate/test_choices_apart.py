"""What a run draws for one kind of thing does not hang on the others: shrinking leaves the rest as it was."""

from collections.abc import Iterable
from dataclasses import replace

from troth.ids import NodeId
from troth.simulate.choices import Choice
from troth.simulate.plan import Plan, draw
from troth.simulate.run import Simulation

PLAN = replace(
    draw(3, chaos_seconds=10), voters=3, loss=100, partitions=60, crashes=60, pauses=60, change_then_crash=0
)


def run(plan: Plan, keep: list[Choice] | None = None) -> tuple[list[tuple[int, bool]], list[Choice]]:
    """When links were cut and whether one way, and all that happened."""
    simulation = Simulation(plan, keep=keep)
    cuts: list[tuple[int, bool]] = []
    inner = simulation.network.partition

    def partition(one: Iterable[NodeId], other: Iterable[NodeId], *, one_way: bool) -> None:
        cuts.append((simulation.world.now_us, one_way))
        inner(one, other, one_way=one_way)

    simulation.network.partition = partition  # type: ignore[method-assign]
    simulation.chaos()
    return cuts, simulation.choices.taken


def test_partitions_come_as_before_when_crashes_losses_and_operations_are_left_out() -> None:
    before, taken = run(PLAN)
    kept = [choice for choice in taken if choice[0] == "partition"]
    after, _ = run(PLAN, keep=kept)
    assert len(after) == len(kept) > 3
    assert [cut for cut in before if cut in after] == after


def test_the_partitions_that_stay_are_the_same_when_others_are_left_out() -> None:
    _, taken = run(PLAN)
    kept = [choice for choice in taken if choice[0] == "partition"]
    all_of_them, _ = run(PLAN, keep=kept)
    half, _ = run(PLAN, keep=kept[::2])
    assert half == all_of_them[::2]

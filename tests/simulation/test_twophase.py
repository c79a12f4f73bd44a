"""Two-phase commit in the simulated world: owners, recoverers, databases, last resource and log under every fault."""

from collections import Counter

import pytest

from troth.simulate.twophase import World


def assert_green(seed: int, world: World) -> None:
    violations = world.run()
    assert not violations, "\n".join([f"seed {seed}", *violations, *world.trace[-40:]])


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_atomic_commitment_under_faults(first: int) -> None:
    """AC1, AC2, AC3, AC5, write-once cells, and what owners were told."""
    told: Counter[str] = Counter()
    for seed in range(first, first + 10):
        world = World(seed)
        assert_green(seed, world)
        told.update(world.told.values())
    assert min(told["committed"], told["aborted"]) > 5, f"the faults leave nothing to check: {told}"


@pytest.mark.parametrize("seed", range(5))
def test_without_faults_all_commits(seed: int) -> None:
    """AC4."""
    world = World(seed, faults=False)
    assert_green(seed, world)
    assert set(world.told.values()) == {"committed"}


def test_a_seed_is_one_run() -> None:
    one, two = World(7), World(7)
    one.run()
    two.run()
    assert one.trace == two.trace


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1200, 50))
def test_atomic_commitment_under_faults_many_seeds(first: int) -> None:
    for seed in range(first, first + 50):
        assert_green(seed, World(seed))

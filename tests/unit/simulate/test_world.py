"""Virtual time moves from event to event, and somebody who keeps it from moving is found out."""

import pytest

from troth.errors import InvariantViolation
from troth.simulate import world as worlds
from troth.simulate.world import World


def test_time_that_stands_still_is_a_violation_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "EVENTS_AT_ONCE_MAX", 100)
    world = World()

    def again() -> None:
        world.after(0, again)

    world.after(5, again)
    with pytest.raises(InvariantViolation, match="stands still at 5 us"):
        world.run_until(10)


def test_much_may_happen_at_one_moment_and_more_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "EVENTS_AT_ONCE_MAX", 100)
    world = World()
    seen: list[int] = []
    for number in range(300):
        world.after(number // 60, seen.append, number)
    assert not world.run_until(10)
    assert seen == list(range(300)) and world.now_us == 10

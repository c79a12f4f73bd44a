"""One core in the simulated world: what its disk keeps back is worked off in turn, however much it is."""

import sys
from dataclasses import fields, replace

import pytest

from troth.simulate.plan import Plan, draw
from troth.simulate.run import Simulation

KEPT = ("seed", "consensus", "chaos_us", "config", "tick_stride", "delay_us", "disk_us")


def lone_voter_whose_disk_hangs() -> Plan:
    drawn = draw(5001316, chaos_seconds=40)
    none = {field.name: 0 for field in fields(drawn) if field.name not in KEPT}
    return replace(drawn, **none | {"voters": 1, "disk_hangs": 57, "proposals": 1_500})


@pytest.mark.slow
def test_all_that_waited_for_a_disk_is_released_in_a_loop() -> None:
    simulation = Simulation(lone_voter_whose_disk_hangs())
    (node,) = simulation.nodes.values()
    most = 0
    receive = node._receive

    def counted(*arguments: object) -> None:
        nonlocal most
        most = max(most, len(node._outbox))
        receive(*arguments)  # type: ignore[arg-type]

    node._receive = counted  # type: ignore[method-assign]
    outcome = simulation.run()
    assert outcome.violation == ""
    assert most * 5 > sys.getrecursionlimit()  # each one handled within the other would take five calls

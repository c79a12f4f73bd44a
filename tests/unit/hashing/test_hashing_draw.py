"""The drawing of a ring: wedges that are the owners' arcs, at any width of the hash, and the moves of a plan."""

import re

import pytest

from troth.hashing import HashRing, KetamaRing, Locator, Rendezvous, ring_html, ring_svg

NAMES = ["a", "b", "c"]


@pytest.mark.parametrize(
    "ring",
    [HashRing(NAMES, bits=8, vnodes=2), HashRing(NAMES), KetamaRing(NAMES), Rendezvous(NAMES)],
    ids=lambda r: r.name,
)
def test_the_wedges_of_a_node_add_up_to_its_share(ring: Locator) -> None:
    drawn = dict.fromkeys(NAMES, 0.0)
    for name, percent in re.findall(r"<title>(\w): ([\d.]+) % here", ring_svg(ring)):
        drawn[name] += float(percent) / 100
    assert drawn == pytest.approx(ring.shares(), abs=0.05)
    assert sum(drawn.values()) == pytest.approx(1, abs=0.02)


def test_a_plan_is_drawn_outside_of_the_ring() -> None:
    ring = HashRing(NAMES, vnodes=3)
    plan = ring.plan(ring.changed(add=["d"]))
    assert ring_svg(ring, plan).count("-&gt; d</title>") == len(plan.moves)
    assert f">{len(plan.moves)} moves<" in ring_svg(ring, plan) and "moves in waves" in ring_html(ring, plan)

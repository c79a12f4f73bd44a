"""Judging keys, and drawing."""

from xml.etree import ElementTree

import pytest

from troth.hashing import BadSetting, HashRing, Needs, Rendezvous, judge, ring_html, ring_svg

NODES = [f"node-{index}" for index in range(8)]
KEYS = [f"user:{index}" for index in range(20_000)]


def test_plain_needs_get_an_even_order_free_algorithm() -> None:
    found = judge(KEYS, NODES)
    assert found.recommended in ("rendezvous", "multiprobe", "ring")
    assert (found.keys, found.distinct) == (20_000, 20_000)
    best = {verdict.algorithm: verdict for verdict in found.verdicts}
    assert not best[found.recommended].lacking
    assert best[found.recommended].peak_to_mean <= 1.06 * min(
        v.peak_to_mean for v in found.verdicts if not v.lacking
    )
    assert "let any node leave" in best["jump"].lacking
    assert not found.bounded_load


@pytest.mark.slow
def test_needs_exclude_what_cannot_meet_them() -> None:
    assert judge(KEYS, NODES, Needs(remove_any=False, order_free=False)).recommended == "jump"
    assert judge(KEYS, NODES, Needs(order_free=False)).recommended == "memento"
    assert judge(KEYS, NODES, Needs(ranges=True)).recommended == "ring"
    weighted = judge(KEYS, {"a": 1, "b": 2.5, "c": 1})
    assert weighted.recommended in ("ring", "rendezvous")
    lacking = {verdict.algorithm: verdict.lacking for verdict in weighted.verdicts}
    assert "weigh nodes" in lacking["memento"] and "take fractional weights" in lacking["ketama"]
    assert (
        "give replicas"
        in {v.algorithm: v.lacking for v in judge(KEYS, NODES, Needs(replicas=3)).verdicts}["anchor"]
    )


def test_a_hot_key_is_named() -> None:
    found = judge([*KEYS, *["hot"] * 10_000], NODES)
    assert found.hottest[0] == "hot" and found.hottest[1] == pytest.approx(1 / 3)
    assert found.bounded_load and any("no placement divides a key" in reason for reason in found.reasons)


def test_one_node_and_nothing_to_judge() -> None:
    assert judge(["a"], ["only"]).verdicts[0].leave is None
    with pytest.raises(BadSetting):
        judge([], NODES)
    with pytest.raises(BadSetting):
        judge(KEYS, [])


def test_drawings_are_well_formed_and_self_contained() -> None:
    ring = HashRing({f"<{index}>": 1.0 for index in range(60)})
    plan = ring.plan(ring.changed(add=["new"]))
    svg = ElementTree.fromstring(ring_svg(ring, plan))
    wedges = svg.findall("{http://www.w3.org/2000/svg}path")
    assert len(wedges) > 360 + len(plan.moves) / 2
    page = ring_html(ring, plan)
    for outside in ("http:", "https:", "<script", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")
    assert "moved / ideal" in page and "and 20 more" in page and "&lt;0&gt;" in page
    shares = ElementTree.fromstring(ring_svg(Rendezvous(NODES)))
    assert len(shares.findall("{http://www.w3.org/2000/svg}path")) == 8
    assert "only" in ring_svg(HashRing(["only"]))

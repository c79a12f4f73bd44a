"""Draw a ring: SVG, or a page of HTML that needs nothing else (no script, no network)."""

from html import escape
from math import cos, pi, sin

import numpy as np

from troth.hashing.balance import Balance, balance
from troth.hashing.interface import Locator
from troth.hashing.moves import Plan

SECTORS = 720
"""Slices of the circle; more points than this are not visible."""

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")
"""Okabe and Ito's colours, which colour-blind readers can tell apart, with a grey for black."""

_SIZE = 420
_CENTRE = _SIZE / 2
_SHOWN_NODES = 40


def _colour(index: int) -> str:
    """The palette, and lighter and darker rounds of it when it is used up."""
    base, turn = PALETTE[index % len(PALETTE)], index // len(PALETTE) % 3
    if not turn:
        return base
    parts = [int(base[at : at + 2], 16) for at in (1, 3, 5)]
    shifted = [int(part * 0.6) if turn == 1 else int(part + (255 - part) * 0.5) for part in parts]
    return "#" + "".join(f"{part:02x}" for part in shifted)


def _wedge(begin: float, end: float, inner: float, outer: float, colour: str, title: str) -> str:
    """A ring sector; *begin* and *end* in turns, clockwise from the top."""

    def at(turn: float, radius: float) -> str:
        angle = 2 * pi * turn - pi / 2
        return f"{_CENTRE + radius * cos(angle):.2f} {_CENTRE + radius * sin(angle):.2f}"

    end = min(end, begin + 0.99999)  # an arc from a point to itself is not drawn
    large = int(end - begin > 0.5)
    return (
        f'<path d="M{at(begin, outer)}A{outer} {outer} 0 {large} 1 {at(end, outer)}'
        f'L{at(end, inner)}A{inner} {inner} 0 {large} 0 {at(begin, inner)}Z" fill="{colour}">'
        f"<title>{escape(title)}</title></path>"
    )


def _sectors(ring: Locator) -> list[tuple[float, float, int]]:
    """(begin, end, index of owner) in turns: the circle as it lies, or shares side by side where there is none."""
    if not ring.can.ranges:
        ends = np.cumsum([0.0, *ring.shares().values()]).tolist()
        return [(ends[index], ends[index + 1], index) for index in range(len(ring))]
    middles = [((2 * sector + 1) << ring.hashing[1]) // (2 * SECTORS) for sector in range(SECTORS)]
    owners = ring.index_batch(np.array(middles, np.uint64)).tolist()
    merged: list[tuple[float, float, int]] = []
    for sector, owner in enumerate(owners):
        if merged and merged[-1][2] == owner:
            merged[-1] = (merged[-1][0], (sector + 1) / SECTORS, owner)
        else:
            merged.append((sector / SECTORS, (sector + 1) / SECTORS, owner))
    return merged


def ring_svg(ring: Locator, plan: Plan | None = None) -> str:
    """The ring as an SVG drawing: who owns what, and outside what *plan* moves, in the colour of who receives
    it.

    Zero is at the top and hashes run clockwise. For algorithms without ranges the wedges are the nodes'
    shares.
    """
    index_of = {name: index for index, name in enumerate(ring.members)}
    body = [
        _wedge(begin, end, 110, 160, _colour(index), f"{ring.members[index]}: {100 * (end - begin):.2f} % here")
        for begin, end, index in _sectors(ring)
    ]
    moving = 0
    whole = float(1 << ring.hashing[1])
    for move in plan.moves if plan else ():
        if move.first is None or move.last is None:
            continue
        moving += 1
        # A range of a thousandth of a turn would vanish; its place matters more than its width.
        end = max((move.last + 1) / whole, move.first / whole + 0.002)
        colour = _colour(index_of.get(move.target, len(index_of)))
        body.append(_wedge(move.first / whole, end, 166, 180, colour, f"{move.leaving} -> {move.target}"))
    label = f"{ring.algorithm}, {len(ring)} nodes"
    below = f"epoch {ring.epoch}, {ring.digest.value[:12]}"
    moved = f'<text x="{_CENTRE}" y="{_CENTRE + 34}">{moving} moves</text>' if moving else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE} {_SIZE}" width="{_SIZE}" height="{_SIZE}" '
        f'role="img" aria-label="{escape(label)}" font-family="sans-serif" font-size="13" text-anchor="middle">'
        f"{''.join(body)}"
        f'<text x="{_CENTRE}" y="{_CENTRE - 4}">{escape(label)}</text>'
        f'<text x="{_CENTRE}" y="{_CENTRE + 15}" fill="#666">{escape(below)}</text>{moved}</svg>'
    )


def ring_html(ring: Locator, plan: Plan | None = None) -> str:
    """A self-contained page: the drawing, the balance and the nodes with their shares."""
    spread: Balance = balance(ring)
    rows = "".join(
        f'<tr><td><span style="background:{_colour(index)}"></span>{escape(name)}</td>'
        f"<td>{ring.weights[name]:g}</td><td>{100 * spread.shares[name]:.3f} %</td>"
        f"<td>{spread.shares[name] / spread.fair[name]:.3f}</td></tr>"
        for index, name in enumerate(ring.members[:_SHOWN_NODES])
    )
    if len(ring) > _SHOWN_NODES:
        rows += f'<tr><td colspan="4">and {len(ring) - _SHOWN_NODES} more</td></tr>'
    summary = [
        ("peak / mean", f"{spread.peak_to_mean:.3f}"),
        ("lowest / mean", f"{spread.lowest_to_mean:.3f}"),
        ("std", f"{spread.std:.3f}"),
    ]
    if plan is not None and plan.ideal_fraction:
        summary.append(("moved / ideal", f"{plan.moved_fraction / plan.ideal_fraction:.3f}"))
        summary.append(("moves in waves", f"{len(plan.moves)} in {len(plan.waves)}"))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in summary)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{escape(ring.algorithm)} ring</title><style>"
        "body{font:15px/1.4 sans-serif;margin:2em;display:flex;flex-wrap:wrap;gap:2em}"
        "td,th{padding:.15em .8em;text-align:right}td:first-child,th:first-child{text-align:left}"
        "td span{display:inline-block;width:.8em;height:.8em;margin-right:.5em}"
        "dl{display:grid;grid-template-columns:auto auto;gap:.2em 1em}dd{margin:0;text-align:right}</style>"
        f"<div>{ring_svg(ring, plan)}<dl>{facts}</dl></div>"
        "<table><thead><tr><th>node<th>weight<th>share<th>of fair share</thead>"
        f"<tbody>{rows}</tbody></table></html>"
    )

"""A cycle as inline SVG: transactions on a circle, edges as arrows with their kind, key and reason.

Laid out here, so that a page needs neither a layout program nor a script. Colours are those of the dependency kinds and
do not carry meaning alone: every arrow is labelled.
"""

from html import escape
from math import cos, pi, sin
from typing import Final

from troth.verify.transactions.explain import CycleView

_COLOURS: Final = {
    "ww": "#a64040", "wr": "#2f6f9f", "rw": "#7a4fa3", "co": "#8a6d1d",
    "process": "#5b7f5b", "realtime": "#777777", "before": "#777777",
}  # fmt: skip
_BOX_HEIGHT: Final = 44
_CHARACTER: Final = 7.3
_LINE_MAX: Final = 64


def cycle_svg(view: CycleView) -> str:
    """One `<svg>` element. Width and height are in its attributes; text is escaped."""
    lines = [_cut(line) for line in view.lines]
    widths = [max(130.0, len(line) * _CHARACTER + 24) for line in lines]
    count = len(view.steps)
    widest = max(widths, default=130.0)
    # Boxes on the circle must not touch, and labels need room between them.
    ring = max(count, 1)
    radius_x = 0.0 if ring == 1 else max(150.0, widest * 0.62 * (1 if ring < 4 else ring / 4) + 60)
    radius_y = 0.0 if ring == 1 else max(90.0, ring * 38.0)
    extra = len(lines) - ring if count else len(lines)
    width = 2 * radius_x + widest + 60
    middle_x, middle_y = width / 2, radius_y + _BOX_HEIGHT + 46
    places: list[tuple[float, float]] = []
    for at in range(len(lines)):
        if count and at < ring:
            # Two transactions stand side by side, more begin at the top.
            angle = (pi if ring == 2 else -pi / 2) + 2 * pi * at / ring
            places.append((middle_x + radius_x * cos(angle), middle_y + radius_y * sin(angle)))
        else:
            row = at - ring if count else at
            places.append((middle_x, middle_y + radius_y + _BOX_HEIGHT + 40 + row * (_BOX_HEIGHT + 12)))
    bulge = max(
        (_bend(ring) * abs(places[at][0] - places[(at + 1) % ring][0]) / 2 for at in range(count)), default=0.0
    )
    height = max((y for _, y in places), default=0.0) + _BOX_HEIGHT + bulge + (10 if extra else 30)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-monospace,monospace" font-size="12" role="img">',
        f"<title>{escape(view.anomaly)}: {escape(view.summary)}</title>",
        _markers(),
        f'<text x="12" y="20" font-size="14" font-weight="bold" fill="currentColor">{escape(view.anomaly)}</text>',
    ]
    for at, step in enumerate(view.steps):
        parts.append(
            _arrow(
                places[at],
                places[(at + 1) % count],
                widths[at],
                widths[(at + 1) % count],
                step.kind,
                step.key,
                step.because,
                at,
                _bend(ring),
            )
        )
    for at, (line, (x, y)) in enumerate(zip(lines, places, strict=True)):
        box = widths[at]
        parts.append(
            f'<g><title>{escape(view.lines[at])}</title><rect x="{x - box / 2:.1f}" y="{y - _BOX_HEIGHT / 2:.1f}" '
            f'width="{box:.1f}" height="{_BOX_HEIGHT}" rx="6" fill="#f7f5ef" stroke="#444"/>'
            f'<text x="{x:.1f}" y="{y - 4:.1f}" text-anchor="middle" font-weight="bold" fill="#222">T{at + 1} '
            f'<tspan font-weight="normal" fill="#666">[{view.transactions[at]}]</tspan></text>'
            f'<text x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle" fill="#222">{escape(line)}</text></g>'
        )
    parts.append("</svg>")
    return "".join(parts)


def _markers() -> str:
    heads = "".join(
        f'<marker id="troth-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        for kind, colour in _COLOURS.items()
    )
    return f"<defs>{heads}</defs>"


def _arrow(
    start: tuple[float, float],
    end: tuple[float, float],
    start_width: float,
    end_width: float,
    kind: str,
    key: str,
    because: str,
    at: int,
    bend: float,
) -> str:
    colour = _COLOURS.get(kind, "#777777")
    (x1, y1), (x2, y2) = start, end
    # Bend away from the straight line, always to the same side, so that two opposite edges do not cover each other.
    control_x = (x1 + x2) / 2 + (y2 - y1) * bend
    control_y = (y1 + y2) / 2 - (x2 - x1) * bend
    x1, y1 = _edge_of_box(x1, y1, control_x, control_y, start_width)
    x2, y2 = _edge_of_box(x2, y2, control_x, control_y, end_width)
    label_x = 0.25 * x1 + 0.5 * control_x + 0.25 * x2
    label_y = 0.25 * y1 + 0.5 * control_y + 0.25 * y2 + 4
    label = f"{kind} {key}" if key else kind
    dash = ' stroke-dasharray="5 3"' if kind in ("process", "realtime", "before") else ""
    return (
        f'<g class="edge edge-{at}"><title>{escape(because)}</title>'
        f'<path d="M{x1:.1f} {y1:.1f}Q{control_x:.1f} {control_y:.1f} {x2:.1f} {y2:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="1.6"{dash} marker-end="url(#troth-{kind})"/>'
        f'<text x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="middle" fill="{colour}" stroke="#fff" '
        f'stroke-width="5" paint-order="stroke" font-weight="bold">{escape(_cut(label))}</text></g>'
    )


def _bend(ring: int) -> float:
    """How far an edge leaves the straight line, as a part of its length: two opposite ones need room between them."""
    return 0.28 if ring < 3 else 0.1


def _edge_of_box(x: float, y: float, towards_x: float, towards_y: float, width: float) -> tuple[float, float]:
    """Where the line from a box's middle towards a point leaves the box."""
    dx, dy = towards_x - x, towards_y - y
    if not dx and not dy:
        return x, y
    reach = min(
        (width / 2 + 4) / abs(dx) if dx else float("inf"),
        (_BOX_HEIGHT / 2 + 4) / abs(dy) if dy else float("inf"),
    )
    return x + dx * reach, y + dy * reach


def _cut(text: str) -> str:
    return text if len(text) <= _LINE_MAX else text[: _LINE_MAX - 3] + "..."

"""Two kinds of plot as plain SVG, drawn here because no more is needed: grouped bars, and dots on strips."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#0b6e4f", "#c8553d", "#588b8b", "#b8b8b8", "#8a5a83")
_WIDTH = 760
_LEFT = 150


def bars(title: str, series: Mapping[str, Mapping[str, float]]) -> str:
    """Horizontal bars on a logarithmic axis: a group for each x, a bar for each series, its number beside it."""
    groups = list(next(iter(series.values())))
    low, high = _decades([value for cells in series.values() for value in cells.values()])
    parts: list[str] = []
    y = 50
    for group in groups:
        parts.append(f'<text x="10" y="{y + 8 * len(series) + 4}" class="strong">{escape(group)}</text>')
        for colour, (name, cells) in zip(_COLOURS, series.items(), strict=False):
            value = cells[group]
            width = max(1.0, _scale(value, low, high) - _LEFT)
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="13" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<text x="{_LEFT + width + 5:.1f}" y="{y + 11}">{value:,.0f}</text>')
            y += 16
        y += 12
    return _svg(title, parts, y)


def strips(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """One strip for each series on a logarithmic axis: a dot for each value, a line at the median."""
    low, high = _decades([value for values in series.values() for value in values])
    parts: list[str] = []
    y = 60
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        x = _scale(10.0**exponent, low, high)
        bottom = y + 26 * len(series)
        parts.append(f'<line x1="{x:.1f}" y1="{y - 14}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{y - 18}" text-anchor="middle">{10.0**exponent:g}</text>')
    for name, values in series.items():
        middle = sorted(values)[len(values) // 2]
        x = _scale(middle, low, high)
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 16}" stroke="#c8553d" stroke-width="2"/>')
        for value in values:
            x = _scale(value, low, high)
            parts.append(f'<circle cx="{x:.1f}" cy="{y + 8}" r="4" fill="#0b6e4f" fill-opacity="0.5"/>')
        y += 26
    return _svg(title, parts, y)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around all *values*."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _scale(value: float, low: float, high: float) -> float:
    fraction = math.log10(max(value, low) / low) / math.log10(high / low)
    return _LEFT + fraction * (_WIDTH - _LEFT - 80)


def _svg(title: str, parts: Sequence[str], height: int) -> str:
    style = "text{font:12px sans-serif;fill:#222}.strong{font-weight:bold}"
    head = f'<text x="10" y="24" class="strong">{escape(title)}</text>'
    size = f'width="{_WIDTH}" height="{height + 10}" viewBox="0 0 {_WIDTH} {height + 10}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{head}\n{body}\n</svg>\n'
    )

"""Progressive metrics as lines in one hand-made SVG: light and dark, no script.

Knows series of points, not what they measure. A point without a value breaks its line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 880, 360
LEFT, RIGHT, TOP, BOTTOM = 72, 720, 64, 306
# Distinct in light and dark, and for most colour-blind eyes; dashes say the same again.
_COLOURS = ("#2b56e0", "#c2410c", "#0f7a4f", "#8b3fb3", "#5c636f")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4")

_STYLE = """\
.ground { fill: #fff; }
text {
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
  fill: #17191e;
}
.title { font-size: 16px; font-weight: 600; }
.muted { fill: #5c636f; }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.grid { stroke: #e6e6e0; }
.line { fill: none; stroke-width: 1.8; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #101216; }
  text { fill: #e9eaee; } .muted { fill: #9ba2af; }
  .grid { stroke: #242830; }
}"""

Points = Sequence[tuple[float, float | None]]


def lines_svg(series: Mapping[str, Points], *, title: str, x_label: str) -> str:
    """Draws one line for each series.

    Args:
        series: name to (x, y) in order of x; y is None where nothing is defined.
        title: above the figure: what y is.
        x_label: what x is.

    Returns:
        A whole SVG file; it says so where there is nothing to draw.
    """
    parts = [
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="30">{escape(title)}</text>',
        f'<text class="muted end" x="{RIGHT}" y="{BOTTOM + 40}">{escape(x_label)}</text>',
    ]
    drawn = {name: points for name, points in series.items() if _defined(points)}
    if drawn:
        parts += _drawing(drawn)
    else:
        parts.append(f'<text class="muted" x="{LEFT}" y="{TOP + 40}">nothing is defined</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">\n'
        f"<style>\n{_STYLE}\n</style>\n{body}\n</svg>\n"
    )


def _drawing(series: Mapping[str, Points]) -> list[str]:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in _defined(points)]
    x_axis, y_axis = _Axis.over(xs, LEFT, RIGHT), _Axis.over(ys, BOTTOM, TOP)
    parts = []
    for value in y_axis.ticks:
        y = y_axis.place(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f} H{RIGHT}"/>')
        parts.append(f'<text class="muted end" x="{LEFT - 8}" y="{y + 4.5:.1f}">{value:g}</text>')
    for value in x_axis.ticks:
        x = x_axis.place(value)
        parts.append(f'<text class="muted mid" x="{x:.1f}" y="{BOTTOM + 20}">{value:,g}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour, dash = _COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)]
        style = f'stroke="{colour}" stroke-dasharray="{dash}"'
        parts.append(f'<path class="line" {style} d="{_path(points, x_axis, y_axis)}"/>')
        y = TOP + 20 * i
        parts.append(f'<path class="line" {style} d="M{RIGHT + 14} {y} h28"/>')
        last = _defined(points)[-1][1]
        label = f"{escape(name)} {last:.4g}"
        parts.append(f'<text x="{RIGHT + 48}" y="{y + 4.5}">{label}</text>')
    return parts


def _path(points: Points, x_axis: _Axis, y_axis: _Axis) -> str:
    """Moves over gaps; a point alone between two gaps is a short dash."""
    commands, pen_down = [], False
    for x, y in points:
        if y is None:
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x_axis.place(x):.1f} {y_axis.place(y):.1f}")
        if not pen_down:
            commands.append("h2")
        pen_down = True
    return " ".join(commands)


def _defined(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None]


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Values to pixels, linear."""

    low: float
    high: float
    first: float
    last: float

    @classmethod
    def over(cls, values: Sequence[float], first: float, last: float) -> _Axis:
        low, high = min(values), max(values)
        room = 0.04 * (high - low) or abs(high) * 0.05 or 1.0
        return cls(low - room, high + room, first, last)

    def place(self, value: float) -> float:
        return self.first + (self.last - self.first) * (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Three to seven round values."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
        places = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [round(place * step, 10) for place in places]

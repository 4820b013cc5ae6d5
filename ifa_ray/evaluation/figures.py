"""Figures of a comparison: quality against cost of every model, and quality along the stream.

Script-free SVG, in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.result import RANKED_BY, Evaluation, difference, part_ends, part_means
from ifa_ray.training.offline_folder import lines_svg

MOST_LINES = 5  # more cannot be told apart


def time_kind(config: EvaluationConfig) -> str:
    """The kind of time that costs are measured in."""
    threads = config.threads
    return "CPU time of one thread" if threads == 1 else f"Wall time, {threads} threads"


def learning_svg(evaluation: Evaluation) -> str | None:
    """The lines of the control and of the models that ended highest; None where there is nothing.

    At most five: an evaluation of all models would be a tangle, and its table has every number.
    """
    config, runs = evaluation.config, evaluation.runs
    ends = part_ends(runs)
    means = {model: part_means(runs, model) for model in config.models}
    last = {m: [v for v in values if v is not None][-1:] for m, values in means.items()}
    if not any(last.values()):
        return None
    ranked = sorted(config.models, key=lambda m: (m != config.control, -sum(last[m])))
    shown = ranked[:MOST_LINES]
    among = "" if len(ranked) == len(shown) else f" ({config.control} and the best of the others)"
    return lines_svg(
        {m: list(zip(map(float, ends), means[m], strict=True)) for m in shown},
        title=f"AUC of p(click|candidate) along the stream{among}",
        x_label=f"requests learned; mean of {config.seeds} seed(s)",
    )


class Point(NamedTuple):
    """One model."""

    name: str
    cost: float  # > 0
    quality: float  # minus the control's
    half_width: float | None = None  # of the interval of `quality`
    is_control: bool = False


def pareto(evaluation: Evaluation) -> str | None:
    """Quality against cost as SVG; None where one of them, or the control, is missing."""
    config = evaluation.config
    if config.control not in config.models or not evaluation.costs:
        return None
    points = []
    for model in config.models:
        gain = difference(evaluation.runs, model, config.control, "auc", RANKED_BY)
        if gain.mean is None:
            return None
        is_control = model == config.control
        half_width = None if is_control else gain.half_width
        cost_ms = evaluation.costs[model].rank_ms
        points.append(Point(model, cost_ms, gain.mean, half_width, is_control))
    features = ", ".join(config.cross_features) or "none"
    return pareto_svg(
        points,
        title="Quality against cost of a request",
        x_label=f"milliseconds to rank a request ({time_kind(config)}), log scale",
        y_label=f"AUC of p(click|candidate) minus {config.control}'s, 95% interval over "
        f"{config.seeds} seed(s); cross features: {features}",
    )


WIDTH, HEIGHT = 880, 560
LEFT, RIGHT, TOP, BOTTOM = 84, 850, 64, 486
LETTER_PX = 7.4  # of a sans-serif letter, on the generous side
LABEL_PX = 18
RADIUS = 5.0

_STYLE = """\
.ground { fill: #fff; } .back { fill: #fff; fill-opacity: .6; }
text {
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
  fill: #17191e;
}
.title { font-size: 16px; font-weight: 600; } .muted { fill: #5c636f; }
.end { text-anchor: end; } .mid { text-anchor: middle; }
line, path { fill: none; stroke-width: 1; }
.grid { stroke: #e6e6e0; } .zero, .leader { stroke: #8a919e; } .zero { stroke-dasharray: 4 4; }
.interval { stroke: #8fa1e8; stroke-width: 2; } .cut { stroke-dasharray: 6 3; }
.front { stroke: #2b56e0; stroke-width: 1.5; stroke-dasharray: 2 3; }
.dot { fill: #fff; stroke: #2b56e0; stroke-width: 2; } .best { fill: #2b56e0; }
.control { fill: #17191e; stroke: #17191e; }
@media (prefers-color-scheme: dark) {
  .ground, .back, .dot { fill: #101216; }
  text { fill: #e9eaee; } .muted { fill: #9ba2af; } .grid { stroke: #242830; }
  .front, .dot { stroke: #8ea9ff; } .best { fill: #8ea9ff; }
  .control { fill: #e9eaee; stroke: #e9eaee; }
}"""


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: cheaper with each step down, better with each step up."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def pareto_svg(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """Draws at least one point as a whole SVG file; a dashed interval goes on beyond the figure."""
    costs, means = [math.log10(p.cost) for p in points], [p.quality for p in points]
    margin = 0.08 * (max(costs) - min(costs)) + 0.05
    left, right = min(costs) - margin, max(costs) + margin
    ends = [p.quality + sign * (p.half_width or 0.0) for p in points for sign in (-1, 1)]
    # An interval of two seeds may be a hundred times wider than all differences.
    spread = max(max(means) - min(means), abs(means[0]), 1e-4)
    low = min(max(min(ends), min(means) - spread), 0.0)
    high = max(min(max(ends), max(means) + spread), 0.0)
    low, high = low - 0.08 * (high - low) - 1e-5, high + 0.08 * (high - low) + 1e-5

    def x_of(cost: float) -> float:
        share = (math.log10(cost) - left) / (right - left)
        return round(LEFT + 10 + (RIGHT - LEFT - 20) * share, 1)

    def y_of(quality: float) -> float:
        share = (min(max(quality, low), high) - low) / (high - low)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    parts = [
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        _text(LEFT, 26, title, "title"),
        _text(LEFT, 46, y_label, "muted"),
        _text(RIGHT, BOTTOM + 44, x_label, "muted end"),
    ]
    units = (1, 2, 5) if right - left < 3 else (1,)
    powers = range(math.floor(left), math.floor(right) + 1)
    for value in (unit * 10.0**power for power in powers for unit in units):
        if left <= math.log10(value) <= right:
            parts.append(_line(x_of(value), TOP, x_of(value), BOTTOM, "grid"))
            parts.append(_text(x_of(value), BOTTOM + 20, f"{value:g}", "muted mid"))
    for value in _round_values(low, high):
        kind = "grid" if value else "zero"
        parts.append(_line(LEFT, y_of(value), RIGHT, y_of(value), kind))
        parts.append(_text(LEFT - 10, y_of(value) + 4.5, _signed(value), "muted end"))
    best = front(points)
    path = " L".join(f"{x_of(p.cost)} {y_of(p.quality)}" for p in best)
    parts.append(f'<path class="front" d="M{path}"/>')
    for p in points:
        if p.half_width:
            bottom, top = p.quality - p.half_width, p.quality + p.half_width
            kind = "interval cut" if bottom < low or top > high else "interval"
            parts.append(_line(x_of(p.cost), y_of(bottom), x_of(p.cost), y_of(top), kind))
    places = [(x_of(p.cost), y_of(p.quality)) for p in points]
    for p, (x, y) in zip(points, places, strict=True):
        kind = "control" if p.is_control else "best" if p in best else ""
        label = escape(f"{p.name}: {_signed(p.quality)} at {p.cost:.3g}")
        circle = f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="{RADIUS:g}">'
        parts.append(f"{circle}<title>{label}</title></circle>")
    for p, (x, y), box in zip(points, places, place_labels(points, places), strict=True):
        width = box.right - box.left
        near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
        if math.dist((x, y), (near_x, near_y)) > 3 * RADIUS:
            parts.append(_line(x, y, near_x, near_y, "leader"))
        corner = f'x="{box.left:.1f}" y="{box.top:.1f}"'
        parts.append(f'<rect class="back" {corner} width="{width:.1f}" height="{LABEL_PX}"/>')
        parts.append(_text(box.left + 2, box.bottom - 4, p.name, "label"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">\n'
        f"<style>\n{_STYLE}\n</style>\n{body}\n</svg>\n"
    )


class Box(NamedTuple):
    """An upright rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """True if the insides meet."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def place_labels(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> list[Box]:
    """A box for the name of each point, the nearest to it that covers no name and no point."""
    taken = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places]
    boxes = []
    for point, place in zip(points, places, strict=True):
        around = _around(*place, len(point.name) * LETTER_PX + 4)
        box = next(box for box in around if not any(box.overlaps(other) for other in taken))
        boxes.append(box)
        taken.append(box)
    return boxes


def _around(x: float, y: float, width: float) -> Iterator[Box]:
    """Places for a label around a point, inside the figure, nearest first."""
    for gap in range(int(RADIUS) + 3, WIDTH, 9):
        for degrees in range(0, 360, 15):
            dx, dy = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))
            # The box's nearest point lies at `gap` in this direction.
            left = x + gap * dx - width * (1 - dx) / 2
            top = y + gap * dy - LABEL_PX * (1 - dy) / 2
            box = Box(left, top, left + width, top + LABEL_PX)
            if box.left > LEFT and box.right < WIDTH and box.top > TOP - 10 and box.bottom < BOTTOM:
                yield box


def _round_values(low: float, high: float) -> list[float]:
    """Four to eight round values from low to high, zero among them."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+.4g}".replace("-", "\N{MINUS SIGN}")

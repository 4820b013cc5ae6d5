"""Quality against cost of every model as one script-free SVG, in light and dark."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from html import escape

FONT_PX = 13
# Of a sans-serif letter, on the generous side: what fits by it fits in any browser's font.
LETTER_PX = 7.4
# Of a point.
RADIUS = 5.0
# A label further away than this gets a line to its point.
LEADER_FROM_PX = 12.0
# How much further away a label may go to cross no bar, and for its line to cross nothing.
BAR_COST_PX, LINE_COST_PX = 40.0, 60.0
RINGS = 80


@dataclasses.dataclass(frozen=True)
class Box:
    """An upright rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """True if the insides meet."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """True if the other lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The point of the box that is nearest to this one."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


def place_labels(
    names: Sequence[str],
    places: Sequence[tuple[float, float]],
    bars: Sequence[Box],
    canvas: Box,
) -> list[Box]:
    """A box for each label, near its point, over no other label and no point.

    Greedy, the most crowded points first: each label takes the place that is nearest after what
    crossing a bar, or a leader over a label or a point, costs.

    Args:
        names: the labels.
        places: of their points.
        bars: what labels had better not cross.
        canvas: where labels may be.
    """
    dots = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places]

    def crowd(i: int) -> int:
        return sum(math.dist(places[i], place) < 60 for place in places)

    taken: dict[int, Box] = {}
    leaders: list[list[Box]] = []
    for i in sorted(range(len(names)), key=lambda i: (-crowd(i), i)):
        others = [*taken.values(), *(dot for j, dot in enumerate(dots) if j != i)]
        best: tuple[float, Box, list[Box]] | None = None
        for gap, box in _candidates(*places[i], len(names[i]) * LETTER_PX + 4, canvas):
            if best is not None and gap >= best[0]:
                break
            if any(box.overlaps(other) for other in (*others, dots[i])):
                continue
            leader = _along(places[i], box.nearest(*places[i]))
            cost = gap + BAR_COST_PX * sum(box.overlaps(bar) for bar in bars)
            cost += LINE_COST_PX * sum(any(b.overlaps(o) for b in leader) for o in others)
            cost += LINE_COST_PX * sum(any(b.overlaps(box) for b in line) for line in leaders)
            if best is None or cost < best[0]:
                best = (cost, box, leader)
        assert best is not None, "more labels than the figure holds"
        taken[i] = best[1]
        leaders.append(best[2])
    return [taken[i] for i in range(len(names))]


def _along(start: tuple[float, float], stop: tuple[float, float]) -> list[Box]:
    """Small boxes on the line from a point to its label; none where no line is drawn."""
    length = math.dist(start, stop)
    if length <= LEADER_FROM_PX:
        return []
    step_x, step_y = (stop[0] - start[0]) / length, (stop[1] - start[1]) / length
    middle = [(start[0] + d * step_x, start[1] + d * step_y) for d in range(6, int(length), 3)]
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in middle]


def _candidates(x: float, y: float, width: float, canvas: Box) -> Iterator[tuple[float, Box]]:
    """Places for a label around a point, inside the figure, nearest first, with their distance."""
    height = FONT_PX + 5
    for ring in range(RINGS):
        gap = RADIUS + 3 + 9 * ring
        for angle in range(0, 360, 30 if ring < 3 else 10):
            dx, dy = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
            # The box's nearest point lies at `gap` in this direction.
            left = x + gap * dx - width * (1 - dx) / 2
            top = y + gap * dy - height * (1 - dy) / 2
            box = Box(left, top, left + width, top + height)
            if canvas.holds(box):
                yield gap, box


WIDTH, HEIGHT = 880, 560
LEFT, RIGHT, TOP, BOTTOM = 84, 850, 64, 486
# What labels may cover: the plot and the margin to its right.
CANVAS = Box(LEFT + 2, TOP - 10, WIDTH - 4, BOTTOM - 2)

_STYLE = """\
.ground { fill: #fff; } .back { fill: #fff; fill-opacity: .6; }
text {
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
  fill: #17191e;
}
.title { font-size: 16px; font-weight: 600; }
.muted { fill: #5c636f; }
.end { text-anchor: end; } .mid { text-anchor: middle; }
line, path { fill: none; stroke-width: 1; }
.grid { stroke: #e6e6e0; } .zero { stroke: #8a919e; stroke-dasharray: 4 4; }
.interval, .cut { stroke: #b3bee8; stroke-width: 2; } .leader { stroke: #8a919e; }
.front { stroke: #2b56e0; stroke-width: 1.5; stroke-dasharray: 2 3; }
.dot { fill: #fff; stroke: #2b56e0; stroke-width: 2; } .best { fill: #2b56e0; }
.control { fill: #17191e; stroke: #17191e; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #101216; } .back { fill: #101216; fill-opacity: .6; }
  text { fill: #e9eaee; } .muted { fill: #9ba2af; }
  .grid { stroke: #242830; } .zero { stroke: #6b7280; }
  .interval, .cut { stroke: #43528f; } .leader { stroke: #7b8290; }
  .front { stroke: #8ea9ff; }
  .dot { fill: #101216; stroke: #8ea9ff; } .best { fill: #8ea9ff; }
  .control { fill: #e9eaee; stroke: #e9eaee; }
}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One model.

    Attributes:
        name: its label.
        cost: positive; drawn on a log axis.
        quality: its difference to the control; 0 is the control.
        half_width: of the interval of `quality`; None for none.
        is_control: whether it is what the others are compared with.
    """

    name: str
    cost: float
    quality: float
    half_width: float | None = None
    is_control: bool = False

    @property
    def extent(self) -> tuple[float, float]:
        """The ends of the interval."""
        reach = self.half_width or 0.0
        return self.quality - reach, self.quality + reach


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: cheaper with each step down, better with each step up."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def pareto_svg(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """Draws the points.

    Args:
        points: at least one; costs are positive.
        title: above the figure.
        x_label: what cost is, with its unit.
        y_label: what quality is.

    Returns:
        A whole SVG file.
    """
    frame = _Frame.around(points)
    parts = [
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        f'<text class="muted" x="{LEFT}" y="46">{escape(y_label)}</text>',
        f'<text class="muted end" x="{RIGHT}" y="{BOTTOM + 44}">{escape(x_label)}</text>',
    ]
    for value in frame.x_ticks:
        parts.append(_line(frame.x(value), TOP, frame.x(value), BOTTOM, "grid"))
        parts.append(_text(frame.x(value), BOTTOM + 20, f"{value:g}", "muted mid"))
    for value in frame.y_ticks:
        kind = "grid" if value else "zero"
        parts.append(_line(LEFT, frame.y(value), RIGHT, frame.y(value), kind))
        parts.append(_text(LEFT - 10, frame.y(value) + 4.5, _signed(value), "muted end"))
    best = front(points)
    path = " ".join(
        f"{'L' if i else 'M'}{frame.x(p.cost):.1f} {frame.y(p.quality):.1f}"
        for i, p in enumerate(best)
    )
    parts.append(f'<path class="front" d="{path}"/>')
    places = [(frame.x(p.cost), frame.y(p.quality)) for p in points]
    bars = []
    for point, (x, _) in zip(points, places, strict=True):
        low, high = (frame.y(value) for value in point.extent)
        bars.append(Box(x - 1, high, x + 1, low))
        if point.half_width:
            parts.append(_line(x, low, x, high, "interval"))
            parts += _cuts(frame, point, x)
    boxes = place_labels([p.name for p in points], places, bars, CANVAS)
    for (x, y), box in zip(places, boxes, strict=True):
        end_x, end_y = box.nearest(x, y)
        if math.hypot(end_x - x, end_y - y) > LEADER_FROM_PX:
            parts.append(_line(x, y, end_x, end_y, "leader"))
    for point, (x, y) in zip(points, places, strict=True):
        kind = "control" if point.is_control else "best" if point in best else ""
        label = f"{point.name}: {_signed(point.quality)} at {point.cost:.3g}"
        parts.append(
            f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS:g}">'
            f"<title>{escape(label)}</title></circle>"
        )
    for point, box in zip(points, boxes, strict=True):
        parts.append(
            f'<rect class="back" x="{box.left:.1f}" y="{box.top:.1f}" '
            f'width="{box.right - box.left:.1f}" height="{box.bottom - box.top:.1f}" rx="3"/>'
        )
        parts.append(_text(box.left + 2, box.bottom - 4, point.name, "label"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">\n'
        f"<style>\n{_STYLE}\n</style>\n{body}\n</svg>\n"
    )


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Where values lie on the figure: cost on a log scale, quality on a linear one."""

    low_cost: float
    high_cost: float
    low: float
    high: float

    @classmethod
    def around(cls, points: Sequence[Point]) -> _Frame:
        costs = [math.log10(p.cost) for p in points]
        margin = 0.08 * (max(costs) - min(costs)) + 0.05
        ends = [end for p in points for end in p.extent]
        # An interval of two seeds may be a hundred times wider than all differences.
        means = [p.quality for p in points]
        spread = max(max(means) - min(means), abs(means[0]), 1e-4)
        low, high = max(min(ends), min(means) - spread), min(max(ends), max(means) + spread)
        low, high = min(low, 0.0), max(high, 0.0)
        room = 0.08 * (high - low) or 0.001
        return cls(
            10 ** (min(costs) - margin), 10 ** (max(costs) + margin), low - room, high + room
        )

    def x(self, cost: float) -> float:
        whole = math.log10(self.high_cost / self.low_cost)
        return LEFT + 10 + (RIGHT - LEFT - 20) * math.log10(cost / self.low_cost) / whole

    def y(self, quality: float) -> float:
        inside = min(max(quality, self.low), self.high)
        return BOTTOM - (BOTTOM - TOP) * (inside - self.low) / (self.high - self.low)

    @property
    def x_ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten; powers alone where those would be crowded."""
        first, last = (math.floor(math.log10(v)) for v in (self.low_cost, self.high_cost))
        units = (1, 2, 5) if last - first < 3 else (1,)
        ticks = [unit * 10.0**power for power in range(first, last + 1) for unit in units]
        return [tick for tick in ticks if self.low_cost <= tick <= self.high_cost]

    @property
    def y_ticks(self) -> list[float]:
        """Four to eight round values, zero among them."""
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
        places = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [place * step for place in places]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _cuts(frame: _Frame, point: Point, x: float) -> list[str]:
    """Arrowheads where an interval goes on beyond the figure."""
    low, high = point.extent
    parts = []
    if high > frame.high:
        parts.append(f'<path class="cut" d="M{x - 5:.1f} {TOP + 7} L{x:.1f} {TOP} l5 7"/>')
    if low < frame.low:
        parts.append(f'<path class="cut" d="M{x - 5:.1f} {BOTTOM - 7} L{x:.1f} {BOTTOM} l5 -7"/>')
    return parts


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+.4g}".replace("-", "\N{MINUS SIGN}")

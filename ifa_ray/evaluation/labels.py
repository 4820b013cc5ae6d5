"""Places for the labels of points in a figure: near, and over nothing that must be read.

Knows rectangles and pixels; nothing of what is drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

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
        """Whether the insides meet."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
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

"""Hand-made SVG figures: strips of a forest plot, dots of replicates, an effect over days.

Knows numbers and classes, no colours: those are in the stylesheet, light and dark. Across, all
places are percentages and down they are pixels, so a figure fills any width and its text and dots
keep their size, without a script.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

Row = Mapping[str, Any]

PAD = 6.0  # percent of the width that no value reaches, on either side


@dataclasses.dataclass(frozen=True)
class Scale:
    """Relative effects from -reach to +reach across a figure, zero in the middle."""

    reach: float

    @classmethod
    def around(cls, extents: Iterable[float], essential: float) -> Scale:
        """Reaches the furthest of `extents`, unless a few of them would squeeze the others.

        A rare metric's wide interval is cut with an arrow then; `essential` never is.
        """
        known = sorted(extent for extent in extents if extent > 0)
        if not known:
            return cls(max(essential, 0.01))
        return cls(max(min(known[-1], 2.5 * known[len(known) // 2]), 1.2 * essential))

    @property
    def ticks(self) -> tuple[float, float, float]:
        """Zero between two of 1, 2, 5 times a power of ten, the largest inside the reach."""
        power = 10.0 ** math.floor(math.log10(self.reach))
        tick = max(step * power for step in (1, 2, 5) if step * power <= self.reach)
        return -tick, 0.0, tick

    @property
    def tick_offset(self) -> float:
        """The distance of a tick from the middle, percent; the stylesheet draws the grid there."""
        return self.x(self.ticks[2]) - 50

    def x(self, value: float) -> float:
        """Percent from the left; values beyond the reach stop at the edge."""
        inside = max(-self.reach, min(self.reach, value))
        return 50 + (50 - PAD) * inside / self.reach


def extent(row: Row) -> float:
    """The reach of an effect and its intervals from zero."""
    checkpoint = row.get("checkpoint") or {"interval": None}
    bounds = (*(row["interval"] or ()), *(checkpoint["interval"] or ()), row["relative"] or 0.0)
    return max(map(abs, bounds))


def axis(scale: Scale) -> Markup:
    """Three labelled ticks, to stand over a column of strips."""
    labels = [_text(scale.x(value), 14, _tick_label(value), "mid") for value in scale.ticks]
    return _svg(18, labels, label=None)


def strip(scale: Scale, row: Row) -> Markup:
    """One line of a forest plot, of an effect as `analyze` gives it.

    Shaded: the acceptance region over replicates. Thick: the headline interval. Thin, below: the
    checkpoint interval. The dot is full where the effect is significant after adjustment.
    """
    parts = []
    for kind, bounds, cut in (
        ("region", row.get("acceptance_region"), None),
        ("below", row["checkpoint"]["interval"], (22, "checkpoint")),
        ("thick", row["interval"], (13, "headline")),
    ):
        if bounds:
            low, high = map(scale.x, bounds)
            parts.append(f'<rect class="{kind}" x="{_short(low)}%" width="{_short(high - low)}%"/>')
            parts += _cuts(scale, bounds, *cut) if cut else []
    if abs(row["relative"]) > scale.reach:
        parts.append(_dot(scale, row["relative"], 13, 4.5))
    else:
        kind = "dot full" if row.get("significant") else "dot"
        parts.append(f'<circle class="{kind}" cx="{_short(scale.x(row["relative"]))}%"/>')
    # Its numbers stand beside it, so a screen reader needn't read them twice.
    # The stylesheet gives all of it its height and place down: there may be hundreds in a page.
    return Markup(f'<svg aria-hidden="true">{"".join(parts)}</svg>')


def dots(scale: Scale, row: Row, name: str) -> Markup:
    """One dot per replicate with its checkpoint interval, their mean and headline below."""
    height = 14 * len(row["replicates"]) + 34
    parts = [
        _line(scale.x(tick), 0, scale.x(tick), height, "grid" if tick else "zero")
        for tick in scale.ticks
    ]
    lines = [
        (each, 12 + 14 * r, "checkpoint", 4, "dot one") for r, each in enumerate(row["replicates"])
    ]
    mean = "dot full" if row["significant"] else "dot"
    for each, y, kind, radius, dot in [*lines, (row, height - 14, "headline", 6, mean)]:
        if each["relative"] is None:
            continue
        if each["interval"]:
            low, high = map(scale.x, each["interval"])
            parts.append(_line(low, y, high, y, kind))
            parts += _cuts(scale, each["interval"], y, kind)
        parts.append(_dot(scale, each["relative"], y, radius, dot))
    return _svg(height, parts, f"{name}: the effect in each replicate, and their mean")


def daily(rows: Sequence[Row], over: str, overall: float | None, name: str) -> Markup:
    """The effect of each day as a line; burn-in days are shaded.

    Whiskers are pointwise intervals, the bars behind them the simultaneous band. All bars and
    whiskers count for the scale, unless a few would squeeze the others: those are cut. `over` is
    put before `interval` and `band` in the rows' keys.
    """
    top, bottom, height = 12, 172, 200
    low, high = _reach(rows, over)

    def x(day: float) -> float:
        return 9 + 89 * (day + 0.5) / len(rows)

    def y(value: float) -> float:
        value = max(low, min(high, value))
        return bottom - (value - low) / (high - low) * (bottom - top)

    def box(kind: str, left: str, width: float, upper: str, tall: str) -> str:
        return (
            f'<rect class="{kind}" x="{left}%" y="{upper}" width="{width:.2f}%" height="{tall}"/>'
        )

    parts, points = [], []
    burn_in = sum(not row["counted"] for row in rows)
    if burn_in:
        parts.append(box("burn-in", "9", x(burn_in - 0.5) - 9, "4", str(bottom - 4)))
    for tick in _ticks(low, high):
        parts.append(_line(9, y(tick), 100, y(tick), "grid" if tick else "zero"))
        parts.append(_text(8, y(tick) + 4, _tick_label(tick), "end"))
    if overall is not None:
        parts.append(_line(x(burn_in - 0.5), y(overall), 100, y(overall), "overall"))
    before: float | None = None
    for day, row in enumerate(rows):
        if day % math.ceil(len(rows) / 14) == 0:
            parts.append(_text(x(day), height - 8, str(row["day"]), "mid"))
        value, last, before = row["relative"], before, row["relative"]
        if value is None:
            continue
        if row[f"{over}band"]:
            under, above = map(y, row[f"{over}band"])
            width = 0.5 * 89 / len(rows)
            left = f"{x(day) - width / 2:.2f}"
            parts.append(box("band", left, width, f"{above:.1f}", f"{under - above:.1f}"))
        if row[f"{over}interval"]:
            under, above = map(y, row[f"{over}interval"])
            parts.append(_line(x(day), under, x(day), above, "whisker"))
        if last is not None:
            parts.append(_line(x(day - 1), y(last), x(day), y(value), "path"))
        kind = "dot full" if row["counted"] else "dot"
        points.append(f'<circle class="{kind}" cx="{x(day):.2f}%" cy="{y(value):.1f}" r="4"/>')
    label = f"{name}: effect on watch time for each day of the run"
    return _svg(height, [*parts, *points], label)


def _reach(rows: Sequence[Row], over: str) -> tuple[float, float]:
    """The lowest and highest value that a figure of days shows, zero among them."""
    effects = [row["relative"] for row in rows if row["relative"] is not None]
    keys = (f"{over}interval", f"{over}band")
    ends = [end for row in rows for key in keys for end in row[key] or ()]
    usual = sorted(map(abs, ends))
    limit = max(
        2.5 * usual[len(usual) // 2] if usual else 0.0,
        1.2 * max(map(abs, effects), default=0),
        1e-4,
    )
    known = [max(-limit, min(limit, value)) for value in (*effects, *ends, 0.0)]
    low, high = min(known), max(known)
    return (low, high) if high > low else (-0.005, 0.005)


def _svg(height: int, parts: Sequence[str], label: str | None) -> Markup:
    role = 'aria-hidden="true"' if label is None else f'role="img" aria-label="{escape(label)}"'
    return Markup(f'<svg width="100%" height="{height}" {role}>{"".join(parts)}</svg>')


def _cuts(scale: Scale, bounds: Sequence[float], y: float, kind: str) -> list[str]:
    """Arrows where an interval goes on beyond the figure."""
    ends = ((bounds[0] < -scale.reach, 1, "◂"), (bounds[1] > scale.reach, 99, "▸"))
    return [_text(x, y + 4, arrow, f"cut mid {kind}") for is_cut, x, arrow in ends if is_cut]


def _dot(scale: Scale, value: float, y: float, radius: float, kind: str = "dot") -> str:
    # Beyond the reach there is the arrow of the interval; a dot at the edge would tell a lie.
    if abs(value) > scale.reach:
        return _text(99 if value > 0 else 1, y + 4, "▸" if value > 0 else "◂", "cut mid headline")
    return f'<circle class="{kind}" cx="{_short(scale.x(value))}%" cy="{y}" r="{radius}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    above = "" if y1 == 0 else f' y1="{_short(y1)}"'
    return f'<line class="{kind}" x1="{_short(x1)}%"{above} x2="{_short(x2)}%" y2="{_short(y2)}"/>'


def _short(place: float) -> str:
    """To a tenth of a percent or pixel, which nobody sees."""
    return f"{place:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.2f}%" y="{y:.1f}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round values from low to high, zero among them."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick_label(value: float) -> str:
    return "0" if value == 0 else f"{value * 100:+.3g}%".replace("-", "\N{MINUS SIGN}")

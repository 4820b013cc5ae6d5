"""Hand-made SVG figures: strips of a forest plot, dots of replicates, an effect over days.

Knows numbers and classes, no colours: those are in the stylesheet, light and dark. Across, all
places are percentages and down they are pixels, so a figure fills any width and its text and dots
keep their size, without a script.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

PAD = 6.0  # percent of the width that no value reaches, on either side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Relative effects from -reach to +reach across a figure, zero in the middle."""

    reach: float

    @classmethod
    def around(cls, extents: Sequence[float], essential: float) -> Scale:
        """Reaches the furthest of `extents`, unless a few of them would squeeze the others.

        A rare metric's wide interval is cut with an arrow then; `essential` never is.
        """
        known = sorted(extent for extent in extents if extent > 0)
        if not known:
            return cls(reach=max(essential, 0.01))
        usual = 2.5 * known[len(known) // 2]
        return cls(reach=max(min(known[-1], usual), 1.2 * essential))

    @property
    def tick(self) -> float:
        """The largest of 1, 2, 5 times a power of ten that lies inside the reach."""
        power = 10.0 ** math.floor(math.log10(self.reach))
        return max(step * power for step in (1, 2, 5) if step * power <= self.reach)

    @property
    def tick_offset(self) -> float:
        """How far a tick stands from the middle, percent; the stylesheet draws the grid there."""
        return self.x(self.tick) - 50

    def x(self, value: float) -> float:
        """Percent from the left; values beyond the reach stop at the edge."""
        inside = max(-self.reach, min(self.reach, value))
        return 50 + (50 - PAD) * inside / self.reach


def axis(scale: Scale) -> Markup:
    """Three labelled ticks, to stand over a column of strips."""
    labels = [
        _text(scale.x(value), 14, _tick_label(value), "mid")
        for value in (-scale.tick, 0.0, scale.tick)
    ]
    return _svg(18, labels, label=None)


def strip(scale: Scale, row: Mapping[str, Any]) -> Markup:
    """One line of a forest plot, of an effect as `analyze` gives it.

    Shaded: the acceptance region over replicates. Thick: the headline interval. Thin, below: the
    checkpoint interval. The dot is full where the effect is significant after adjustment.
    """
    if row["relative"] is None:
        return Markup("")
    parts = []
    if row["acceptance_region"]:
        parts.append(_block(scale, row["acceptance_region"], "region"))
    if row["checkpoint"]["interval"]:
        parts.append(_block(scale, row["checkpoint"]["interval"], "below"))
        parts += _cuts(scale, row["checkpoint"]["interval"], 22, "checkpoint")
    if row["interval"]:
        parts.append(_block(scale, row["interval"], "thick"))
        parts += _cuts(scale, row["interval"], 13, "headline")
    if abs(row["relative"]) > scale.reach:
        parts += _dot(scale, row["relative"], 13, 4.5)
    else:
        kind = "dot full" if row["significant"] else "dot"
        parts.append(f'<circle class="{kind}" cx="{_short(scale.x(row["relative"]))}%"/>')
    # Its numbers stand beside it, so a screen reader needn't read them twice.
    # The stylesheet gives all of it its height and place down: there may be hundreds in a page.
    return Markup(f'<svg aria-hidden="true">{"".join(parts)}</svg>')


def dots(scale: Scale, row: Mapping[str, Any], name: str) -> Markup:
    """One dot per replicate with its checkpoint interval, their mean and headline below."""
    height = 14 * len(row["replicates"]) + 34
    parts = _grid(scale, height)
    for place, replicate in enumerate(row["replicates"]):
        if replicate["relative"] is None:
            continue
        y = 12 + 14 * place
        if replicate["interval"]:
            parts += _bar(scale, replicate["interval"], y, "checkpoint")
        parts += _dot(scale, replicate["relative"], y, 4, kind="dot one")
    if row["relative"] is not None:
        y = height - 14
        if row["interval"]:
            parts += _bar(scale, row["interval"], y, "headline")
        parts += _dot(scale, row["relative"], y, 6, full=bool(row["significant"]))
    return _svg(height, parts, f"{name}: the effect in each replicate, and their mean")


def daily(rows: Sequence[Mapping[str, Any]], overall: float | None, name: str) -> Markup:
    """The effect of each day as a line; burn-in days are shaded.

    Whiskers are pointwise intervals, the bars behind them the simultaneous band. All bars and
    whiskers count for the scale, unless a few would squeeze the others: those are cut.
    """
    top, bottom, height = 12, 172, 200
    low, high = _reach(rows)
    span = high - low

    def x(day: float) -> float:
        return 9 + 89 * (day + 0.5) / len(rows)

    def y(value: float) -> float:
        value = max(low, min(high, value))
        return bottom - (value - low) / span * (bottom - top)

    parts = []
    burn_in = sum(not row["counted"] for row in rows)
    if burn_in:
        parts.append(f'<rect class="burn-in" x="9%" y="4" width="{x(burn_in - 0.5) - 9:.2f}%" '
                     f'height="{bottom - 4}"/>')  # fmt: skip
    for tick in _ticks(low, high):
        kind = "zero" if tick == 0 else "grid"
        parts.append(_line(9, y(tick), 100, y(tick), kind))
        parts.append(_text(8, y(tick) + 4, _tick_label(tick), "end"))
    if overall is not None:
        parts.append(_line(x(burn_in - 0.5), y(overall), 100, y(overall), "overall"))
    every = math.ceil(len(rows) / 14)
    for day, row in enumerate(rows):
        if day % every == 0:
            parts.append(_text(x(day), height - 8, str(row["day"]), "mid"))
        if row["relative"] is None:
            continue
        if row.get("band"):
            under, over = (y(bound) for bound in row["band"])
            width = 0.5 * 89 / len(rows)
            parts.append(f'<rect class="band" x="{x(day) - width / 2:.2f}%" y="{over:.1f}" '
                         f'width="{width:.2f}%" height="{under - over:.1f}"/>')  # fmt: skip
        if row["interval"]:
            first, last = (y(bound) for bound in row["interval"])
            parts.append(_line(x(day), first, x(day), last, "whisker"))
        if day and rows[day - 1]["relative"] is not None:
            before = rows[day - 1]["relative"]
            parts.append(_line(x(day - 1), y(before), x(day), y(row["relative"]), "path"))
    parts += [
        f'<circle class="dot{" full" if row["counted"] else ""}" cx="{x(day):.2f}%" '
        f'cy="{y(row["relative"]):.1f}" r="4"/>'
        for day, row in enumerate(rows)
        if row["relative"] is not None
    ]
    return _svg(height, parts, f"{name}: effect on watch time for each day of the run")


def _reach(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The lowest and highest value that a figure of days shows, zero among them."""
    effects = [row["relative"] for row in rows if row["relative"] is not None]
    ends = [end for row in rows for end in (*(row["interval"] or ()), *(row.get("band") or ()))]
    largest = max([abs(v) for v in effects], default=0.0)
    usual = sorted(abs(end) for end in ends)
    limit = max(2.5 * usual[len(usual) // 2] if usual else 0.0, 1.2 * largest, 1e-4)
    known = [max(-limit, min(limit, v)) for v in (*effects, *ends, 0.0)]
    low, high = min(known), max(known)
    return (low, high) if high > low else (-0.005, 0.005)


def _svg(height: int, parts: Sequence[str], label: str | None) -> Markup:
    role = 'aria-hidden="true"' if label is None else f'role="img" aria-label="{escape(label)}"'
    return Markup(f'<svg width="100%" height="{height}" {role}>{"".join(parts)}</svg>')


def _grid(scale: Scale, height: int) -> list[str]:
    ticks = (-scale.tick, 0.0, scale.tick)
    return [
        _line(scale.x(tick), 0, scale.x(tick), height, "grid" if tick else "zero") for tick in ticks
    ]


def _block(scale: Scale, bounds: Sequence[float], kind: str) -> str:
    low, high = (scale.x(bound) for bound in bounds)
    return f'<rect class="{kind}" x="{_short(low)}%" width="{_short(high - low)}%"/>'


def _bar(scale: Scale, bounds: Sequence[float], y: float, kind: str) -> list[str]:
    low, high = bounds
    return [_line(scale.x(low), y, scale.x(high), y, kind), *_cuts(scale, bounds, y, kind)]


def _cuts(scale: Scale, bounds: Sequence[float], y: float, kind: str) -> list[str]:
    """Arrows where an interval goes on beyond the figure."""
    low, high = bounds
    parts = []
    if low < -scale.reach:
        parts.append(_text(1, y + 4, "◂", f"cut mid {kind}"))
    if high > scale.reach:
        parts.append(_text(99, y + 4, "▸", f"cut mid {kind}"))
    return parts


def _dot(
    scale: Scale, value: float, y: float, radius: float, *, kind: str = "dot", full: bool = False
) -> list[str]:
    # Beyond the reach there is the arrow of the interval; a dot at the edge would tell a lie.
    if abs(value) > scale.reach:
        return [_text(99 if value > 0 else 1, y + 4, "▸" if value > 0 else "◂", "cut mid headline")]
    kind = f"{kind} full" if full else kind
    return [f'<circle class="{kind}" cx="{_short(scale.x(value))}%" cy="{y}" r="{radius}"/>']


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
    rough = (high - low) / 4 or 0.01
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick_label(value: float) -> str:
    return "0" if value == 0 else f"{value * 100:+.3g}%".replace("-", "\N{MINUS SIGN}")

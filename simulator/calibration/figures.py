"""The calibration as one SVG: the world as bars and lines, real figures as dots.

Knows arrays and the published curves; no worlds. Light and dark, no script.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.calibration.measure import sessions
from simulator.calibration.table import SampledWorlds
from simulator.world.arrays import Floats, Ints

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS, HEAD = 430, 240, 2, 44
LEFT, RIGHT, TOP, BOTTOM = 48, 18, 40, 44

_STYLE = """\
.ground { fill: #fff; }
text {
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
  fill: #17191e;
}
.title { font-size: 13px; font-weight: 600; } .head { font-size: 16px; font-weight: 600; }
.muted { fill: #5c636f; } .end { text-anchor: end; } .mid { text-anchor: middle; }
.bar { fill: #b3bee8; } .line { fill: none; stroke: #2b56e0; stroke-width: 2; }
.grid { stroke: #e6e6e0; } .axis { stroke: #8a919e; }
.dot { fill: #fff; stroke: #b3261e; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #101216; } text { fill: #e9eaee; } .muted { fill: #9ba2af; }
  .bar { fill: #43528f; } .line { stroke: #8ea9ff; }
  .grid { stroke: #242830; } .axis { stroke: #6b7280; }
  .dot { fill: #101216; stroke: #ff8a80; }
}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure over labelled places 0, 1, 2, ... of equal width."""

    title: str  # what is drawn, with its unit
    labels: tuple[str, ...]  # of the places; an empty one is not written
    values: tuple[float, ...]  # height at each place, at least 0
    # (place, height) of published figures; places may lie between labels
    real: tuple[tuple[float, float], ...] = ()
    as_line: bool = False  # whether values are joined by a line; else they are bars


def calibration_svg(sampled: SampledWorlds, curves: Mapping[str, Any], title: str) -> str:
    """The figures of sampled worlds; `curves` as the targets' file has them, or fewer."""
    return svg_of_panels(panels(sampled, curves), title)


def panels(sampled: SampledWorlds, curves: Mapping[str, Any]) -> list[Panel]:
    """Watch time, duration, popularity, histories, activity, click rate by activity, sessions."""
    feeds = [
        {name: column[log["is_rand"] == 0] for name, column in log.items()}
        for log in sampled.impressions
    ]
    play_s = np.concatenate([feed["play_time_ms"] for feed in feeds]) / 1000
    return [
        _watch_time(play_s, curves.get("play_s")),
        _quantiles(
            "Durations: share of videos below, by seconds",
            np.concatenate(sampled.duration_ms) / 1000,
            [5, 10, 20, 40, 80, 160, 320, 640],
            curves.get("duration_s", {}).get("quantile", ()),
            curves.get("duration_s", {}).get("seconds", ()),
        ),
        _popularity(sampled.views, curves.get("top_share")),
        _quantiles(
            "Histories: share of users below, by impressions",
            sampled.history_U,
            _decades(sampled.history_U),
            curves.get("history", {}).get("quantile", ()),
            curves.get("history", {}).get("impressions", ()),
        ),
        _quantiles(
            "Activity: share of users below, by impressions a day",
            sampled.history_U / sampled.config.warmup_days,
            _decades(sampled.history_U / sampled.config.warmup_days),
            [0.5] if "per_day" in curves else (),
            [curves["per_day"]["median"]] if "per_day" in curves else (),
        ),
        _click_by_activity(feeds, curves.get("click_by_activity")),
        _sessions(sampled, curves.get("session")),
    ]


def _watch_time(play_s: Floats, curve: Mapping[str, Any] | None) -> Panel:
    edges = [3.0, 7.0, 18.0, 68.7, 211.4] if curve is None else list(curve["edges_s"])
    inner = np.array([0.0005, *edges, np.inf])
    counts = np.histogram(play_s, inner)[0] / max(len(play_s), 1)
    labels = ["0", f"-{edges[0]:g} s", *(f"-{edge:g}" for edge in edges[1:]), "more"]
    real: tuple[tuple[float, float], ...] = ()
    if curve is not None:
        shares = np.diff([curve["zero"], *curve["below"], 1.0])
        real = tuple(enumerate([curve["zero"], *shares.tolist()]))
    return Panel(
        title="Watch time: share of impressions, by seconds",
        labels=tuple(labels),
        values=(float((play_s == 0).mean()), *counts.tolist()),
        real=real,
    )


def _decades(values: npt.NDArray) -> list[float]:
    """Places 1, 2, 5, 10, ... that hold the middle 99% of the values."""
    low, high = np.percentile(values, [0.5, 99.5])
    steps = [float(f * 10**p) for p in range(8) for f in (1, 2, 5)]
    inside = [step for step in steps if low / 2.5 <= step <= 2.5 * high]
    return inside or [float(low), float(high)]


def _quantiles(
    title: str,
    values: npt.NDArray,
    places: Sequence[float],
    quantile: Sequence[float],
    at: Sequence[float],
) -> Panel:
    """The share below each place; places are equally far apart on a log axis, or nearly."""
    shares = [float((values < place).mean()) for place in places]
    log_places = np.log(places)
    where = np.interp(np.log(np.asarray(at, float)), log_places, np.arange(len(places)))
    return Panel(
        title=title,
        labels=tuple(f"{place:g}" if place < 1e4 else f"{place / 1000:g}k" for place in places),
        values=tuple(shares),
        real=tuple(zip(where.tolist(), quantile, strict=True)),
        as_line=True,
    )


def _popularity(views: Ints, curve: Mapping[str, Any] | None) -> Panel:
    counts = np.sort(np.unique(views, return_counts=True)[1])[::-1]
    reach = np.cumsum(counts) / counts.sum()
    tops = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    shares = [float(reach[max(1, int(top * len(counts))) - 1]) for top in tops]
    real: tuple[tuple[float, float], ...] = ()
    if curve is not None:
        real = tuple(
            (float(tops.index(t)), s) for t, s in zip(curve["top"], curve["share"], strict=True)
        )
    return Panel(
        title="Popularity: impressions on the top share of items",
        labels=tuple(f"{100 * top:g}%" for top in tops),
        values=tuple(shares),
        real=real,
        as_line=True,
    )


def _click_by_activity(
    feeds: Sequence[Mapping[str, np.ndarray]], curve: Mapping[str, Any] | None
) -> Panel:
    """Pooled click rate of each fifth of the users, the least active first."""
    per_world = []
    for feed in feeds:
        _, user = np.unique(feed["user_id"], return_inverse=True)
        seen_U = np.bincount(user)
        clicks_U = np.bincount(user, feed["is_click"])
        fifths = np.array_split(np.argsort(seen_U, kind="stable"), 5)
        per_world.append([clicks_U[f].sum() / max(seen_U[f].sum(), 1) for f in fifths])
    return Panel(
        title="Click rate, by fifth of users, most active last",
        labels=("1st", "2nd", "3rd", "4th", "5th"),
        values=tuple(np.mean(per_world, axis=0).tolist()),
        real=() if curve is None else tuple(enumerate(curve["rate"])),
    )


def _sessions(sampled: SampledWorlds, curve: Mapping[str, Any] | None) -> Panel:
    size = np.concatenate([sessions(log["user_id"], log["time_ms"]) for log in sampled.impressions])
    edges = np.array([0, 10, 20, 40, 80, 160, 320])
    share = np.histogram(size, [*edges, np.inf])[0] / len(size)
    means = f"mean {size.mean():.0f}"
    if curve is not None:
        means += f", KuaiRand's {curve['mean']:g}"
    return Panel(
        title=f"Sessions: share by impressions ({means})",
        labels=tuple(f"{edge}-" for edge in edges),
        values=tuple(share.tolist()),
    )


def svg_of_panels(shown: Sequence[Panel], title: str) -> str:
    """The panels in two columns, with a title and a legend."""
    rows = -(-len(shown) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, HEAD + rows * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text class="head" x="{LEFT}" y="27">{escape(title)}</text>',
        f'<circle class="dot" cx="{width - 112}" cy="23" r="4"/>',
        f'<text class="muted" x="{width - 102}" y="27">as published</text>',
    ]
    for index, panel in enumerate(shown):
        x = PANEL_WIDTH * (index % COLUMNS)
        y = HEAD + PANEL_HEIGHT * (index // COLUMNS)
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> list[str]:
    top = max([*panel.values, *(height for _, height in panel.real), 1e-9])
    step = (PANEL_WIDTH - LEFT - RIGHT) / len(panel.values)
    floor = PANEL_HEIGHT - BOTTOM

    def x(place: float) -> float:
        return LEFT + step * (place + 0.5)

    def y(height: float) -> float:
        return floor - (floor - TOP) * height / top

    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(panel.title)}</text>']
    for height in (0.0, top / 2, top):
        kind = "axis" if height == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{LEFT}" x2="{PANEL_WIDTH - RIGHT}" '
            f'y1="{y(height):.1f}" y2="{y(height):.1f}"/>'
        )
        parts.append(
            f'<text class="muted end" x="{LEFT - 6}" y="{y(height) + 4:.1f}">'
            f"{100 * height:.0f}%</text>"
        )
    if panel.as_line:
        path = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(panel.values))
        parts.append(f'<polyline class="line" points="{path}"/>')
    else:
        parts += [
            f'<rect class="bar" x="{x(i) - 0.4 * step:.1f}" width="{0.8 * step:.1f}" '
            f'y="{y(v):.1f}" height="{floor - y(v):.1f}"/>'
            for i, v in enumerate(panel.values)
        ]
    parts += [
        f'<circle class="dot" cx="{x(place):.1f}" cy="{y(height):.1f}" r="4"/>'
        for place, height in panel.real
    ]
    parts += [
        f'<text class="muted mid" x="{x(i):.1f}" y="{floor + 18}">{escape(label)}</text>'
        for i, label in enumerate(panel.labels)
    ]
    return parts

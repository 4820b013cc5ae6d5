"""The folder of one offline training: what is in it, and how it survives a kill.

    OUT/settings.json            what it is; a resumed training must agree
    OUT/models/version=00003/    versions that passed the gate; what a ranker serves
    OUT/refused/version=00004/   the last version that did not
    OUT/gates/version=00003.json each decision of the gate
    OUT/metrics.jsonl            one line for each window of the stream
    OUT/plots/*.svg              the same as lines
    OUT/tables.json              how full the hashed tables are
    OUT/timings.jsonl            seconds of each version: a measurement, all else repeats exactly

The newest version is the only state. What is written after it (metrics, plots) is made again from
it, so a process may be killed anywhere. Knows files, not training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ifa_ray.checkpoints.files import read_bytes, sync_folder
from ifa_ray.checkpoints.format import (
    drop_optimizer,
    latest_version,
    load_file,
    published_versions,
    version_folder,
)
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.data.tables import is_half_written, remove_half_written
from ifa_ray.errors import CheckpointError, ConfigError, LogError
from ifa_ray.schema import OBJECTIVES, TrainingSample

WINDOWS = "windows.jsonl"
"""The file of a version that holds the rows of its windows."""


@dataclasses.dataclass(frozen=True)
class OfflineFolder:
    """The layout below `root`."""

    root: Path

    @property
    def models(self) -> Path:
        """The root of the versions that may be served."""
        return self.root / "models"

    @property
    def refused(self) -> Path:
        """The root of the versions that may not."""
        return self.root / "refused"

    @property
    def metrics(self) -> Path:
        """The rows of all windows."""
        return self.root / "metrics.jsonl"

    def gate(self, version: int) -> Path:
        """The decision about a version."""
        return self.root / "gates" / f"version={version:05d}.json"

    def open(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder, or checks that it is what shall be continued; call it `locked`.

        Raises:
            ConfigError: if it holds something else, other settings, or versions that nobody asked
                to continue.
        """
        path = self.root / "settings.json"
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        if latest_version(self.models) is None:  # also where an earlier attempt came to nothing
            found = [] if path.exists() else self._foreign()
            if found:
                raise ConfigError(
                    f"out == {str(self.root)!r}, must be absent, empty or of a training: it holds "
                    f"{', '.join(found[:3])}."
                )
            remove_half_written(self.root)
            write_atomically(path, text.encode())
            return
        try:
            saved = json.loads(read_bytes(path))
        except ValueError:
            raise CheckpointError(f"{path}: not JSON, it is damaged.") from None
        _require_same(saved, json.loads(text), self.root)
        if not resume:
            raise ConfigError(
                f"out == {str(self.root)!r} holds version {latest_version(self.models)}, must be "
                "without versions. Continue it with --resume, or choose another --out."
            )
        remove_half_written(self.root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process out; the lock dies with the process.

        Raises:
            ConfigError: if another process trains here, or the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("w")
        except OSError as error:
            where = str(self.root)
            raise ConfigError(f"out == {where!r}, must be writable: {error.strerror}.") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                where = str(self.root)
                raise ConfigError(f"out == {where!r} is in use by another process.") from None
            yield

    def write_gate(self, version: int, decision: Mapping[str, Any]) -> None:
        """Records a decision; the same one again is the same bytes."""
        text = json.dumps(decision, indent=1, sort_keys=True, allow_nan=False)
        write_atomically(self.gate(version), text.encode() + b"\n")

    def gate_words(self, version: int) -> str:
        """A decision in a few words."""
        path = self.gate(version)
        if not path.exists():
            return "no decision"
        found = json.loads(path.read_bytes())
        if "rolled_back_to" in found:
            return f"version {found['rolled_back_to']} again"
        return "passed" if found["passed"] else "; ".join(found["reasons"])

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, but for a last line that was not written whole."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]

    def recover_rows(self) -> list[dict[str, Any]]:
        """Makes metrics.jsonl what it must be after the newest version, and returns its rows."""
        newest = latest_version(self.models)
        if newest is None:
            rows = []
        else:
            rows = [row for row in self.rows() if row["version"] < newest]
            last = load_file(version_folder(self.models, newest), WINDOWS).splitlines()
            rows += [json.loads(line) for line in last]
        if rows != self.rows() or not self.metrics.exists():
            write_atomically(self.metrics, self.encode(rows))
        return rows

    def append_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows; where a killed process left half of them, `recover_rows` mends it."""
        with self.metrics.open("ab") as file:
            file.write(self.encode(rows))

    def append_timing(self, values: Mapping[str, Any]) -> None:
        """Adds a measurement."""
        with (self.root / "timings.jsonl").open("ab") as file:
            file.write(self.encode([values]))

    @staticmethod
    def encode(rows: Sequence[Mapping[str, Any]]) -> bytes:
        """One line of JSON for each."""
        return b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)

    def _foreign(self) -> list[str]:
        entries = [entry for entry in self.root.iterdir() if not is_half_written(entry)]
        return sorted(entry.name for entry in entries if entry.name != ".lock")


def _require_same(saved: Mapping[str, Any], now: Mapping[str, Any], root: Path) -> None:
    for name in sorted({*saved, *now}):
        was, value = saved.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(value, dict):
            _require_same(was, value, root)
        elif was != value:
            # A setting that came later is left out while it is unused.
            was = was if name in saved else "its default"
            value = value if name in now else "its default"
            raise ConfigError(f"{name} == {value!r}, must be {was!r}, with which {root} was begun.")


TITLES = {
    "auc": "Progressive AUC of p(objective|candidate)",
    "gauc": "Progressive GAUC: mean AUC within a request",
    "log_loss": "Progressive log loss, nats per candidate",
    "calibration": "Calibration: predicted over observed positives",
}


def write_plots(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one figure for each metric under `plots/`; a window is a point."""
    for metric, title in TITLES.items():
        series = {
            objective: [(row["requests_so_far"], row[metric][objective]) for row in rows]
            for objective in OBJECTIVES
        }
        text = lines_svg(series, title=title, x_label="requests so far")
        write_atomically(root / "plots" / f"{metric}.svg", text.encode())


def summary_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of a whole stream as aligned text."""
    yield (
        f"{metrics['requests']:,} requests, {metrics['candidates']:,} candidates, "
        f"{metrics['steps']:,} steps; every request predicted before it was learned from"
    )
    yield f"{'':<12}{'AUC':>10}{'GAUC':>10}{'log loss':>10}{'calibration':>13}"
    for objective in OBJECTIVES:
        cells = [_cell(metrics[name][objective]) for name in TITLES]
        yield f"{objective:<12}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}{cells[3]:>13}"


def _cell(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def versions_to_keep(days: Mapping[int, str], last: int, daily: bool) -> tuple[set[int], set[int]]:
    """Which of the versions stay.

    Args:
        days: of each version, the day of the last request that it has learned.
        last: so many of the newest stay whole.
        daily: whether the last version of every day stays too, without its optimiser state.

    Returns:
        Those that stay whole, and those that stay with their weights alone.
    """
    whole = set(sorted(days)[-last:])
    of_day = {day: version for version, day in sorted(days.items())} if daily else {}
    return whole, set(of_day.values()) - whole


def apply_retention(root: Path, days: Mapping[int, str], last: int, daily: bool) -> list[int]:
    """Deletes what need not stay.

    Args:
        root: of the versions.
        days: of the versions that may be deleted; others below `root` are left alone.
        last: see `versions_to_keep`.
        daily: see `versions_to_keep`.

    Returns:
        The versions that were deleted.
    """
    whole, weights = versions_to_keep(days, last, daily)
    for version in weights:
        drop_optimizer(version_folder(root, version))
    gone = [v for v in published_versions(root) if v in days and v not in whole | weights]
    for version in gone:
        (version_folder(root, version) / "checkpoint.json").unlink()
    if gone:
        sync_folder(root)
    # Also what a killed process began to delete.
    for folder in root.glob("version=*"):
        if not (folder / "checkpoint.json").exists():
            shutil.rmtree(folder)
    return gone


MAX_SKEW_MS = 6 * 3_600_000
"""How far a log's clock may go back between requests: a run's files are by day, and sessions of
different users cross midnight. A user's own clock must never go back (`LogFollower`)."""


@dataclasses.dataclass(frozen=True)
class Cursor:
    """The place after the last learned request.

    Attributes:
        requests: learned so far.
        last_ms: the latest moment at which one of them was asked; 0 before the first.
        digest: of all of them, in order.
    """

    requests: int = 0
    last_ms: int = 0
    digest: str = ""

    def after(self, samples: Sequence[TrainingSample]) -> Cursor:
        """The cursor once these were learned too.

        Raises:
            LogError: if the clock goes back by more than `MAX_SKEW_MS`.
        """
        last_ms, digest = self.last_ms, self.digest
        for place, sample in enumerate(samples, self.requests):
            request = sample.request
            if place > 0 and request.time_ms < last_ms - MAX_SKEW_MS:
                raise LogError(
                    f"request {request.request_id}: time_ms == {request.time_ms}, must be >= "
                    f"{last_ms} - {MAX_SKEW_MS} of those before: the clock goes back."
                )
            last_ms = max(last_ms, request.time_ms) if place > 0 else request.time_ms
            digest = hashlib.sha256(digest.encode() + _bytes_of(sample)).hexdigest()
        return Cursor(self.requests + len(samples), last_ms, digest)

    def check(self, samples: Sequence[TrainingSample]) -> None:
        """Refuses a stream that does not begin with what was learned.

        Raises:
            LogError: saying how it differs.
        """
        if len(samples) < self.requests:
            raise LogError(
                f"the log has {len(samples):,} requests, must have the {self.requests:,} that the "
                "newest version has learned: it was shortened."
            )
        if Cursor().after(samples[: self.requests]).digest != self.digest:
            raise LogError(
                f"the first {self.requests:,} requests of the log are not those that the newest "
                "version has learned: it may grow at its end, but not change before."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def of_watermark(cls, watermark: Mapping[str, Any]) -> Cursor:
        """The cursor of a version's log watermark."""
        return cls(watermark["requests"], watermark["last_ms"], watermark["digest"])


def _bytes_of(sample: TrainingSample) -> bytes:
    request = sample.request
    numbers = (request.request_id, request.user_id, request.time_ms, len(request.history))
    parts = [np.array(numbers, np.int64), request.candidates_C, sample.labels_CL]
    # The latest behaviours stand for the history: all of them would be read once per request.
    parts += [request.history.ids_T[-16:], request.history.actions_T[-16:]]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


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

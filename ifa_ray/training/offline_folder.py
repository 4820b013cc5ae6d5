"""The folder of one offline training: what is in it, and how it survives a kill.

    OUT/settings.json            what it is; a resumed training must agree
    OUT/models/version=00003/    versions that passed the gate; what a ranker serves
    OUT/gates/version=00003.json each decision of the gate
    OUT/metrics.jsonl            one line for each window of the stream
    OUT/plots/*.svg              the same as lines
    OUT/timings.jsonl            seconds of each version: a measurement, all else repeats exactly

The newest version is the only state. What is written after it (metrics, plots) is made again from
it, so a process may be killed anywhere. Knows files, not training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ifa_ray.checkpoints.format import (
    delete_versions,
    drop_optimizer,
    latest_version,
    load_file,
    published_versions,
    version_folder,
)
from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.data.tables import is_half_written, remove_half_written
from ifa_ray.errors import CheckpointError, ConfigError, LogError
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.training.progressive import day_of

WINDOWS = "windows.jsonl"
"""The file of a version that holds the rows of its windows."""

TITLES = {
    "auc": "Progressive AUC of p(objective|candidate)",
    "gauc": "Progressive GAUC: mean AUC within a request",
    "log_loss": "Progressive log loss, nats per candidate",
    "calibration": "Calibration: predicted over observed positives",
}


@dataclasses.dataclass(frozen=True)
class OfflineFolder:
    """The layout below `root`."""

    root: Path

    @property
    def models(self) -> Path:
        """The root of the versions that may be served."""
        return self.root / "models"

    def gate(self, version: int) -> Path:
        """The decision about a version."""
        return self.root / "gates" / f"version={version:05d}.json"

    def open(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder, or checks that it is what shall be continued; call it `locked`."""
        path, out = self.root / "settings.json", str(self.root)
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        newest = latest_version(self.models)
        if newest is None:  # also where an earlier attempt came to nothing
            entries = [entry for entry in self.root.iterdir() if not is_half_written(entry)]
            found = sorted(entry.name for entry in entries if entry.name != ".lock")
            rule = f"absent, empty or of a training: it holds {', '.join(found[:3])}"
            require(path.exists() or not found, "out", out, rule)
            write_atomically(path, text.encode())
        else:
            try:
                saved = json.loads(path.read_bytes())
            except ValueError:
                raise CheckpointError(f"{path}: not JSON, it is damaged.") from None
            _require_same(saved, json.loads(text), self.root)
            rule = "a folder without versions; go on from them with --resume, or choose another"
            require(resume, "out", out, f"{rule}: it holds version {newest}")
        remove_half_written(self.root)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process out; the lock dies with the process."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"out == {str(self.root)!r} is in use by another process.") from None
        except OSError as error:
            rule = f"must be writable: {error.strerror}"
            raise ConfigError(f"out == {str(self.root)!r}, {rule}.") from None
        with file:
            yield

    def gate_words(self, version: int) -> str:
        """A decision in a few words."""
        found = json.loads(self.gate(version).read_bytes())
        if "rolled_back_to" in found:
            return f"version {found['rolled_back_to']} again"
        return "passed" if found["passed"] else "; ".join(found["reasons"])

    def recover_rows(self) -> list[dict[str, Any]]:
        """Makes metrics.jsonl what it must be after the newest version, and returns its rows."""
        newest, path, rows = latest_version(self.models), self.root / "metrics.jsonl", []
        if newest is not None:
            lines = path.read_bytes().splitlines() if path.exists() else []
            rows = [row for row in map(json.loads, lines) if row["version"] < newest]
            windows = load_file(version_folder(self.models, newest), WINDOWS)
            rows += map(json.loads, windows.splitlines())
        self.write_rows(rows)
        return rows

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes metrics.jsonl, and the figure of each metric; a window is a point."""
        write_atomically(self.root / "metrics.jsonl", json_lines(rows))
        for metric, title in TITLES.items():
            series = {
                objective: [(row["requests_so_far"], row[metric][objective]) for row in rows]
                for objective in OBJECTIVES
            }
            text = lines_svg(series, title=title, x_label="requests so far")
            write_atomically(self.root / "plots" / f"{metric}.svg", text.encode())


def json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One line of JSON for each row."""
    return b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)


def _require_same(saved: Mapping[str, Any], now: Mapping[str, Any], root: Path) -> None:
    for name in sorted({*saved, *now}):
        was, value = saved.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(value, dict):
            _require_same(was, value, root)
        else:
            require(was == value, name, value, f"{was!r}, with which {root} was begun")


def apply_retention(root: Path, rows: Sequence[Mapping[str, Any]], last: int, daily: bool) -> None:
    """Keeps the `last` versions whole, and of the last of every `daily` day the weights alone.

    A version is of the day of its last row. Versions without rows, rolled back ones, stay.
    """
    days = {row["version"]: day_of(row["last_ms"]) for row in rows}
    whole = set(sorted(days)[-last:])
    weights = set({day: version for version, day in days.items()}.values()) if daily else set()
    for version in weights - whole:
        drop_optimizer(version_folder(root, version))
    found = published_versions(root)
    delete_versions(root, [v for v in found if v in days and v not in whole | weights])


MAX_SKEW_MS = 6 * 3_600_000
"""How far a log's clock may go back between requests: a run's files are by day, and sessions of
different users cross midnight. A user's own clock must never go back (`LogFollower`)."""


@dataclasses.dataclass(frozen=True)
class Cursor:
    """The place after the last learned request; a version's log watermark.

    Attributes:
        requests: learned so far.
        last_ms: the latest moment at which one of them was asked; 0 before the first.
        digest: of all of them, in order.
    """

    requests: int = 0
    last_ms: int = 0
    digest: str = ""

    def after(self, samples: Sequence[TrainingSample]) -> Cursor:
        """The cursor once these were learned too."""
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
        """Raises a `LogError` where a stream does not begin with what was learned."""
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


def _bytes_of(sample: TrainingSample) -> bytes:
    request = sample.request
    numbers = (request.request_id, request.user_id, request.time_ms, len(request.history))
    parts = [np.array(numbers, np.int64), request.candidates_C, sample.labels_CL]
    # The latest behaviours stand for the history: all of them would be read once per request.
    parts += [request.history.ids_T[-16:], request.history.actions_T[-16:]]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


_BOX = LEFT, RIGHT, TOP, BOTTOM = 72, 720, 64, 306  # pixels of 880 x 360
# Colours are distinct in light and dark, and for most colour-blind eyes; dashes say the same again.
_COLOURS = ("#2b56e0", "#c2410c", "#0f7a4f", "#8b3fb3", "#5c636f")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4")

Points = Sequence[tuple[float, float | None]]
Scale = Callable[[float], float]


def lines_svg(series: Mapping[str, Points], *, title: str, x_label: str) -> str:
    """Draws one line for each series as a whole SVG file.

    Args:
        series: name to (x, y) in order of x; y is None where nothing is defined.
        title: above the figure: what y is.
        x_label: what x is.
    """
    defined = {name: [y for _, y in points if y is not None] for name, points in series.items()}
    drawn = {name: points for name, points in series.items() if defined[name]}
    xs = [x for points in drawn.values() for x, _ in points]
    x_ticks, x_of = _axis(xs, LEFT, RIGHT)
    y_ticks, y_of = _axis([y for name in drawn for y in defined[name]], BOTTOM, TOP)
    lines = [
        (name, defined[name][-1], _path(points, x_of, y_of), colour, dashes)
        for (name, points), colour, dashes in zip(
            drawn.items(), itertools.cycle(_COLOURS), itertools.cycle(_DASHES), strict=False
        )
    ]
    text = Path(__file__).with_name("lines.svg.j2").read_text()
    return jinja2.Template(text, autoescape=True).render(
        box=_BOX, title=title, x_label=x_label, x_ticks=x_ticks, y_ticks=y_ticks, lines=lines
    )


def _path(points: Points, x_of: Scale, y_of: Scale) -> str:
    """Moves over gaps; a point alone between two gaps is a short dash."""
    commands, pen_down = [], False
    for x, y in points:
        if y is not None:
            place = f"{x_of(x):.1f} {y_of(y):.1f}"
            commands.append(f"L{place}" if pen_down else f"M{place} h2")
        pen_down = y is not None
    return " ".join(commands)


def _axis(
    values: Sequence[float], first: float, last: float
) -> tuple[list[tuple[float, float]], Scale]:
    """Three to seven round values with their pixels, and the function from values to pixels."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.04 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room

    def scale(value: float) -> float:
        return first + (last - first) * (value - low) / (high - low)

    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
    places = range(math.ceil(low / step), math.floor(high / step) + 1)
    ticks = [round(place * step, 10) for place in places]
    return [(value, scale(value)) for value in ticks], scale

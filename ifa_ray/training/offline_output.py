"""What a reader of an offline training finds: lines of progressive metrics, and a summary.

Knows rows and metrics as plain values; nothing of learners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.data.run_folder import write_atomically
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.plots import lines_svg

__all__ = ["TITLES", "summary_lines", "write_plots"]

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

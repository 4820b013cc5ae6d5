"""`ifa-ray versions`: what was published, and back to an earlier version.

Parses and prints; knows the folders of an offline training and of a run. A version's number never
goes back, because rankers follow the newest: going back publishes an earlier version again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ifa_ray.checkpoints.format import (
    Checkpoint,
    load_checkpoint,
    load_metrics,
    published_versions,
    republish,
    version_folder,
)
from ifa_ray.config import require
from ifa_ray.data.run_folder import RunFolder, write_atomically
from ifa_ray.errors import unknown_name
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.offline_folder import TITLES, WINDOWS, OfflineFolder, lines_svg
from ifa_ray.training.progressive import day_of

_EPILOG = """\
examples:
  ifa-ray versions list trained/shop
  # Version 7 again, under the next number; training goes on from there, and learns once more what
  # came after version 7.
  ifa-ray versions rollback trained/shop --to 7
  # What came after it was bad: leave it out.
  ifa-ray versions rollback trained/shop --to 7 --skip
"""


def add_versions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the subparsers of the command line."""
    command = commands.add_parser("versions")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the versions of a training, and the gate's word")
    listing.add_argument("out", type=Path, metavar="OUT", help="of `train --out`")
    _add_progress(actions)
    back = actions.add_parser(
        "rollback", help="publish an earlier version again, under the next number",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    back.add_argument("out", type=Path, metavar="OUT", help="of `train --out`")
    back.add_argument(
        "--to", type=int, required=True, metavar="V", help="the version to go back to"
    )
    back.add_argument("--skip", action="store_true", help="leave out the requests that came after "
                      "it, up to the newest version")  # fmt: skip


def _add_progress(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    progress = actions.add_parser(
        "progress", help="progressive metrics of a run's arms, version by version"
    )
    progress.add_argument("run", type=Path, metavar="RUN", help="of `python -m simulator run`")
    progress.add_argument("--metric", default="auc", metavar="NAME",
                          help=f"of {', '.join(TITLES)} (default: auc)")  # fmt: skip
    progress.add_argument("--objective", default="impression", metavar="NAME",
                          help=f"of {', '.join(OBJECTIVES)} (default: impression)")  # fmt: skip
    progress.add_argument("--svg", type=Path, metavar="FILE", help="also draw it there")
    progress.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_versions(options: argparse.Namespace) -> int:
    """Lists or goes back.

    Returns:
        The process's status.
    """
    if options.action == "progress":
        return _progress(options)
    folder = OfflineFolder(options.out)
    found = published_versions(folder.models)
    require(bool(found), "out", str(options.out), "the folder of a training with versions")
    if options.action == "list":
        _list(folder, found)
        return 0
    with folder.locked():
        new = roll_back(folder, options.to, skip=options.skip)
    print(f"version {new} is version {options.to} again")
    if not load_checkpoint(version_folder(folder.models, new)).has_optimizer:
        print(
            "it can be served, but training cannot go on from it: its optimiser state was dropped",
            file=sys.stderr,
        )
    return 0


def _progress(options: argparse.Namespace) -> int:
    found = read_run_metrics(options.run, options.metric, options.objective)
    if options.svg is not None:
        write_atomically(options.svg, found.svg().encode())
    if options.json:
        print(json.dumps(found.to_dict(), allow_nan=False))
        return 0
    for line in _markdown(found):
        print(line)
    return 0


def _markdown(found: RunMetrics) -> Iterator[str]:
    """A row for each arm, which also aligns in a terminal."""
    count = max(map(len, found.values.values()))
    width = max(len(arm) for arm in ("version", *found.values))
    yield f"{TITLES[found.metric]}: {found.objective}; replicates: {found.replicates}"
    yield ""
    yield f"| {'version':<{width}} | {' | '.join(f'{v:>6}' for v in range(count))} |"
    yield f"|{'-' * (width + 2)}|{'|'.join('-------:' for _ in range(count))}|"
    for arm, values in found.values.items():
        cells = ["     -" if value is None else f"{value:6.3f}" for value in values]
        cells += ["     -"] * (count - len(values))
        yield f"| {arm:<{width}} | {' | '.join(cells)} |"


def roll_back(folder: OfflineFolder, to: int, *, skip: bool) -> int:
    """Publishes an earlier version again.

    Args:
        folder: locked.
        to: the earlier version.
        skip: whether training goes on after the newest version's requests, instead of after its.

    Returns:
        The number of the new version.

    Raises:
        ConfigError: if there is no such version, or it is the newest.
        CheckpointError: if it is damaged.
    """
    found = published_versions(folder.models)
    earlier = ", ".join(map(str, found[:-1])) or "none"
    require(to in found[:-1], "to", to, f"an earlier version that is on disk ({earlier})")
    new = found[-1] + 1
    changes: dict[str, object] = {"rolled_back_to": to}
    if skip:
        changes["log_watermark"] = _read(folder, found[-1]).log_watermark
    folder.write_gate(new, {"version": new, "passed": True, "rolled_back_to": to, "skipped": skip})
    # Its rows are version `to`'s, and are in metrics.jsonl already.
    republish(folder.models, to, new, changes, {WINDOWS: b""})
    return new


def _read(folder: OfflineFolder, version: int) -> Checkpoint:
    return load_checkpoint(version_folder(folder.models, version), with_optimizer=False)


def _list(folder: OfflineFolder, versions: list[int]) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for name in ("version", "requests so far", "last day", *(f"AUC {o}" for o in OBJECTIVES)):
        table.add_column(name, justify="right")
    for name in ("goes on", "gate"):
        table.add_column(name)
    for version in versions:
        found = _read(folder, version)
        aucs = [found.metrics["auc"][objective] for objective in OBJECTIVES]
        table.add_row(
            str(version),
            f"{found.log_watermark['requests']:,}",
            day_of(found.log_watermark["last_ms"]),
            *("undefined" if auc is None else f"{auc:.4f}" for auc in aucs),
            "yes" if found.has_optimizer else "no",
            folder.gate_words(version),
        )
    Console(width=130, highlight=False).print(table)
    for path in sorted(folder.refused.glob("version=*")):
        version = int(path.name.partition("=")[2])
        print(f"refused: version {version}: {folder.gate_words(version)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """One metric of one objective, of every arm that learns.

    Attributes:
        metric: a key of `TITLES`.
        objective: of `OBJECTIVES`.
        replicates: over which values are means.
        values: by arm, of each version, oldest first; None where it is defined in no replicate.
        requests: by arm, tested for each version, all replicates together.
    """

    metric: str
    objective: str
    replicates: int
    values: dict[str, list[float | None]]
    requests: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def svg(self) -> str:
        """One line for each arm; a whole SVG file."""
        series = {arm: list(enumerate(values)) for arm, values in self.values.items()}
        title = f"{TITLES[self.metric]}: {self.objective}"
        return lines_svg(series, title=title, x_label="version")


def read_run_metrics(run: Path, metric: str = "auc", objective: str = "impression") -> RunMetrics:
    """Reads the versions that all replicates of an arm have published.

    Args:
        run: folder of a run, finished or not.
        metric: a key of `TITLES`.
        objective: of `OBJECTIVES`.

    Raises:
        ConfigError: if the run has no versions, or a name is unknown, with the near miss.
        CheckpointError: if a version is damaged.
    """
    for field, name, known in (("metric", metric, TITLES), ("objective", objective, OBJECTIVES)):
        if name not in known:
            raise unknown_name(field, name, known)
    models = RunFolder(run).root / "models"
    arms = {
        folder.name: sorted(folder.glob("replicate=*"))
        for folder in sorted(models.glob("*"))
        if any(published_versions(root) for root in folder.glob("replicate=*"))
    }
    require(bool(arms), "run", str(run), "the folder of a run that has published versions")
    values: dict[str, list[float | None]] = {}
    requests: dict[str, list[int]] = {}
    for arm, roots in arms.items():
        common = sorted(set.intersection(*(set(published_versions(root)) for root in roots)))
        values[arm], requests[arm] = [], []
        for version in common:
            found = [load_metrics(version_folder(root, version)) for root in roots]
            defined = [each[metric][objective] for each in found]
            defined = [value for value in defined if value is not None]
            values[arm].append(statistics.fmean(defined) if defined else None)
            requests[arm].append(sum(each["samples"] for each in found))
    return RunMetrics(
        metric=metric, objective=objective, replicates=max(map(len, arms.values())),
        values=values, requests=requests,
    )  # fmt: skip

"""`ifa-ray versions`: what was published, and back to an earlier version.

Parses and prints; knows the folder of an offline training. A version's number never goes back,
because rankers follow the newest: going back publishes an earlier version again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ifa_ray.checkpoints.format import (
    has_optimizer,
    published_versions,
    read_record,
    republish,
    version_folder,
)
from ifa_ray.config import require
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.driver import write_decision
from ifa_ray.training.offline_folder import WINDOWS, OfflineFolder
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
    command = commands.add_parser(
        "versions", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the versions of a training, and the gate's word")
    back = actions.add_parser("rollback", help="publish an earlier version under the next number")
    for action in (listing, back):
        action.add_argument("out", type=Path, metavar="OUT", help="of `train --out`")
    back.add_argument("--to", type=int, required=True, metavar="V", help="version to go back to")
    back.add_argument(
        "--skip", action="store_true", help="leave out the requests that came after it"
    )


def run_versions(options: argparse.Namespace) -> int:
    """Lists or goes back; returns the process's status."""
    folder = OfflineFolder(options.out)
    found = published_versions(folder.models)
    require(bool(found), "out", str(options.out), "the folder of a training with versions")
    if options.action == "list":
        _list(folder, found)
        return 0
    with folder.locked():
        new = roll_back(folder, options.to, skip=options.skip)
    print(f"version {new} is version {options.to} again")
    if not has_optimizer(version_folder(folder.models, new)):
        print(
            "it can be served, but training cannot go on from it: its optimiser state was dropped",
            file=sys.stderr,
        )
    return 0


def roll_back(folder: OfflineFolder, to: int, *, skip: bool) -> int:
    """Publishes an earlier version again, and returns its new number; the folder is locked.

    Training goes on after that version's requests, or with `skip` after the newest version's.
    """
    found = published_versions(folder.models)
    earlier = ", ".join(map(str, found[:-1])) or "none"
    require(to in found[:-1], "to", to, f"an earlier version that is on disk ({earlier})")
    new = found[-1] + 1
    changes: dict[str, object] = {"rolled_back_to": to}
    if skip:
        newest = read_record(version_folder(folder.models, found[-1]))
        changes["log_watermark"] = newest["log_watermark"]
    decision = {"version": new, "passed": True, "rolled_back_to": to, "skipped": skip}
    write_decision(folder.gate(new), decision)
    # Its rows are version `to`'s, and are in metrics.jsonl already.
    republish(folder.models, to, new, changes, {WINDOWS: b""})
    return new


def _list(folder: OfflineFolder, versions: list[int]) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for name in ("version", "requests so far", "last day", *(f"AUC {o}" for o in OBJECTIVES)):
        table.add_column(name, justify="right")
    for name in ("goes on", "gate"):
        table.add_column(name)
    for version in versions:
        at = version_folder(folder.models, version)
        record = read_record(at)
        aucs = [record["metrics"]["auc"][objective] for objective in OBJECTIVES]
        table.add_row(
            str(version),
            f"{record['log_watermark']['requests']:,}",
            day_of(record["log_watermark"]["last_ms"]),
            *("undefined" if auc is None else f"{auc:.4f}" for auc in aucs),
            "yes" if has_optimizer(at) else "no",
            folder.gate_words(version),
        )
    Console(width=130, highlight=False).print(table)
    refused = versions[-1] + 1
    if folder.gate(refused).exists():
        print(f"refused: version {refused}: {folder.gate_words(refused)}")

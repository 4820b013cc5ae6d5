"""Versions on disk: listed, gone back to, and a learner made of one.

Its catalogue may be this one, or an earlier one that has only grown.

Knows checkpoints and catalogues. A checkpoint keeps one hash for each item, so that a later
catalogue can be told to have all of its items unchanged. An item that was never learned begins with
what its author, category, content and hashed row already mean.

Letters: N items, M earlier items.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table

from ifa_ray.checkpoints.format import (
    LearnerArrays,
    foreign_tensors,
    has_optimizer,
    items_fingerprint,
    load_checkpoint,
    load_file,
    published_versions,
    read_record,
    republish,
    version_folder,
)
from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import CheckpointError
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.driver import write_decision
from ifa_ray.training.learner import Learner
from ifa_ray.training.losses import mixed
from ifa_ray.training.offline_folder import WINDOWS, OfflineFolder
from ifa_ray.training.progressive import day_of

ITEMS = "items.safetensors"
"""The file of a version that holds the hashes of its catalogue's items."""


def load_learner(
    folder: Path,
    items: ItemTable,
    *,
    clock: Callable[[], float] = time.perf_counter,
    allow_added_items: bool = False,
) -> Learner:
    """Restores the learner that wrote a version; it goes on bit for bit as that one would have.

    Raises:
        CheckpointError: as `load_checkpoint`; if it is of another catalogue, unless items were only
            added and that is allowed; if the optimiser state was dropped.
    """
    _require_catalogue(folder, items, allow_added_items)
    found = load_checkpoint(folder)
    if not found.has_optimizer:
        raise CheckpointError(
            f"{folder}: optimizer.safetensors was dropped, learning cannot go on from it."
        )
    learner = Learner(found.model_config, found.training_config, items, found.seed, clock=clock)
    try:
        learner.load_arrays(found.arrays)
    except (KeyError, RuntimeError) as error:
        raise foreign_tensors(folder, error) from None
    return learner


def warm_started(
    folder: Path,
    model: ModelConfig,
    training: TrainingConfig,
    items: ItemTable,
    seed: int,
    allow_added_items: bool,
) -> Learner:
    """A new learner that begins with the weights of a version, and with fresh optimisers."""
    _require_catalogue(folder, items, allow_added_items)
    found = load_checkpoint(folder, with_optimizer=False)
    for name, was in vars(found.model_config).items():
        value = getattr(model, name)
        require(was == value, name, value, f"{was!r}, as in {folder}")
    learner = Learner(model, training, items, seed)
    learner.load_arrays(LearnerArrays(model=found.arrays.model, optimizer={}, steps=0))
    return learner


def _require_catalogue(folder: Path, items: ItemTable, allow_added_items: bool) -> None:
    """Raises a `CheckpointError` unless a catalogue is a version's, or has grown from it."""
    found, now = read_record(folder)["items_fingerprint"], items_fingerprint(items)
    if found == now:
        return
    if not allow_added_items:
        raise CheckpointError(
            f"{folder}: items_fingerprint == {found}, must be {now}: it was trained on another "
            "catalogue. If items were only added, --allow-added-items goes on from it."
        )
    earlier = safetensors.torch.load(load_file(folder, ITEMS))
    ids_M = earlier["video_id"].numpy()
    rows_M = items.rows(ids_M)
    gone = ids_M[rows_M == 0]
    if len(gone):
        raise CheckpointError(
            f"the catalogue lacks {len(gone)} of the {len(ids_M)} items that the version was "
            f"trained with, such as {gone[0]}; items may be added, not removed."
        )
    hashes_M = row_hashes(items)["hash"].numpy()[rows_M - 1]
    changed = ids_M[hashes_M != earlier["hash"].numpy()]
    if len(changed):
        raise CheckpointError(
            f"the features of {len(changed)} items are not those that the version was trained "
            f"with, such as item {changed[0]}; items may be added, not changed."
        )


def row_hashes(items: ItemTable) -> dict[str, torch.Tensor]:
    """Ids and a 64-bit hash of each item's features, [N] each; 12 bytes an item."""
    digest_N = np.zeros(len(items), np.uint64)
    for field in dataclasses.fields(items):
        column = np.ascontiguousarray(getattr(items, field.name)).reshape(len(items), -1)
        bytes_NX = column.view(np.uint8).reshape(len(items), -1)
        padded_NX = np.pad(bytes_NX, ((0, 0), (0, -bytes_NX.shape[1] % 8)))
        for word_N in np.ascontiguousarray(padded_NX).view(np.uint64).T:
            digest_N = mixed(digest_N ^ word_N)
    return {
        "video_id": torch.from_numpy(items.video_id_N.copy()),
        "hash": torch.from_numpy(digest_N.view(np.int64)),
    }


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

"""A learner from a version on disk, of this catalogue or of an earlier one that has only grown.

Knows checkpoints and catalogues. A checkpoint keeps one hash for each item, so that a later
catalogue can be told to have all of its items unchanged. An item that was never learned begins with
what its author, category, content and hashed row already mean.

Letters: N items, M earlier items.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from ifa_ray.checkpoints.format import (
    LearnerArrays,
    foreign_tensors,
    items_fingerprint,
    load_checkpoint,
    load_file,
)
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.training.learner import Learner

ITEMS = "items.safetensors"
"""The file of a version that holds the hashes of its catalogue's items."""


def load_learner(
    folder: Path | str,
    items: ItemTable,
    *,
    clock: Callable[[], float] = time.perf_counter,
    same_catalogue: bool = True,
) -> Learner:
    """Restores the learner that wrote a version; it goes on bit for bit as that one would have.

    Args:
        folder: of the version.
        items: the catalogue that it was trained on.
        clock: of the learner's measurements.
        same_catalogue: False where the caller has made sure that `items` has all items of that
            catalogue, unchanged.

    Raises:
        CheckpointError: as `load_checkpoint`, and if the optimiser state was dropped.
    """
    found = load_checkpoint(folder, items if same_catalogue else None)
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


def restore(
    folder: Path,
    items: ItemTable,
    allow_added_items: bool = False,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Learner:
    """The learner that wrote a version, on its catalogue or a grown one.

    Raises:
        CheckpointError: as `load_learner`; of another catalogue, unless items were only added and
            that is allowed.
    """
    require_catalogue(folder, items, allow_added_items)
    return load_learner(folder, items, clock=clock, same_catalogue=False)


def require_catalogue(folder: Path, items: ItemTable, allow_added_items: bool) -> int:
    """How many items the catalogue has beyond that of a version.

    Raises:
        CheckpointError: if it has others and that is not allowed, or it has lost or changed some.
    """
    found = load_checkpoint(folder, with_optimizer=False).items_fingerprint
    now = items_fingerprint(items)
    if found == now:
        return 0
    if not allow_added_items:
        raise CheckpointError(
            f"{folder}: items_fingerprint == {found}, must be {now}: it was trained on another "
            "catalogue. If items were only added, --allow-added-items goes on from it."
        )
    if not (folder / ITEMS).exists():
        raise CheckpointError(
            f"{folder}: has no {ITEMS}, so nobody can tell whether items were only added."
        )
    return items_added(safetensors.torch.load(load_file(folder, ITEMS)), items)


def warm_started(
    folder: Path,
    model: ModelConfig,
    training: TrainingConfig,
    items: ItemTable,
    seed: int,
    allow_added_items: bool = False,
) -> Learner:
    """A new learner that begins with the weights of a version, and with fresh optimisers.

    Raises:
        CheckpointError: as `restore`.
        ConfigError: if the version is of another model.
    """
    require_catalogue(folder, items, allow_added_items)
    found = load_checkpoint(folder, with_optimizer=False)
    _require_same_model(found.model_config, model, folder)
    learner = Learner(model, training, items, seed)
    learner.load_arrays(LearnerArrays(model=found.arrays.model, optimizer={}, steps=0))
    return learner


def _require_same_model(found: ModelConfig, wanted: ModelConfig, folder: Path) -> None:
    for field in dataclasses.fields(ModelConfig):
        was, value = getattr(found, field.name), getattr(wanted, field.name)
        if was != value:
            raise ConfigError(f"{field.name} == {value!r}, must be {was!r}, as in {folder}.")


def row_hashes(items: ItemTable) -> dict[str, torch.Tensor]:
    """Ids and a 64-bit hash of each item's features, [N] each; 12 bytes an item."""
    digest_N = np.zeros(len(items), np.uint64)
    for field in dataclasses.fields(items):
        column = np.ascontiguousarray(getattr(items, field.name))
        for word_N in _words(column.reshape(len(items), -1)):
            digest_N = _mix(digest_N ^ word_N)
    return {
        "video_id": torch.from_numpy(items.video_id_N.copy()),
        "hash": torch.from_numpy(digest_N.view(np.int64)),
    }


def items_added(earlier: dict[str, torch.Tensor], items: ItemTable) -> int:
    """How many items a catalogue has beyond an earlier one.

    Args:
        earlier: `row_hashes` of the earlier one, M items.
        items: the later one.

    Raises:
        CheckpointError: if an item has left or changed: only additions keep what was learned true.
    """
    now = row_hashes(items)
    ids_M, rows = earlier["video_id"].numpy(), items.rows(earlier["video_id"].numpy())
    if (rows == 0).any():
        gone = ids_M[rows == 0]
        raise CheckpointError(
            f"the catalogue lacks {len(gone)} of the {len(ids_M)} items that the version was "
            f"trained with, such as {gone[0]}; items may be added, not removed."
        )
    changed = now["hash"].numpy()[rows - 1] != earlier["hash"].numpy()
    if changed.any():
        raise CheckpointError(
            f"the features of {int(changed.sum())} items are not those that the version was "
            f"trained with, such as item {ids_M[changed][0]}; items may be added, not changed."
        )
    return len(items) - len(ids_M)


def table_report(items: ItemTable, config: ModelConfig) -> dict[str, Any]:
    """How many ids share a row of the hashed tables, by table.

    A row that two ids share learns from both. Users are not counted: they come with requests.
    """
    keys = {
        "item": (items.video_id_N, config.id_buckets),
        "author": (np.unique(items.author_id_N), config.author_buckets),
    }
    report = {}
    for name, (ids, buckets) in keys.items():
        counts = np.bincount(ids % buckets, minlength=1)
        shared = int(counts[counts > 1].sum())
        report[name] = {
            "ids": len(ids),
            "rows": buckets,
            "used_rows": int((counts > 0).sum()),
            "colliding_ids": shared,
            "share_colliding": shared / len(ids),
            "most_ids_in_a_row": int(counts.max()),
        }
    return report


def _words(column_NX: np.ndarray) -> list[npt.NDArray[np.uint64]]:
    """The bytes of each row as 64-bit words, the last padded with zeros."""
    bytes_NX = column_NX.view(np.uint8).reshape(len(column_NX), -1)
    missing = -bytes_NX.shape[1] % 8
    padded = np.pad(bytes_NX, ((0, 0), (0, missing)))
    return list(np.ascontiguousarray(padded).view(np.uint64).T)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al., 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

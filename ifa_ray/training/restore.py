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

import numpy as np
import safetensors.torch
import torch

from ifa_ray.checkpoints.format import (
    LearnerArrays,
    foreign_tensors,
    items_fingerprint,
    load_checkpoint,
    load_file,
    read_record,
)
from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import CheckpointError
from ifa_ray.training.learner import Learner
from ifa_ray.training.losses import mixed

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

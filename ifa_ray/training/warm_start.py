"""A learner from a version on disk, of this catalogue or of an earlier one that has only grown.

Knows checkpoints and catalogues. An item that was never learned begins with what its author,
category, content and hashed row already mean; an id that is in no catalogue is the unknown item,
whose row is learned like any other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.training.catalogues import items_added
from ifa_ray.training.checkpoint import (
    items_fingerprint,
    load_checkpoint,
    load_file,
    load_learner,
)
from ifa_ray.training.loop import Learner, LearnerArrays

if TYPE_CHECKING:
    from ifa_ray.training.offline import OfflineSettings

__all__ = ["first_learner", "restore", "warm_started"]

_ITEMS = "items.safetensors"


def first_learner(
    settings: OfflineSettings,
    items: ItemTable,
    warm_start: Path | None,
    allow_added_items: bool,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Learner:
    """The learner before version 0: fresh, or with the weights of another training's version."""
    if warm_start is None:
        return Learner(settings.model, settings.training, items, settings.seed, clock=clock)
    return warm_started(warm_start, settings, items, allow_added_items)


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
    if not (folder / _ITEMS).exists():
        raise CheckpointError(
            f"{folder}: has no {_ITEMS}, so nobody can tell whether items were only added."
        )
    return items_added(safetensors.torch.load(load_file(folder, _ITEMS)), items)


def warm_started(
    folder: Path, settings: OfflineSettings, items: ItemTable, allow_added_items: bool
) -> Learner:
    """A new learner that begins with the weights of a version, and with fresh optimisers.

    Raises:
        CheckpointError: as `restore`.
        ConfigError: if the version is of another model.
    """
    require_catalogue(folder, items, allow_added_items)
    found = load_checkpoint(folder, with_optimizer=False)
    _require_same_model(found.model_config, settings.model, folder)
    learner = Learner(settings.model, settings.training, items, settings.seed)
    learner.load_arrays(LearnerArrays(model=found.arrays.model, optimizer={}, steps=0))
    return learner


def _require_same_model(found: ModelConfig, wanted: ModelConfig, folder: Path) -> None:
    for field in dataclasses.fields(ModelConfig):
        was, value = getattr(found, field.name), getattr(wanted, field.name)
        if was != value:
            raise ConfigError(f"{field.name} == {value!r}, must be {was!r}, as in {folder}.")

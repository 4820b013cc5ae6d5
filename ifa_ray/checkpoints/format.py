"""Versions of a model on disk: tensors in safetensors, everything else in one JSON file.

Knows models and configs; nothing of learners, days, Ray or serving. A version is a folder, built
beside its final name, brought to the disk and renamed: it exists whole or not at all, and is never
written again. Loading checks every byte against the JSON file; nothing on disk is ever executed.

    ROOT/version=00003/checkpoint.json          configs, version, watermark, metrics, checksums
    ROOT/version=00003/model.safetensors        the weights
    ROOT/version=00003/optimizer.safetensors    what is needed to go on learning; may be dropped

A writer may add files of its own, which are checked as the others are (`load_file`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.data.tables import temporary_of
from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.models import build_model
from ifa_ray.models.base import RankModel
from ifa_ray.schema import ACTIONS, OBJECTIVES

CHECKPOINT_VERSION = 1
"""Of the format and of the features: a model of another one must not be loaded."""

_JSON, _MODEL, _OPTIMIZER = "checkpoint.json", "model.safetensors", "optimizer.safetensors"
_FIELDS = {
    **dict.fromkeys(("version", "seed", "steps"), int),
    **dict.fromkeys(("config_hash", "items_fingerprint"), str),
    **dict.fromkeys(("model", "training", "log_watermark", "metrics", "sha256"), dict),
}


@dataclasses.dataclass(frozen=True, eq=False)
class LearnerArrays:
    """Everything that a learner has learned; the optimisers' state by `parameter:key`."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The learned part of a version, verified; `read_record` has the rest."""

    model_config: ModelConfig
    training_config: TrainingConfig
    seed: int
    arrays: LearnerArrays
    has_optimizer: bool


def version_folder(root: Path | str, version: int) -> Path:
    """The folder of a version."""
    return Path(root) / f"version={version:05d}"


def published_versions(root: Path | str) -> list[int]:
    """The versions that lie under `root`, oldest first."""
    names = (folder.name for folder in Path(root).glob("version=*") if (folder / _JSON).exists())
    matches = (re.fullmatch(r"version=(\d{5,})", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def latest_version(root: Path | str) -> int | None:
    """The newest version published under `root`; None if there is none."""
    return max(published_versions(root), default=None)


def config_hash(model: ModelConfig, training: TrainingConfig) -> str:
    """SHA-256 of the settings, and of what the outputs and the action bits mean."""
    meaning = {
        "model": model.to_dict(),
        "training": training.to_dict(),
        "objectives": OBJECTIVES,
        "actions": ACTIONS,
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def items_fingerprint(items: ItemTable) -> str:
    """SHA-256 of a catalogue: names, types, shapes and bytes of its columns."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(items):
        column = np.ascontiguousarray(getattr(items, field.name))
        digest.update(f"{field.name} {column.dtype.str} {column.shape};".encode())
        digest.update(column.tobytes())
    return digest.hexdigest()


def save_checkpoint(
    folder: Path | str,
    learner: Any,
    *,
    version: int,
    log_watermark: Mapping[str, Any],
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Publishes what a `training.learner.Learner` has learned as a version, in a new folder.

    The log watermark, how much of the log it has seen, and the metrics of the stream since the
    version before are JSON values; `files` are further ones of the writer's own.

    Raises:
        CheckpointError: if the version exists: what others may have loaded is never overwritten.
    """
    arrays: LearnerArrays = learner.arrays(copy=False)
    record = {
        "schema_version": CHECKPOINT_VERSION,
        "version": version,
        "seed": learner.seed,
        "steps": arrays.steps,
        "model": learner.model_config.to_dict(),
        "training": learner.training_config.to_dict(),
        "config_hash": config_hash(learner.model_config, learner.training_config),
        "items_fingerprint": items_fingerprint(learner.items),
        "log_watermark": dict(log_watermark),
        "metrics": dict(metrics),
    }
    data = {
        _MODEL: safetensors.torch.save(arrays.model),
        _OPTIMIZER: safetensors.torch.save(arrays.optimizer),
        **(files or {}),
    }
    _write(Path(folder), record, data)


def republish(
    root: Path, source: int, target: int, changes: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Publishes an earlier version again, under a new number, with some fields and files changed.

    A version's number never goes back, because those who serve follow the newest.
    """
    folder = version_folder(root, source)
    record = read_record(folder)
    names = [name for name in record["sha256"] if name != _OPTIMIZER or (folder / name).exists()]
    data = {**{name: load_file(folder, name) for name in names}, **files}
    _write(version_folder(root, target), {**record, **changes, "version": target}, data)


def load_file(folder: Path, name: str) -> bytes:
    """One of a version's files, checked against its checksum; errors as `load_checkpoint`."""
    return _verified(folder, name, read_record(folder))


def load_checkpoint(
    folder: Path | str, items: ItemTable | None = None, *, with_optimizer: bool = True
) -> Checkpoint:
    """Reads a version and checks it whole; `items` is the catalogue that it must be trained on.

    Raises:
        CheckpointError: naming the file and what is wrong with it: missing, truncated, changed,
            of another format, or trained on another catalogue.
    """
    folder = Path(folder)
    record = read_record(folder)
    if items is not None and record["items_fingerprint"] != items_fingerprint(items):
        raise CheckpointError(
            f"{folder}: items_fingerprint == {record['items_fingerprint']}, must be "
            f"{items_fingerprint(items)}: it was trained on another catalogue."
        )
    try:
        model = ModelConfig.from_dict(record["model"])
        training = TrainingConfig.from_dict(record["training"])
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{folder / _JSON}: {error}") from None
    if record["config_hash"] != config_hash(model, training):
        raise CheckpointError(
            f"{folder / _JSON}: config_hash == {record['config_hash']}, must be "
            f"{config_hash(model, training)}: settings, objectives or actions are others."
        )
    optimizer = with_optimizer and has_optimizer(folder)
    return Checkpoint(
        model_config=model,
        training_config=training,
        seed=record["seed"],
        arrays=LearnerArrays(
            model=_read_tensors(folder, _MODEL, record),
            optimizer=_read_tensors(folder, _OPTIMIZER, record) if optimizer else {},
            steps=record["steps"],
        ),
        has_optimizer=has_optimizer(folder),
    )


def load_metrics(folder: Path | str) -> dict[str, Any]:
    """The progressive metrics of a version, without its tensors; errors as `load_checkpoint`."""
    return dict(read_record(Path(folder))["metrics"])


def load_model(folder: Path | str, items: ItemTable) -> RankModel:
    """Builds the model of a version, in eval mode; errors as `load_checkpoint`."""
    checkpoint = load_checkpoint(folder, items, with_optimizer=False)
    # Drawing weights that are replaced would be a third of the time.
    model = build_model(checkpoint.model_config, items, None)
    try:
        model.load_state_dict(checkpoint.arrays.model)
    except RuntimeError as error:
        raise foreign_tensors(folder, error) from None
    model.eval()
    return model


def has_optimizer(folder: Path) -> bool:
    """True if learning can go on from a version."""
    return (folder / _OPTIMIZER).exists()


def drop_optimizer(folder: Path) -> None:
    """Frees the optimiser state of a version that nobody will learn from again."""
    (folder / _OPTIMIZER).unlink(missing_ok=True)


def delete_versions(root: Path, versions: list[int]) -> None:
    """Deletes versions, and what a killed process began to delete: the record goes first."""
    for version in versions:
        (version_folder(root, version) / _JSON).unlink()
    if versions:
        _sync_folder(root)
    for folder in root.glob("version=*"):
        if not (folder / _JSON).exists():
            shutil.rmtree(folder)


def read_record(folder: Path) -> dict[str, Any]:
    """The JSON of a version, without its tensors; errors as `load_checkpoint`."""
    path = folder / _JSON
    data = _read(path)
    try:
        record = json.loads(data)
    except ValueError:
        raise CheckpointError(f"{path}: not JSON, is it truncated?") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: must hold a JSON object.")
    # First, because a later format may have other fields.
    found = record.get("schema_version")
    if found != CHECKPOINT_VERSION:
        raise CheckpointError(f"{path}: schema_version == {found!r}, must be {CHECKPOINT_VERSION}.")
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise CheckpointError(f"{path}: field {name} must be a {kind.__name__}.")
    return record


def foreign_tensors(folder: Path | str, error: Exception) -> CheckpointError:
    """The error about tensors that do not fit the model that a version names."""
    why = " ".join(str(error).split())
    return CheckpointError(f"{folder}: its tensors are not of the model it names ({why}).")


def _write(folder: Path, record: Mapping[str, Any], data: Mapping[str, bytes]) -> None:
    """Writes a version whole; only one process may write it."""
    if folder.exists():
        raise CheckpointError(f"{folder} exists, a published version is never written again.")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    # NaN is no JSON: metrics that are not defined are None.
    text = json.dumps({**record, "sha256": sums}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale)
    temporary = temporary_of(folder)
    temporary.mkdir()
    try:
        for name, content in {**data, _JSON: text.encode()}.items():
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(temporary)
        os.rename(temporary, folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Brings a folder's own entries, such as a rename, to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no such file.") from None


def _verified(folder: Path, name: str, record: Mapping[str, Any]) -> bytes:
    data = _read(folder / name)
    if hashlib.sha256(data).hexdigest() != record["sha256"].get(name):
        raise CheckpointError(f"{folder / name}: its checksum is not that of {_JSON}: truncated?")
    return data


def _read_tensors(folder: Path, name: str, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    data = _verified(folder, name, record)
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{folder / name}: not safetensors ({error}).") from None

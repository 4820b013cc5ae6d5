"""Progressive metrics to TensorBoard and MLflow, where the user wants them there too.

Knows rows of metrics and the two packages' writers, which are imported only here and only when
asked for. metrics.jsonl stays the record: a tracker that a kill cut short is written to again.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import ConfigError

__all__ = ["MlflowTracker", "TensorBoardTracker", "Tracker", "scalars"]

METRICS = ("auc", "gauc", "log_loss", "calibration")


class Tracker(Protocol):
    """Where rows go beside metrics.jsonl. A row may come again after a kill."""

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of one version."""
        ...

    def close(self) -> None:
        """Brings everything to the disk."""
        ...


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The defined metrics of a row, as `auc/is_click` and value."""
    for name in METRICS:
        for objective, value in row[name].items():
            if value is not None:
                yield f"{name}/{objective}", value


class TensorBoardTracker:
    """Event files below `folder`; the step is the number of requests so far.

    Args:
        folder: as `tensorboard --logdir` takes it.
        first_step: events of an earlier process from here on are void.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        module = _import("tensorboardX", "tensorboard")
        self._writer = module.SummaryWriter(str(folder), purge_step=first_step)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of one version; the wall time of an event is the log's time."""
        for row in rows:
            for name, value in scalars(row):
                step = row["requests_so_far"]
                self._writer.add_scalar(name, value, step, walltime=row["last_ms"] / 1e3)
        self._writer.flush()

    def close(self) -> None:
        """Brings everything to the disk."""
        self._writer.close()


class MlflowTracker:
    """One MLflow run in a folder; a resumed training continues the same one.

    Args:
        folder: of MLflow's file backend, for `mlflow ui --backend-store-uri`.
        settings: become the run's parameters.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        module = _import("mlflow", "mlflow")
        # MLflow 3.17 opens no folder of files without being told to: it prefers a database. Files
        # need no server and travel with the training.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        tracking = importlib.import_module("mlflow.store.tracking.file_store")
        self._store = tracking.FileStore(str(folder))
        self._entities = module.entities
        self._run_id = self._run(folder.with_name("mlflow_run.json"), settings)

    def _run(self, path: Path, settings: Mapping[str, Any]) -> str:
        if path.exists():
            return json.loads(path.read_bytes())["run_id"]
        run = self._store.create_run("0", "ifa_ray", 0, [], "ifa_ray train")
        for name, value in settings.items():
            self._store.log_param(run.info.run_id, self._entities.Param(name, str(value)[:500]))
        write_atomically(path, json.dumps({"run_id": run.info.run_id}).encode())
        return run.info.run_id

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the rows of one version; the time of a value is the log's time."""
        for row in rows:
            values = [
                self._entities.Metric(name, value, row["last_ms"], row["requests_so_far"])
                for name, value in scalars(row)
            ]
            if values:
                self._store.log_batch(self._run_id, metrics=values, params=[], tags=[])

    def close(self) -> None:
        """Nothing is held back."""


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"--{extra} needs the package {name}, which cannot be imported ({error}); "
            f"install it with: pip install 'ifa-ray[{extra}]'."
        ) from None

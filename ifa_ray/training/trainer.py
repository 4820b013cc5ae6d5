"""One long-lived Ray Train run per arm around `ifa_ray.training.stream`.

Knows Ray; learns nothing itself. A fit costs 15 to 19 seconds to start, so an arm has one, which
follows the log to its end and holds the arm's R models side by side. Ray Train supervises it: a
killed worker starts again and goes on from the newest checkpoints in the run folder. Those are the
only state, so Ray Train's own checkpoints are not used and a fit never resumes another's.
"""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ifa_ray.errors import ConfigError, IfaRayError
from ifa_ray.training.loop import StreamMetrics
from ifa_ray.training.stream import StreamSettings, train_stream

__all__ = ["ArmTrainer", "TrainingFailed"]

MAX_WORKER_FAILURES = 3


class TrainingFailed(IfaRayError, RuntimeError):
    """An arm's training ended before its last version; the cause is chained."""


def _train_loop(values: dict[str, Any]) -> None:
    """What the train worker runs."""
    settings = StreamSettings.from_dict(values)

    def on_version(replicate: int, version: int, metrics: StreamMetrics) -> None:
        if replicate == len(settings.model_seeds) - 1:
            ray.train.report({"version": version, "steps": metrics.steps})

    train_stream(settings, on_version)


class ArmTrainer:
    """Runs an arm's `TorchTrainer.fit()` on a thread, and says when it has died.

    `fit()` blocks until the last version is published, and installs no signal handlers off the
    main thread, so that Ctrl-C stays the driver's.
    """

    def __init__(self, settings: StreamSettings, num_cpus: float) -> None:
        available = ray.cluster_resources().get("CPU", 0.0)
        if num_cpus > available:
            raise ConfigError(
                f"num_cpus == {num_cpus} of the trainer of {settings.arm}, "
                f"must be <= {available}, all that the cluster has."
            )
        self._arm = settings.arm
        self._error: BaseException | None = None
        self._trainer = TorchTrainer(
            _train_loop,
            train_loop_config=settings.to_dict(),
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": num_cpus}),
            run_config=RunConfig(
                # A fresh name: the same name would silently resume Ray Train's own state.
                name=f"{settings.arm}-{uuid.uuid4().hex[:8]}",
                storage_path=str(Path(settings.root).resolve() / "train"),
                failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            ),
        )
        self._thread = threading.Thread(target=self._fit, name=f"fit-{settings.arm}", daemon=True)

    def start(self) -> None:
        """Starts training in the background."""
        self._thread.start()

    def check(self) -> None:
        """Raises if training has failed.

        Raises:
            TrainingFailed: with the worker's error as its cause.
        """
        if self._error is not None:
            raise TrainingFailed(f"training of arm {self._arm} failed: {self._error}") from (
                self._error
            )

    @property
    def done(self) -> bool:
        """Whether the last version is published, or training has failed."""
        return not self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # Whatever ends a fit must reach the driver, not stderr.
            self._error = error

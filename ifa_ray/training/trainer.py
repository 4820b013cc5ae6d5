"""One long-lived Ray Train run per arm around `ifa_ray.training.stream`.

Knows Ray; learns nothing itself. A fit costs 15 to 19 seconds to start, so an arm has one, which
follows the log to its end and holds the arm's R models side by side. Ray Train supervises it: a
killed worker starts again and goes on from the newest checkpoints in the run folder. Those are the
only state, so Ray Train's own checkpoints are not used and a fit never resumes another's.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ifa_ray.errors import ConfigError, IfaRayError
from ifa_ray.training.driver import PublicationRefused
from ifa_ray.training.learner import StreamMetrics
from ifa_ray.training.stream import StreamSettings, refusal, train_stream

MAX_FAILURES = 3
"""Of an arm's worker, and of its controller."""


class TrainingFailed(IfaRayError, RuntimeError):
    """An arm's training ended before its last version."""


def start_supervisor(num_arms: int) -> ActorHandle:
    """An actor in which the fits of all arms wait, each on a thread of its own.

    Not the driver's threads: a driver that ends while one of them is inside Ray may crash.
    """
    return ray.remote(num_cpus=0, max_concurrency=num_arms)(_Supervisor).remote()


class ArmTrainer:
    """An arm's training, started at once."""

    def __init__(self, supervisor: ActorHandle, settings: StreamSettings, num_cpus: float) -> None:
        # One worker needs them on one node; Ray Train would wait for ever for what no node has.
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        if num_cpus > max(nodes):
            raise ConfigError(
                f"num_cpus == {num_cpus} of the trainer of {settings.arm}, must be <= "
                f"{max(nodes):g}, all that the largest node has (the cluster has {sum(nodes):g})."
            )
        self._settings = settings
        self._fit = supervisor.fit.remote(settings.to_dict(), num_cpus)

    def has_ended(self) -> bool:
        """True if the last version is published.

        Raises:
            TrainingFailed: with the worker's error, or the gate's reasons for refusing a version.
        """
        ended, _ = ray.wait([self._fit], timeout=0)
        if not ended:
            return False
        try:
            ray.get(self._fit)
        except RayError as error:
            why = getattr(error, "cause", None) or error
            raise TrainingFailed(f"training of arm {self._settings.arm} failed: {why}") from error
        refused = refusal(self._settings)
        if refused is not None:
            raise TrainingFailed(f"training of arm {self._settings.arm} stopped: {refused}")
        return True


class _Supervisor:
    """Runs fits, and again those whose controller died: Ray Train restarts workers only."""

    def fit(self, values: dict[str, Any], num_cpus: float) -> None:
        """Trains an arm to its last version."""
        for attempt in range(1 + MAX_FAILURES):
            try:
                _trainer(values, num_cpus).fit()
            except ActorDiedError:
                if attempt == MAX_FAILURES:
                    raise
            else:
                return


def _trainer(values: dict[str, Any], num_cpus: float) -> TorchTrainer:
    return TorchTrainer(
        _train_loop,
        train_loop_config=values,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": num_cpus}),
        run_config=RunConfig(
            # A fresh name: the same name would silently resume Ray Train's own state.
            name=f"{values['arm']}-{uuid.uuid4().hex[:8]}",
            storage_path=str(Path(values["root"]) / "train"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )


def _train_loop(values: dict[str, Any]) -> None:
    settings = StreamSettings.from_dict(values)

    def on_version(replicate: int, version: int, metrics: StreamMetrics) -> None:
        if replicate == len(settings.model_seeds) - 1:
            ray.train.report({"version": version, "steps": metrics.steps})

    try:
        train_stream(settings, on_version)
    except PublicationRefused:
        # Recorded in the run folder, where `ArmTrainer` finds it. Raised here, it would be tried
        # again as if it were a fault of the machine, with the same end.
        return

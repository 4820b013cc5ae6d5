"""The place of a run: a cluster or this machine, its CPUs shared out, a private environment."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

from ifa_ray.config import Config, setting
from ifa_ray.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster(Config):
    """A Ray cluster, and how many processes of each kind a run gets on it."""

    address: str | None = setting(None, "of a Ray cluster; none is a private one on this machine")
    user_actors: int = setting(2, "processes that share the shards of users", ge=1)
    retrieval_actors: int = setting(1, "processes that share the queries", ge=1)
    replicas: int = setting(1, "of each arm's ranker", ge=1)

    @property
    def embedded(self) -> bool:
        """True if the run brings its own Ray. A submitted job finds its cluster in RAY_ADDRESS."""
        return self.address is None and "RAY_ADDRESS" not in os.environ


# Left over for what others reserve: Serve's controller, Ray Train's controllers.
_USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class ResourcePlan:
    """CPUs that one process of each kind reserves."""

    trainer_cpus: float
    replica_cpus: float
    actor_cpus: float


def plan_resources(cpus: float, trainers: int, replicas: int, actors: int) -> ResourcePlan:
    """Divides the cluster's CPUs; nobody gets more than one.

    Raises:
        ConfigError: if the cluster has no CPUs.
    """
    if cpus <= 0:
        raise ConfigError(f"cluster CPUs == {cpus:g}, must be > 0.")
    # A trainer works about twice as much as its replica; an actor half as much.
    share = _USABLE * cpus / (2 * trainers + replicas + 0.5 * actors)
    return ResourcePlan(
        trainer_cpus=_rounded(2 * share),
        replica_cpus=_rounded(share),
        actor_cpus=_rounded(0.5 * share),
    )


def _rounded(cpus: float) -> float:
    # Ray counts in ten-thousandths, and whole CPUs above one.
    return min(1.0, max(0.0001, int(cpus * 1e4) / 1e4))


def private_ray_environment(home: Path) -> None:
    """Points this process and the Ray it starts at a private home folder, created if need be."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    (home / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
    os.environ.update(
        {
            "HOME": str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
            "RAY_AUTH_MODE": "token",
            # One machine of our own is not taken away: its watchers, a process a trainer, may rest.
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            # Many small actors on few cores are what we want; the default warns of every second.
            "RAY_worker_maximum_startup_concurrency": "32",
        }
    )
    # One thread a process: on few cores more only contend, and results are then bit-equal.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def quiet_ray_logs() -> None:
    """Keeps Ray's own chatter off the console; its log files still have it."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\..*")

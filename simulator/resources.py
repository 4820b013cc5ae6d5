"""How a run's processes share a cluster's CPUs: a plan as a value; knows no Ray.

Trainers and replicas are what costs; the rest waits. On few cores each gets a fraction, because
Ray starts nothing that has no share, and the operating system divides the cores.
"""

from __future__ import annotations

import dataclasses

from ifa_ray.errors import ConfigError

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

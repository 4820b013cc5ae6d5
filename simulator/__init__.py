"""The world that tests rankers: users with lifelong histories. Depends on ifa_ray.

The names below are what one needs from outside; each is imported when it is first used.
"""

from __future__ import annotations

from ifa_ray.plugins import lazy_names

_PLACES = {
    "ARMS": "simulator.run.presets",
    "Arm": "simulator.run.presets",
    "Cluster": "simulator.run.cluster",
    "EnvironmentSettings": "simulator.environments.env",
    "HeadroomSettings": "simulator.studies.rerank_headroom",
    "PRESETS": "simulator.run.presets",
    "Population": "simulator.environments.episodes",
    "RankerPolicy": "simulator.environments.policies",
    "RunConfig": "simulator.run.presets",
    "SensitivitySettings": "simulator.studies.sensitivity",
    "UserEnv": "simulator.environments.env",
    "WorldConfig": "simulator.world.config",
    "fit_log": "simulator.calibration.fit",
    "load_config": "simulator.run.opening",
    "measure_headroom": "simulator.studies.rerank_headroom",
    "measure_sensitivity": "simulator.studies.sensitivity",
    "population": "simulator.environments.episodes",
    "preset": "simulator.run.presets",
    "simulate": "simulator.run.simulate",
    "write_warmup_log": "simulator.run.shards",
}

__all__ = [*_PLACES, "__version__"]
__getattr__ = lazy_names(__name__, _PLACES)


def __dir__() -> list[str]:
    return __all__

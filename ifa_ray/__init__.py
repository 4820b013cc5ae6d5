"""ifa_ray ranks with a whole life of behaviour; it knows nothing of the simulator.

The names below are what one needs from outside; each is imported when it is first used, so that
`import ifa_ray` costs nothing and models run where there is neither Ray nor tables.
"""

from __future__ import annotations

from ifa_ray.plugins import lazy_names

_PLACES = {
    "AppSettings": "ifa_ray.serving.settings",
    "ConfigError": "ifa_ray.errors",
    "EvaluationConfig": "ifa_ray.evaluation.config",
    "History": "ifa_ray.schema",
    "HistoryStore": "ifa_ray.data.history",
    "IfaRayError": "ifa_ray.errors",
    "ItemTable": "ifa_ray.data.items",
    "LogTables": "ifa_ray.data.log_tables",
    "MODELS": "ifa_ray.models",
    "ModelConfig": "ifa_ray.config",
    "ModelRanker": "ifa_ray.ranking.ranker",
    "RankClient": "ifa_ray.serving.client",
    "RankRequest": "ifa_ray.schema",
    "RankResponse": "ifa_ray.schema",
    "Ranker": "ifa_ray.ranking.ranker",
    "ReadSettings": "ifa_ray.data.log_tables",
    "TrainingConfig": "ifa_ray.config",
    "analyze": "ifa_ray.abtest.analyze",
    "build_app": "ifa_ray.serving.app",
    "build_model": "ifa_ray.models",
    "evaluate": "ifa_ray.evaluation.protocol",
    "latest_version": "ifa_ray.checkpoints.format",
    "load_model": "ifa_ray.checkpoints.format",
    "log_tables": "ifa_ray.data.log_tables",
    "read_stream": "ifa_ray.training.sources",
    "validate_request": "ifa_ray.schema",
    "validate_response": "ifa_ray.schema",
}

__all__ = [*_PLACES, "__version__"]
__getattr__ = lazy_names(__name__, _PLACES)


def __dir__() -> list[str]:
    return __all__

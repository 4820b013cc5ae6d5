"""Gymnasium environments over the world: a ranker is the agent, a user's request is a step.

Importing this package registers them, so both of these work:

    import simulator.environments; gymnasium.make("simulator/Ranking-v0")
    gymnasium.make("simulator.environments:simulator/Ranking-v0")

Needs the extra `environments` (gymnasium); nothing else of the simulator does.
"""

from __future__ import annotations

try:
    import gymnasium  # noqa: F401  whether it is there is all that is asked
except ImportError:
    raise ImportError(
        "gymnasium is not installed, must be for simulator.environments: "
        "pip install 'ifa-ray[environments]'"
    ) from None

from simulator.environments.registration import IDS, register_environments
from simulator.environments.settings import REWARDS, EnvironmentSettings
from simulator.environments.single import RankingEnv, RetentionEnv, SessionEnv
from simulator.environments.vector import (
    RankingVectorEnv,
    RetentionVectorEnv,
    SessionVectorEnv,
)
from simulator.environments.wrappers import (
    FeatureObservation,
    ScoredSlates,
    VectorFeatureObservation,
    VectorScoredSlates,
)

__all__ = [
    "IDS",
    "REWARDS",
    "EnvironmentSettings",
    "FeatureObservation",
    "RankingEnv",
    "RankingVectorEnv",
    "RetentionEnv",
    "RetentionVectorEnv",
    "ScoredSlates",
    "SessionEnv",
    "SessionVectorEnv",
    "VectorFeatureObservation",
    "VectorScoredSlates",
]

register_environments()

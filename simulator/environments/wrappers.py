"""Other faces for the same environments: continuous actions and flat observations.

Knows Gymnasium's wrappers and what can be computed of an observation. Most libraries of
reinforcement learning want a `Box` of few numbers on both sides; a slate of 10 out of 1,000 ids is
neither.

    env = gymnasium.make("simulator/Session-v0")
    env = FeatureObservation(ScoredSlates(env, by="weights"))

Letters: B requests, C candidates, K slate size, F features, D content width, X width of an action.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from ifa_ray.errors import RankerError, unknown_name
from simulator.catalog import ObservedCatalog
from simulator.environments.features import (
    CANDIDATE_FEATURES,
    STATE_BOUND,
    STATE_FEATURES,
    candidate_features,
    query_scores,
    state_features,
)
from simulator.environments.spaces import Observation

__all__ = [
    "SCORED_BY",
    "FeatureObservation",
    "ScoredSlates",
    "VectorFeatureObservation",
    "VectorScoredSlates",
    "slates_of_scores",
]

SCORED_BY = ("scores", "weights", "query")
"""What an action is: a score for each candidate; a weight for each of `CANDIDATE_FEATURES`; or a
vector, each candidate scored by its content's inner product with it."""

# As a ranker's: sums in another order must not change a slate.
_DECIMALS = 5

_Actions = npt.NDArray[np.float32]


def slates_of_scores(scores_BC: npt.NDArray, k: int) -> npt.NDArray[np.int64]:
    """Places of the k highest rounded scores, best first, equal ones in order of place, [B, k]."""
    return np.argsort(-np.round(scores_BC, _DECIMALS), axis=1, kind="stable")[:, :k]


class _Scorer:
    """Turns actions into slates, given the observation that they answer."""

    def __init__(self, by: str, catalog: ObservedCatalog, num_candidates: int, k: int) -> None:
        widths = {
            "scores": num_candidates,
            "weights": len(CANDIDATE_FEATURES),
            "query": catalog.items.content_ND.shape[1],
        }
        if by not in widths:
            raise unknown_name("by", by, SCORED_BY)
        self._by, self._catalog, self._k = by, catalog, k
        self.space = spaces.Box(-1.0, 1.0, (widths[by],), np.float32)

    def slates(self, actions_BX: _Actions, observation: Observation) -> npt.NDArray[np.int64]:
        """Places of candidates, int64 [B, K]."""
        shape = (len(observation["time_ms"]), *(self.space.shape or ()))
        wide_BX = np.asarray(actions_BX, np.float64)
        if wide_BX.shape != shape:
            raise RankerError(f"action has shape {wide_BX.shape[1:]}, must be {shape[1:]}.")
        if not np.isfinite(wide_BX).all():
            raise RankerError("action holds NaN or infinity, must be finite.")
        if self._by == "scores":
            return slates_of_scores(wide_BX, self._k)
        if self._by == "query":
            scores_BC = query_scores(self._catalog, observation, wide_BX)
            return slates_of_scores(scores_BC, self._k)
        features_BCF = candidate_features(self._catalog, observation)
        scores_BC = np.zeros(features_BCF.shape[:2])
        for f in range(features_BCF.shape[2]):  # a product's last bits may depend on the batch
            scores_BC += features_BCF[:, :, f] * wide_BX[:, f, None]
        return slates_of_scores(scores_BC, self._k)


class ScoredSlates(
    gymnasium.Wrapper[Observation, _Actions, Observation, npt.NDArray[np.int64]],
    gymnasium.utils.RecordConstructorArgs,
):
    """Actions are numbers in [-1, 1] that score candidates; the K best are shown.

    Args:
        env: an environment of this package, its observations as they are.
        by: of `SCORED_BY`.
    """

    def __init__(self, env: gymnasium.Env, by: str = "weights") -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, by=by)
        super().__init__(env)
        self._scorer = _scorer(env, by)
        self.action_space = self._scorer.space
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation = _batch_of_one(observation)
        return observation, info

    def step(self, action: _Actions) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Shows the K candidates that the action scores highest.

        Raises:
            RankerError: if the action has another shape or is not finite.
        """
        slate_K = self._scorer.slates(np.asarray(action)[None], self._observation)[0]
        observation, reward, terminated, truncated, info = self.env.step(slate_K)
        self._observation = _batch_of_one(observation)
        return observation, float(reward), terminated, truncated, info


class VectorScoredSlates(VectorWrapper):
    """`ScoredSlates` for batches."""

    def __init__(self, env: VectorEnv, by: str = "weights") -> None:
        super().__init__(env)
        self._scorer = _scorer(env, by)
        self.single_action_space = self._scorer.space
        self.action_space = batch_space(self._scorer.space, env.num_envs)
        self._observation: Observation = {}

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts episodes."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observation = _copy(observation)
        return observation, info

    def step(self, actions: _Actions) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Shows each user the K candidates that the action scores highest.

        Raises:
            RankerError: if the actions have another shape or are not finite.
        """
        slates_BK = self._scorer.slates(actions, self._observation)
        observation, reward_B, terminated_B, truncated_B, infos = self.env.step(slates_BK)
        self._observation = _copy(observation)
        return observation, reward_B, terminated_B, truncated_B, infos


class FeatureObservation(
    gymnasium.ObservationWrapper[Any, Any, Observation],
    gymnasium.utils.RecordConstructorArgs,
):
    """Observations are the `STATE_FEATURES`, a flat float32 vector; put on last."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._catalog = _catalog(env)
        self.observation_space = _state_space()

    def observation(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Its features."""
        return state_features(self._catalog, _batch_of_one(observation))[0]


class VectorFeatureObservation(VectorWrapper):
    """`FeatureObservation` for batches."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self._catalog = _catalog(env)
        self.single_observation_space = _state_space()
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Starts episodes."""
        observation, info = self.env.reset(seed=seed, options=options)
        return state_features(self._catalog, observation), info

    def step(self, actions: Any) -> tuple[npt.NDArray[np.float32], Any, Any, Any, dict[str, Any]]:
        """Steps, and turns what is observed into features."""
        observation, reward_B, terminated_B, truncated_B, infos = self.env.step(actions)
        for row in np.flatnonzero(infos.get("_final_obs", False)):
            last = _batch_of_one(infos["final_obs"][row])
            infos["final_obs"][row] = state_features(self._catalog, last)[0]
        features_BF = state_features(self._catalog, observation)
        return features_BF, reward_B, terminated_B, truncated_B, infos


# Any: the environment below the wrappers is one of this package, which their types do not say.
def _catalog(env: Any) -> ObservedCatalog:
    return env.unwrapped.core.population.world.catalog.observed


def _scorer(env: Any, by: str) -> _Scorer:
    world = env.unwrapped.settings.world
    return _Scorer(by, _catalog(env), world.num_candidates, world.slate_size)


def _state_space() -> spaces.Box:
    return spaces.Box(-STATE_BOUND, STATE_BOUND, (len(STATE_FEATURES),), np.float32)


def _copy(observation: Observation) -> Observation:
    """What the agent does to an observation must not change what an action means."""
    return {name: array.copy() for name, array in observation.items()}


def _batch_of_one(observation: Observation) -> Observation:
    return {name: array[None].copy() for name, array in observation.items()}

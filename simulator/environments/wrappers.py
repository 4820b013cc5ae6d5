"""Wrappers to continuous actions and flat observations, computed of what a platform can observe.

Knows observations and the observed catalogue, nothing hidden. Most libraries of reinforcement
learning want a `Box` of few numbers on both sides; a slate of 10 out of 1,000 ids is neither.

    env = gymnasium.make("simulator/Session-v0")
    env = FeatureObservation(ScoredSlates(env, by="weights"))

Letters: C candidates, T history length, K slate size, F features, D content width, G categories, X
width of an action.
"""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ifa_ray.errors import RankerError, unknown_name
from ifa_ray.schema import ACTIONS
from simulator.environments.env import Observation, UserEnv, observe
from simulator.world.arrays import Bools, Floats, Ints, Longs
from simulator.world.catalog import ObservedCatalog
from simulator.world.config import DAY_MS
from simulator.world.queries import NUM_RECENT, SMOOTHING
from simulator.world.users import GAP_MS

_FEATURES = (
    "long_match, recent_match, author_match, category_match, popularity, freshness, duration, "
    "repetition"
)
CANDIDATE_FEATURES = tuple(_FEATURES.split(", "))
"""Of a candidate: cosine of its content with the mean of all long views, and with the closest of
the latest; log(1 + long views of its author); log lift of long views in its category; log
popularity; exp(-age / 3 days); log duration; log(1 + impressions of its category in this session).
"""

_STATE = (
    "hour_sin, hour_cos, day, session, request, log_history, click_rate, long_rate, like_rate, "
    "click_rate_50, long_rate_50, session_impressions, session_click_rate, session_long_rate"
)
STATE_FEATURES = (
    *_STATE.split(", "),
    *(f"{figure}_{name}" for figure in ("mean", "max") for name in CANDIDATE_FEATURES),
)
"""Of a request: its time and number; rates over the history, its latest 50 impressions and this
session; means and maxima of the candidates' features."""

SCORED_BY = ("scores", "weights", "query")
"""An action is a score for each candidate; a weight for each of `CANDIDATE_FEATURES`; or a vector,
each candidate scored by its content's inner product with it."""

STATE_BOUND = 20.0
FRESH_DAYS = 3.0
LATEST = 50
_DECIMALS = 5  # as a ranker's: sums in another order must not change a slate


class ScoredSlates(
    gymnasium.ActionWrapper[Any, npt.NDArray[np.float32], Longs],
    gymnasium.utils.RecordConstructorArgs,
):
    """Actions are numbers in [-1, 1] that score candidates, by one of `SCORED_BY`; K are shown."""

    def __init__(self, env: gymnasium.Env, by: str = "weights") -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, by=by)
        super().__init__(env)
        self._env = cast(UserEnv, env.unwrapped)
        world = self._env.settings.world
        widths = (world.num_candidates, len(CANDIDATE_FEATURES), world.content_width)
        if by not in SCORED_BY:
            raise unknown_name("by", by, SCORED_BY)
        self._by = by
        self.action_space = spaces.Box(-1.0, 1.0, (widths[SCORED_BY.index(by)],), np.float32)

    def action(self, action: npt.NDArray[np.float32]) -> Longs:
        """The slate of the K candidates that an action scores highest.

        Raises:
            RankerError: if the action has another shape or is not finite.
        """
        wide_X, shape = np.asarray(action, np.float64), self.action_space.shape
        if wide_X.shape != shape:
            raise RankerError(f"action has shape {wide_X.shape}, must be {shape}.")
        if not np.isfinite(wide_X).all():
            raise RankerError("action holds NaN or infinity, must be finite.")
        return slates_of_scores(self._scores(wide_X)[None], self._env.settings.world.slate_size)[0]

    def _scores(self, action_X: Floats) -> Floats:
        if self._by == "scores":
            return action_X
        observation = observe(self._env.pending())
        catalog = self._env.population.world.catalog.observed
        if self._by == "query":
            content_CD = catalog.items.content_ND[observation["candidate_ids"]]
            return content_CD.astype(np.float64) @ action_X
        return candidate_features(catalog, observation) @ action_X


class FeatureObservation(
    gymnasium.ObservationWrapper[Any, Any, Observation], gymnasium.utils.RecordConstructorArgs
):
    """Observations are the `STATE_FEATURES`, a flat float32 vector; put on last."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._catalog = cast(UserEnv, env.unwrapped).population.world.catalog.observed
        self.observation_space = spaces.Box(
            -STATE_BOUND, STATE_BOUND, (len(STATE_FEATURES),), np.float32
        )

    def observation(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Computes its features."""
        return state_features(self._catalog, observation)


def slates_of_scores(scores_BC: npt.NDArray, k: int) -> Longs:
    """Places of the k highest rounded scores, best first, equal ones in order of place, [B, k]."""
    return np.argsort(-np.round(scores_BC, _DECIMALS), axis=1, kind="stable")[:, :k]


def candidate_features(catalog: ObservedCatalog, observation: Observation) -> Floats:
    """`CANDIDATE_FEATURES`, each standardised over a request's candidates, float64 [C, F]."""
    raw_CF = raw_candidate_features(catalog, observation)
    return (raw_CF - raw_CF.mean(axis=0)) / np.maximum(raw_CF.std(axis=0), 1e-6)


def raw_candidate_features(catalog: ObservedCatalog, observation: Observation) -> Floats:
    """`CANDIDATE_FEATURES` as they are defined, float64 [C, F]; O(T + C D + G)."""
    items, ids_C = catalog.items, observation["candidate_ids"]
    past_T, actions_T, in_session_T = _past(observation)
    long_T = _has(actions_T, "long_view")
    liked, category_T = past_T[long_T], items.category_N[past_T]
    content_CD = items.content_ND[ids_C].astype(np.float64)

    total_D = items.content_ND[liked].sum(axis=0, dtype=np.float64)
    matches_CR = content_CD @ items.content_ND[liked[-NUM_RECENT:]].T.astype(np.float64)
    num_categories = int(items.category_N.max()) + 1
    shown_G, liked_G, repeated_G = (
        np.bincount(category_T[mask_T], minlength=num_categories)
        for mask_T in (slice(None), long_T, in_session_T)
    )
    rate = len(liked) / max(len(past_T), 1)
    smoothed_G = (liked_G + SMOOTHING * rate) / (shown_G + SMOOTHING)
    lift_G = np.log(np.maximum(smoothed_G, 1e-3) / max(rate, 1e-3))
    author_A = np.bincount(items.author_id_N[liked], minlength=len(catalog.author_start_A))
    age_days_C = (observation["time_ms"] - items.upload_ms_N[ids_C]) / DAY_MS
    features = {
        "long_match": content_CD @ (total_D / max(float(np.linalg.norm(total_D)), 1e-9)),
        "recent_match": matches_CR.max(axis=1, initial=0.0),
        "author_match": np.log1p(author_A[items.author_id_N[ids_C]]),
        "category_match": lift_G[items.category_N[ids_C]],
        "popularity": np.log(len(items) * catalog.popularity_N[ids_C]),
        "freshness": np.exp(-np.maximum(age_days_C, 0) / FRESH_DAYS),
        "duration": np.log(items.duration_ms_N[ids_C] / 1000),
        "repetition": np.log1p(repeated_G[items.category_N[ids_C]]),
    }
    return np.stack([features[name] for name in CANDIDATE_FEATURES], axis=1)


def state_features(catalog: ObservedCatalog, observation: Observation) -> npt.NDArray[np.float32]:
    """`STATE_FEATURES`, float32 [F], clipped to `STATE_BOUND`; none comes near it in practice."""
    _, actions_T, in_session_T = _past(observation)
    click_T, long_T, like_T = (_has(actions_T, n) for n in ("is_click", "long_view", "is_like"))
    hour = observation["time_ms"][0] / DAY_MS % 1.0
    raw_CF = raw_candidate_features(catalog, observation)
    values = [
        np.sin(2 * np.pi * hour),
        np.cos(2 * np.pi * hour),
        observation["day"][0] / 7,
        observation["session"][0],
        observation["request"][0],
        np.log1p(len(actions_T)),
        *(_rate(happened_T) for happened_T in (click_T, long_T, like_T)),
        *(_rate(happened_T[-LATEST:]) for happened_T in (click_T, long_T)),
        np.log1p(in_session_T.sum()),
        *(_rate(happened_T[in_session_T]) for happened_T in (click_T, long_T)),
        *raw_CF.mean(axis=0),
        *raw_CF.max(axis=0),
    ]
    return np.clip(np.array(values), -STATE_BOUND, STATE_BOUND).astype(np.float32)


def _past(observation: Observation) -> tuple[Ints, npt.NDArray[np.uint8], Bools]:
    """Items and actions of the history, oldest first, and a mask of those of this session."""
    real_T = observation["history_mask"] != 0
    times_T = np.append(observation["history_times_ms"][real_T], observation["time_ms"])
    close_T = np.diff(times_T) < GAP_MS
    in_session_T = np.logical_and.accumulate(close_T[::-1])[::-1]
    return (
        observation["history_ids"][real_T],
        observation["history_actions"][real_T],
        in_session_T,
    )


def _has(actions_T: npt.NDArray[np.uint8], name: str) -> Bools:
    return actions_T & np.uint8(1 << ACTIONS.index(name)) != 0


def _rate(happened_T: Bools) -> float:
    return float(happened_T.mean()) if len(happened_T) else 0.0

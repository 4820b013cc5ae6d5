"""A set step at work: a scored request to the places of its slate.

Knows a config, the catalogue's traits and a request; the model's part is arrays (its
log-probabilities, and the learned step's weights).

Letters: C candidates, P pool, K slate size, L objectives, F repetition features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.schema import RankRequest
from ifa_ray.set_step.diversity import Dpp, Mmr
from ifa_ray.set_step.greedy import Gains, fill_slate
from ifa_ray.set_step.repetition import (
    MAX_RECENT,
    Recent,
    RepetitionWalk,
    recent_impressions,
    repetition_features_naive,
)
from ifa_ray.set_step.traits import ItemTraits


class LearnedGains:
    """How repetition moves the ranking rule: sum over l of weight_l Δ log p(l|imp), times strength.

    O(P (X + F)) per item shown.
    """

    def __init__(
        self,
        walk: RepetitionWalk,
        logits_by_objective: Mapping[int, npt.NDArray[np.float64]],
        rule_weights: Sequence[float],
        weights_LF: npt.NDArray[np.float64],
        strength: float,
    ) -> None:
        """Starts at the top of a slate.

        Args:
            walk: of the pool.
            logits_by_objective: the ranker's logit given an impression, [P], of the objectives that
                the rule has a weight for, by their places in `OBJECTIVES`.
            rule_weights: of the ranking rule, by place.
            weights_LF: the row before an objective's place is its own: an impression has none.
            strength: see `ModelConfig.set_strength`.
        """
        self._walk = walk
        self._parts = [
            (strength * rule_weights[at], logit_P, _log_sigmoid(logit_P), weights_LF[at - 1])
            for at, logit_P in logits_by_objective.items()
        ]

    def now(self) -> npt.NDArray[np.float64]:
        """Gains, [P]."""
        gain_P = np.zeros(len(self._walk.features_PF))
        for factor, logit_P, log_p_P, weights_F in self._parts:
            moved_P = logit_P + self._walk.features_PF @ weights_F
            gain_P += factor * (_log_sigmoid(moved_P) - log_p_P)
        return gain_P

    def show(self, place: int) -> None:
        """Puts an item below everything shown so far."""
        self._walk.show(place)


class SetStep:
    """Chooses slates as a config says; holds the traits of the whole catalogue."""

    def __init__(
        self,
        config: ModelConfig,
        items: ItemTable,
        weights_LF: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Prepares the step.

        Args:
            config: `set_step` other than off, strength, pool and ranking rule.
            items: the catalogue.
            weights_LF: of the learned step (`SetResponse.repetition_weights`), else None.
        """
        assert config.set_step != "off"
        assert (weights_LF is not None) == (config.set_step == "learned")
        self._config = config
        self._items = items
        self._traits = ItemTraits.of(items)
        self._rule_weights = parse_ranking_rule(config.ranking_rule).weights
        self._weights_LF = weights_LF

    def pool_size(self, num_candidates: int, k: int) -> int:
        """How many of the best candidates by score the step wants to choose from."""
        return min(num_candidates, max(k, self._config.set_pool))

    def choose(
        self,
        request: RankRequest,
        pool_P: npt.NDArray[np.int64],
        scores_P: npt.NDArray[np.float64],
        log_p_PL: npt.NDArray[np.float32],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The slate of a request.

        Args:
            request: k, the history and the candidates.
            pool_P: places of the best candidates by score, best first.
            scores_P: of these, finite.
            log_p_PL: of these; columns of objectives that the rule leaves out may hold anything.

        Returns:
            k places among the candidates in the order to show them, and scores that never
            increase (see `fill_slate`).
        """
        gains = self._gains(request, pool_P, log_p_PL)
        chosen_K, worth_K = fill_slate(scores_P, gains, request.k)
        return pool_P[chosen_K], worth_K

    def _gains(
        self,
        request: RankRequest,
        pool_P: npt.NDArray[np.int64],
        log_p_PL: npt.NDArray[np.float32],
    ) -> Gains:
        rows_P = self._items.known_rows(request.candidates_C[pool_P])
        strength = self._config.set_strength
        if self._config.set_step == "mmr":
            return Mmr(self._traits.content_RX[rows_P], strength)
        if self._config.set_step == "dpp":
            return Dpp(self._traits.content_RX[rows_P], strength)
        assert self._weights_LF is not None
        exact_PL = log_p_PL.astype(np.float64)
        logits = {
            at: _logit(exact_PL[:, at] - exact_PL[:, 0])
            for at, weight in enumerate(self._rule_weights)
            if at > 0 and weight > 0
        }
        walk = RepetitionWalk(self._traits, rows_P, recent_of(request, self._items))
        return LearnedGains(walk, logits, self._rule_weights, self._weights_LF, strength)


def recent_of(request: RankRequest, items: ItemTable) -> Recent:
    """What the current session has shown before a request."""
    rows_S = items.rows(request.history.ids_T[-MAX_RECENT:])
    return recent_impressions(request.history, rows_S, request.time_ms)


def learned_gain_naive(
    traits: ItemTraits,
    rows_P: npt.NDArray[np.int64],
    recent: Recent,
    logit_P: npt.NDArray[np.float64],
    weights_F: npt.NDArray[np.float64],
    place: int,
    above: Sequence[int],
) -> float:
    """The gain of one objective at weight and strength 1, its features from their definition."""
    above_rows = rows_P[np.array(above, np.int64)]
    features_1F = repetition_features_naive(traits, rows_P[[place]], recent, above_rows)
    moved = logit_P[place] + float(features_1F[0] @ weights_F)
    return float(_log_sigmoid(moved) - _log_sigmoid(logit_P[place]))


def _log_sigmoid(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def _logit(log_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logit of a probability given by its logarithm; p within 1e-7 of 1 counts as that."""
    log_p = np.minimum(log_p, -1e-7)
    return log_p - np.log(-np.expm1(log_p))

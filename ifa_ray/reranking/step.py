"""The greedy walk that every set step shares, and its naive form.

Knows scores and gains; not where either comes from. A gain is what the items above add to an
item's score, or take off it.

Letters: P pool, K slate size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.reranking.repetition import (
    MAX_RECENT,
    ItemTraits,
    Recent,
    RepetitionWalk,
    recent_impressions,
    repetition_features_naive,
)
from ifa_ray.schema import RankRequest

# As scores are before they are compared: see `ifa_ray.ranking.ranker`.
_DECIMALS = 5


class Gains(Protocol):
    """What the items above do to the scores of a pool, kept up item by item."""

    def now(self) -> npt.NDArray[np.float64]:
        """The gain of each of the pool's items if it were shown next, finite, [P]."""
        ...

    def show(self, place: int) -> None:
        """Puts one item of the pool below everything shown so far."""
        ...


def fill_slate(
    scores_P: npt.NDArray[np.float64], gains: Gains, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Takes the item of the highest score plus gain, k times.

    Args:
        scores_P: best first; the first of equal ones wins.
        gains: at the top of the slate.
        k: how many, at most P.

    Returns:
        The chosen places, and of each the lowest score plus gain so far: what the best item is
        worth may rise from one slot to the next, what is returned as its score never does.
    """
    closed_P, chosen_K, worth_K = np.zeros(len(scores_P)), np.empty(k, np.int64), np.empty(k)
    for slot in range(k):
        worth_P = np.round(scores_P + gains.now(), _DECIMALS) + closed_P
        place = int(worth_P.argmax())
        chosen_K[slot], worth_K[slot] = place, worth_P[place]
        closed_P[place] = -np.inf
        if slot + 1 < k:
            gains.show(place)
    return chosen_K, np.minimum.accumulate(worth_K)


def fill_slate_naive(
    scores_P: npt.NDArray[np.float64], gain_of: Callable[[int, Sequence[int]], float], k: int
) -> list[int]:
    """The chosen places with every gain computed anew: O(K P) gains of up to K items each."""
    above: list[int] = []
    for _ in range(k):
        worth = {
            place: round(float(score) + gain_of(place, above), _DECIMALS)
            for place, score in enumerate(scores_P)
            if place not in above
        }
        above.append(max(worth, key=lambda place: worth[place]))
    return above


RIDGE = 0.01
"""Share of the identity in the similarity matrix of `Dpp`: more items than X then still differ."""


class Mmr:
    """Maximal marginal relevance (Carbonell and Goldstein, 1998): minus the closest cosine above.

    O(P X) per item shown.
    """

    def __init__(self, content_PX: npt.NDArray[np.float32], strength: float) -> None:
        self._content_PX = content_PX.astype(np.float64)
        self._strength = strength
        self._closest_P: npt.NDArray[np.float64] | None = None

    def now(self) -> npt.NDArray[np.float64]:
        """Gains, [P]; 0 at the top of the slate."""
        if self._closest_P is None:
            return np.zeros(len(self._content_PX))
        return -self._strength * self._closest_P

    def show(self, place: int) -> None:
        """Puts an item below everything shown so far."""
        cosine_P = self._content_PX @ self._content_PX[place]
        before_P = self._closest_P
        self._closest_P = cosine_P if before_P is None else np.maximum(before_P, cosine_P)


class Dpp:
    """Greedy MAP of a DPP with the incremental Cholesky factor of Chen et al. (NeurIPS 2018).

    The kernel is diag(q) S diag(q) with log q = score / (2 strength) and S the cosines, a little
    identity mixed in. An item then adds score / strength + log d² to the log-determinant, d² being
    what the items above leave of its unit vector. Times the strength that is its score plus a
    gain. O(P (X + t)) per item shown.
    """

    def __init__(self, content_PX: npt.NDArray[np.float32], strength: float) -> None:
        self._content_PX = content_PX.astype(np.float64)
        self._strength = strength
        self._factor_tP: list[npt.NDArray[np.float64]] = []
        self._left_P = (1 - RIDGE) * (self._content_PX**2).sum(axis=1) + RIDGE

    def now(self) -> npt.NDArray[np.float64]:
        """Gains, [P]."""
        return self._strength * np.log(np.maximum(self._left_P, 1e-12))

    def show(self, place: int) -> None:
        """Puts an item below everything shown so far."""
        likeness_P = (1 - RIDGE) * (self._content_PX @ self._content_PX[place])
        likeness_P[place] += RIDGE
        if self._factor_tP:
            factor_tP = np.stack(self._factor_tP)
            likeness_P -= factor_tP[:, place] @ factor_tP
        row_P = likeness_P / math.sqrt(max(self._left_P[place], 1e-12))
        self._factor_tP.append(row_P)
        self._left_P = self._left_P - row_P**2


def mmr_gain_naive(
    content_PX: npt.NDArray[np.float32], place: int, above: Sequence[int], strength: float
) -> float:
    """The gain by its definition, O(t X)."""
    unit_PX = content_PX.astype(np.float64)
    return -strength * max((float(unit_PX[place] @ unit_PX[i]) for i in above), default=0.0)


def dpp_gain_naive(
    content_PX: npt.NDArray[np.float32], place: int, above: Sequence[int], strength: float
) -> float:
    """The gain as a difference of log-determinants, O(t³)."""

    def log_det(places: list[int]) -> float:
        unit_tX = content_PX[places].astype(np.float64)
        kernel_tt = (1 - RIDGE) * unit_tX @ unit_tX.T + RIDGE * np.eye(len(places))
        return float(np.linalg.slogdet(kernel_tt)[1])

    return strength * (log_det([*above, place]) - (log_det(list(above)) if above else 0.0))


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

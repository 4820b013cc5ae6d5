"""Greedy re-ranking: a slate is filled slot by slot by score plus what the items above change.

Knows scores, a catalogue and a history; not where scores come from.

Letters: P pool, K slate size, L objectives, X content width, F repetition features.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.reranking.repetition import ItemTraits, RepetitionWalk, recent_of
from ifa_ray.schema import RankRequest

RIDGE = 0.01
"""Share of the identity in the similarity matrix of `Dpp`: more items than X then still differ."""

_DECIMALS = 5  # as scores are rounded before they are compared: see `ifa_ray.ranking.ranker`


class Gains(Protocol):
    """Changes of a pool's scores by the items above, kept up item by item."""

    @property
    def gain_P(self) -> npt.NDArray[np.float64]:
        """Of each of the pool's items if it were shown next; finite."""
        ...

    def show(self, place: int) -> None:
        """Puts one item of the pool below everything shown so far."""
        ...


def fill_slate(
    scores_P: npt.NDArray[np.float64], gains: Gains, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Takes the item of the highest score plus gain, k <= P times.

    Args:
        scores_P: best first; the first of equal ones wins.
        gains: at the top of the slate.
        k: how many.

    Returns:
        The chosen places, and of each the lowest score plus gain so far: the best item's may rise
        from one slot to the next, a returned score never does.
    """
    closed_P, chosen_K, worth_K = np.zeros(len(scores_P)), np.empty(k, np.int64), np.empty(k)
    for slot in range(k):
        worth_P = np.round(scores_P + gains.gain_P, _DECIMALS) + closed_P
        place = int(worth_P.argmax())
        chosen_K[slot], worth_K[slot] = place, worth_P[place]
        closed_P[place] = -np.inf
        if slot + 1 < k:
            gains.show(place)
    return chosen_K, np.minimum.accumulate(worth_K)


class Mmr:
    """Maximal marginal relevance (Carbonell and Goldstein, 1998): minus the closest cosine above.

    O(P X) per item shown.
    """

    def __init__(self, content_PX: npt.NDArray[np.float32], strength: float) -> None:
        self._content_PX, self._strength = content_PX.astype(np.float64), strength
        self._closest_P = np.full(len(content_PX), -np.inf)
        self.gain_P = np.zeros(len(content_PX))

    def show(self, place: int) -> None:
        """Puts an item below everything shown so far."""
        cosine_P = self._content_PX @ self._content_PX[place]
        self._closest_P = np.maximum(self._closest_P, cosine_P)
        self.gain_P = -self._strength * self._closest_P


class Dpp:
    """Greedy MAP of a DPP with the incremental Cholesky factor of Chen et al. (NeurIPS 2018).

    The kernel is diag(q) S diag(q) with log q = score / (2 strength) and S the cosines, a little
    identity mixed in. An item then adds score / strength + log d² to the log-determinant, where d²
    is left of its unit vector by the items above. Times the strength that is its score plus a
    gain. O(P (X + t)) per item shown.
    """

    def __init__(self, content_PX: npt.NDArray[np.float32], strength: float) -> None:
        self._content_PX, self._strength = content_PX.astype(np.float64), strength
        self._factor_tP = np.empty((0, len(content_PX)))
        self._left_P = (1 - RIDGE) * (self._content_PX**2).sum(axis=1) + RIDGE

    @property
    def gain_P(self) -> npt.NDArray[np.float64]:
        """Gains."""
        return self._strength * np.log(np.maximum(self._left_P, 1e-12))

    def show(self, place: int) -> None:
        """Puts an item below everything shown so far."""
        likeness_P = (1 - RIDGE) * (self._content_PX @ self._content_PX[place])
        likeness_P[place] += RIDGE
        likeness_P -= self._factor_tP[:, place] @ self._factor_tP
        row_P = likeness_P / math.sqrt(max(self._left_P[place], 1e-12))
        self._factor_tP = np.vstack([self._factor_tP, row_P])
        self._left_P = self._left_P - row_P**2


class LearnedGains:
    """Effect of repetition on the ranking rule: sum over l of weight_l Δ log p(l|imp), x strength.

    O(P (X + F)) per item shown.
    """

    def __init__(
        self,
        walk: RepetitionWalk,
        log_p_PL: npt.NDArray[np.float32],
        rule_weights: tuple[float, ...],
        weights_LF: npt.NDArray[np.float64],
        strength: float,
    ) -> None:
        """Starts at the top of a slate.

        Args:
            walk: of the pool.
            log_p_PL: log p(objective|can), of the objectives that the rule has a weight for.
            rule_weights: of the ranking rule, [L].
            weights_LF: row l - 1 is objective l's: an impression has none.
            strength: see `ModelConfig.set_strength`.
        """
        self._walk, self._parts = walk, []
        exact_PL = log_p_PL.astype(np.float64)
        for place, weight in enumerate(rule_weights):
            if place > 0 and weight > 0:
                logit_P = _logit(exact_PL[:, place] - exact_PL[:, 0])
                moved = (logit_P, _log_sigmoid(logit_P), weights_LF[place - 1])
                self._parts.append((strength * weight, *moved))

    @property
    def gain_P(self) -> npt.NDArray[np.float64]:
        """Gains."""
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
        """Prepares re-ranking.

        Args:
            config: `set_step` other than off, strength, pool and ranking rule.
            items: the catalogue.
            weights_LF: `SetResponse.repetition_weights` where `set_step` is `learned`, else None.
        """
        assert (weights_LF is not None) == (config.set_step == "learned")
        self._config, self._items, self._weights_LF = config, items, weights_LF
        self._traits = ItemTraits.of(items)
        self._rule_weights = parse_ranking_rule(config.ranking_rule).weights

    def pool_size(self, num_candidates: int, k: int) -> int:
        """The number of best candidates by score to choose from."""
        return min(num_candidates, max(k, self._config.set_pool))

    def choose(
        self,
        request: RankRequest,
        ids_P: npt.NDArray[np.int32],
        scores_P: npt.NDArray[np.float64],
        log_p_PL: npt.NDArray[np.float32],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Makes the slate of a request.

        Args:
            request: k and the history.
            ids_P: the best candidates by score, best first.
            scores_P: of these, finite.
            log_p_PL: of these; columns of objectives that the rule leaves out may hold anything.

        Returns:
            k places in the pool in the order to show them, and scores that never increase.
        """
        rows_P, strength = self._items.known_rows(ids_P), self._config.set_strength
        gains: Gains
        if self._weights_LF is not None:
            walk = RepetitionWalk(self._traits, rows_P, recent_of(request, self._items))
            gains = LearnedGains(walk, log_p_PL, self._rule_weights, self._weights_LF, strength)
        else:
            kind = Mmr if self._config.set_step == "mmr" else Dpp
            gains = kind(self._traits.content_RX[rows_P], strength)
        return fill_slate(scores_P, gains, request.k)


def _log_sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -np.logaddexp(0.0, -x)


def _logit(log_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logit of a probability given by its logarithm; p within 1e-7 of 1 counts as that."""
    log_p = np.minimum(log_p, -1e-7)
    return log_p - np.log(-np.expm1(log_p))

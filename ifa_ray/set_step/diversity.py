"""Diversity of content, learned from nothing: MMR and the greedy MAP of a determinantal process.

Knows unit content vectors; knows no scores, categories or users.

Letters: P pool, X content width, t items shown so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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

"""The greedy walk that every set step shares, and its naive form.

Knows scores and gains; not where either comes from. A gain is what the items above add to an
item's score, or take off it.

Letters: P pool, K slate size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

# As scores are before they are compared: see `ifa_ray.ranker`.
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

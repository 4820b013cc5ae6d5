"""The size of a test: power, and the users and replicates for an interval of a given width.

Knows a variance split, no logs. Two noises add: that of checkpoints, which only more replicates
(worlds and models made anew) average out, and that of users, which more users do too.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any

from scipy import stats

from ifa_ray.abtest.estimates import MIN_REPLICATES, NoiseSplit

MOST = 1_000_000
"""More replicates than this are not counted."""

TARGET = 0.001
"""Half of the interval that is planned for, relative; the paper's."""


def half_width(noise: NoiseSplit, replicates: int, user_factor: float, alpha: float) -> float:
    """Half of the interval of the mean log-lift over R >= 2 replicates.

    `user_factor` multiplies the users per world that `noise` was measured with.
    """
    variance = noise.checkpoint_sd**2 + noise.user_sd**2 / user_factor
    t = float(stats.t.isf(alpha / 2, replicates - 1))
    return t * (variance / replicates) ** 0.5


def replicates_needed(
    noise: NoiseSplit, user_factor: float, target: float, alpha: float
) -> int | None:
    """The fewest replicates whose interval is at most +-target, relative; None above a million."""

    def fits(replicates: int) -> bool:
        return half_width(noise, replicates, user_factor, alpha) <= math.log1p(target)

    if not fits(MOST):
        return None
    # The width falls with R, so halving finds the first that fits.
    choices = range(MIN_REPLICATES, MOST)
    return MIN_REPLICATES + bisect.bisect_left(choices, True, key=fits)


def users_needed(se: float, users: int, target: float, alpha: float) -> int:
    """Users for an interval of +-target over users alone, from a standard error at `users`."""
    z = float(stats.norm.isf(alpha / 2))
    return math.ceil(users * (z * se / math.log1p(target)) ** 2)


def power(log_lift: float, se: float, df: float, alpha: float) -> float:
    """The chance that a t-test finds an effect of this size (noncentral t)."""
    t = float(stats.t.isf(alpha / 2, df))
    shift = log_lift / se
    return float(stats.nct.sf(t, df, shift) + stats.nct.cdf(-t, df, shift))


def plan(
    noise: NoiseSplit | None, *, replicates: int, users: int, pooled_se: float | None, alpha: float
) -> dict[str, Any]:
    """The effects that this run could see, and the size that another would need.

    `noise` is of the primary metric; None below three replicates. `users` are per world, and
    `pooled_se` is that of these checkpoints, over all users of all worlds.
    """
    rows = []
    if noise is not None:
        endless = dataclasses.replace(noise, user_sd=0.0)
        for factor in (1, 4, 16, 64, None):
            split = noise if factor else endless
            needed = replicates_needed(split, factor or 1, TARGET, alpha)
            reach = half_width(split, replicates, factor or 1, alpha)
            rows.append(
                {
                    "users": factor and users * factor,
                    "half_width": math.expm1(reach),
                    "replicates_needed": needed,
                }
            )
    all_users = users * replicates
    return {
        "target": TARGET,
        "rows": rows,
        "detectable": _detectable(noise, replicates, alpha),
        "users_for_target": users_needed(pooled_se, all_users, TARGET, alpha)
        if pooled_se
        else None,
    }


def _detectable(noise: NoiseSplit | None, replicates: int, alpha: float) -> float | None:
    """The relative effect that this run finds 80 times of 100."""
    if noise is None or noise.total_sd == 0:
        return None
    se = noise.total_sd / replicates**0.5
    low, high = 0.0, 100 * se
    while power(high, se, replicates - 1, alpha) < 0.8:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if power(middle, se, replicates - 1, alpha) < 0.8:
            low = middle
        else:
            high = middle
    return math.expm1(high)

"""How large a test must be: power, and the users and replicates for an interval of a given width.

Knows a variance split, no logs. Two noises add: that of checkpoints, which only more replicates
(worlds and models made anew) average out, and that of users, which more users do too.
"""

from __future__ import annotations

import math
from typing import Any

from scipy import stats

from ifa_ray.abtest.estimates import MIN_REPLICATES, NoiseSplit

MOST = 1_000_000
"""More replicates than this are not counted."""

USER_FACTORS = (1, 4, 16, 64)


def half_width(noise: NoiseSplit, replicates: int, user_factor: float, alpha: float) -> float:
    """Half of the interval of the mean log-lift.

    Args:
        noise: as measured.
        replicates: R >= 2.
        user_factor: users per world, as a multiple of those that `noise` was measured with.
        alpha: of the interval.
    """
    variance = noise.checkpoint_sd**2 + noise.user_sd**2 / user_factor
    t = float(stats.t.isf(alpha / 2, replicates - 1))
    return t * (variance / replicates) ** 0.5


def replicates_needed(
    noise: NoiseSplit, user_factor: float, target: float, alpha: float
) -> int | None:
    """The fewest replicates whose interval is at most +-target, relative; None above a million."""
    reach = math.log1p(target)
    if half_width(noise, MOST, user_factor, alpha) > reach:
        return None
    low, high = MIN_REPLICATES, MOST
    while low < high:  # the width falls with R, so halving finds the first that fits
        middle = (low + high) // 2
        if half_width(noise, middle, user_factor, alpha) <= reach:
            high = middle
        else:
            low = middle + 1
    return low


def users_needed(se: float, users: int, target: float, alpha: float) -> int:
    """Users for an interval of +-target over users alone, from a standard error at `users`."""
    z = float(stats.norm.isf(alpha / 2))
    return math.ceil(users * (z * se / math.log1p(target)) ** 2)


def power(log_lift: float, se: float, df: float, alpha: float) -> float:
    """The chance that a t-test finds an effect of this size (noncentral t)."""
    if se == 0:
        return 1.0 if log_lift else alpha
    t = float(stats.t.isf(alpha / 2, df))
    shift = log_lift / se
    return float(stats.nct.sf(t, df, shift) + stats.nct.cdf(-t, df, shift))


def plan(
    noise: NoiseSplit | None,
    *,
    replicates: int,
    users: int,
    pooled_se: float | None,
    alpha: float,
    target: float = 0.001,
) -> dict[str, Any]:
    """What this run could see, and what another would need.

    Args:
        noise: the split of the primary metric; None below three replicates.
        replicates: R of this run.
        users: per world.
        pooled_se: of these checkpoints, over all users of all worlds.
        alpha: of tests and intervals.
        target: half of the interval that is planned for, relative; the paper's is 0.1%.
    """
    rows = []
    if noise is not None:
        for factor in USER_FACTORS:
            rows.append(
                {
                    "users": users * factor,
                    "half_width": math.expm1(half_width(noise, replicates, factor, alpha)),
                    "replicates_needed": replicates_needed(noise, factor, target, alpha),
                }
            )
        endless = NoiseSplit(
            total_sd=noise.total_sd, user_sd=0.0, checkpoint_sd=noise.checkpoint_sd
        )
        rows.append(
            {
                "users": None,
                "half_width": math.expm1(half_width(endless, replicates, 1.0, alpha)),
                "replicates_needed": replicates_needed(endless, 1.0, target, alpha),
            }
        )
    return {
        "target": target,
        "rows": rows,
        "detectable": _detectable(noise, replicates, alpha),
        "users_for_target": (
            users_needed(pooled_se, users * replicates, target, alpha) if pooled_se else None
        ),
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
        low, high = (
            (middle, high) if power(middle, se, replicates - 1, alpha) < 0.8 else (low, middle)
        )
    return math.expm1(high)

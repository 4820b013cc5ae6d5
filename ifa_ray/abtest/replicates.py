"""Replicates decide: the effect of an architecture over independently retrained worlds.

Knows lifts and p-values only. Between two retrained copies of one architecture a user-level test
finds "differences" most of the time, because it compares two checkpoints; the spread of the lift
over replicates holds that checkpoint noise, so a t-test over it does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from ifa_ray.abtest.estimate import Estimate

__all__ = [
    "MIN_REPLICATES",
    "NoiseSplit",
    "benjamini_hochberg",
    "holm",
    "noise_split",
    "over_replicates",
    "pool",
]

MIN_REPLICATES = 3
"""Below this the spread over replicates is too poorly known for an interval, and none is given."""

Key = TypeVar("Key")


def over_replicates(log_lifts: Sequence[float]) -> Estimate | None:
    """The headline: mean of the R lifts, SE = sd/sqrt(R), df = R - 1; None below R = 3."""
    count = len(log_lifts)
    if count < MIN_REPLICATES:
        return None
    lifts_R = np.asarray(log_lifts, np.float64)
    se = float(lifts_R.std(ddof=1)) / count**0.5
    return Estimate(log_lift=float(lifts_R.mean()), se=se, df=count - 1)


def pool(estimates: Sequence[Estimate]) -> Estimate:
    """The user-level effect of these R pairs of checkpoints taken together.

    The mean of the lifts, each replicate counting once as in the headline, with the users' noise
    alone: SE = sqrt(sum SE_r^2)/R. Degrees of freedom by Welch and Satterthwaite.
    """
    count = len(estimates)
    variances = np.array([estimate.se**2 for estimate in estimates])
    total = float(variances.sum())
    dfs = np.array([estimate.df for estimate in estimates])
    df = total**2 / float((variances**2 / dfs).sum()) if total > 0 else float(dfs.sum())
    lift = float(np.mean([estimate.log_lift for estimate in estimates]))
    return Estimate(log_lift=lift, se=total**0.5 / count, df=df)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSplit:
    """Where the spread of the lift over replicates comes from.

    Attributes:
        total_sd: sd of l_r over replicates.
        user_sd: the part that the users' noise explains, from the paired standard errors.
        checkpoint_sd: the rest, from worlds and retrained models; 0 where users explain it all.
    """

    total_sd: float
    user_sd: float
    checkpoint_sd: float


def noise_split(estimates: Sequence[Estimate]) -> NoiseSplit | None:
    """Splits the variance of the R lifts, by the method of moments; None below R = 3."""
    if len(estimates) < MIN_REPLICATES:
        return None
    total = float(np.var([estimate.log_lift for estimate in estimates], ddof=1))
    users = float(np.mean([estimate.se**2 for estimate in estimates]))
    return NoiseSplit(
        total_sd=total**0.5, user_sd=users**0.5, checkpoint_sd=max(0.0, total - users) ** 0.5
    )


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's adjusted p-values: the chance of *any* false claim in the family stays under alpha."""
    adjusted: dict[Key, float] = {}
    worst = 0.0
    ordered = sorted(p_values.items(), key=lambda pair: pair[1])
    for place, (key, p) in enumerate(ordered):
        worst = max(worst, (len(ordered) - place) * p)
        adjusted[key] = min(1.0, worst)
    return adjusted


def benjamini_hochberg(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Benjamini and Hochberg's adjusted p-values: the share of false claims stays under alpha."""
    adjusted: dict[Key, float] = {}
    best = 1.0
    ordered = sorted(p_values.items(), key=lambda pair: pair[1])
    for rank in range(len(ordered), 0, -1):
        key, p = ordered[rank - 1]
        best = min(best, p * len(ordered) / rank)
        adjusted[key] = best
    return adjusted

"""For whom the effect is larger: users by their past, and whether the differences are real.

Segments are made of what was before the test, so no arm can have moved a user from one to another.

Letters: U users, K segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.effects import Effect, Versus, effect_of, effect_row, interval_row
from ifa_ray.abtest.estimates import Floats, over_replicates
from ifa_ray.abtest.metrics import Metric

SEGMENTATIONS = {
    "history": ("impressions", "impressions before the test"),
    "activity": ("active_days", "active days before the test"),
}
"""Name: the column that users are divided by, at the quartiles of control's."""

NAMES = {-1: "no past", 0: "1st quartile", 1: "2nd quartile", 2: "3rd quartile", 3: "4th quartile"}


def segment_effects(metric: Metric, versus: Versus) -> dict[str, Any] | None:
    """The effect on one metric in each segment, with interaction p-values; None without a past.

    Of each segmentation:
        rows: each segment's label, range, users per world and effect.
        p_trend: over replicates, that the lift changes along the quartiles (a t-test of the
            slopes); None below three replicates.
        p_users: that any two segments differ, for these checkpoints (Wald over users).
    """
    if any(world.past is None for pair in versus.pairs for world in pair):
        return None
    return {
        name: {"by": by, **_segmentation(metric, versus, column)}
        for name, (column, by) in SEGMENTATIONS.items()
    }


def _segmentation(metric: Metric, versus: Versus, column: str) -> dict[str, Any]:
    values = [tuple((world.past or {})[column] for world in pair) for pair in versus.pairs]
    places = [tuple(_places(own_U, _cuts(a_U)) for own_U in (b_U, a_U)) for b_U, a_U in values]
    rows, effects = [], []
    for place, label in NAMES.items():
        masks = [(b == place, a == place) for b, a in places]
        sizes = [int(a.sum()) for _, a in masks]
        if not any(sizes):
            continue
        row: dict[str, Any] = {"label": label, "users": float(np.mean(sizes))}
        rows.append(row)
        # Of fewer than two users on either side there is no spread.
        if any(min(int(b.sum()), int(a.sum())) < 2 for b, a in masks):
            row |= dict.fromkeys(("range", "relative", "log_lift", "interval", "p"))
            row |= {"undefined": "fewer than two users in a replicate"}
            row |= {"checkpoint": interval_row(None, versus.alpha)}
            continue
        effect = effect_of(metric, versus, masks)
        inside = np.concatenate(
            [a_U[mask] for (_, a_U), (_, mask) in zip(values, masks, strict=True)]
        )
        row["range"] = [float(inside.min()), float(inside.max())]
        whole = effect_row(effect)
        names = ("undefined", "relative", "log_lift", "interval", "p", "checkpoint")
        row |= {name: whole[name] for name in names}
        effects += [effect] if place >= 0 else []
    slopes = _slopes(effects)
    trend = over_replicates(slopes) if slopes else None
    return {"rows": rows, "p_trend": trend and trend.p_value, "p_users": wald_p(effects)}


def _cuts(values_U: Floats) -> Floats:
    """Three quartiles of those above 0."""
    known = values_U[values_U > 0]
    return np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else np.zeros(3)


def _places(values_U: Floats, cuts: Floats) -> npt.NDArray[np.int64]:
    """0 to 3; -1 for a user without a past."""
    return np.where(values_U > 0, np.searchsorted(cuts, values_U, side="left"), -1)


def _slopes(effects: Sequence[Effect]) -> list[float] | None:
    """Of each replicate, how much the lift rises from one segment to the next."""
    if len(effects) < 2 or any(effect.undefined for effect in effects):
        return None
    lifts_KR = np.array([effect.lifts for effect in effects], np.float64)
    x_K = np.arange(len(effects)) - (len(effects) - 1) / 2
    slopes: list[float] = (x_K @ lifts_KR / (x_K**2).sum()).tolist()
    return slopes


def wald_p(effects: Sequence[Effect]) -> float | None:
    """That K independent segments have one effect: sum of ((l - mean)/SE)^2 against chi-square."""
    pooled = [effect.pooled for effect in effects]
    known = [estimate for estimate in pooled if estimate is not None and estimate.se > 0]
    if len(known) < 2 or len(known) < len(pooled):
        return None
    lift_K = np.array([estimate.log_lift for estimate in known])
    weight_K = np.array([estimate.se**-2 for estimate in known])
    mean = (weight_K * lift_K).sum() / weight_K.sum()
    return float(stats.chi2.sf((weight_K * (lift_K - mean) ** 2).sum(), len(known) - 1))

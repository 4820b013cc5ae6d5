"""For whom the effect is larger: users by their past, and whether the differences are real.

Segments are made of what was before the test, so no arm can have moved a user from one to another.

Letters: U users, K segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.effects import Effect, effect_row, interval_row, of_totals
from ifa_ray.abtest.estimates import Totals, over_replicates
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import UserPast, World
from ifa_ray.abtest.metrics import Metric

SEGMENTATIONS: dict[str, tuple[str, Callable[[UserPast], npt.NDArray[np.float64]]]] = {
    "history": ("impressions before the test", lambda past: past.history_U),
    "activity": ("active days before the test", lambda past: past.active_days_U),
}
"""Name: what users are divided by. Quartiles of control's users; those without a past apart."""

NAMES = ("1st quartile", "2nd quartile", "3rd quartile", "4th quartile")
NEWCOMERS = "no past"


def segment_effects(
    logs: Logs, metric: Metric, own: Sequence[World], other: Sequence[World], names: tuple[str, str]
) -> dict[str, Any] | None:
    """The effect on one metric in each segment, with interaction p-values; None without a past.

    Of each segmentation:
        rows: each segment's label, range, users per world and effect.
        p_trend: over replicates, that the lift changes along the quartiles (a t-test of the
            slopes); None below three replicates.
        p_users: that any two segments differ, for these checkpoints (Wald over users).
    """
    if any(world.past is None for world in (*own, *other)):
        return None
    return {name: _segmentation(logs, metric, own, other, names, *SEGMENTATIONS[name])
            for name in SEGMENTATIONS}  # fmt: skip


def _segmentation(
    logs: Logs,
    metric: Metric,
    own: Sequence[World],
    other: Sequence[World],
    names: tuple[str, str],
    by: str,
    values_of: Callable[[UserPast], npt.NDArray[np.float64]],
) -> dict[str, Any]:
    places, values = [], []
    for b, a in zip(own, other, strict=True):
        assert b.past is not None
        assert a.past is not None
        of_b, of_a = values_of(b.past), values_of(a.past)
        cuts = _cuts(of_a)
        places.append((_place(of_b, cuts), _place(of_a, cuts)))
        values.append((of_b, of_a))
    rows, effects = [], []
    for place in range(-1, len(NAMES)):
        masks = [(b == place, a == place) for b, a in places]
        sizes = [int(a.sum()) for _, a in masks]
        if not any(sizes):
            continue
        label = NEWCOMERS if place < 0 else NAMES[place]
        # Of fewer than two users on either side there is no spread.
        if any(min(int(b.sum()), int(a.sum())) < 2 for b, a in masks):
            rows.append(_too_few(label, float(np.mean(sizes))))
            continue
        pairs = [
            (_only(b.totals(metric), mask_b), _only(a.totals(metric), mask_a))
            for b, a, (mask_b, mask_a) in zip(own, other, masks, strict=True)
        ]
        effect = of_totals(metric, pairs, names, paired=logs.paired)
        control = [(of_a, mask) for (_, of_a), (_, mask) in zip(values, masks, strict=True)]
        inside = np.concatenate([of_a[mask] for of_a, mask in control])
        row = effect_row(effect, None, logs.alpha)
        rows.append(
            {
                "label": label,
                "range": [float(inside.min()), float(inside.max())],
                "users": float(np.mean(sizes)),
                **{key: row[key] for key in ("undefined", "relative", "log_lift", "interval", "p",
                                             "checkpoint")},
            }
        )  # fmt: skip
        if place >= 0:
            effects.append(effect)
    slopes = _slopes(effects)
    trend = over_replicates(slopes) if slopes else None
    return {
        "by": by,
        "rows": rows,
        "p_trend": trend.p_value if trend else None,
        "p_users": wald_p(effects),
    }


def _too_few(label: str, users: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("relative", "log_lift", "interval", "p"))
    return {
        "label": label,
        "range": None,
        "users": users,
        "undefined": "fewer than two users in a replicate",
        **nothing,
        "checkpoint": interval_row(None, 0.05),
    }


def _cuts(values_U: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Three quartiles of those above 0."""
    known = values_U[values_U > 0]
    return np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else np.zeros(3)


def _place(
    values_U: npt.NDArray[np.float64], cuts: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """0 to 3; -1 for a user without a past."""
    return np.where(values_U > 0, np.searchsorted(cuts, values_U, side="left"), -1)


def _only(totals: Totals, mask_U: npt.NDArray[np.bool_]) -> Totals:
    return Totals(
        numerator_U=totals.numerator_U[mask_U], denominator_U=totals.denominator_U[mask_U]
    )


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

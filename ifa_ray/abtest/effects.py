"""The effect of one treatment on each metric: lifts of replicates, headline, rows of the result.

Knows worlds by their totals; adjusts p-values, decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ifa_ray.abtest.estimates import (
    Estimate,
    Totals,
    benjamini_hochberg,
    holm,
    log_lift,
    noise_split,
    over_replicates,
    paired_difference,
    paired_effect,
    pool,
    two_samples,
)
from ifa_ray.abtest.measure import World
from ifa_ray.abtest.metrics import PRIMARY, Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric of one treatment arm against control.

    Attributes:
        metric: which.
        lifts: the log-lift (of an `absolute` metric the difference) of each replicate, or None.
        checkpoints: the user-level estimate of each replicate that has one.
        headline: over replicates; None below three of them or where a lift is None.
        undefined: why there is no effect at all; None where there is one.
    """

    metric: Metric
    lifts: tuple[float | None, ...]
    checkpoints: tuple[Estimate, ...]
    headline: Estimate | None
    undefined: str | None

    @property
    def pooled(self) -> Estimate | None:
        """Of these checkpoints, over users alone."""
        return pool(self.checkpoints) if self.undefined is None and self.checkpoints else None

    def decisive(self, *, users_decide: bool) -> Estimate | None:
        """What is tested: the headline; users alone only where they may decide."""
        return self.headline or (self.pooled if users_decide else None)


def effect_of(
    metric: Metric, own: Sequence[World], other: Sequence[World], names: tuple[str, str],
    *, paired: bool,
) -> Effect:  # fmt: skip
    """Compares the worlds of treatment and control, replicate by replicate.

    Args:
        metric: what to compare.
        own: treatment's worlds.
        other: control's, in the same order.
        names: of treatment and control.
        paired: whether both hold the same users in the same order.
    """
    pairs = [(b.totals(metric), a.totals(metric)) for b, a in zip(own, other, strict=True)]
    pasts = [(b.past_totals(metric), a.past_totals(metric))
             for b, a in zip(own, other, strict=True)]  # fmt: skip
    return of_totals(metric, pairs, names, paired=paired, pasts=pasts)


def of_totals(
    metric: Metric,
    pairs: Sequence[tuple[Totals, Totals]],
    names: tuple[str, str],
    *,
    paired: bool,
    pasts: Sequence[tuple[Totals | None, Totals | None]] | None = None,
) -> Effect:
    """As `effect_of`, of the totals themselves: (treatment, control) for each replicate."""
    pasts = pasts or [(None, None)] * len(pairs)
    lifts: list[float | None] = []
    checkpoints = []
    for (b, a), past in zip(pairs, pasts, strict=True):
        lift, estimate = _compare(metric, b, a, past, paired=paired)
        lifts.append(lift)
        if estimate is not None:
            checkpoints.append(estimate)
    known = [lift for lift in lifts if lift is not None]
    whole = len(known) == len(lifts)
    return Effect(
        metric=metric,
        lifts=tuple(lifts),
        checkpoints=tuple(checkpoints),
        headline=over_replicates(known) if whole else None,
        undefined=None if whole else _why_undefined(pairs, *names),
    )


def _compare(
    metric: Metric, b: Totals, a: Totals, past: tuple[Totals | None, Totals | None], *, paired: bool
) -> tuple[float | None, Estimate | None]:
    absolute = metric.group == "absolute"
    if metric.group == "world":
        return log_lift(b, a), None
    if paired:
        estimate = paired_difference(b, a) if absolute else paired_effect(b, a)
    else:
        past_b, past_a = past
        known = (past_b, past_a) if past_b is not None and past_a is not None else None
        samples = two_samples(b, a, known)
        if samples is None:
            return None, None
        estimate = samples.difference if absolute else samples.log_lift
    return (estimate.log_lift if estimate else None), estimate


def _why_undefined(pairs: Sequence[tuple[Totals, Totals]], arm: str, control: str) -> str:
    for replicate, (b, a) in enumerate(pairs):
        for name, totals in ((arm, b), (control, a)):
            # <= 0 and not == 0: a sum of differences may round below what it stands for.
            if totals.value is None or totals.value <= 0:
                return f"nothing to count in replicate {replicate} of {name}"
    # CUPED alone can take a level of few users below zero.
    return f"the adjusted level of {arm} or {control} is not positive"


def adjust(
    effects: Mapping[str, Mapping[str, Effect]], *, users_decide: bool
) -> dict[str, dict[str, float]]:
    """Adjusted p for each arm and metric that has a decisive estimate.

    Holm over arms for the primary metric. Benjamini-Hochberg over the other metrics of one arm,
    not over all arms at once: an arm like `random`, where everything differs, would loosen the
    threshold for all the others.
    """
    p_values: dict[str, dict[str, float]] = {}
    for arm, rows in effects.items():
        tested = {name: row.decisive(users_decide=users_decide) for name, row in rows.items()}
        p_values[arm] = {name: e.p_value for name, e in tested.items() if e is not None}
    primary = holm({arm: row[PRIMARY] for arm, row in p_values.items() if PRIMARY in row})
    adjusted = {}
    for arm, row in p_values.items():
        adjusted[arm] = benjamini_hochberg({k: p for k, p in row.items() if k != PRIMARY})
        if arm in primary:
            adjusted[arm][PRIMARY] = primary[arm]
    return adjusted


def effect_row(effect: Effect, p_adjusted: float | None, alpha: float) -> dict[str, Any]:
    """Plain values; `relative` of an absolute metric is None, and `difference` of the others."""
    absolute = effect.metric.group == "absolute"
    lifts = [lift for lift in effect.lifts if lift is not None]
    mean = float(np.mean(lifts)) if effect.undefined is None else None
    pooled = effect.pooled
    split = noise_split(effect.checkpoints) if pooled else None
    own = iter(effect.checkpoints)
    return {
        "undefined": effect.undefined,
        **_point(mean, absolute=absolute),
        **interval_row(effect.headline, alpha, absolute=absolute),
        "p_adjusted": p_adjusted,
        "significant": None if p_adjusted is None else p_adjusted < alpha,
        "checkpoint": interval_row(pooled, alpha, absolute=absolute),
        "noise": dataclasses.asdict(split) if split else None,
        "replicates": [
            {
                "replicate": replicate,
                **_point(lift, absolute=absolute),
                **interval_row(next(own, None) if lift is not None else None, alpha,
                               absolute=absolute),
            }
            for replicate, lift in enumerate(effect.lifts)
        ],
    }  # fmt: skip


def _point(lift: float | None, *, absolute: bool) -> dict[str, float | None]:
    if lift is None:
        return {"log_lift": None, "relative": None, "difference": None}
    if absolute:
        return {"log_lift": None, "relative": None, "difference": lift}
    return {"log_lift": lift, "relative": float(np.expm1(lift)), "difference": None}


def interval_row(
    estimate: Estimate | None, alpha: float, *, absolute: bool = False
) -> dict[str, Any]:
    """What is derived from an estimate; all None where there is none."""
    if estimate is None:
        return {"se": None, "df": None, "interval": None, "acceptance_region": None, "p": None}
    low, high = estimate.bounds(alpha)
    reach = (high - low) / 2
    return {
        "se": estimate.se,
        "df": estimate.df,
        "interval": [low, high] if absolute else list(estimate.interval(alpha)),
        "acceptance_region": (
            [-reach, reach] if absolute else list(estimate.acceptance_region(alpha))
        ),
        "p": estimate.p_value,
    }

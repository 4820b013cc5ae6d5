"""The effect of a treatment on each metric, of all users and of segments: lifts, headline, rows.

Knows worlds by their totals; adjusts p-values, decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.estimates import (
    Estimate,
    Floats,
    Totals,
    benjamini_hochberg,
    holm,
    log_lift,
    noise_split,
    over_replicates,
    paired_effect,
    pool,
    two_samples,
)
from ifa_ray.abtest.measure import World
from ifa_ray.abtest.metrics import PRIMARY, Metric

Mask = npt.NDArray[np.bool_]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Versus:
    """The worlds of one treatment beside control's, replicate by replicate.

    Attributes:
        names: of treatment and control.
        pairs: (treatment, control) of each replicate.
        paired: whether both hold the same users in the same order.
        users_decide: as in `ifa_ray.abtest.logs.Logs`.
        alpha: of tests and intervals.
    """

    names: tuple[str, str]
    pairs: Sequence[tuple[World, World]]
    paired: bool
    users_decide: bool
    alpha: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """One metric of one treatment arm against control.

    Attributes:
        versus: what was compared.
        absolute: whether by difference, not by ratio.
        lifts: the log-lift (or difference) of each replicate, or None.
        checkpoints: the user-level estimate of each replicate that has one.
        undefined: why there is no effect at all; None where there is one.
    """

    versus: Versus
    absolute: bool
    lifts: tuple[float | None, ...]
    checkpoints: tuple[Estimate, ...]
    undefined: str | None

    @property
    def known(self) -> list[float]:
        """The lifts that are there."""
        return [lift for lift in self.lifts if lift is not None]

    @property
    def headline(self) -> Estimate | None:
        """Over replicates; None below three of them or where a lift is None."""
        return over_replicates(self.known) if len(self.known) == len(self.lifts) else None

    @property
    def pooled(self) -> Estimate | None:
        """Of these checkpoints, over users alone."""
        return pool(self.checkpoints) if self.undefined is None and self.checkpoints else None

    @property
    def decisive(self) -> Estimate | None:
        """Tested: the headline; users alone only where they may decide."""
        return self.headline or (self.pooled if self.versus.users_decide else None)


def effect_of(
    metric: Metric, versus: Versus, masks: Sequence[tuple[Mask, Mask]] | None = None
) -> Effect:
    """Compares treatment and control, all users or those of each replicate's masks.

    CUPED is for all users: within a segment of the past there is little left of it.
    """
    absolute = metric.group == "absolute"
    lifts: list[float | None] = []
    checkpoints, pairs = [], []
    for r, worlds in enumerate(versus.pairs):
        b, a = (world.totals(metric) for world in worlds)
        past_b, past_a = (world.past_totals(metric) for world in worlds)
        past = (past_b, past_a) if past_b is not None and past_a is not None else None
        if masks is not None:
            b, a, past = _only(b, masks[r][0]), _only(a, masks[r][1]), None
        pairs.append((b, a))
        if metric.group == "world":
            lifts.append(log_lift(b, a))
            continue
        if versus.paired:
            estimate = paired_effect(b, a, absolute=absolute)
        else:
            estimate = two_samples(b, a, past, absolute=absolute)
        lifts.append(None if estimate is None else estimate.log_lift)
        checkpoints += [] if estimate is None else [estimate]
    return Effect(
        versus=versus,
        absolute=absolute,
        lifts=tuple(lifts),
        checkpoints=tuple(checkpoints),
        undefined=why_undefined(pairs, versus.names) if None in lifts else None,
    )


def _only(totals: Totals, mask_U: Mask) -> Totals:
    return Totals(
        numerator_U=totals.numerator_U[mask_U], denominator_U=totals.denominator_U[mask_U]
    )


def why_undefined(pairs: Sequence[tuple[Totals, Totals]], names: tuple[str, str]) -> str:
    """Names the replicate and arm without anything to compare."""
    for replicate, pair in enumerate(pairs):
        for name, totals in zip(names, pair, strict=True):
            # <= 0 and not == 0: a sum of differences may round below what it stands for.
            if totals.value is None or totals.value <= 0:
                return f"nothing to count in replicate {replicate} of {name}"
    # CUPED alone can take a level of few users below zero.
    return f"the adjusted level of {' or '.join(names)} is not positive"


def adjust(effects: Mapping[str, Mapping[str, Effect]]) -> dict[str, dict[str, float]]:
    """Adjusted p for each arm and metric that has a decisive estimate.

    Holm over arms for the primary metric. Benjamini-Hochberg over the other metrics of one arm,
    not over all arms at once: an arm like `random`, where everything differs, would loosen the
    threshold for all the others.
    """
    adjusted, primary = {}, {}
    for arm, rows in effects.items():
        decisive = {name: effect.decisive for name, effect in rows.items()}
        p_values = {name: e.p_value for name, e in decisive.items() if e is not None}
        if PRIMARY in p_values:
            primary[arm] = p_values.pop(PRIMARY)
        adjusted[arm] = benjamini_hochberg(p_values)
    for arm, p in holm(primary).items():
        adjusted[arm][PRIMARY] = p
    return adjusted


def effect_row(effect: Effect, p_adjusted: float | None = None) -> Row:
    """Plain values; `relative` of an absolute metric is None, and `difference` of the others."""
    pooled, own = effect.pooled, iter(effect.checkpoints)
    split = noise_split(effect.checkpoints) if pooled else None
    alpha, absolute = effect.versus.alpha, effect.absolute

    def point(lift: float | None) -> Row:
        relative = None if lift is None or absolute else float(np.expm1(lift))
        log, apart = (None, lift) if absolute else (lift, None)
        return {"log_lift": log, "relative": relative, "difference": apart}

    return {
        "undefined": effect.undefined,
        **point(float(np.mean(effect.known)) if effect.undefined is None else None),
        **interval_row(effect.headline, alpha, absolute=absolute),
        "p_adjusted": p_adjusted,
        "significant": None if p_adjusted is None else p_adjusted < alpha,
        "checkpoint": interval_row(pooled, alpha, absolute=absolute),
        "noise": dataclasses.asdict(split) if split else None,
        "replicates": [
            {
                "replicate": replicate,
                **point(lift),
                **interval_row(None if lift is None else next(own, None), alpha, absolute=absolute),
            }
            for replicate, lift in enumerate(effect.lifts)
        ],
    }


def interval_row(estimate: Estimate | None, alpha: float, *, absolute: bool = False) -> Row:
    """An estimate's derived values; all None where there is none."""
    if estimate is None:
        return dict.fromkeys(("se", "df", "interval", "acceptance_region", "p"))
    interval, region = estimate.interval(alpha), estimate.acceptance_region(alpha)
    if absolute:
        margin = estimate.margin(alpha)
        interval = estimate.log_lift - margin, estimate.log_lift + margin
        reach = (interval[1] - interval[0]) / 2
        region = -reach, reach
    return {
        "se": estimate.se,
        "df": estimate.df,
        "interval": list(interval),
        "acceptance_region": list(region),
        "p": estimate.p_value,
    }


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

"""Estimates of a relative effect: of paired users, of two samples of users, over replicates.

Knows totals and lifts, not where they are from. Replicates decide: between two retrained copies of
one architecture a user-level test finds "differences" most of the time, because it compares two
checkpoints; the spread of the lift over replicates holds that checkpoint noise, so a t-test over
it does not.

Letters: U users, R replicates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Key = TypeVar("Key")

MIN_REPLICATES = 3
"""Below this the spread over replicates is too poorly known for an interval, and none is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated log-lift of treatment over control with its t distribution.

    Attributes:
        log_lift: l, the log of the ratio of treatment's mean to control's; 0 is no effect. Of a
            metric that arms are compared in by difference, the difference.
        se: the standard error of `log_lift`; 0 where the arms are bitwise equal.
        df: degrees of freedom of the t distribution.
    """

    log_lift: float
    se: float
    df: float

    @property
    def relative(self) -> float:
        """The relative effect exp(l) - 1: 0.01 is +1%."""
        return math.expm1(self.log_lift)

    @property
    def p_value(self) -> float:
        """Two-sided p of no effect. 1 for bitwise equal arms, where t would be 0/0."""
        if self.log_lift == 0:
            return 1.0
        if self.se == 0:
            return 0.0
        return float(2 * stats.t.sf(abs(self.log_lift) / self.se, self.df))

    def margin(self, alpha: float) -> float:
        """Half of the 1 - alpha interval of `log_lift`, t SE."""
        return float(stats.t.isf(alpha / 2, self.df)) * self.se

    def interval(self, alpha: float) -> tuple[float, float]:
        """The 1 - alpha interval of the relative effect, exp(l -+ t SE) - 1."""
        margin = self.margin(alpha)
        return math.expm1(self.log_lift - margin), math.expm1(self.log_lift + margin)

    def acceptance_region(self, alpha: float) -> tuple[float, float]:
        """Relative effects that would not be significant, -+ t SE around 0 (the paper's Table 4).

        The effect lies outside it exactly where p < alpha.
        """
        margin = self.margin(alpha)
        return math.expm1(-margin), math.expm1(margin)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Totals:
    """One metric of every user of one world under one arm, absent users included, with zeros.

    It is the ratio of their sums; of a mean per user the denominators are ones.
    """

    numerator_U: Floats
    denominator_U: Floats

    @property
    def value(self) -> float | None:
        """The ratio of sums; None where the denominator counted nothing."""
        below = float(self.denominator_U.sum())
        return float(self.numerator_U.sum()) / below if below > 0 else None

    @property
    def contributions_U(self) -> Floats:
        """Each user's share in the ratio of sums: (N_u - ratio D_u) / mean(D)."""
        below_U = self.denominator_U
        moved_U = self.numerator_U - (self.value or 0.0) * below_U
        return np.asarray(moved_U / below_U.mean())


def log_lift(treatment: Totals, control: Totals) -> float | None:
    """The log of treatment's ratio of sums over control's; None unless all four sums are > 0.

    Swapping the arms flips the sign exactly, bit for bit, because logs are subtracted: the log of
    a quotient would not.
    """
    parts = (
        treatment.numerator_U,
        treatment.denominator_U,
        control.numerator_U,
        control.denominator_U,
    )
    sums = [float(part.sum()) for part in parts]
    if min(sums) <= 0:
        return None
    above_b, below_b, above_a, below_a = np.log(sums)
    return float((above_b - below_b) - (above_a - below_a))


def paired_effect(treatment: Totals, control: Totals, *, absolute: bool = False) -> Estimate | None:
    """The effect on the same users, with the standard error of its linearisation over them.

    psi_u = N_Bu/mean(N_B) - D_Bu/mean(D_B) - N_Au/mean(N_A) + D_Au/mean(D_A) is what user u moves
    the log-lift by; SE = sd(psi)/sqrt(U). Pairing pays because a user's two totals rise and fall
    together. Needs U >= 2. None where a sum is zero and the lift has no logarithm.

    With `absolute`, treatment's ratio of sums minus control's, for metrics whose zero is not
    "nothing"; None where a denominator counted nothing.
    """
    if absolute:
        if treatment.value is None or control.value is None:
            return None
        effect: float | None = treatment.value - control.value
        psi_U = treatment.contributions_U - control.contributions_U
    else:
        effect = log_lift(treatment, control)
        if effect is not None:
            # Each difference is of like terms, so that bitwise equal arms give zeros, not rounding.
            above_U = _share(treatment.numerator_U) - _share(control.numerator_U)
            psi_U = above_U - (_share(treatment.denominator_U) - _share(control.denominator_U))
    if effect is None:
        return None
    users = len(psi_U)
    return Estimate(log_lift=effect, se=float(psi_U.std(ddof=1)) / users**0.5, df=users - 1)


def _share(values_U: Floats) -> Floats:
    return values_U / values_U.mean()


def two_samples(
    treatment: Totals,
    control: Totals,
    past: tuple[Totals, Totals] | None = None,
    *,
    absolute: bool = False,
) -> Estimate | None:
    """The effect where each arm has users of its own, two or more; df by Welch.

    `past` holds the same metric of both before the test: CUPED subtracts what it explains. With
    `absolute` the effect is the difference. None where an arm has a denominator of nothing, or,
    relatively, a level that is not positive.
    """
    if treatment.value is None or control.value is None:
        return None
    values = [treatment.value, control.value]
    moved = [treatment.contributions_U, control.contributions_U]
    if past is not None and all(each.value is not None for each in past):
        whole, whole_past = _joined(treatment, control), _joined(*past)
        theta = _slope(whole.contributions_U, whole_past.contributions_U)
        if theta:
            middle = whole_past.value or 0.0
            values = [
                value - theta * ((each.value or 0.0) - middle)
                for value, each in zip(values, past, strict=True)
            ]
            moved = [
                own_U - theta * each.contributions_U
                for own_U, each in zip(moved, past, strict=True)
            ]
    if absolute:
        effect, scales = values[0] - values[1], [1.0, 1.0]
    elif min(values) > 0:
        # Logs are subtracted, so that swapping the arms flips the sign exactly.
        effect, scales = float(np.log(values[0]) - np.log(values[1])), [v**2 for v in values]
    else:
        return None
    parts = [
        float(own_U.var(ddof=1)) / scale / len(own_U)
        for own_U, scale in zip(moved, scales, strict=True)
    ]
    dfs = [len(own_U) - 1 for own_U in moved]
    return Estimate(log_lift=effect, se=sum(parts) ** 0.5, df=_welch_df(parts, dfs))


def _joined(one: Totals, other: Totals) -> Totals:
    return Totals(
        numerator_U=np.concatenate([one.numerator_U, other.numerator_U]),
        denominator_U=np.concatenate([one.denominator_U, other.denominator_U]),
    )


def _slope(now_U: Floats, past_U: Floats) -> float:
    variance = float(past_U.var(ddof=1))
    return float(np.cov(now_U, past_U)[0, 1]) / variance if variance > 0 else 0.0


def _welch_df(variances: Sequence[float], dfs: Sequence[float]) -> float:
    """Degrees of freedom of a sum of variances, by Welch and Satterthwaite."""
    lower = sum(variance**2 / df for variance, df in zip(variances, dfs, strict=True))
    return sum(variances) ** 2 / lower if lower > 0 else sum(dfs)


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
    alone: SE = sqrt(sum SE_r^2)/R.
    """
    variances_R = np.array([estimate.se**2 for estimate in estimates])
    dfs_R = np.array([estimate.df for estimate in estimates])
    total = float(variances_R.sum())
    df = total**2 / float((variances_R**2 / dfs_R).sum()) if total > 0 else float(dfs_R.sum())
    lift = float(np.mean([estimate.log_lift for estimate in estimates]))
    return Estimate(log_lift=lift, se=total**0.5 / len(estimates), df=df)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSplit:
    """Sources of the spread of the lift over replicates.

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
    rest = max(0.0, total - users)
    return NoiseSplit(total_sd=total**0.5, user_sd=users**0.5, checkpoint_sd=rest**0.5)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's adjusted p-values: the chance of *any* false claim in the family stays under alpha."""
    adjusted: dict[Key, float] = {}
    worst = 0.0
    for place, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        worst = max(worst, (len(p_values) - place) * p_values[key])
        adjusted[key] = min(1.0, worst)
    return adjusted


def benjamini_hochberg(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Benjamini and Hochberg's adjusted p-values: the share of false claims stays under alpha."""
    adjusted: dict[Key, float] = {}
    best, count = 1.0, len(p_values)
    ordered = sorted(p_values, key=p_values.__getitem__)
    for rank in range(count, 0, -1):
        best = min(best, p_values[ordered[rank - 1]] * count / rank)
        adjusted[ordered[rank - 1]] = best
    return adjusted

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

    def interval(self, alpha: float) -> tuple[float, float]:
        """The 1 - alpha interval of the relative effect, exp(l -+ t SE) - 1."""
        margin = self._margin(alpha)
        return math.expm1(self.log_lift - margin), math.expm1(self.log_lift + margin)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The 1 - alpha interval as it is estimated: of logs, or of a difference in own units."""
        margin = self._margin(alpha)
        return self.log_lift - margin, self.log_lift + margin

    def acceptance_region(self, alpha: float) -> tuple[float, float]:
        """Relative effects that would not be significant, -+ t SE around 0 (the paper's Table 4).

        The effect lies outside it exactly where p < alpha.
        """
        margin = self._margin(alpha)
        return math.expm1(-margin), math.expm1(margin)

    def _margin(self, alpha: float) -> float:
        return float(stats.t.isf(alpha / 2, self.df)) * self.se


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Totals:
    """One metric of every user of one world under one arm.

    Attributes:
        numerator_U: float64, absent users included, with zeros.
        denominator_U: float64 likewise, for a ratio of sums; ones for a mean per user.
    """

    numerator_U: npt.NDArray[np.float64]
    denominator_U: npt.NDArray[np.float64]

    @property
    def value(self) -> float | None:
        """The ratio of sums; None where nothing was counted below the line."""
        below = float(self.denominator_U.sum())
        return float(self.numerator_U.sum()) / below if below > 0 else None


def log_lift(treatment: Totals, control: Totals) -> float | None:
    """The log of treatment's ratio of sums over control's; None unless all four sums are > 0.

    Swapping the arms flips the sign exactly, bit for bit, because logs are subtracted: the log of
    a quotient would not.
    """
    sums = [
        float(part.sum())
        for arm in (treatment, control)
        for part in (arm.numerator_U, arm.denominator_U)
    ]
    if min(sums) <= 0:
        return None
    above_b, below_b, above_a, below_a = np.log(sums)
    return float((above_b - below_b) - (above_a - below_a))


def paired_effect(treatment: Totals, control: Totals) -> Estimate | None:
    """The log-lift with the standard error of its linearisation over users.

    psi_u = N_Bu/mean(N_B) - D_Bu/mean(D_B) - N_Au/mean(N_A) + D_Au/mean(D_A) is what user u moves
    the log-lift by; SE = sd(psi)/sqrt(U). Pairing pays because a user's two totals rise and fall
    together. Needs U >= 2.

    Returns:
        The estimate, or None where a sum is zero and the lift has no logarithm.
    """
    lift = log_lift(treatment, control)
    if lift is None:
        return None
    # Each difference is between like terms, so that bitwise equal arms give zeros, not rounding.
    above = _share(treatment.numerator_U) - _share(control.numerator_U)
    below = _share(treatment.denominator_U) - _share(control.denominator_U)
    psi_U = above - below
    users = len(psi_U)
    se = float(psi_U.std(ddof=1)) / users**0.5
    return Estimate(log_lift=lift, se=se, df=users - 1)


def paired_difference(treatment: Totals, control: Totals) -> Estimate | None:
    """Treatment's ratio of sums minus control's, for metrics whose zero is not "nothing".

    A user moves it by (N_u - ratio D_u)/mean(D) of treatment, less the same of control.
    `Estimate.log_lift` holds the difference. None where nothing was counted below the line.
    """
    if treatment.value is None or control.value is None:
        return None
    moved_U = np.zeros(len(treatment.numerator_U))
    for totals, sign in ((treatment, 1.0), (control, -1.0)):
        below_U = totals.denominator_U
        moved_U += sign * (totals.numerator_U - (totals.value or 0.0) * below_U) / below_U.mean()
    users = len(moved_U)
    difference = treatment.value - control.value
    return Estimate(log_lift=difference, se=float(moved_U.std(ddof=1)) / users**0.5, df=users - 1)


def _share(values_U: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values_U / values_U.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoSamples:
    """Treatment against control where each has its own users, adjusted by CUPED if asked.

    Attributes:
        value_b, value_a: level of treatment and control.
        var_b, var_a: variance of a user's contribution to it.
        users_b, users_a: how many.
    """

    value_b: float
    value_a: float
    var_b: float
    var_a: float
    users_b: int
    users_a: int

    @property
    def log_lift(self) -> Estimate | None:
        """On the log scale; df by Welch. None unless both are > 0."""
        if min(self.value_b, self.value_a) <= 0:
            return None
        parts = (self.var_b / self.value_b**2 / self.users_b,
                 self.var_a / self.value_a**2 / self.users_a)  # fmt: skip
        # Logs are subtracted, so that swapping the arms flips the sign exactly.
        lift = float(np.log(self.value_b) - np.log(self.value_a))
        return self._estimate(lift, parts)

    @property
    def difference(self) -> Estimate:
        """In the metric's own units; `Estimate.log_lift` holds the difference."""
        parts = (self.var_b / self.users_b, self.var_a / self.users_a)
        return self._estimate(self.value_b - self.value_a, parts)

    @property
    def difference_p(self) -> float:
        """Welch's two-sided p of no difference, which tea-tasting reports."""
        estimate = self.difference
        if estimate.se == 0:
            return 1.0 if estimate.log_lift == 0 else 0.0
        return float(2 * stats.t.sf(abs(estimate.log_lift) / estimate.se, estimate.df))

    def _estimate(self, value: float, parts: tuple[float, float]) -> Estimate:
        total = sum(parts)
        lower = parts[0] ** 2 / (self.users_b - 1) + parts[1] ** 2 / (self.users_a - 1)
        df = total**2 / lower if lower > 0 else self.users_b + self.users_a - 2
        return Estimate(log_lift=value, se=total**0.5, df=df)


def two_samples(
    treatment: Totals,
    control: Totals,
    past: tuple[Totals, Totals] | None = None,
) -> TwoSamples | None:
    """Compares two arms with users of their own. Needs two users in each.

    Args:
        treatment: U users.
        control: V others.
        past: the same metric of both before the test, in that order; None compares as they are.

    Returns:
        None where an arm has nothing below the line.
    """
    if treatment.value is None or control.value is None:
        return None
    arms = [(treatment.value, _contributions(treatment)), (control.value, _contributions(control))]
    theta, shifts = 0.0, (0.0, 0.0)
    if past is not None and all(each.value is not None for each in past):
        whole, whole_past = _joined(treatment, control), _joined(*past)
        theta = _slope(_contributions(whole), _contributions(whole_past))
        middle = whole_past.value or 0.0
        shifts = tuple((each.value or 0.0) - middle for each in past)  # type: ignore[assignment]
    values, variances = [], []
    for place, (value, own_U) in enumerate(arms):
        if past is not None and theta:
            own_U = own_U - theta * _contributions(past[place])
        values.append(value - theta * shifts[place])
        variances.append(float(own_U.var(ddof=1)))
    return TwoSamples(
        value_b=values[0], value_a=values[1], var_b=variances[0], var_a=variances[1],
        users_b=len(arms[0][1]), users_a=len(arms[1][1]),
    )  # fmt: skip


def _contributions(totals: Totals) -> npt.NDArray[np.float64]:
    """What each user moves the ratio of sums by: (N_u - ratio D_u) / mean(D)."""
    below_U = totals.denominator_U
    ratio = totals.value or 0.0
    moved: npt.NDArray[np.float64] = (totals.numerator_U - ratio * below_U) / below_U.mean()
    return moved


def _joined(one: Totals, other: Totals) -> Totals:
    return Totals(
        numerator_U=np.concatenate([one.numerator_U, other.numerator_U]),
        denominator_U=np.concatenate([one.denominator_U, other.denominator_U]),
    )


def _slope(now_U: npt.NDArray[np.float64], past_U: npt.NDArray[np.float64]) -> float:
    variance = float(past_U.var(ddof=1))
    return float(np.cov(now_U, past_U)[0, 1]) / variance if variance > 0 else 0.0


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

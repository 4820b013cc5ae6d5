"""The unpaired estimator: two rankers, each with users of its own, as on a platform. Arrays only.

With CUPED (Deng et al., WSDM 2013): what a user did before the test is subtracted, as far as it
predicts what the user did in it. `ifa_ray.abtest.platform` asks tea-tasting the same question; a
test holds the two to each other.

Letters: U users of one arm, V of the other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.estimate import Estimate
from ifa_ray.abtest.paired import Totals

__all__ = ["TwoSamples", "two_samples"]


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
        """On the log scale, like `ifa_ray.abtest.paired`; df by Welch. None unless both are > 0."""
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

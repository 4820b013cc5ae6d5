"""The paired user-level estimator: two rankers, the same users. Knows arrays only.

Its interval speaks of one pair of checkpoints: it holds the trained models fixed and asks what
another sample of users would have given. Whether one *architecture* is better is asked of
replicates (`ifa_ray.abtest.replicates`), where the models are trained anew.

Letters: U users, one world's, in the same order in both arms.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ifa_ray.abtest.estimate import Estimate

__all__ = ["Totals", "log_lift", "paired_difference", "paired_effect"]


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

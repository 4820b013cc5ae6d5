"""Simultaneous bands: intervals of many days of which, 95 times of 100, *none* misses.

A pointwise interval of each of 14 days misses on some day far more often than 5% of the time. The
sup-t band (Montiel Olea and Plagborg-Moller, 2019) widens all of them by one factor c, the 95%
point of the largest |t| over days, simulated from the days' own correlation.

Letters: R replicates, D days, S draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from ifa_ray.abtest.effects import Versus
from ifa_ray.abtest.estimates import MIN_REPLICATES, Floats
from ifa_ray.abtest.logs import Logs

DRAWS = 20_000
SEED = 7  # of the simulation of c; c moves by about 0.5% with it

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """Effects of D days: the band is center -+ `factor` se, a single day's `pointwise` se."""

    center_D: Floats
    se_D: Floats
    factor: float
    pointwise: float

    def bounds(self, *, simultaneous: bool) -> tuple[Floats, Floats]:
        """Lower and upper ends, float64 [D]."""
        reach_D = (self.factor if simultaneous else self.pointwise) * self.se_D
        return self.center_D - reach_D, self.center_D + reach_D


def band_over_replicates(
    lifts_RD: Floats, alpha: float, rng: np.random.Generator | None = None, draws: int = DRAWS
) -> Band | None:
    """The headline's band, from R replicates of D days; None below R = 3.

    A few replicates know the correlation of days poorly, and one that is overstated makes c too
    small; so it is shrunk towards independence, for which c is the largest (Sidak).
    """
    count, days = lifts_RD.shape
    if count < MIN_REPLICATES:
        return None
    rng = rng or np.random.default_rng(SEED)
    root_DD = np.linalg.cholesky(shrunk_correlation(lifts_RD))
    drawn_SRD = rng.standard_normal((draws, count, days)) @ root_DD.T
    t_SD = drawn_SRD.mean(axis=1) * count**0.5 / drawn_SRD.std(axis=1, ddof=1)
    se_D = lifts_RD.std(axis=0, ddof=1) / count**0.5
    return _band(lifts_RD.mean(axis=0), se_D, np.abs(t_SD).max(axis=1), count - 1, alpha)


def band_of_moments(
    center_D: Floats,
    covariance_DD: Floats,
    df: float,
    alpha: float,
    rng: np.random.Generator | None = None,
    draws: int = DRAWS,
) -> Band:
    """The band of estimates whose covariance over many users is known."""
    rng = rng or np.random.default_rng(SEED)
    se_D = np.sqrt(np.diag(covariance_DD))
    scale_D = np.where(se_D > 0, se_D, 1.0)
    correlation = covariance_DD / np.outer(scale_D, scale_D)
    np.fill_diagonal(correlation, 1.0)
    # Eigenvalues and not Cholesky: cumulative days may be one and the same to the last digit.
    values, vectors = np.linalg.eigh(correlation)
    root_DD = vectors * np.sqrt(np.clip(values, 0, None))
    z_SD = rng.standard_normal((draws, len(center_D))) @ root_DD.T
    chi_S = np.sqrt(rng.chisquare(df, draws) / df)
    return _band(center_D, se_D, np.abs(z_SD).max(axis=1) / chi_S, df, alpha)


def _band(center_D: Floats, se_D: Floats, largest_S: Floats, df: float, alpha: float) -> Band:
    pointwise = float(stats.t.isf(alpha / 2, df))
    factor = max(float(np.quantile(largest_S, 1 - alpha)), pointwise)
    return Band(center_D=center_D, se_D=se_D, factor=factor, pointwise=pointwise)


def shrunk_correlation(values_RD: Floats) -> Floats:
    """The correlation of columns, shrunk towards none by Schafer and Strimmer's (2005) intensity.

    Constant columns correlate with nothing. Always positive definite: at least a hundredth of the
    way is gone.
    """
    count, days = values_RD.shape
    sd_D = values_RD.std(axis=0, ddof=1)
    z_RD = (values_RD - values_RD.mean(axis=0)) / np.where(sd_D > 0, sd_D, 1.0)
    products_RDD = z_RD[:, :, None] * z_RD[:, None, :]
    mean_DD = products_RDD.mean(axis=0)
    r_DD = mean_DD * count / (count - 1)
    variance_DD = ((products_RDD - mean_DD) ** 2).sum(axis=0) * count / (count - 1) ** 3
    off = ~np.eye(days, dtype=bool)
    squares = float((r_DD[off] ** 2).sum())
    intensity = float(variance_DD[off].sum()) / squares if squares > 0 else 1.0
    shrunk: Floats = r_DD * (1 - float(np.clip(intensity, 0.01, 1.0)))
    np.fill_diagonal(shrunk, 1.0)
    return shrunk


def series(logs: Logs, versus: Versus) -> dict[str, list[Row]]:
    """`daily`, burn-in included, and `cumulative`, over the counted days up to each.

    Each row holds `relative`, the pointwise `interval` and the simultaneous `band` over replicates
    (None below three of them), and the same of these checkpoints, over users.
    """
    watch = [(b.day_watch_UD, a.day_watch_UD) for b, a in versus.pairs]
    first = logs.burn_in_days
    so_far = [tuple(np.cumsum(own[:, first:], axis=1) for own in pair) for pair in watch]
    by_day = [
        {"day": day, "counted": day >= first, **row} for day, row in enumerate(_rows(versus, watch))
    ]
    summed = [
        {"day": day, "counted": True, **row} for day, row in enumerate(_rows(versus, so_far), first)
    ]
    return {"daily": by_day, "cumulative": summed}


def lift_moments(
    treatment_UD: Floats, control_UD: Floats, *, paired: bool
) -> tuple[Floats, Floats]:
    """The log-lift of each column and the covariance of the lifts over users, [D] and [D, D]."""
    lifts_D = np.log(treatment_UD.sum(axis=0)) - np.log(control_UD.sum(axis=0))
    if not paired:
        lifts_D = lifts_D - np.log(len(treatment_UD)) + np.log(len(control_UD))
    shares = [values_UD / values_UD.mean(axis=0) for values_UD in (treatment_UD, control_UD)]
    parts = [shares[0] - shares[1]] if paired else shares
    covariance_DD = sum(np.atleast_2d(np.cov(part, rowvar=False)) / len(part) for part in parts)
    return lifts_D, np.asarray(covariance_DD)


def _rows(versus: Versus, watch: Sequence[tuple[Floats, ...]]) -> list[Row]:
    """Of each column; all None on a day on which some arm of a replicate watched nothing."""
    ends = ("interval", "band", "checkpoint_interval", "checkpoint_band")
    rows: list[Row] = [dict.fromkeys(("relative", *ends)) for _ in range(watch[0][0].shape[1])]
    some = np.all([(b.sum(axis=0) > 0) & (a.sum(axis=0) > 0) for b, a in watch], axis=0)
    places = np.flatnonzero(some)
    if not len(places):
        return rows
    moments = [lift_moments(b[:, places], a[:, places], paired=versus.paired) for b, a in watch]
    lifts_RD = np.array([lifts for lifts, _ in moments])
    over_users = band_of_moments(
        lifts_RD.mean(axis=0),
        np.sum([covariance for _, covariance in moments], axis=0) / len(moments) ** 2,
        df=sum(len(b) + (0 if versus.paired else len(a) - 1) - 1 for b, a in watch),
        alpha=versus.alpha,
    )
    headline = band_over_replicates(lifts_RD, versus.alpha)
    for column, place in enumerate(places):
        rows[place]["relative"] = float(np.expm1(lifts_RD[:, column].mean()))
    for prefix, band in (("", headline), ("checkpoint_", over_users)):
        for name in ("interval", "band"):
            if band is None:
                continue
            bounds = np.expm1(band.bounds(simultaneous=name == "band"))
            for place, low_high in zip(places, bounds.T.tolist(), strict=True):
                rows[place][prefix + name] = low_high
    return rows

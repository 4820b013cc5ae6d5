"""Simultaneous bands: intervals of many days of which, 95 times of 100, *none* misses. Arrays only.

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
import numpy.typing as npt
from scipy import stats

from ifa_ray.abtest.estimates import MIN_REPLICATES
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import World

DRAWS = 20_000
SEED = 7  # of the simulation of c; c moves by about 0.5% with it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """Effects of D days with a common factor.

    Attributes:
        center_D: log-lifts, or differences.
        se_D: their standard errors.
        factor: c; the band is center -+ c se.
        pointwise: the factor of a single day.
    """

    center_D: npt.NDArray[np.float64]
    se_D: npt.NDArray[np.float64]
    factor: float
    pointwise: float

    def bounds(self, *, simultaneous: bool) -> tuple[npt.NDArray[np.float64], ...]:
        """Lower and upper ends, float64 [D]."""
        reach_D = (self.factor if simultaneous else self.pointwise) * self.se_D
        return self.center_D - reach_D, self.center_D + reach_D


def band_over_replicates(
    lifts_RD: npt.NDArray[np.float64],
    alpha: float,
    rng: np.random.Generator | None = None,
    draws: int = DRAWS,
) -> Band:
    """The headline's band, from R >= 3 replicates of D days.

    A few replicates know the correlation of days poorly, and one that is overstated makes c too
    small; so it is shrunk towards independence, for which c is the largest (Sidak).
    """
    count, days = lifts_RD.shape
    if count < 3:
        raise ValueError(f"len(lifts) == {count}, must be >= 3.")
    rng = rng or np.random.default_rng(SEED)
    se_D = lifts_RD.std(axis=0, ddof=1) / count**0.5
    root_DD = np.linalg.cholesky(shrunk_correlation(lifts_RD))
    drawn_SRD = rng.standard_normal((draws, count, days)) @ root_DD.T
    t_SD = drawn_SRD.mean(axis=1) * count**0.5 / drawn_SRD.std(axis=1, ddof=1)
    factor = float(np.quantile(np.abs(t_SD).max(axis=1), 1 - alpha))
    pointwise = float(stats.t.isf(alpha / 2, count - 1))
    return Band(
        center_D=lifts_RD.mean(axis=0), se_D=se_D, factor=max(factor, pointwise),
        pointwise=pointwise,
    )  # fmt: skip


def band_of_moments(
    center_D: npt.NDArray[np.float64],
    covariance_DD: npt.NDArray[np.float64],
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
    factor = float(np.quantile(np.abs(z_SD).max(axis=1) / chi_S, 1 - alpha))
    pointwise = float(stats.t.isf(alpha / 2, df))
    return Band(center_D=center_D, se_D=se_D, factor=max(factor, pointwise), pointwise=pointwise)


def shrunk_correlation(values_RD: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
    shrunk: npt.NDArray[np.float64] = r_DD * (1 - float(np.clip(intensity, 0.01, 1.0)))
    np.fill_diagonal(shrunk, 1.0)
    return shrunk


Row = dict[str, Any]


def series(logs: Logs, own: Sequence[World], other: Sequence[World]) -> dict[str, list[Row]]:
    """`daily`, burn-in included, and `cumulative`, over the counted days up to each.

    Each row holds `relative`, the pointwise `interval` and the simultaneous `band` over replicates
    (None below three of them), and the same of these checkpoints, over users.
    """
    watch = [(b.day_watch_UD, a.day_watch_UD) for b, a in zip(own, other, strict=True)]
    days = list(range(logs.days))
    counted = [day for day in days if day >= logs.burn_in_days]
    so_far = [
        (np.cumsum(b[:, counted], axis=1), np.cumsum(a[:, counted], axis=1)) for b, a in watch
    ]
    return {
        "daily": _rows(logs, watch, days),
        "cumulative": _rows(logs, so_far, counted),
    }


def lift_moments(
    treatment_UD: npt.NDArray[np.float64], control_UD: npt.NDArray[np.float64], *, paired: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The log-lift of each column and the covariance of the lifts over users, [D] and [D, D]."""
    lifts_D = np.log(treatment_UD.sum(axis=0)) - np.log(control_UD.sum(axis=0))
    if not paired:
        lifts_D = lifts_D - np.log(len(treatment_UD)) + np.log(len(control_UD))
    shares = [values_UD / values_UD.mean(axis=0) for values_UD in (treatment_UD, control_UD)]
    parts = [shares[0] - shares[1]] if paired else shares
    covariance_DD = sum(np.atleast_2d(np.cov(part, rowvar=False)) / len(part) for part in parts)
    return lifts_D, np.asarray(covariance_DD)


def _rows(
    logs: Logs,
    watch: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    days: Sequence[int],
) -> list[Row]:
    some = np.all([(b.sum(axis=0) > 0) & (a.sum(axis=0) > 0) for b, a in watch], axis=0)
    places = np.flatnonzero(some)
    rows = [_empty(day, logs) for day in days]
    if not len(places):
        return rows
    moments = [lift_moments(b[:, places], a[:, places], paired=logs.paired) for b, a in watch]
    lifts_RD = np.array([lifts for lifts, _ in moments])
    over_users = band_of_moments(
        lifts_RD.mean(axis=0),
        np.sum([covariance for _, covariance in moments], axis=0) / len(moments) ** 2,
        df=sum(len(b) + (0 if logs.paired else len(a) - 1) - 1 for b, a in watch),
        alpha=logs.alpha,
    )
    headline = (
        band_over_replicates(lifts_RD, logs.alpha) if len(lifts_RD) >= MIN_REPLICATES else None
    )
    for column, place in enumerate(places):
        rows[place] |= {
            "relative": float(np.expm1(lifts_RD[:, column].mean())),
            "interval": _bounds(headline, column, simultaneous=False),
            "band": _bounds(headline, column, simultaneous=True),
            "checkpoint_interval": _bounds(over_users, column, simultaneous=False),
            "checkpoint_band": _bounds(over_users, column, simultaneous=True),
        }
    return rows


def _empty(day: int, logs: Logs) -> Row:
    keys = ("relative", "interval", "band", "checkpoint_interval", "checkpoint_band")
    return {"day": day, "counted": day >= logs.burn_in_days, **dict.fromkeys(keys)}


def _bounds(band: Band | None, column: int, *, simultaneous: bool) -> list[float] | None:
    if band is None:
        return None
    return [float(np.expm1(end_D[column])) for end_D in band.bounds(simultaneous=simultaneous)]

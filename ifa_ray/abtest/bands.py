"""Simultaneous bands: intervals of many days of which, 95 times of 100, *none* misses. Arrays only.

A pointwise interval of each of 14 days misses on some day far more often than 5% of the time. The
sup-t band (Montiel Olea and Plagborg-Moller, 2019) widens all of them by one factor c, the 95%
point of the largest |t| over days, simulated from the days' own correlation.

Letters: R replicates, D days, S draws.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Band", "band_of_moments", "band_over_replicates", "shrunk_correlation"]

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

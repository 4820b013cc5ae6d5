"""The effect on watch time day by day, and of the days so far, with simultaneous bands.

Letters: R replicates, U users of treatment, D days.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ifa_ray.abtest.bands import Band, band_of_moments, band_over_replicates
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import World
from ifa_ray.abtest.replicates import MIN_REPLICATES

__all__ = ["lift_moments", "series"]

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

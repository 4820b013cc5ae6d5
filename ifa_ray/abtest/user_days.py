"""From impressions to user-days, and from user-days to one row per user; compares no arms.

Letters: U users of a world in increasing order of id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.diversity import USER_DAY
from ifa_ray.abtest.metrics import COUNTS, PRIMARY
from ifa_ray.abtest.watch_norms import FIXED
from ifa_ray.errors import LogError

__all__ = ["DAY_MS", "SESSION_GAP_MS", "day_totals", "places_of", "sum_up"]

DAY_MS = 86_400_000
SESSION_GAP_MS = 30 * 60_000
"""A user who comes back after longer than this begins a new session, as web analytics has it."""


def day_totals(impressions: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user-day with at least one impression, of whatever columns the log has.

    All are int64. `d2q` and `wtg` of `WatchNorms.columns` are summed as they are.
    """
    names = impressions.collect_schema().names()
    sums = [
        pl.col("play_time_ms").cast(pl.Int64).sum().alias("watch_ms"),
        pl.len().cast(pl.Int64).alias("impressions"),
        pl.lit(1, pl.Int64).alias("active_days"),
    ]
    if "request_id" in names:
        sums.append(pl.col("request_id").n_unique().cast(pl.Int64).alias("requests"))
    if "time_ms" in names:
        gaps = pl.col("time_ms").sort().diff() > SESSION_GAP_MS
        sums.append((gaps.sum() + 1).cast(pl.Int64).alias("sessions"))
    if "duration_ms" in names:
        # An item without a duration (0) can't be completed.
        done = (pl.col("play_time_ms") >= pl.col("duration_ms")) & (pl.col("duration_ms") > 0)
        sums.append(done.cast(pl.Int64).sum().alias("completions"))
    sums += [
        pl.col(action).cast(pl.Int64).sum().alias(name)
        for action, name in COUNTS.items()
        if action in names
    ]
    sums += [pl.col(name).sum() for name in ("d2q", "wtg") if name in names]
    return impressions.group_by(USER_DAY).agg(sums)


def sum_up(
    days: pl.DataFrame, users_U: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.float64]]:
    """Sums each column over a user's days: float64 [U], zeros for users without a day.

    Fixed-point columns and milliseconds become what the metrics name.

    Args:
        days: sorted by user and day, so that sums of floats are the same in every run.
        users_U: increasing.

    Raises:
        LogError: if a row's user is not among them.
    """
    places = places_of(days["user_id"].to_numpy(), users_U)
    columns = {
        name: np.bincount(places, days[name].to_numpy(), len(users_U)).astype(np.float64)
        for name in days.columns
        if name not in USER_DAY
    }
    if "watch_ms" in columns:
        columns[PRIMARY] = columns["watch_ms"] / 1000
    for name, called in (("d2q", "d2q_time"), ("wtg", "wtg")):
        if name in columns:
            columns[called] = columns.pop(name) / FIXED
    return columns


def places_of(
    ids: npt.NDArray[np.integer], users_U: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Each row's user's place among the users of the world.

    Raises:
        LogError: naming a user who is not among them.
    """
    places = np.minimum(np.searchsorted(users_U, ids), len(users_U) - 1)
    foreign = ids[users_U[places] != ids]
    if len(foreign):
        raise LogError(f"impressions hold user_id {foreign[0]}, not a user of the world.")
    return places

"""What is counted: each metric's definition, and its totals per user of one world under one arm.

Compares no arms. The unit is the user: those who never came stay in, with zeros.

Letters: U users of a world in increasing order of id, N items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest import diversity
from ifa_ray.abtest.logs import RunLogs
from ifa_ray.abtest.paired import Totals
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import LogError

__all__ = ["METRICS", "PRIMARY", "Metric", "World", "measure"]

PRIMARY = "watch_time"

COUNTS = {
    "is_click": "clicks",
    "long_view": "long_views",
    "is_like": "likes",
    "is_comment": "comments",
    "is_follow": "follows",
    "is_forward": "forwards",
    "is_hate": "hates",
}
"""Feedback column of the log: what its sum per user is called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One line of the report: sum of `above` over sum of `below`, per user where `below` is None.

    Attributes:
        name: its key in the result.
        label: for people.
        unit: of its level.
        group: `user`, `ratio`, `diversity` or `world` (one number per world, no users).
        good: +1 where more is better, -1 where less is, 0 where it is a matter of taste.
        above: column of the numerator.
        below: column of the denominator; None divides by the number of users.
    """

    name: str
    label: str
    unit: str
    group: str
    good: int
    above: str
    below: str | None = None


def _per_user(name: str, label: str, unit: str, good: int = 1) -> Metric:
    return Metric(name=name, label=label, unit=unit, group="user", good=good, above=name)


def _ratio(name: str, label: str, unit: str, above: str, below: str, good: int = 1) -> Metric:
    return Metric(
        name=name, label=label, unit=unit, group="ratio", good=good, above=above, below=below
    )


def _diversity(name: str, label: str, unit: str, below: str) -> Metric:
    return Metric(
        name=name, label=label, unit=unit, group="diversity", good=0, above=name, below=below
    )


def _world(name: str, label: str, unit: str) -> Metric:
    return Metric(name=name, label=label, unit=unit, group="world", good=0, above=name)


METRICS = (
    _per_user(PRIMARY, "Watch time", "s per user"),
    _per_user("impressions", "Impressions", "per user"),
    _per_user("requests", "Requests", "per user"),
    _per_user("active_days", "Active days", "per user"),
    _per_user("clicks", "Clicks", "per user"),
    _per_user("long_views", "Long views", "per user"),
    _per_user("likes", "Likes", "per user"),
    _per_user("comments", "Comments", "per user"),
    _per_user("follows", "Follows", "per user"),
    _per_user("forwards", "Forwards", "per user"),
    _per_user("hates", "Hates", "per user", good=-1),
    _ratio("click_rate", "Click rate", "per impression", "clicks", "impressions"),
    _ratio("long_view_rate", "Long-view rate", "per impression", "long_views", "impressions"),
    _ratio("watch_per_impression", "Watch time", "s per impression", PRIMARY, "impressions"),
    _diversity("categories", "Distinct categories", "per user-day", "active_days"),
    _diversity("authors", "Distinct authors", "per user-day", "active_days"),
    _diversity("entropy", "Category entropy", "nats per user-day", "active_days"),
    _diversity("distance", "Intra-list distance", "cosine distance per day", "pairs"),
    _diversity("categories_k", "Distinct categories, first k", "per user-day", "days_k"),
    _diversity("authors_k", "Distinct authors, first k", "per user-day", "days_k"),
    _diversity("entropy_k", "Category entropy, first k", "nats per user-day", "days_k"),
    _diversity("distance_k", "Intra-list distance, first k", "cosine distance per day", "pairs_k"),
    _world("coverage", "Catalogue coverage", "share of items seen"),
    _world("gini", "Exposure Gini", "(0 even, 1 uneven)"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """What one world under one arm came to.

    Attributes:
        columns: for each column named by a `Metric`, float64 [U] totals over the measured days.
        day_watch_s: float64 [days], watch time of all users on each day, burn-in included.
        first_day_U: boolean, who was seen on day 0.
        coverage: share of the catalogue that anybody saw on measured days.
        gini: of exposure over the catalogue, measured days.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    day_watch_s: npt.NDArray[np.float64]
    first_day_U: npt.NDArray[np.bool_]
    coverage: float
    gini: float

    def totals(self, metric: Metric) -> Totals:
        """The metric's two columns; of a `world` metric, the world's one number over one."""
        if metric.group == "world":
            value = self.coverage if metric.above == "coverage" else self.gini
            return Totals(numerator_U=np.array([value]), denominator_U=np.ones(1))
        above = self.columns[metric.above]
        below = np.ones_like(above) if metric.below is None else self.columns[metric.below]
        return Totals(numerator_U=above, denominator_U=below)


def measure(logs: RunLogs, arm: str, replicate: int) -> World:
    """Reads one world's impressions under one arm and sums them up per user.

    Raises:
        LogError: if the log breaks its contract or holds users or items that are not the world's.
    """
    items = logs.items[replicate]
    users_U = np.sort(logs.user_ids[replicate])
    impressions = logs.scan(arm, replicate)
    measured = impressions.filter(pl.col("day") >= logs.burn_in_days)
    # First of all, because it refuses items that the joins below would silently drop.
    counts_N = diversity.exposure_counts(measured, items)

    days = _sorted(_day_totals(impressions))
    columns = _sum_up(days.filter(pl.col("day") >= logs.burn_in_days), users_U)
    columns[PRIMARY] = columns["watch_ms"] / 1000
    columns |= _diversity_totals(measured, items, users_U)
    first_k = diversity.first_of_day(measured, logs.fixed_k)
    at_k = _diversity_totals(first_k, items, users_U)
    columns |= {f"{name}_k": totals for name, totals in at_k.items()}

    day_watch_ms = np.bincount(days["day"].to_numpy(), days["watch_ms"].to_numpy(), logs.days)
    first_day_U = np.zeros(len(users_U), bool)
    first_day_U[_places(days.filter(pl.col("day") == 0), users_U)] = True
    return World(
        columns=columns,
        day_watch_s=day_watch_ms / 1000,
        first_day_U=first_day_U,
        coverage=float((counts_N > 0).mean()),
        gini=diversity.gini(counts_N),
    )


def _day_totals(impressions: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user-day with at least one impression."""
    return impressions.group_by(diversity.USER_DAY).agg(
        pl.col("play_time_ms").cast(pl.Int64).sum().alias("watch_ms"),
        pl.len().cast(pl.Int64).alias("impressions"),
        pl.col("request_id").n_unique().cast(pl.Int64).alias("requests"),
        pl.lit(1, pl.Int64).alias("active_days"),
        *(pl.col(action).cast(pl.Int64).sum().alias(name) for action, name in COUNTS.items()),
    )


def _diversity_totals(
    impressions: pl.LazyFrame, items: ItemTable, users_U: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.float64]]:
    rows = diversity.day_diversity(diversity.with_features(impressions, items))
    return _sum_up(_sorted(rows.with_columns(pl.lit(1).alias("days"))), users_U)


def _sorted(days: pl.LazyFrame) -> pl.DataFrame:
    # In order, so that sums of floats over a user's days are the same in every run.
    return days.collect(engine="streaming").sort(diversity.USER_DAY)


def _sum_up(
    days: pl.DataFrame, users_U: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.float64]]:
    """Sums each column over a user's days: float64 [U], zeros for users without a day."""
    places = _places(days, users_U)
    return {
        name: np.bincount(places, days[name].to_numpy(), len(users_U)).astype(np.float64)
        for name in days.columns
        if name not in diversity.USER_DAY
    }


def _places(days: pl.DataFrame, users_U: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Each row's user's place among the users of the world."""
    ids = days["user_id"].to_numpy()
    places = np.minimum(np.searchsorted(users_U, ids), len(users_U) - 1)
    foreign = ids[users_U[places] != ids]
    if len(foreign):
        raise LogError(f"impressions hold user_id {foreign[0]}, not a user of the world.")
    return places

"""What was so before the test: users' tastes and habits, how known items were, how long plays were.

Nothing that an arm did can have moved these, so they may divide users into segments, serve as
covariates and be the yardstick of the diversity and watch-time proxies. Compares no arms.

Letters: U users of a world in increasing order of id, N items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.diversity import UNIT, exposure_counts
from ifa_ray.abtest.user_days import DAY_MS, day_totals, sum_up
from ifa_ray.abtest.watch_norms import WatchNorms
from ifa_ray.data.items import ItemTable

__all__ = ["Norms", "UserPast", "norms_of", "past_of", "surprise_bits"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Norms:
    """The yardsticks, taken once, from control's log of the time before, and used on every arm.

    Attributes:
        watch: of plays; None where the log has no durations.
        novelty_N: int64, of each item, bits times `UNIT`; None without a catalogue.
    """

    watch: WatchNorms | None
    novelty_N: npt.NDArray[np.int64] | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UserPast:
    """What each user of one arm did before the test.

    Attributes:
        columns: float64 [U] totals by the names of `ifa_ray.abtest.user_days`; covariates.
        taste: `user_id`, `category`, `share`: the categories of what the user viewed long, of all
            impressions where the user viewed none; users without a past have no rows. None without
            a catalogue.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    taste: pl.DataFrame | None

    @property
    def history_U(self) -> npt.NDArray[np.float64]:
        """How many impressions each user had."""
        return self.columns["impressions"]

    @property
    def active_days_U(self) -> npt.NDArray[np.float64]:
        """On how many days each user came."""
        return self.columns["active_days"]


def norms_of(pre: pl.LazyFrame, items: ItemTable | None) -> Norms:
    """Measures a log from before the test.

    Args:
        pre: impressions of control's log from before the test.
        items: the catalogue, which may hold items that nobody had seen.

    Raises:
        LogError: if an item isn't in the catalogue.
    """
    names = pre.collect_schema().names()
    watch = None
    if "duration_ms" in names:
        plays = pre.select("play_time_ms", "duration_ms").collect(engine="streaming")
        if len(plays):
            watch = WatchNorms.of(plays["play_time_ms"].to_numpy(), plays["duration_ms"].to_numpy())
    novelty_N = None
    if items is not None and "video_id" in names:
        novelty_N = np.rint(surprise_bits(exposure_counts(pre, items)) * UNIT).astype(np.int64)
    return Norms(watch=watch, novelty_N=novelty_N)


def surprise_bits(counts_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-log2 of each item's share of impressions, one added to each count.

    The one keeps never-seen items finite, the most novel of all.
    """
    shares_N: npt.NDArray[np.float64] = (counts_N + 1) / (counts_N.sum() + len(counts_N))
    return -np.log2(shares_N)


def past_of(
    pre: pl.LazyFrame, items: ItemTable | None, users_U: npt.NDArray[np.integer]
) -> UserPast:
    """Measures each user's past; impressions of other users are left out."""
    ours = pl.LazyFrame({"user_id": users_U})
    own = pre.with_columns(pl.col("user_id").cast(pl.Int64)).join(
        ours.with_columns(pl.col("user_id").cast(pl.Int64)), on="user_id", how="semi"
    )
    names = own.collect_schema().names()
    if "day" not in names:
        own = own.with_columns((pl.col("time_ms") // DAY_MS).cast(pl.Int32).alias("day"))
    taste = None
    if items is not None and "video_id" in names:
        taste = _taste(own, items, "long_view" in names)
    days = day_totals(own).collect(engine="streaming").sort("user_id", "day")
    return UserPast(columns=sum_up(days, users_U), taste=taste)


def _taste(own: pl.LazyFrame, items: ItemTable, has_long_views: bool) -> pl.DataFrame:
    categories = pl.LazyFrame({"video_id": items.video_id_N, "category": items.category_N})
    liked = pl.col("long_view").cast(pl.Int64) if has_long_views else pl.lit(0, pl.Int64)
    cells = (
        own.with_columns(pl.col("video_id").cast(pl.Int32))
        .join(categories, on="video_id")
        .group_by("user_id", "category")
        .agg(pl.len().cast(pl.Int64).alias("seen"), liked.sum().alias("liked"))
    )
    sums = cells.group_by("user_id").agg(
        pl.col("seen").sum().alias("all_seen"), pl.col("liked").sum().alias("all_liked")
    )
    likes_any = pl.col("all_liked") > 0
    share = (
        pl.when(likes_any)
        .then(pl.col("liked") / pl.col("all_liked"))
        .otherwise(pl.col("seen") / pl.col("all_seen"))
    )
    return (
        cells.join(sums, on="user_id")
        .select("user_id", "category", share.alias("share"))
        .filter(pl.col("share") > 0)
        .collect(engine="streaming")
        .sort("user_id", "category")
    )

"""One world under one arm, from its impressions to totals per user; compares no arms.

The unit is the user: those who never came stay in, with zeros.

Letters: U users in increasing order of id, N items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest import totals
from ifa_ray.abtest.estimates import Totals
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.metrics import Metric
from ifa_ray.abtest.totals import UNIT, WatchNorms, day_totals, exposure_counts, places_of, sum_up
from ifa_ray.constants import DAY_MS
from ifa_ray.data.items import ItemTable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """What one world under one arm came to.

    Attributes:
        columns: for each column named by a `Metric`, float64 [U] totals over the measured days.
        past: the same of the time before the test, where it is known.
        day_watch_UD: float64 [U, days], watch time of each day in seconds, burn-in included.
        first_day_U: boolean, who was seen on day 0.
        coverage: share of the catalogue that anybody saw on measured days; NaN without one.
        gini: of exposure over the catalogue, measured days; NaN without one.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    past: UserPast | None
    day_watch_UD: npt.NDArray[np.float64]
    first_day_U: npt.NDArray[np.bool_]
    coverage: float
    gini: float

    def totals(self, metric: Metric) -> Totals:
        """The metric's two columns; of a `world` metric, the world's one number over one."""
        if metric.group == "world":
            value = self.coverage if metric.above == "coverage" else self.gini
            return Totals(numerator_U=np.array([value]), denominator_U=np.ones(1))
        return _totals(self.columns, metric)

    def past_totals(self, metric: Metric) -> Totals | None:
        """The metric before the test; None where it was not measured then."""
        if self.past is None or metric.group == "world":
            return None
        parts = (metric.above, metric.below)
        if any(part is not None and part not in self.past.columns for part in parts):
            return None
        return _totals(self.past.columns, metric)


def _totals(columns: Mapping[str, npt.NDArray[np.float64]], metric: Metric) -> Totals:
    above = columns[metric.above]
    below = np.ones_like(above) if metric.below is None else columns[metric.below]
    return Totals(numerator_U=above, denominator_U=below)


def available(logs: Logs, norms: Sequence[Norms | None]) -> set[str]:
    """What metrics may be made of: columns that all logs have, and `items`, `content`, `pre`."""
    found = set.intersection(
        *(
            set(logs.scan(arm, replicate).collect_schema().names())
            for arm in logs.arms
            for replicate in range(logs.replicates)
        )
    )
    catalogues = [logs.catalogue(replicate) for replicate in range(logs.replicates)]
    if "video_id" in found and all(items is not None for items in catalogues):
        found.add("items")
        if all(items is not None and items.content_ND.shape[1] for items in catalogues):
            found.add("content")
    if all(norm is not None for norm in norms):
        found.add("pre")
    return found


def past_and_norms(logs: Logs, replicate: int) -> tuple[dict[str, UserPast] | None, Norms | None]:
    """What was before the test: each arm's users, and the yardsticks, which are control's.

    Where arms serve the same users their past is measured once and shared.
    """
    pre = logs.scan_pre(logs.control, replicate)
    if pre is None or not pre.select(pl.len()).collect(engine="streaming").item():
        return None, None
    items = logs.catalogue(replicate)
    control = past_of(pre, items, logs.users(logs.control, replicate))
    past = {logs.control: control}
    for arm in logs.arms:
        if arm != logs.control:
            own = None if logs.paired else logs.scan_pre(arm, replicate)
            past[arm] = control if own is None else past_of(own, items, logs.users(arm, replicate))
    return past, norms_of(pre, items)


def measure(
    logs: Logs, arm: str, replicate: int, past: UserPast | None = None, norms: Norms | None = None
) -> World:
    """Reads one world's impressions under one arm and sums them up per user.

    Raises:
        LogError: if the log breaks its contract or holds users or items that are not the world's.
    """
    items = logs.catalogue(replicate)
    users_U = logs.users(arm, replicate)
    impressions = logs.scan(arm, replicate)
    measured = impressions.filter(pl.col("day") >= logs.burn_in_days)
    names = impressions.collect_schema().names()
    knows_items = items is not None and "video_id" in names
    # First of all, because it refuses items that the joins below would silently drop.
    counts_N = totals.exposure_counts(measured, items) if knows_items and items else None

    if norms is not None and norms.watch is not None and "duration_ms" in names:
        impressions = norms.watch.columns(impressions)
    days = _sorted(day_totals(impressions))
    columns = sum_up(days.filter(pl.col("day") >= logs.burn_in_days), users_U)
    if knows_items and items is not None:
        columns |= _diversity_totals(measured, items, users_U, past, norms)
        if "time_ms" in names:
            first_k = totals.first_of_day(measured, logs.fixed_k)
            at_k = _diversity_totals(first_k, items, users_U, past, norms)
            columns |= {f"{name}_k": totals for name, totals in at_k.items()}

    places = places_of(days["user_id"].to_numpy(), users_U)
    cells = places * logs.days + days["day"].to_numpy()
    day_ms = np.bincount(cells, days["watch_ms"].to_numpy(), len(users_U) * logs.days)
    first_day_U = np.zeros(len(users_U), bool)
    first_day_U[places[days["day"].to_numpy() == 0]] = True
    return World(
        columns=columns,
        past=past,
        day_watch_UD=day_ms.reshape(len(users_U), logs.days) / 1000,
        first_day_U=first_day_U,
        coverage=float((counts_N > 0).mean()) if counts_N is not None else float("nan"),
        gini=totals.gini(counts_N) if counts_N is not None else float("nan"),
    )


def _diversity_totals(
    impressions: pl.LazyFrame,
    items: ItemTable,
    users_U: npt.NDArray[np.integer],
    past: UserPast | None,
    norms: Norms | None,
) -> dict[str, npt.NDArray[np.float64]]:
    novelty_N = norms.novelty_N if norms is not None else None
    taste = past.taste.lazy() if past is not None and past.taste is not None else None
    if taste is not None:
        kind = impressions.collect_schema()["user_id"]
        taste = taste.with_columns(pl.col("user_id").cast(kind))
    seen = totals.with_features(impressions, items, novelty_N)
    return sum_up(_sorted(totals.day_diversity(seen, taste)), users_U)


def _sorted(days: pl.LazyFrame) -> pl.DataFrame:
    # In order, so that sums of floats over a user's days are the same in every run.
    return days.collect(engine="streaming").sort(totals.USER_DAY)


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
        columns: float64 [U] totals by the names of `ifa_ray.abtest.totals`; covariates.
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

"""One world under one arm, from its impressions to totals per user, and its past; compares no arms.

The unit is the user: those who never came stay in, with zeros. Watch time without the video's
length is measured by two proxies, frozen on the time before the test, which compare a play with
those of videos of like duration: D2Q (duration-deconfounded quantile; Zhan et al., KDD 2022), the
share of plays in the same duration bin that were shorter, ties counting half; WTG (watch time gain;
Zheng et al., 2022), (play - mean of the bin) / (standard deviation of it).

Letters: U users in increasing order of id, N items.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.estimates import Totals
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.metrics import Metric
from ifa_ray.abtest.totals import (
    UNIT,
    Columns,
    day_diversity,
    day_totals,
    exposure_counts,
    first_of_day,
    gini,
    places_of,
    sum_up,
    with_features,
)
from ifa_ray.data.items import ItemTable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """One world under one arm, summed up.

    Attributes:
        columns: for each column named by a `Metric`, float64 [U] totals over the measured days.
        past: the same of the time before the test, where it is known.
        day_watch_UD: float64 [U, days], watch time of each day in seconds, burn-in included.
        first_day_U: boolean, who was seen on day 0.
        exposure: of a catalogue, `coverage`, the share that anybody saw on measured days, and its
            `gini`.
    """

    columns: Columns
    past: Columns | None
    day_watch_UD: npt.NDArray[np.float64]
    first_day_U: npt.NDArray[np.bool_]
    exposure: Mapping[str, float]

    def totals(self, metric: Metric) -> Totals:
        """The metric's two columns; of a `world` metric, the world's one number over one."""
        if metric.group == "world":
            value = np.array([self.exposure[metric.above]])
            return Totals(numerator_U=value, denominator_U=np.ones(1))
        return _totals(self.columns, metric)

    def past_totals(self, metric: Metric) -> Totals | None:
        """The metric before the test; None where it was not measured then."""
        if self.past is None or not {metric.above, metric.below} <= {None, *self.past}:
            return None
        return _totals(self.past, metric)


def _totals(columns: Columns, metric: Metric) -> Totals:
    above = columns[metric.above]
    below = np.ones_like(above) if metric.below is None else columns[metric.below]
    return Totals(numerator_U=above, denominator_U=below)


def available(logs: Logs, pasts: Sequence[Past | None]) -> set[str]:
    """Material of metrics: columns that all logs have, and `items`, `content`, `pre`."""
    schemas = [set(frame.collect_schema().names()) for frame in logs.frames.values()]
    found = set.intersection(*schemas)
    catalogues = [items for items in logs.catalogues.values() if items is not None]
    if "video_id" in found and catalogues:
        found.add("items")
        if all(items.content_ND.shape[1] for items in catalogues):
            found.add("content")
    return found if None in pasts else found | {"pre"}


def measure(logs: Logs, arm: str, replicate: int, past: Past | None = None) -> World:
    """Reads one world's impressions under one arm and sums them up per user.

    Raises:
        LogError: if the log holds users or items that are not the world's.
    """
    items, users_U = logs.catalogues[replicate], logs.users[arm, replicate]
    impressions = logs.frames[arm, replicate]
    counted = pl.col("day") >= logs.burn_in_days
    measured = impressions.filter(counted)
    names = impressions.collect_schema().names()
    if "video_id" not in names:
        items = None
    exposure = {}
    if items is not None:
        # First of all, because it refuses items that the joins below would silently drop.
        counts_N = exposure_counts(measured, items)
        exposure = {"coverage": float((counts_N > 0).mean()), "gini": gini(counts_N)}
    if past is not None and past.watch is not None and "duration_ms" in names:
        impressions = past.watch.columns(impressions)
    days = day_totals(impressions).collect(engine="streaming")
    columns = sum_up(days.lazy().filter(counted), users_U)
    if items is not None:
        whole = {"": measured}
        if "time_ms" in names:
            whole["_k"] = first_of_day(measured, logs.fixed_k)
        for suffix, shown in whole.items():
            seen = with_features(shown, items, None if past is None else past.novelty_N)
            diverse = day_diversity(seen, None if past is None else past.tastes[arm])
            columns |= {f"{name}{suffix}": v for name, v in sum_up(diverse, users_U).items()}

    places, day = places_of(days["user_id"].to_numpy(), users_U), days["day"].to_numpy()
    shape = len(users_U), logs.days
    day_ms = np.bincount(places * logs.days + day, days["watch_ms"].to_numpy(), np.prod(shape))
    first_day_U = np.zeros(len(users_U), bool)
    first_day_U[places[day == 0]] = True
    return World(
        columns=columns,
        past=None if past is None else past.columns[arm],
        day_watch_UD=day_ms.reshape(shape) / 1000,
        first_day_U=first_day_U,
        exposure=exposure,
    )


MAX_BINS = 30
MIN_PLAYS = 100
"""A bin has about as many plays or more, so that its quantiles are worth something."""

_PLAY_BITS = 40  # plays up to 34 years; bins above them in one sorted key

Ints = npt.NDArray[np.integer]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """One replicate before the test.

    Attributes:
        columns: each arm's totals [U] by the names of `ifa_ray.abtest.totals`; covariates.
        tastes: each arm's `user_id`, `category`, `share`: the categories of what the user viewed
            long, of all impressions where the user viewed none; users without a past have no rows.
            None without a catalogue.
        watch: of control's plays; None where the log has no durations.
        novelty_N: int64, of each item in control's log, bits times `UNIT`; or None likewise.
    """

    columns: Mapping[str, Columns]
    tastes: Mapping[str, pl.LazyFrame | None]
    watch: WatchNorms | None
    novelty_N: npt.NDArray[np.int64] | None


def past_of(logs: Logs, replicate: int) -> Past | None:
    """Measures each arm's users before the test; None where nothing is known of control's.

    Raises:
        LogError: if an item isn't in the catalogue.
    """
    pre = logs.pre_frames.get((logs.control, replicate))
    if pre is None or not pre.select(pl.len()).collect(engine="streaming").item():
        return None
    items, names = logs.catalogues[replicate], pre.collect_schema().names()
    watch = novelty_N = None
    if "duration_ms" in names:
        plays = pre.select("play_time_ms", "duration_ms").collect(engine="streaming")
        watch = WatchNorms.of(plays["play_time_ms"].to_numpy(), plays["duration_ms"].to_numpy())
    if items is not None and "video_id" in names:
        novelty_N = np.rint(surprise_bits(exposure_counts(pre, items)) * UNIT).astype(np.int64)
    # Where arms serve the same users their past is measured once and shared.
    apart = (logs.control,) if logs.paired else logs.arms
    own = {
        arm: _users_past(logs.pre_frames[arm, replicate], items, logs.users[arm, replicate])
        for arm in apart
    }
    shared = {arm: own.get(arm, own[logs.control]) for arm in logs.arms}
    return Past(
        columns={arm: columns for arm, (columns, _) in shared.items()},
        tastes={arm: taste for arm, (_, taste) in shared.items()},
        watch=watch,
        novelty_N=novelty_N,
    )


def surprise_bits(counts_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-log2 of each item's share of impressions, one added to each count.

    The one keeps never-seen items finite, the most novel of all.
    """
    shares_N: npt.NDArray[np.float64] = (counts_N + 1) / (counts_N.sum() + len(counts_N))
    return -np.log2(shares_N)


def _users_past(
    pre: pl.LazyFrame, items: ItemTable | None, users_U: Ints
) -> tuple[Columns, pl.LazyFrame | None]:
    """Totals and taste of these users; impressions of others are left out."""
    own = pre.join(pl.LazyFrame({"user_id": users_U}), on="user_id", how="semi")
    known = items is not None and "video_id" in own.collect_schema().names()
    taste = taste_of(own, items) if items is not None and known else None
    return sum_up(day_totals(own), users_U), taste


def taste_of(own: pl.LazyFrame, items: ItemTable) -> pl.LazyFrame:
    """Shares of categories in what each user viewed long; see `Past.tastes`."""
    has_long_views = "long_view" in own.collect_schema().names()
    categories = pl.LazyFrame({"video_id": items.video_id_N, "category": items.category_N})
    liked = pl.col("long_view").cast(pl.Int64) if has_long_views else pl.lit(0, pl.Int64)
    cells = (
        own.with_columns(pl.col("video_id").cast(pl.Int32))
        .join(categories, on="video_id")
        .group_by("user_id", "category")
        .agg(pl.len().cast(pl.Int64).alias("seen"), liked.sum().alias("liked"))
    )
    sums = cells.group_by("user_id").agg(pl.col("seen", "liked").sum().name.prefix("all_"))
    by_long_views = pl.col("liked") / pl.col("all_liked")
    share = (
        pl.when(pl.col("all_liked") > 0)
        .then(by_long_views)
        .otherwise(pl.col("seen") / pl.col("all_seen"))
    )
    taste = cells.join(sums, on="user_id").select("user_id", "category", share.alias("share"))
    return taste.filter(pl.col("share") > 0).collect(engine="streaming").lazy()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WatchNorms:
    """Plays of each duration before the test.

    Attributes:
        edges_B: int64, the lower end of each duration bin but the first, ms.
        keys_N: int64, sorted: the bin above the play time, one number per play.
        starts_B: int64, where each bin begins in `keys_N`; one more than there are bins.
        mean_B, sd_B: float64, of play times, ms.
    """

    edges_B: npt.NDArray[np.int64]
    keys_N: npt.NDArray[np.int64]
    starts_B: npt.NDArray[np.int64]
    mean_B: npt.NDArray[np.float64]
    sd_B: npt.NDArray[np.float64]

    @classmethod
    def of(cls, play_ms_N: Ints, duration_ms_N: Ints) -> WatchNorms:
        """Measures a log's plays. Bins hold equally many, as far as equal durations allow."""
        durations_N = duration_ms_N.astype(np.int64)
        bins = int(np.clip(len(durations_N) // MIN_PLAYS, 1, MAX_BINS))
        inner = np.arange(1, bins) / bins
        edges_B = np.unique(np.quantile(durations_N, inner, method="higher").astype(np.int64))
        edges_B = edges_B[edges_B > durations_N.min()]
        bin_N = np.searchsorted(edges_B, durations_N, side="right")
        keys_N = np.sort((bin_N << _PLAY_BITS) | play_ms_N.astype(np.int64))
        firsts_B = np.arange(len(edges_B) + 2, dtype=np.int64) << _PLAY_BITS
        starts_B = np.searchsorted(keys_N, firsts_B)
        plays_N = (keys_N & ((1 << _PLAY_BITS) - 1)).astype(np.float64)
        plays = [plays_N[low:high] for low, high in itertools.pairwise(starts_B)]
        return cls(
            edges_B=edges_B,
            keys_N=keys_N,
            starts_B=starts_B,
            mean_B=np.array([part.mean() for part in plays]),
            sd_B=np.array([part.std() for part in plays]),
        )

    def proxies(
        self, play_ms_M: Ints, duration_ms_M: Ints
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """D2Q and WTG of M plays, times `UNIT`; WTG 0 in a bin of like plays. O(M log N)."""
        bin_M = np.searchsorted(self.edges_B, duration_ms_M.astype(np.int64), side="right")
        key_M = (bin_M << _PLAY_BITS) | play_ms_M.astype(np.int64)
        start_M = self.starts_B[bin_M]
        below_M, upto_M = (np.searchsorted(self.keys_N, key_M, side=s) for s in ("left", "right"))
        d2q_M = ((below_M + upto_M) / 2 - start_M) / (self.starts_B[bin_M + 1] - start_M)
        sd_M = self.sd_B[bin_M]
        gain_M = play_ms_M - self.mean_B[bin_M]
        wtg_M = np.divide(gain_M, sd_M, out=np.zeros(len(bin_M)), where=sd_M > 0)
        return np.rint(d2q_M * UNIT).astype(np.int64), np.rint(wtg_M * UNIT).astype(np.int64)

    def columns(self, impressions: pl.LazyFrame) -> pl.LazyFrame:
        """Adds `d2q` and `wtg` (int64, times `UNIT`) to impressions."""

        def measured(rows: pl.Series) -> pl.Series:
            plays = rows.struct.unnest().cast(pl.Int64)
            found = self.proxies(*(column.to_numpy() for column in plays))
            return pl.DataFrame(dict(zip(("d2q", "wtg"), found, strict=True))).to_struct()

        kind = pl.Struct({"d2q": pl.Int64, "wtg": pl.Int64})
        both = pl.struct("play_time_ms", "duration_ms")
        return impressions.with_columns(
            both.map_batches(measured, kind, is_elementwise=True).struct.unnest()
        )

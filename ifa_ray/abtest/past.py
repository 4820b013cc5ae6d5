"""The past of users, items and plays, from before the test; the same for every arm.

Watch time without the video's length is measured by two proxies, frozen on the time before the
test, which compare a play with those of videos of like duration: D2Q (duration-deconfounded
quantile; Zhan et al., KDD 2022), the share of plays in the same duration bin that were shorter,
ties counting half; WTG (watch time gain; Zheng et al., 2022), (play - mean of the bin) / (standard
deviation of it).

Letters: U users in increasing order of id, N items or plays, B duration bins.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.totals import UNIT, Columns, day_totals, exposure_counts, sum_up
from ifa_ray.data.items import ItemTable

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

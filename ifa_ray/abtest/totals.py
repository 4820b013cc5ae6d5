"""From impressions to user-days and to one row per user: watch time, counts, diversity.

Sums are of integers, so they do not depend on the order of rows. Compares no arms.

Letters: U users of a world in increasing order of id, N items.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.metrics import COUNTS, PRIMARY
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import LogError

USER_DAY = ("user_id", "day")

SESSION_GAP_MS = 30 * 60_000
"""A user who comes back after longer than this begins a new session, as web analytics has it."""

UNIT = 2**20  # fixed point of unit content vectors (distances are right to about 1e-6) and proxies
NATS = 2**32  # fixed point of c ln c, and of shares

MISFIT_FLOOR = 0.01
"""alpha of Steck's calibration (RecSys 2018): keeps the divergence finite for unseen categories."""

Columns = dict[str, npt.NDArray[np.float64]]


def day_totals(impressions: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user-day with at least one impression, of whatever columns the log has.

    All are int64. `d2q` and `wtg` of `ifa_ray.abtest.measure.WatchNorms` are summed as they are.
    """
    names = impressions.collect_schema().names()
    sums = {
        "watch_ms": pl.col("play_time_ms").cast(pl.Int64).sum(),
        "impressions": pl.len(),
        "active_days": pl.lit(1),
    }
    if "request_id" in names:
        sums["requests"] = pl.col("request_id").n_unique()
    if "time_ms" in names:
        sums["sessions"] = (pl.col("time_ms").sort().diff() > SESSION_GAP_MS).sum() + 1
    if "duration_ms" in names:
        # An item without a duration (0) can't be completed.
        done = (pl.col("play_time_ms") >= pl.col("duration_ms")) & (pl.col("duration_ms") > 0)
        sums["completions"] = done.sum()
    counted = {**COUNTS, "d2q": "d2q", "wtg": "wtg"}
    sums |= {
        name: pl.col(column).cast(pl.Int64).sum()
        for column, name in counted.items()
        if column in names
    }
    return impressions.group_by(USER_DAY).agg(
        total.cast(pl.Int64).alias(name) for name, total in sums.items()
    )


def sum_up(days: pl.LazyFrame, users_U: npt.NDArray[np.integer]) -> Columns:
    """Sums each column over a user's days: float64 [U], zeros for users without a day.

    Fixed-point columns and milliseconds become what the metrics name.

    Raises:
        LogError: if a row's user is not among them.
    """
    # In order, so that sums of floats over a user's days are the same in every run.
    table = days.collect(engine="streaming").sort(USER_DAY)
    places = places_of(table["user_id"].to_numpy(), users_U)
    columns = {
        column.name: np.bincount(places, column.to_numpy(), len(users_U)).astype(np.float64)
        for column in table.drop(USER_DAY)
    }
    if "watch_ms" in columns:
        columns[PRIMARY] = columns["watch_ms"] / 1000
    for name, called in (("d2q", "d2q_time"), ("wtg", "wtg")):
        if name in columns:
            columns[called] = columns.pop(name) / UNIT
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


def with_features(
    impressions: pl.LazyFrame, items: ItemTable, novelty_N: npt.NDArray[np.int64] | None = None
) -> pl.LazyFrame:
    """Adds author, category, the unit content vector and `novelty` (as integers, times `UNIT`)."""
    norm = np.linalg.norm(items.content_ND, axis=1, keepdims=True)
    unit_ND = np.divide(items.content_ND, norm, out=np.zeros_like(items.content_ND), where=norm > 0)
    fixed_ND = np.rint(unit_ND.astype(np.float64) * UNIT).astype(np.int64)
    features = pl.LazyFrame(
        {
            "video_id": items.video_id_N,
            "author_id": items.author_id_N,
            "category": items.category_N,
            "norm2": (fixed_ND**2).sum(axis=1),
            **({} if novelty_N is None else {"novelty": novelty_N}),
            **{f"content_{d}": column for d, column in enumerate(fixed_ND.T)},
        }
    )
    return impressions.with_columns(pl.col("video_id").cast(pl.Int32)).join(features, on="video_id")


def first_of_day(impressions: pl.LazyFrame, k: int) -> pl.LazyFrame:
    """The first k impressions of each user-day that has k or more.

    Shorter days are left out: an arm whom users watch longer would show more variety on them.
    """
    names = impressions.collect_schema().names()
    # Where a log lacks the first two, impressions of the same millisecond go by their item.
    order = [name for name in ("time_ms", "request_id", "position", "video_id") if name in names]
    kept = [name for name in ("video_id", "long_view") if name in names]
    return (
        impressions.group_by(USER_DAY)
        .agg(pl.col(*kept).sort_by(order).head(k))
        .filter(pl.col("video_id").list.len() == k)
        .explode(kept)
    )


def day_diversity(seen: pl.LazyFrame, taste: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """One row per user-day of the rows from `with_features`.

    Columns, of the day's n impressions:
        days: 1.
        categories, authors: numbers of distinct ones.
        entropy: of the categories, nats. gini_simpson: 1 - sum of squared shares of categories.
        distance: 1 - cosine of the content vectors, mean over pairs; with `pairs` 1, or both 0
            where there is no pair or no content.
        novelty: mean surprise of the items, bits, where `with_features` was given it.
        misfit, serendipity: with `taste` only; see `_against_taste`. `tasted` counts their days.
    """
    names = seen.collect_schema().names()
    vectors = [name for name in names if name.startswith("content_")]
    novel = ["novelty"] if "novelty" in names else []
    long_view = pl.col("long_view") if "long_view" in names else pl.lit(0)
    days = seen.group_by(USER_DAY).agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("author_id").n_unique().cast(pl.Int64).alias("authors"),
        pl.col("norm2", *novel, *vectors).sum(),
    )
    cells = seen.group_by(*USER_DAY, "category").agg(
        pl.len().cast(pl.Int64).alias("count"), long_view.cast(pl.Int64).sum().alias("liked")
    )
    count = pl.col("count").cast(pl.Float64)
    spread = cells.group_by(USER_DAY).agg(
        pl.len().cast(pl.Int64).alias("categories"),
        (count * count.log() * NATS).round().cast(pl.Int64).sum().alias("c_ln_c"),
        (pl.col("count") ** 2).sum().alias("c2"),
    )
    n = pl.col("n").cast(pl.Float64)
    # Sum over pairs of the cosines, in O(n D): (|sum of vectors|^2 - sum of |vector|^2) / 2.
    squares = [pl.col(name).cast(pl.Float64) ** 2 for name in vectors]
    cosines = (pl.sum_horizontal(squares or [pl.lit(0.0)]) - pl.col("norm2")) / UNIT**2
    has_pair = (pl.col("n") >= 2) & pl.lit(bool(vectors))
    rows = days.join(spread, on=USER_DAY).select(
        *USER_DAY,
        pl.lit(1, pl.Int64).alias("days"),
        "categories",
        "authors",
        (n.log() - pl.col("c_ln_c") / NATS / n).alias("entropy"),
        (1 - pl.col("c2") / n**2).alias("gini_simpson"),
        pl.when(has_pair).then(1 - cosines / (n * (n - 1))).otherwise(0.0).alias("distance"),
        has_pair.cast(pl.Int64).alias("pairs"),
        *[(pl.col("novelty") / n / UNIT).alias("novelty") for _ in novel],
    )
    if taste is None:
        return rows
    return rows.join(_against_taste(cells, taste), on=USER_DAY, how="left").with_columns(
        pl.col("misfit", "serendipity").fill_null(0.0), pl.col("tasted").fill_null(0)
    )


def _against_taste(cells: pl.LazyFrame, taste: pl.LazyFrame) -> pl.LazyFrame:
    """A day's categories beside the user's own taste before the test, p.

    misfit (calibration; Steck 2018): KL(p || (1 - a) q + a p), q the day's shares, a =
    `MISFIT_FLOOR`; 0 where the day is as the taste. A category that the day lacks gives
    p ln(1/a), so only those that it has need a row.

    serendipity: the mean over impressions of (viewed long) x (1 - p of its category): what was
    liked, though the user's past would not have said so.
    """
    # A window would hold all cells in memory and can't stream; a join of the sums can.
    totals = cells.group_by(USER_DAY).agg(pl.col("count").sum().alias("n"))
    p, q = pl.col("share"), pl.col("count") / pl.col("n")
    mixed = (1 - MISFIT_FLOOR) * q + MISFIT_FLOOR * p
    gained = p * ((p / mixed).log() - math.log(1 / MISFIT_FLOOR))
    unseen = p.is_null()
    surprise = pl.when(unseen).then(1.0).otherwise(1 - p) * pl.col("liked")
    return (
        cells.join(taste.select("user_id").unique(), on="user_id", how="semi")
        .join(totals, on=USER_DAY)
        .join(taste, on=("user_id", "category"), how="left")
        .select(
            *USER_DAY,
            "count",
            pl.when(unseen).then(0.0).otherwise(gained * NATS).round().cast(pl.Int64).alias("kl"),
            (surprise * NATS).round().cast(pl.Int64).alias("surprise"),
        )
        .group_by(USER_DAY)
        .agg(pl.col("kl", "surprise", "count").sum())
        .select(
            *USER_DAY,
            # A day that is just like the taste may round to a hair below nothing.
            (math.log(1 / MISFIT_FLOOR) + pl.col("kl") / NATS).clip(0).alias("misfit"),
            (pl.col("surprise") / NATS / pl.col("count")).alias("serendipity"),
            pl.lit(1, pl.Int64).alias("tasted"),
        )
    )


def exposure_counts(impressions: pl.LazyFrame, items: ItemTable) -> npt.NDArray[np.int64]:
    """Counts how often each item of the catalogue was seen, int64 [N].

    Raises:
        LogError: if an impression's item is not in the catalogue.
    """
    counts = impressions.group_by("video_id").agg(pl.len()).collect(engine="streaming")
    ids = counts["video_id"].cast(pl.Int32).to_numpy()
    rows = items.rows(ids)
    if not rows.all():
        raise LogError(
            f"impressions hold video_id {ids[rows == 0].min()}, "
            f"not in the catalogue of {len(items)} items."
        )
    counts_N = np.zeros(len(items), np.int64)
    counts_N[rows - 1] = counts["len"].to_numpy()
    return counts_N


def gini(counts_N: npt.NDArray[np.int64]) -> float:
    """The Gini coefficient of exposure: 0 all items alike, towards 1 one item has it all."""
    total, n = int(counts_N.sum()), len(counts_N)
    if total == 0:
        return 0.0
    return 2 * float((np.arange(1, n + 1) * np.sort(counts_N)).sum()) / (n * total) - (n + 1) / n

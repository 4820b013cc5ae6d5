"""How varied a user's day was and how much of the catalogue a world saw; compares no arms.

Sums are of integers wherever rows are grouped: grouping goes through rows in any order, floating
point sums depend on it, and an A/A run must be equal to the last bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.data.items import ItemTable
from ifa_ray.errors import LogError

__all__ = ["day_diversity", "exposure_counts", "first_of_day", "gini", "with_features"]

USER_DAY = ("user_id", "day")
UNIT = 2**20  # fixed point of unit content vectors: distances are right to about 1e-6
NATS = 2**32  # fixed point of c ln c


def with_features(impressions: pl.LazyFrame, items: ItemTable) -> pl.LazyFrame:
    """Adds author, category and the unit content vector (as integers, times `UNIT`)."""
    norm = np.linalg.norm(items.content_ND, axis=1, keepdims=True)
    unit_ND = np.divide(items.content_ND, norm, out=np.zeros_like(items.content_ND), where=norm > 0)
    fixed_ND = np.rint(unit_ND.astype(np.float64) * UNIT).astype(np.int64)
    features = pl.LazyFrame(
        {
            "video_id": items.video_id_N,
            "author_id": items.author_id_N,
            "category": items.category_N,
            "norm2": (fixed_ND**2).sum(axis=1),
            **{f"content_{d}": column for d, column in enumerate(fixed_ND.T)},
        }
    )
    return impressions.with_columns(pl.col("video_id").cast(pl.Int32)).join(features, on="video_id")


def first_of_day(impressions: pl.LazyFrame, k: int) -> pl.LazyFrame:
    """The first k impressions of each user-day that has k or more.

    Shorter days are left out: an arm whom users watch longer would show more variety on them.
    """
    order = ("time_ms", "request_id", "position")
    return (
        impressions.group_by(USER_DAY)
        .agg(pl.col("video_id").sort_by(order).head(k))
        .filter(pl.col("video_id").list.len() == k)
        .explode("video_id")
    )


def day_diversity(seen: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user-day of the rows from `with_features`.

    `categories` and `authors` are numbers of distinct ones; `entropy` of the categories is in nats;
    `distance` is 1 - cosine of the content vectors, mean over the day's pairs, and 0 with
    `pairs` == 0 where there is no pair or no content.
    """
    vectors = [name for name in seen.collect_schema().names() if name.startswith("content_")]
    days = seen.group_by(USER_DAY).agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("category").n_unique().cast(pl.Int64).alias("categories"),
        pl.col("author_id").n_unique().cast(pl.Int64).alias("authors"),
        pl.col("norm2", *vectors).sum(),
    )
    count = pl.col("count").cast(pl.Float64)
    spread = (
        seen.group_by(*USER_DAY, "category")
        .agg(pl.len().alias("count"))
        .group_by(USER_DAY)
        .agg((count * count.log() * NATS).round().cast(pl.Int64).sum().alias("c_ln_c"))
    )
    n = pl.col("n").cast(pl.Float64)
    # Sum over pairs of the cosines, in O(n D): (|sum of vectors|^2 - sum of |vector|^2) / 2.
    squares = [pl.col(name).cast(pl.Float64) ** 2 for name in vectors]
    cosines = (pl.sum_horizontal(squares or [pl.lit(0.0)]) - pl.col("norm2")) / UNIT**2
    has_pair = (pl.col("n") >= 2) & pl.lit(bool(vectors))
    return days.join(spread, on=USER_DAY).select(
        *USER_DAY,
        "categories",
        "authors",
        (n.log() - pl.col("c_ln_c") / NATS / n).alias("entropy"),
        pl.when(has_pair).then(1 - cosines / (n * (n - 1))).otherwise(0.0).alias("distance"),
        has_pair.cast(pl.Int64).alias("pairs"),
    )


def exposure_counts(impressions: pl.LazyFrame, items: ItemTable) -> npt.NDArray[np.int64]:
    """How often each item of the catalogue was seen, int64 [N], never-seen ones included.

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
    total = int(counts_N.sum())
    if total == 0:
        return 0.0
    n = len(counts_N)
    ranks_N = np.arange(1, n + 1)
    return 2 * float((ranks_N * np.sort(counts_N)).sum()) / (n * total) - (n + 1) / n

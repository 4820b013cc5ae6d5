"""What a platform would have seen: half of the users on each arm, analysed by tea-tasting.

A platform can't show one user two rankers, so it pays for the differences between users. Its
interval beside the paired one is the honest price of not being a simulation. Knows totals per user.

Letters: U users of all worlds together.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.effects import Effect
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import World
from ifa_ray.abtest.metrics import PRIMARY, Metric

SHOWN = (PRIMARY, "impressions", "long_views", "likes", "click_rate", "long_view_rate")
"""Metrics that are asked about, where the log has them."""

SALT = 0x5DEECE66D


def platform_view(
    logs: Logs,
    metrics: Sequence[Metric],
    own: Sequence[World],
    other: Sequence[World],
    effects: Mapping[str, Effect],
) -> dict[str, Any]:
    """The unpaired analysis, with and without CUPED where the time before the test is known.

    Returns:
        `users` of control and treatment, `srm_p` of their ratio, and `rows`: each metric's level,
        effect, interval and p, and `price`, by how many times its interval is wider than the paired
        one of these checkpoints. An interval of tea-tasting is on its log scale; p on its linear.
    """
    split = [
        in_treatment(logs.users(logs.control, replicate), replicate) if logs.paired else None
        for replicate in range(logs.replicates)
    ]
    shown = [metric for metric in metrics if metric.name in SHOWN]
    frame = pl.concat(
        [_frame(shown, b, a, mask) for b, a, mask in zip(own, other, split, strict=True)]
    )
    answer = ask_tea_tasting(frame, shown, logs.alpha)
    for row in answer["rows"]:
        row["price"] = _price(row, effects[row["metric"]], logs.alpha) if logs.paired else None
    return answer


def in_treatment(users_U: npt.NDArray[np.integer], replicate: int) -> npt.NDArray[np.bool_]:
    """Whom a fair coin of each user's own puts on treatment: a hash of the user (splitmix64)."""
    with np.errstate(over="ignore"):
        key_U = users_U.astype(np.uint64) + np.uint64(SALT + 1_000_003 * replicate)
        key_U = key_U * np.uint64(0x9E3779B97F4A7C15)
        key_U = (key_U ^ (key_U >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key_U = (key_U ^ (key_U >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (key_U >> np.uint64(63)).astype(bool)


def _frame(
    metrics: Sequence[Metric], b: World, a: World, mask_U: npt.NDArray[np.bool_] | None
) -> pl.DataFrame:
    """One row per user of the arm that serves it: the metrics' columns and those of the past."""
    parts = []
    for variant, world in ((1, b), (0, a)):
        kept = slice(None) if mask_U is None else mask_U == bool(variant)
        columns: dict[str, Any] = {}
        for name in _columns_of(metrics):
            columns[name] = world.columns[name][kept]
            if world.past is not None and name in world.past.columns:
                columns[f"pre_{name}"] = world.past.columns[name][kept]
        size = len(next(iter(columns.values())))
        parts.append(pl.DataFrame({"variant": np.full(size, variant), **columns}))
    return pl.concat(parts)


def ask_tea_tasting(frame: pl.DataFrame, metrics: Sequence[Metric], alpha: float) -> dict[str, Any]:
    """Runs tea-tasting's experiment on one row per user.

    Args:
        frame: `variant` (1 treatment, 0 control), the metrics' columns, and `pre_` + name for
            those that are known of the time before.
        metrics: means and ratios.
        alpha: 1 - the level of the intervals.
    """
    # A tenth of a second, and most commands never get here.
    import tea_tasting as tt

    if any(frame.null_count().row(0)):
        raise ValueError("null values would silently shrink tea-tasting's standard errors")
    counts = [int((frame["variant"] == variant).sum()) for variant in (0, 1)]
    if min(counts) < 2:
        return {"users": counts, "srm_p": None, "rows": []}
    asked: dict[str, Any] = {"srm": tt.SampleRatio()}
    for metric in metrics:
        if not all(_some(frame, part, counts) for part in (metric.above, metric.below) if part):
            continue  # it would divide by zero
        for cuped in (False, True):
            arguments = _arguments(frame, metric, cuped=cuped)
            if arguments is not None:
                kind = tt.Mean if metric.below is None else tt.RatioOfMeans
                asked[f"{metric.name} {int(cuped)}"] = kind(*arguments, confidence_level=1 - alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a spread of 0, see below
        results = tt.Experiment(asked, variant="variant").analyze(_moments(frame), control=0)
    rows = []
    for metric in metrics:
        for cuped in (False, True):
            if f"{metric.name} {int(cuped)}" not in asked:
                continue
            found = results[f"{metric.name} {int(cuped)}"]
            interval = [found.rel_effect_size_ci_lower, found.rel_effect_size_ci_upper]
            rows.append(
                {
                    "metric": metric.name,
                    "label": metric.label,
                    "cuped": cuped,
                    "control": _finite(found.control),
                    "treatment": _finite(found.treatment),
                    "relative": _finite(found.rel_effect_size),
                    "interval": None if any(_finite(v) is None for v in interval) else interval,
                    "p": _finite(found.pvalue),
                }
            )
    return {"users": counts, "srm_p": _finite(results["srm"].pvalue), "rows": rows}


def _moments(frame: pl.DataFrame) -> dict[object, Any]:
    """Means and covariances of each variant, as tea-tasting takes them.

    It would group the frame by variant itself; but polars groups with threads, so that sums of
    floats would differ in their last digits from run to run.
    """
    from tea_tasting.aggr import read_aggregates

    names = [name for name in frame.columns if name != "variant"]
    return {
        variant: read_aggregates(
            frame.filter(pl.col("variant") == variant).select(names).rechunk(),
            None,
            has_count=True,
            mean_cols=names,
            var_cols=names,
            cov_cols=list(itertools.combinations(names, 2)),
        )
        for variant in (0, 1)
    }


def _columns_of(metrics: Sequence[Metric]) -> list[str]:
    names = [name for metric in metrics for name in (metric.above, metric.below) if name]
    return list(dict.fromkeys(names))


def _some(frame: pl.DataFrame, name: str, counts: Sequence[int]) -> bool:
    """True if both arms have something of it."""
    sums = frame.group_by("variant").agg(pl.col(name).sum())
    return len(counts) == len(sums) and bool((sums[name] > 0).all())


def _arguments(frame: pl.DataFrame, metric: Metric, *, cuped: bool) -> tuple[str, ...] | None:
    """Column names by position, since keywords differ between versions of tea-tasting."""
    plain = (metric.above,) if metric.below is None else (metric.above, metric.below)
    if not cuped:
        return plain
    past = tuple(f"pre_{name}" for name in plain)
    known = all(name in frame.columns and frame[name].sum() > 0 for name in past)
    return plain + past if known else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _price(row: Mapping[str, Any], effect: Effect, alpha: float) -> float | None:
    """How many times wider than the paired interval, on the log scale."""
    pooled = effect.pooled
    if row["interval"] is None or pooled is None or pooled.se == 0:
        return None
    low, high = pooled.bounds(alpha)
    ends = [1 + end for end in row["interval"]]
    return math.log(ends[1] / ends[0]) / (high - low) if min(ends) > 0 else None

"""A platform's view of the test: half of the users on each arm, analysed by tea-tasting.

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

from ifa_ray.abtest.effects import Effect, Versus
from ifa_ray.abtest.logs import Logs
from ifa_ray.abtest.measure import World
from ifa_ray.abtest.metrics import PRIMARY, Metric

SHOWN = (PRIMARY, "impressions", "long_views", "likes", "click_rate", "long_view_rate")
"""Metrics that are asked about, where the log has them."""

SALT = 0x5DEECE66D


def platform_view(
    logs: Logs, metrics: Sequence[Metric], versus: Versus, effects: Mapping[str, Effect]
) -> dict[str, Any]:
    """The unpaired analysis, with and without CUPED where the time before the test is known.

    Returns:
        `users` of control and treatment, `srm_p` of their ratio, and `rows`: each metric's level,
        effect, interval and p, and `price`, by how many times its interval is wider than the paired
        one of these checkpoints. An interval of tea-tasting is on its log scale; p on its linear.
    """
    shown = [metric for metric in metrics if metric.name in SHOWN]
    frames = []
    for replicate, worlds in enumerate(versus.pairs):
        coin = in_treatment(logs.users[logs.control, replicate], replicate)
        for variant, world in zip((1, 0), worlds, strict=True):
            frame = _frame(shown, variant, world)
            frames.append(frame.filter(coin == bool(variant)) if versus.paired else frame)
    answer = ask_tea_tasting(pl.concat(frames), shown, versus.alpha)
    for row in answer["rows"]:
        pooled = effects[row["metric"]].pooled if versus.paired else None
        row["price"] = None
        if row["interval"] is not None and pooled is not None and pooled.se > 0:
            low, high = (1 + end for end in row["interval"])
            margin = pooled.margin(versus.alpha)
            paired = (pooled.log_lift + margin) - (pooled.log_lift - margin)
            row["price"] = math.log(high / low) / paired if low > 0 else None
    return answer


def in_treatment(users_U: npt.NDArray[np.integer], replicate: int) -> npt.NDArray[np.bool_]:
    """Whom a fair coin of each user's own puts on treatment: a hash of the user (splitmix64)."""
    with np.errstate(over="ignore"):
        key_U = users_U.astype(np.uint64) + np.uint64(SALT + 1_000_003 * replicate)
        key_U = key_U * np.uint64(0x9E3779B97F4A7C15)
        key_U = (key_U ^ (key_U >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key_U = (key_U ^ (key_U >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (key_U >> np.uint64(63)).astype(bool)


def _frame(metrics: Sequence[Metric], variant: int, world: World) -> pl.DataFrame:
    """One row per user: the metrics' columns and those of the past."""
    columns: dict[str, Any] = {"variant": np.full(len(world.first_day_U), variant)}
    for name in (name for metric in metrics for name in (metric.above, metric.below) if name):
        columns[name] = world.columns[name]
        if world.past is not None and name in world.past:
            columns[f"pre_{name}"] = world.past[name]
    return pl.DataFrame(columns)


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
    arms = {variant: frame.filter(pl.col("variant") == variant) for variant in (0, 1)}
    counts = [len(own) for own in arms.values()]
    if min(counts) < 2:
        return {"users": counts, "srm_p": None, "rows": []}
    asked: dict[str, Any] = {"srm": tt.SampleRatio()}
    means: dict[str, tuple[Metric, bool]] = {}
    for metric in metrics:
        parts = [name for name in (metric.above, metric.below) if name]
        if not all(own[name].sum() > 0 for own in arms.values() for name in parts):
            continue  # it would divide by zero
        past = [f"pre_{name}" for name in parts]
        known = all(name in frame.columns and frame[name].sum() > 0 for name in past)
        kind = tt.Mean if metric.below is None else tt.RatioOfMeans
        # Columns by position, since keywords differ between versions of tea-tasting.
        for cuped in (False, True) if known else (False,):
            columns = (*parts, *past) if cuped else parts
            name = f"{metric.name} {cuped}"
            means[name] = metric, cuped
            asked[name] = kind(*columns, confidence_level=1 - alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a spread of 0, see below
        experiment = tt.Experiment(asked, variant="variant")
        found = experiment.analyze(_moments(arms), control=0)
    rows = []
    for name, (metric, cuped) in means.items():
        result = found[name]
        interval = [result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper]
        rows.append(
            {
                "metric": metric.name,
                "label": metric.label,
                "cuped": cuped,
                "control": _finite(result.control),
                "treatment": _finite(result.treatment),
                "relative": _finite(result.rel_effect_size),
                "interval": interval if all(map(math.isfinite, interval)) else None,
                "p": _finite(result.pvalue),
            }
        )
    return {"users": counts, "srm_p": _finite(found["srm"].pvalue), "rows": rows}


def _moments(arms: Mapping[int, pl.DataFrame]) -> dict[Any, Any]:
    """Means and covariances of each variant, as tea-tasting takes them.

    It would group the frame by variant itself; but polars groups with threads, so that sums of
    floats would differ in their last digits from run to run.
    """
    from tea_tasting.aggr import read_aggregates

    names = [name for name in arms[0].columns if name != "variant"]
    return {
        variant: read_aggregates(
            own.select(names).rechunk(),
            None,
            has_count=True,
            mean_cols=names,
            var_cols=names,
            cov_cols=list(itertools.combinations(names, 2)),
        )
        for variant, own in arms.items()
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

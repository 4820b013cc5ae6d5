"""From one value per seed to means, paired differences, intervals and p-values.

Knows runs and statistics; nothing of printing. Differences are paired by seed, because a seed's
stream (and world, where seeds have worlds of their own) is the same for all models. A metric that
is not defined says why and is never NaN.

Letters: S seeds.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from scipy import stats

from ifa_ray.abtest.estimates import holm
from ifa_ray.evaluation.run import ModelRun
from ifa_ray.schema import OBJECTIVES

METRICS = ("auc", "gauc")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over S seeds.

    Attributes:
        mean: None where a metric is not defined for some seed.
        standard_error: of the mean; None for S == 1.
        half_width: of the 95% t-interval with S - 1 degrees of freedom; None for S == 1.
        p: two-sided, of the t-test that the mean is 0; None for S == 1.
        undefined: why there is no mean.
    """

    mean: float | None
    standard_error: float | None = None
    half_width: float | None = None
    p: float | None = None
    undefined: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One paired test of a table.

    Attributes:
        model: whose metric.
        objective: of `OBJECTIVES`.
        difference: the model's metric minus the reference's.
        p_holm: p adjusted for all tests of the table; None where there is no p.
    """

    model: str
    objective: str
    difference: Estimate
    p_holm: float | None


def estimate(values: Sequence[float | None], undefined: str = "not measured") -> Estimate:
    """Mean, standard error, t-interval and t-test of one value for each seed.

    Args:
        values: S of them; None where the value is not defined.
        undefined: why, if one is not.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return Estimate(None, undefined=undefined)
    mean = statistics.fmean(known)
    if len(known) == 1:
        return Estimate(mean)
    error = statistics.stdev(known) / math.sqrt(len(known))
    return Estimate(mean, error, *t_interval(mean, error, len(known) - 1))


def t_interval(mean: float, error: float, df: int) -> tuple[float, float]:
    """Half width of the 95% t-interval, and the two-sided p of a mean of 0.

    Values that are all equal have no spread: p is 1 where they are 0, and 0 otherwise.
    """
    half_width = float(stats.t.ppf(0.975, df)) * error
    if error == 0:
        return half_width, 1.0 if mean == 0 else 0.0
    return half_width, float(2 * stats.t.sf(abs(mean) / error, df))


def model_estimate(runs: Iterable[ModelRun], model: str, metric: str, objective: str) -> Estimate:
    """A model's metric over seeds."""
    mine = _of_model(runs, model)
    return estimate(
        [getattr(run.second_half, metric)[objective] for run in mine],
        _why_undefined(mine, metric, objective),
    )


def difference(
    runs: Sequence[ModelRun], model: str, reference: str, metric: str, objective: str
) -> Estimate:
    """The paired difference, model minus reference, over seeds."""
    pairs = list(zip(_of_model(runs, model), _of_model(runs, reference), strict=True))
    values: list[float | None] = []
    for ours, theirs in pairs:
        assert (ours.seed, ours.stream) == (theirs.seed, theirs.stream)
        a, b = (getattr(run.second_half, metric)[objective] for run in (ours, theirs))
        values.append(None if a is None or b is None else a - b)
    return estimate(values, _why_undefined([ours for ours, _ in pairs], metric, objective))


def compare(
    runs: Sequence[ModelRun], models: Sequence[str], reference: str, metric: str
) -> list[Comparison]:
    """Every model against the reference in every objective: one table, one family of tests."""
    found = {
        (model, objective): difference(runs, model, reference, metric, objective)
        for model in models
        if model != reference
        for objective in OBJECTIVES
    }
    adjusted = holm({key: value.p for key, value in found.items() if value.p is not None})
    return [
        Comparison(model=key[0], objective=key[1], difference=value, p_holm=adjusted.get(key))
        for key, value in found.items()
    ]


def _of_model(runs: Iterable[ModelRun], model: str) -> list[ModelRun]:
    """One run for each seed, in the order of the seeds."""
    return sorted((run for run in runs if run.model == model), key=lambda run: run.seed)


def _why_undefined(runs: Sequence[ModelRun], metric: str, objective: str) -> str:
    """Labels alone decide whether a metric is defined, so any model's run can say why not."""
    for run in runs:
        half = run.second_half
        if getattr(half, metric)[objective] is None:
            # Calibration is a ratio to the positives, so it is missing exactly where they are.
            if half.calibration[objective] is None:
                return f"no positives (seed {run.seed})"
            if half.auc[objective] is None:
                return f"no negatives (seed {run.seed})"
            return f"no request has both classes (seed {run.seed})"
    return "not measured"

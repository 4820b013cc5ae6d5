"""The result of a comparison: estimates over seeds, paired tests, costs, quality along the stream.

Knows runs; prints nothing.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from ifa_ray.abtest.estimates import holm
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.cost import Cost
from ifa_ray.evaluation.runs import ModelRun
from ifa_ray.schema import OBJECTIVES

METRICS = ("auc", "gauc")

RANKED_BY = "is_click"
"""The objective that models rank by: pITCTR is p(click|candidate)."""


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


class Comparison(NamedTuple):
    """One paired test of a table: a model's metric minus the reference's."""

    model: str
    objective: str
    difference: Estimate
    p_holm: float | None
    """Adjusted for all tests of the table."""


def estimate(values: Sequence[float | None], undefined: str = "not measured") -> Estimate:
    """Mean, standard error, t-interval and t-test of one value for each seed.

    Args:
        values: None where the value is not defined.
        undefined: why, if one is not.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return Estimate(None, undefined=undefined)
    mean, df = statistics.fmean(known), len(known) - 1
    if df == 0:
        return Estimate(mean)
    error = statistics.stdev(known) / math.sqrt(len(known))
    # Values that are all equal have no spread.
    p = float(2 * stats.t.sf(abs(mean) / error, df)) if error else float(mean == 0)
    return Estimate(mean, error, float(stats.t.ppf(0.975, df)) * error, p)


def model_estimate(runs: Iterable[ModelRun], model: str, metric: str, objective: str) -> Estimate:
    """A model's metric over seeds."""
    mine = _of_model(runs, model)
    values = [getattr(run.second_half, metric)[objective] for run in mine]
    return estimate(values, _why_undefined(mine, metric, objective))


def difference(
    runs: Sequence[ModelRun], model: str, reference: str, metric: str, objective: str
) -> Estimate:
    """The paired difference, model minus reference, over seeds."""
    mine, values = _of_model(runs, model), []
    for ours, theirs in zip(mine, _of_model(runs, reference), strict=True):
        assert (ours.seed, ours.stream) == (theirs.seed, theirs.stream)
        a, b = (getattr(run.second_half, metric)[objective] for run in (ours, theirs))
        values.append(None if a is None or b is None else a - b)
    return estimate(values, _why_undefined(mine, metric, objective))


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
    return [Comparison(*key, value, adjusted.get(key)) for key, value in found.items()]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All of a comparison.

    Attributes:
        config: what was compared.
        runs: one for each model and seed.
        costs: by model; none where they were not measured.
        cost_provenance: of the process that measured the costs; None where none did.
        programs: commit and versions of the processes that made the runs, each once.
        provenance: of this process.
    """

    config: EvaluationConfig
    runs: tuple[ModelRun, ...]
    costs: Mapping[str, Cost]
    cost_provenance: Mapping[str, Any] | None
    programs: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the streams of all seeds, each once."""
        return tuple(dict.fromkeys(note for run in self.runs for note in run.notes))


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything of a comparison as plain JSON values."""
    config = evaluation.config
    return {
        "config": config.to_dict(),
        "settings_hash": config.settings_hash,
        "model_config": config.model(config.models[0]).to_dict()
        | {"name": None, "ifa_plus_without": None},
        "training_config": config.training().to_dict(),
        "seeds": list(config.seed_range),
        "notes": list(evaluation.notes),
        "compared": "second half of the stream, test before train",
        "summary": _summary(evaluation),
        "cost": {name: dataclasses.asdict(cost) for name, cost in evaluation.costs.items()},
        "cost_provenance": evaluation.cost_provenance,
        "runs": [run.to_dict() for run in evaluation.runs],
        "programs": [dict(program) for program in evaluation.programs],
        "provenance": dict(evaluation.provenance),
    }


def _summary(evaluation: Evaluation) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """By model, metric and objective: the estimate, and the difference to the control.

    `p_holm` is adjusted for all models and objectives of one metric.
    """
    config, runs = evaluation.config, evaluation.runs
    against: dict[tuple[str, str, str], dict[str, Any]] = {}
    for metric in METRICS if config.control in config.models else ():
        for each in compare(runs, config.models, config.control, metric):
            row = dataclasses.asdict(each.difference) | {"p_holm": each.p_holm}
            against[each.model, metric, each.objective] = row
    return {
        model: {
            metric: {
                objective: {
                    "estimate": dataclasses.asdict(model_estimate(runs, model, metric, objective)),
                    "minus_control": against.get((model, metric, objective)),
                }
                for objective in OBJECTIVES
            }
            for metric in METRICS
        }
        for model in config.models
    }


def part_ends(runs: Sequence[ModelRun]) -> list[int]:
    """Requests up to the end of each part of the stream, the mean over runs."""
    # Streams of different seeds may differ by a few batches, but not in the number of parts.
    parts = min(len(run.curve) for run in runs)
    return [
        round(statistics.fmean(sum(part.samples for part in run.curve[: i + 1]) for run in runs))
        for i in range(parts)
    ]


def part_means(runs: Sequence[ModelRun], model: str) -> list[float | None]:
    """AUC of p(click|candidate) of one model in each part, the mean over seeds.

    None where it is not defined for some seed.
    """
    curves = [run.curve for run in _of_model(runs, model)]
    parts = zip(*curves, strict=False)
    return [estimate([part.auc[RANKED_BY] for part in same]).mean for same in parts]

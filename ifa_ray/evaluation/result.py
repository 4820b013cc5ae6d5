"""The result of a comparison: estimates over seeds, paired tests, costs, quality along the stream.

Knows runs; prints nothing.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from ifa_ray.abtest.estimates import holm
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.cost import Cost
from ifa_ray.evaluation.runs import ModelRun
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.offline_folder import lines_svg

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
        """What a reader must know of the streams: those of all seeds, each once."""
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


def _summary(
    evaluation: Evaluation,
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """By model, metric and objective: the estimate, and the difference to the control.

    `p_holm` is adjusted for all models and objectives of one metric.
    """
    config, runs = evaluation.config, evaluation.runs
    against: dict[tuple[str, str, str], dict[str, Any]] = {}
    if config.control in config.models:
        for metric in METRICS:
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


# What models rank by: pITCTR is p(click|candidate).
OBJECTIVE = "is_click"
MOST_LINES = 5  # more cannot be told apart


def part_ends(runs: Sequence[ModelRun]) -> list[int]:
    """Requests up to the end of each part, the mean over runs; empty where a run has no parts."""
    if not runs or not all(run.curve for run in runs):
        return []
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
    mine = [run for run in runs if run.model == model]
    means: list[float | None] = []
    for i in range(len(part_ends(runs))):
        values = [run.curve[i].auc[OBJECTIVE] for run in mine]
        known = [value for value in values if value is not None]
        means.append(statistics.fmean(known) if len(known) == len(values) else None)
    return means


def learning_svg(evaluation: Evaluation) -> str | None:
    """The lines of the control and of the models that ended highest; None where there is nothing.

    At most five: an evaluation of all models would be a tangle, and its table has every number.
    """
    config, runs = evaluation.config, evaluation.runs
    ends = part_ends(runs)
    means = {model: part_means(runs, model) for model in config.models}
    if not any(value is not None for values in means.values() for value in values):
        return None

    def last(model: str) -> float:
        known = [value for value in means[model] if value is not None]
        return known[-1] if known else 0.0

    ranked = sorted(config.models, key=lambda model: (model != config.control, -last(model)))
    shown = ranked[:MOST_LINES]
    among = "" if len(ranked) == len(shown) else f" ({config.control} and the best of the others)"
    return lines_svg(
        {m: list(zip(map(float, ends), means[m], strict=True)) for m in shown},
        title=f"AUC of p(click|candidate) along the stream{among}",
        x_label=f"requests learned; mean of {config.seeds} seed(s)",
    )

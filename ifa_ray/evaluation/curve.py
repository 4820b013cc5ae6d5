"""How fast models learn: quality in consecutive parts of the stream, as a table and as lines.

Knows runs; nothing of files. Every part is tested before it is learned, by a model that has learned
all parts before it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ifa_ray.evaluation.result import Evaluation
from ifa_ray.evaluation.run import ModelRun
from ifa_ray.training.plots import lines_svg

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

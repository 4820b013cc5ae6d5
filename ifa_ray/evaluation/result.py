"""The result of a comparison as one value, and as plain JSON.

Knows runs, costs and estimates; nothing of tables or pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.cost import Cost
from ifa_ray.evaluation.estimates import METRICS, compare, model_estimate
from ifa_ray.evaluation.run import ModelRun
from ifa_ray.schema import OBJECTIVES


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

"""A comparison, top to bottom: run what is missing, measure costs, write the result.

Knows the other parts of this package; nothing of command lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.cost import Cost, measure_costs
from ifa_ray.evaluation.figures import learning_svg, pareto
from ifa_ray.evaluation.result import Evaluation, to_json
from ifa_ray.evaluation.runs import EvaluationFolder, ModelRun, read_seed, run_all, write_json
from ifa_ray.evaluation.tables import markdown
from ifa_ray.provenance import provenance
from ifa_ray.training.sources import run_replicates

Tell = Callable[[str, float | None], None]
"""Told what is being done, and the share of it that is done; None for a line to be said once."""


def evaluate(
    config: EvaluationConfig,
    *,
    out: Path | None = None,
    jobs: int = 1,
    tell: Tell = lambda *_: None,
) -> Evaluation:
    """Runs every model on every seed, then measures what they cost.

    Args:
        config: what is compared.
        out: a folder that keeps finished runs and the result; what it holds of them is not done
            again. None keeps nothing.
        jobs: processes that run models. Metrics do not depend on it.
        tell: is told how far it is.

    Raises:
        LogError: if the data, or a file of `out`, cannot be read.
        ConfigError: if `out` is of other settings, or a seed has no replicate.
    """
    require(jobs >= 1, "jobs", jobs, ">= 1")
    available = run_replicates(config.data)
    for seed in config.seed_range:
        config.replicate_of(seed, available)
    folder = None if out is None else EvaluationFolder(out, config)
    # Those of a seed together, so that its stream is read once.
    wanted = [(model, seed) for seed in config.seed_range for model in config.models]
    runs: dict[tuple[str, int], ModelRun] = {}
    if folder is not None:
        folder.open()
        runs = {key: run for key in wanted if (run := folder.load(*key)) is not None}
    missing = [key for key in wanted if key not in runs]
    if runs:
        tell(f"{len(runs)} runs were finished before; {len(missing)} are missing", None)
    shares: dict[tuple[str, int], float] = {}

    def batch(model: str, seed: int, done: int, total: int) -> None:
        shares[model, seed] = done / total
        share = sum(shares.values()) / len(missing)
        tell(f"{model}, seed {seed}, batch {done} of {total}", share)

    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        for run in run_all(config, missing, jobs, batch):
            runs[run.model, run.seed] = run
            if folder is not None:
                folder.save(run)
        costs, cost_provenance = _costs(config, folder, tell)
    finally:
        torch.set_num_threads(threads_before)
    evaluation = Evaluation(
        config=config,
        runs=tuple(runs[key] for key in wanted),
        costs=costs,
        cost_provenance=cost_provenance,
        programs=tuple(folder.programs()) if folder is not None else (),
        provenance=provenance(),
    )
    if out is not None:
        write_json(out / "evaluation.json", to_json(evaluation))
        texts = {
            "table.md": markdown(evaluation),
            "pareto.svg": pareto(evaluation),
            "learning.svg": learning_svg(evaluation),
        }
        for name, text in texts.items():
            if text is not None:
                write_atomically(out / name, text.encode())
    return evaluation


def _costs(
    config: EvaluationConfig, folder: EvaluationFolder | None, tell: Tell
) -> tuple[dict[str, Cost], dict[str, Any] | None]:
    """Measured now, or by an earlier call that measured all of these models in turns."""
    if config.timed_requests == 0:
        return {}, None
    path = None if folder is None else folder.root / "cost.json"
    setting = {"timed_requests": config.timed_requests, "seed": config.first_seed}
    if folder is not None and path is not None and path.exists():
        saved = folder.read(path)
        if saved["setting"] == setting and set(config.models) <= saved["costs"].keys():
            costs = {name: Cost(**saved["costs"][name]) for name in config.models}
            return costs, saved["provenance"]
    costs = measure_costs(
        config,
        read_seed(config, config.first_seed),
        lambda what, done, total: tell(f"measuring costs: {what}", done / total),
    )
    measured = provenance()
    if path is not None:
        plain = {name: dataclasses.asdict(cost) for name, cost in costs.items()}
        write_json(path, {"setting": setting, "costs": plain, "provenance": measured})
    return costs, measured

"""The story of a comparison, top to bottom: run what is missing, measure costs, write the result.

Knows the other parts of this package; nothing of command lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.cost import Cost, measure_costs
from ifa_ray.evaluation.figures import Point, pareto_svg
from ifa_ray.evaluation.result import OBJECTIVE, Evaluation, difference, learning_svg, to_json
from ifa_ray.evaluation.runs import EvaluationFolder, ModelRun, read_seed, run_all, write_json
from ifa_ray.evaluation.tables import markdown, time_kind
from ifa_ray.provenance import provenance
from ifa_ray.training.sources import run_replicates


class Listener(Protocol):
    """Is told how far a comparison is; `EvaluationProgress` prints it."""

    def begin(self, runs: int, finished: int) -> None:
        """So many runs are to be done; others were finished by an earlier call."""

    def batch(self, model: str, seed: int, done: int, total: int) -> None:
        """A run has done so many of its batches."""

    def measure(self, what: str, done: int, total: int) -> None:
        """The measurement of costs has done so many of its steps."""


class _Nobody:
    def begin(self, runs: int, finished: int) -> None: ...

    def batch(self, model: str, seed: int, done: int, total: int) -> None: ...

    def measure(self, what: str, done: int, total: int) -> None: ...


def evaluate(
    config: EvaluationConfig,
    *,
    out: Path | None = None,
    jobs: int = 1,
    listener: Listener | None = None,
) -> Evaluation:
    """Runs every model on every seed, then measures what they cost.

    Args:
        config: what is compared.
        out: a folder that keeps finished runs and the result; what it holds of them is not done
            again. None keeps nothing.
        jobs: processes that run models. Metrics do not depend on it.
        listener: is told how far it is.

    Raises:
        LogError: if the data, or a file of `out`, cannot be read.
        ConfigError: if `out` is of other settings, or a seed has no replicate.
    """
    require(jobs >= 1, "jobs", jobs, ">= 1")
    listener = listener or _Nobody()
    available = run_replicates(config.data)
    for seed in config.seed_range:
        config.replicate_of(seed, available)
    folder = None if out is None else EvaluationFolder(out, config)
    runs: dict[tuple[str, int], ModelRun] = {}
    # Those of a seed together, so that its stream is read once.
    wanted = [(model, seed) for seed in config.seed_range for model in config.models]
    if folder is not None:
        folder.open()
        found = {key: folder.load(*key) for key in wanted}
        runs = {key: run for key, run in found.items() if run is not None}
    missing = [key for key in wanted if key not in runs]
    listener.begin(len(missing), len(runs))
    with _threads(config.threads):
        for run in run_all(config, missing, jobs, listener.batch):
            runs[run.model, run.seed] = run
            if folder is not None:
                folder.save(run)
        costs, cost_provenance = _costs(config, folder, listener)
    here = provenance()
    evaluation = Evaluation(
        config=config,
        runs=tuple(runs[key] for key in wanted),
        costs=costs,
        cost_provenance=cost_provenance,
        programs=tuple(folder.programs()) if folder is not None else (),
        provenance=here,
    )
    if out is not None:
        write_json(out / "evaluation.json", to_json(evaluation))
        write_atomically(out / "table.md", markdown(evaluation).encode())
        for name, picture in (
            ("pareto", pareto(evaluation)),
            ("learning", learning_svg(evaluation)),
        ):
            if picture is not None:
                write_atomically(out / f"{name}.svg", picture.encode())
    return evaluation


def pareto(evaluation: Evaluation) -> str | None:
    """Quality against cost as SVG; None where one of them, or the control, is missing."""
    config = evaluation.config
    if config.control not in config.models or not evaluation.costs:
        return None
    points = []
    for model in config.models:
        gain = difference(evaluation.runs, model, config.control, "auc", OBJECTIVE)
        if gain.mean is None:
            return None
        points.append(
            Point(
                name=model,
                cost=evaluation.costs[model].rank_ms,
                quality=gain.mean,
                half_width=None if model == config.control else gain.half_width,
                is_control=model == config.control,
            )
        )
    features = ", ".join(config.cross_features) or "none"
    return pareto_svg(
        points,
        title="Quality against cost of a request",
        x_label=f"milliseconds to rank a request ({time_kind(config)}), log scale",
        y_label=f"AUC of p(click|candidate) minus {config.control}'s, 95% interval over "
        f"{config.seeds} seed(s); cross features: {features}",
    )


def _costs(
    config: EvaluationConfig, folder: EvaluationFolder | None, listener: Listener
) -> tuple[dict[str, Cost], dict[str, Any] | None]:
    """Measured now, or by an earlier call that measured all of these models in turns."""
    if config.timed_requests == 0:
        return {}, None
    path = None if folder is None else folder.root / "cost.json"
    setting = {
        "hash": config.settings_hash,
        "timed_requests": config.timed_requests,
        "seed": config.first_seed,
    }
    if folder is not None and path is not None and path.exists():
        saved = folder.read(path)
        if saved["setting"] == setting and set(config.models) <= saved["costs"].keys():
            costs = {name: Cost(**saved["costs"][name]) for name in config.models}
            return costs, saved["provenance"]
    stream = read_seed(config, config.first_seed)
    costs = measure_costs(config, stream, on_progress=listener.measure)
    measured = provenance()
    if path is not None:
        plain = {name: dataclasses.asdict(cost) for name, cost in costs.items()}
        record = {"hash": config.settings_hash, "setting": setting, "costs": plain}
        write_json(path, record | {"provenance": measured})
    return costs, measured


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

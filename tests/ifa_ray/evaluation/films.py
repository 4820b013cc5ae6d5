"""A small ratings log, settings for it, and runs that were never run."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ifa_ray.evaluation import Evaluation, EvaluationConfig, ModelRun
from ifa_ray.evaluation.cost import Cost
from ifa_ray.provenance import provenance
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.learner import StreamMetrics


def write_films(folder: Path) -> Path:
    """A log of 40 users and 40 films: a user rates and likes mostly those of one genre."""
    rng = np.random.default_rng(4)
    genres = ("Action", "Comedy", "Drama", "Western")
    lines = [f"{film},Film {film},{genres[film % 4]}" for film in range(1, 41)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *lines, ""]))
    rows, time_s = [], itertools.count(1000)
    rows += [(0, film, 3.0, next(time_s)) for film in range(1, 41)]
    for user in range(1, 41):
        liked = np.arange(1, 41) % 4 == user % 4
        chance = np.where(liked, 8.0, 1.0) / np.where(liked, 8.0, 1.0).sum()
        for film in rng.choice(np.arange(1, 41), 9, replace=False, p=chance):
            rows.append((user, film, 5.0 if liked[film - 1] else 2.0, next(time_s)))
    text = [f"{u},{f},{s},{t}" for u, f, s, t in rows]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *text, ""]))
    return folder


def config(data: Path, **settings: object) -> EvaluationConfig:
    values = {
        "data": str(data), "models": ["avg_pooling", "twin"], "seeds": 2, "num_sampled": 9,
        "width": 8, "top_k": 5, "max_requests": 40, "timed_requests": 3,
    } | settings  # fmt: skip
    return EvaluationConfig.from_dict(values)


def fake_run(
    model: str, seed: int, value: float | None, calibration: float | None = 1.0
) -> ModelRun:
    """A run whose every AUC and GAUC is `value`; without positives, `calibration` is None."""
    each = dict.fromkeys(OBJECTIVES, value)
    metrics = StreamMetrics(
        steps=1, samples=1, candidates=1, loss=0.0, auc=each, gauc=each, log_loss=each,
        calibration=dict.fromkeys(OBJECTIVES, calibration), seconds=0.0,
    )  # fmt: skip
    return ModelRun(
        model=model, seed=seed, stream=f"stream {seed}", second_half=metrics, whole=metrics,
        notes=("Fake.",), curve=(metrics,),
    )  # fmt: skip


def fake_evaluation(runs: Sequence[ModelRun], **settings: object) -> Evaluation:
    """An evaluation of runs that were never run, all models of one cost."""
    models = list(dict.fromkeys(run.model for run in runs))
    return Evaluation(
        config=config(Path("films"), models=models, seeds=len(runs) // len(models), **settings),
        runs=tuple(runs),
        costs={m: Cost(rank_ms=2.0, train_ms=3.0, peak_bytes=2**20) for m in models},
        cost_provenance=provenance(),
        programs=(),
        provenance=provenance(),
    )

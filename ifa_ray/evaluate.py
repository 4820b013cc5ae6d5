"""Compares models on one real log: test, then train, over the same stream with the same settings.

Knows streams and learners; knows nothing of printing, which is `ifa_ray.cli`'s part. Every model
gets the same requests in the same order, the same features, steps and learning rate; a seed sets
the initial weights and, where candidates are drawn, the draws. Differences to the control are
paired by seed.

Letters: S seeds, L objectives.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy import stats

from ifa_ray.config import Config, ModelConfig, TrainingConfig, require
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS
from ifa_ray.provenance import provenance
from ifa_ray.ranker import ModelRanker
from ifa_ray.schema import OBJECTIVES, TrainingSample
from ifa_ray.training.loop import BatchResult, Learner, StreamMetrics, batches, summarise
from ifa_ray.training.sources import SampleStream, read_stream

__all__ = [
    "METRICS",
    "Estimate",
    "EvaluationConfig",
    "ModelRun",
    "difference",
    "estimate",
    "evaluate",
    "model_estimate",
    "run_model",
    "to_json",
]

METRICS = ("auc", "gauc")

Progress = Callable[[str, int, int, int], None]
"""Called with (model, seed, batches done, batches in all)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """One comparison.

    Attributes:
        data: a MovieLens folder or a run's folder.
        models: names of `ifa_ray.models.MODELS`.
        control: the model that others are compared with, if it is among `models`.
        seeds: S; seed 0 to S - 1.
        max_requests: cap on the stream; 0 is no cap.
        arm: of a run, whose log to read.
        replicate: of a run.
        num_sampled: films beside the rated one in a MovieLens request.
        batch_size: requests per step.
        learning_rate: of Adam.
        width: D of every model.
        top_k: behaviours that a two-stage or short-sequence model looks at.
        timed_requests: how many are ranked one by one for the cost of a request.
    """

    data: str
    models: tuple[str, ...]
    control: str = "twin"
    seeds: int = 3
    max_requests: int = 4000
    arm: str = "twin"
    replicate: int = 0
    num_sampled: int = 99
    batch_size: int = 4
    learning_rate: float = 3e-3
    width: int = 32
    top_k: int = 100
    timed_requests: int = 50

    def __post_init__(self) -> None:
        require(len(self.models) >= 1, "models", self.models, "at least one name")
        require(len(set(self.models)) == len(self.models), "models", self.models, "unique names")
        for name in self.models:
            if name not in MODELS:
                raise unknown_name("models", name, MODELS)
        if self.control not in MODELS:
            raise unknown_name("control", self.control, MODELS)
        for field in ("seeds", "num_sampled", "timed_requests"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        for field in ("max_requests", "replicate"):
            require(getattr(self, field) >= 0, field, getattr(self, field), ">= 0")
        self.training()
        for name in self.models:
            self.model(name)

    def model(self, name: str) -> ModelConfig:
        """The settings of a model; all but the name are those of every other."""
        return ModelConfig(name=name, width=self.width, top_k=self.top_k)

    def training(self) -> TrainingConfig:
        """The settings of training."""
        return TrainingConfig(batch_size=self.batch_size, learning_rate=self.learning_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRun:
    """One model, one seed, the whole stream.

    Attributes:
        model: its name.
        seed: of weights and draws.
        second_half: metrics of the batches of the stream's second half, where the model is no
            longer new; this is what is compared.
        whole: metrics of all batches.
        train_ms: median over batches of testing and training, milliseconds per request.
        rank_ms: median of ranking one request alone, milliseconds.
    """

    model: str
    seed: int
    second_half: StreamMetrics
    whole: StreamMetrics
    train_ms: float
    rank_ms: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over S seeds.

    Attributes:
        mean: None where a metric is not defined for some seed.
        standard_error: of the mean; None for S == 1.
        half_width: of the 95% t-interval with S - 1 degrees of freedom; None for S == 1.
    """

    mean: float | None
    standard_error: float | None = None
    half_width: float | None = None


def evaluate(
    config: EvaluationConfig,
    *,
    on_progress: Progress = lambda *_: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[ModelRun], SampleStream]:
    """Runs every model on every seed.

    Returns:
        The runs, and the stream of the first seed, for its notes.

    Raises:
        LogError: if the data cannot be read.
    """
    runs: list[ModelRun] = []
    first: SampleStream | None = None
    for seed in range(config.seeds):
        stream = read_stream(
            config.data,
            arm=config.arm,
            replicate=config.replicate,
            num_sampled=config.num_sampled,
            max_history=config.model(config.models[0]).max_history,
            max_requests=config.max_requests or None,
            seed=seed,
        )
        first = first or stream
        runs += [
            run_model(config, name, seed, stream, on_progress=on_progress, clock=clock)
            for name in config.models
        ]
    assert first is not None
    return runs, first


def run_model(
    config: EvaluationConfig,
    name: str,
    seed: int,
    stream: SampleStream,
    *,
    on_progress: Progress,
    clock: Callable[[], float],
) -> ModelRun:
    """Tests then trains one model on a stream, then times its ranking."""
    training = config.training()
    learner = Learner(config.model(name), training, stream.items, seed, clock=clock)
    parts = batches(stream.samples, training.batch_size)
    results: list[BatchResult] = []
    for part in parts:
        results.append(learner.step(part))
        on_progress(name, seed, len(results), len(parts))
    timed = stream.samples[-config.timed_requests :]
    return ModelRun(
        model=name,
        seed=seed,
        second_half=summarise(results[len(results) // 2 :]),
        whole=summarise(results),
        train_ms=1000 * statistics.median(r.seconds / len(r.sizes_B) for r in results),
        rank_ms=_rank_ms(learner, timed, clock),
    )


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean, standard error and t-interval of one value for each seed."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return Estimate(None)
    if len(known) == 1:
        return Estimate(known[0])
    error = statistics.stdev(known) / math.sqrt(len(known))
    return Estimate(
        statistics.fmean(known), error, float(stats.t.ppf(0.975, len(known) - 1)) * error
    )


def model_estimate(runs: Sequence[ModelRun], model: str, metric: str, objective: str) -> Estimate:
    """A model's metric over seeds."""
    return estimate(_values(runs, model, metric, objective))


def difference(
    runs: Sequence[ModelRun], model: str, control: str, metric: str, objective: str
) -> Estimate:
    """The paired difference, model minus control, over seeds."""
    ours, theirs = (_values(runs, name, metric, objective) for name in (model, control))
    return estimate([
        None if a is None or b is None else a - b for a, b in zip(ours, theirs, strict=True)
    ])  # fmt: skip


def summary(
    runs: Sequence[ModelRun], config: EvaluationConfig
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """By model, metric and objective: the estimate, and the difference to the control."""
    compared = config.control in config.models
    return {
        model: {
            metric: {
                objective: {
                    "estimate": dataclasses.asdict(model_estimate(runs, model, metric, objective)),
                    "minus_control": dataclasses.asdict(
                        difference(runs, model, config.control, metric, objective)
                    )
                    if compared and model != config.control
                    else None,
                }
                for objective in OBJECTIVES
            }
            for metric in METRICS
        }
        for model in config.models
    }


def to_json(
    config: EvaluationConfig, runs: Sequence[ModelRun], notes: Sequence[str]
) -> dict[str, Any]:
    """Everything of a comparison as plain JSON values."""
    return {
        "config": config.to_dict(),
        "model_config": config.model(config.models[0]).to_dict() | {"name": None},
        "training_config": config.training().to_dict(),
        "seeds": list(range(config.seeds)),
        "notes": list(notes),
        "compared": "second half of the stream, test before train",
        "summary": summary(runs, config),
        "runs": [dataclasses.asdict(run) for run in runs],
        "provenance": provenance(),
    }


def _values(
    runs: Sequence[ModelRun], model: str, metric: str, objective: str
) -> list[float | None]:
    """One value for each seed, in the order of the seeds."""
    mine = sorted((run for run in runs if run.model == model), key=lambda run: run.seed)
    by_objective: list[Mapping[str, float | None]] = [
        getattr(run.second_half, metric) for run in mine
    ]
    return [values[objective] for values in by_objective]


def _rank_ms(
    learner: Learner, samples: Sequence[TrainingSample], clock: Callable[[], float]
) -> float:
    ranker = ModelRanker(learner.model, learner.items, version=0)
    times_s = []
    # Once unmeasured: the first call of a version prepares what the others reuse.
    ranker.rank([samples[0].request])
    for sample in samples:
        started = clock()
        ranker.rank([sample.request])
        times_s.append(clock() - started)
    return 1000 * statistics.median(times_s)

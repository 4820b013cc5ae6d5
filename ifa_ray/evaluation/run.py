"""One model, one seed, one stream: test, then train. And what is kept of it.

Knows streams and learners; knows nothing of other models, of time or of files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from ifa_ray.errors import LogError
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.training.driver import learn
from ifa_ray.training.learner import Learner, StreamMetrics, batches, summarise
from ifa_ray.training.sources import SampleStream, read_stream, run_replicates

PARTS = 8
Progress = Callable[[str, int, int, int], None]
"""Called with (model, seed, batches done, batches in all)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRun:
    """One model, one seed, the whole stream.

    Attributes:
        model: its name.
        seed: of weights and draws.
        stream: names the requests that it was given: see `fingerprint`.
        second_half: metrics of the batches of the stream's second half, where the model is no
            longer new; this is what is compared.
        whole: metrics of all batches.
        curve: metrics of each of `PARTS` consecutive parts, fewer where there are fewer batches.
            Empty in a run that an earlier version of this program kept.
        notes: of the stream.
    """

    model: str
    seed: int
    stream: str
    second_half: StreamMetrics
    whole: StreamMetrics
    notes: tuple[str, ...]
    curve: tuple[StreamMetrics, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, measurements included."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The run that `to_dict` wrote.

        Raises:
            TypeError, KeyError: if it is something else.
        """
        halves = {name: StreamMetrics(**values[name]) for name in ("second_half", "whole")}
        curve = tuple(StreamMetrics(**part) for part in values.get("curve", ()))
        return cls(**{**values, **halves, "curve": curve, "notes": tuple(values["notes"])})


def read_seed(config: EvaluationConfig, seed: int) -> SampleStream:
    """The stream that every model of a seed is given.

    Raises:
        LogError: if the data cannot be read.
        ConfigError: if the folder has no such arm or replicate.
    """
    stream = read_stream(
        config.data,
        arm=config.arm,
        replicate=config.replicate_of(seed, run_replicates(config.data)),
        num_sampled=config.num_sampled,
        max_history=config.max_history,
        max_requests=config.max_requests or None,
        seed=seed,
    )
    if len(stream.samples) <= config.batch_size:
        raise LogError(
            f"{config.data}: {len(stream.samples)} requests, must be more than one batch of "
            f"{config.batch_size}: the second half of the stream is what is compared."
        )
    return stream


def fingerprint(stream: SampleStream) -> str:
    """Twelve hex digits of all requests, candidates and labels of a stream, in their order."""
    digest = hashlib.sha256()
    for sample in stream.samples:
        request = sample.request
        numbers = (request.request_id, request.user_id, request.time_ms, len(request.history))
        digest.update(np.array(numbers, np.int64).tobytes())
        digest.update(np.ascontiguousarray(request.candidates_C).tobytes())
        digest.update(np.ascontiguousarray(sample.labels_CL).tobytes())
    return digest.hexdigest()[:12]


def run_model(
    config: EvaluationConfig,
    name: str,
    seed: int,
    stream: SampleStream,
    *,
    on_progress: Progress = lambda *_: None,
) -> ModelRun:
    """Tests then trains one model on a stream. A pure function of its arguments, but for seconds.

    Args:
        config: settings shared by all models.
        name: which model.
        seed: of the weights.
        stream: of that seed.
        on_progress: told after every batch.
    """
    training = config.training()
    learner = Learner(config.model(name), training, stream.items, seed)
    parts = batches(stream.samples, training.batch_size)
    done = itertools.count(1)
    results = learn(
        learner, stream.samples, lambda _: on_progress(name, seed, next(done), len(parts))
    )
    return ModelRun(
        model=name,
        seed=seed,
        stream=fingerprint(stream),
        second_half=summarise(results[len(results) // 2 :]),
        whole=summarise(results),
        notes=stream.notes,
        curve=tuple(summarise(results[start:stop]) for start, stop in _parts(len(results))),
    )


def _parts(batches: int) -> list[tuple[int, int]]:
    """Where each of the parts begins and ends; sizes differ by one batch at most."""
    count = min(PARTS, batches)
    ends = [batches * i // count for i in range(count + 1)]
    return list(itertools.pairwise(ends))

"""One model, one seed, one stream (prequential); many of them in processes, kept in a folder.

Knows streams and learners; nothing of statistics or figures.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import ConfigError, LogError
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.processes import in_processes
from ifa_ray.provenance import provenance
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
        notes: of the stream.
    """

    model: str
    seed: int
    stream: str
    second_half: StreamMetrics
    whole: StreamMetrics
    notes: tuple[str, ...]
    curve: tuple[StreamMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, measurements included."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The run that `to_dict` wrote; TypeError or KeyError if it is something else."""
        halves = {name: StreamMetrics(**values[name]) for name in ("second_half", "whole")}
        curve = tuple(StreamMetrics(**part) for part in values["curve"])
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


_stream = functools.lru_cache(maxsize=1)(read_seed)


def run_model(
    config: EvaluationConfig, name: str, seed: int, on_progress: Progress = lambda *_: None
) -> ModelRun:
    """Tests then trains one model on a seed's stream; repeats exactly, but for seconds."""
    torch.set_num_threads(config.threads)
    stream, training = _stream(config, seed), config.training()
    learner = Learner(config.model(name), training, stream.items, seed)
    total, done = len(batches(stream.samples, training.batch_size)), itertools.count(1)
    results = learn(learner, stream.samples, lambda _: on_progress(name, seed, next(done), total))
    count = min(PARTS, total)
    ends = [total * i // count for i in range(count + 1)]
    return ModelRun(
        model=name,
        seed=seed,
        stream=fingerprint(stream),
        second_half=summarise(results[total // 2 :]),
        whole=summarise(results),
        notes=stream.notes,
        curve=tuple(summarise(results[i:j]) for i, j in itertools.pairwise(ends)),
    )


def run_all(
    config: EvaluationConfig, missing: Sequence[tuple[str, int]], jobs: int, on_progress: Progress
) -> Iterator[ModelRun]:
    """Runs as they are finished; a process reads a stream once for all models of its seed.

    Args:
        config: of the comparison.
        missing: (model, seed), those of a seed together.
        jobs: processes that run models; 1 is this process alone.
        on_progress: told of batches; of whole runs, where other processes run them.

    Raises:
        LogError, ConfigError: if the data cannot be read, or a process died.
        RankerError: if a loss is not finite.
    """
    try:
        if jobs == 1:
            for name, seed in missing:
                yield run_model(config, name, seed, on_progress)
            return
        wanted = [(config, name, seed) for name, seed in missing]
        for (_, name, seed), run in in_processes(run_model, wanted, min(jobs, len(wanted) or 1)):
            on_progress(name, seed, run.whole.steps, run.whole.steps)
            yield run
    finally:
        _stream.cache_clear()


def write_json(path: Path, values: Any) -> None:
    """Writes plain values; NaN, which is not JSON, is a fault of ours."""
    write_atomically(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


@dataclasses.dataclass(frozen=True)
class EvaluationFolder:
    """The runs of one comparison's settings below `root`."""

    root: Path
    config: EvaluationConfig

    def open(self) -> None:
        """Makes the folder, or finds it as an earlier call with the same settings left it.

        Raises:
            ConfigError: if it holds something else, or runs of other settings.
        """
        path, now = self.root / "settings.json", self.config.settings
        # A first call that failed before any run was finished binds nobody.
        if path.exists() and any(self.root.glob("runs/*")):
            saved = self.read(path)
            for name in sorted({*saved, *now}):
                if saved.get(name) != now.get(name):
                    raise ConfigError(
                        f"{name} == {now.get(name)!r}, must be {saved.get(name)!r}, with which "
                        f"{self.root} was begun."
                    )
            return
        if self.root.exists() and not path.exists():
            require(self.root.is_dir(), "out", str(self.root), "a folder")
            found = sorted(entry.name for entry in self.root.iterdir())
            rule = f"absent, empty or of an evaluation: it holds {', '.join(found[:3])}"
            require(not found, "out", str(self.root), rule)
        try:
            write_json(path, now)
        except OSError as error:
            raise ConfigError(
                f"out == {str(self.root)!r}, must be writable: {error.strerror}."
            ) from None

    def path(self, model: str, seed: int) -> Path:
        """The file of a finished run."""
        return self.root / "runs" / f"{model}-seed={seed}.json"

    def save(self, run: ModelRun) -> None:
        """Keeps a finished run, with the program that made it."""
        here = provenance()
        program = {name: here[name] for name in ("git_commit", "git_dirty", "versions")}
        write_json(self.path(run.model, run.seed), {"program": program, "run": run.to_dict()})

    def load(self, model: str, seed: int) -> ModelRun | None:
        """A finished run, or None.

        Raises:
            LogError: if its file is damaged.
        """
        path = self.path(model, seed)
        if not path.exists():
            return None
        try:
            return ModelRun.from_dict(self.read(path)["run"])
        except (TypeError, KeyError):
            raise LogError(f"{path}: not a run of a model; delete it to do it again.") from None

    def programs(self) -> list[dict[str, Any]]:
        """The different programs that made the runs of this comparison, each once."""
        paths = [self.path(m, seed) for m in self.config.models for seed in self.config.seed_range]
        programs = [self.read(path)["program"] for path in paths if path.exists()]
        return [each for i, each in enumerate(programs) if each not in programs[:i]]

    def read(self, path: Path) -> dict[str, Any]:
        """One of the folder's JSON files.

        Raises:
            LogError: if it is damaged.
        """
        try:
            return dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            raise LogError(f"{path}: not a record of an evaluation; it is damaged.") from None

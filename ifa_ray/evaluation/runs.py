"""One model, one seed, one stream (prequential); many of them in processes, kept in a folder.

Knows streams and learners; nothing of statistics or figures.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import ConfigError, LogError, RankerError
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.processes import worker_pool
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


_REPORT_EVERY_S = 0.2
_reports: Any = None  # of a worker process: where it puts its progress


def run_all(
    config: EvaluationConfig,
    missing: Sequence[tuple[str, int]],
    jobs: int,
    on_progress: Progress,
) -> Iterator[ModelRun]:
    """Runs as they are finished.

    A stream is read once for each seed, in each process that has to do with it.

    Args:
        config: of the comparison.
        missing: (model, seed), those of a seed together.
        jobs: processes that run models; 1 is this process alone.
        on_progress: told of batches.

    Raises:
        LogError, ConfigError: if the data cannot be read.
        RankerError: if a worker died, or a loss is not finite.
    """
    read = functools.lru_cache(maxsize=1)(functools.partial(read_seed, config))
    if jobs == 1:
        for name, seed in missing:
            yield run_model(config, name, seed, read(seed), on_progress=on_progress)
        return
    reports = multiprocessing.get_context("spawn").Queue()
    processes = min(jobs, max(1, len(missing)))
    with worker_pool(processes, _prepare, config.threads, reports) as pool:
        waiting = {pool.submit(_run, config, name, seed) for name, seed in missing}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                _pass_on(reports, on_progress)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise RankerError(
                "a worker process died, perhaps for want of memory: finished runs are in --out; "
                "continue with fewer --jobs."
            ) from None


def _pass_on(reports: Any, on_progress: Progress) -> None:
    while True:
        try:
            on_progress(*reports.get_nowait())
        except queue.Empty:
            return


def _prepare(threads: int, reports: Any) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _stream(config: EvaluationConfig, seed: int) -> SampleStream:
    return read_seed(config, seed)


def _run(config: EvaluationConfig, name: str, seed: int) -> ModelRun:
    reported = 0.0

    def on_progress(model: str, seed: int, done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if done == total or now - reported >= _REPORT_EVERY_S:
            reported = now
            _reports.put((model, seed, done, total))

    return run_model(config, name, seed, _stream(config, seed), on_progress=on_progress)


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
        path = self.root / "settings.json"
        if not path.exists():
            if self.root.exists():
                require(self.root.is_dir(), "out", str(self.root), "a folder")
                found = sorted(entry.name for entry in self.root.iterdir())
                rule = f"absent, empty or of an evaluation: it holds {', '.join(found[:3])}"
                require(not found, "out", str(self.root), rule)
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                record = {"hash": self.config.settings_hash, "settings": self.config.settings}
                write_json(path, record)
            except OSError as error:
                raise ConfigError(
                    f"out == {str(self.root)!r}, must be writable: {error.strerror}."
                ) from None
            return
        saved = self.read(path)
        now = json.loads(json.dumps(self.config.settings))
        for name, value in now.items():
            was = saved["settings"].get(name)
            if value != was:
                raise ConfigError(
                    f"{name} == {value!r}, must be {was!r}, with which {self.root} was begun."
                )
        if saved["hash"] != self.config.settings_hash:
            raise ConfigError(f"{path}: settings of another version of this program.")

    def path(self, model: str, seed: int) -> Path:
        """The file of a finished run."""
        return self.root / "runs" / f"{model}-seed={seed}.json"

    def save(self, run: ModelRun) -> None:
        """Keeps a finished run, with the program that made it."""
        here = provenance()
        record = {
            "hash": self.config.settings_hash,
            "program": {name: here[name] for name in ("git_commit", "git_dirty", "versions")},
            "run": run.to_dict(),
        }
        write_json(self.path(run.model, run.seed), record)

    def load(self, model: str, seed: int) -> ModelRun | None:
        """A finished run, or None.

        Raises:
            LogError: if its file is damaged.
            ConfigError: if it is of other settings.
        """
        path = self.path(model, seed)
        if not path.exists():
            return None
        record = self.read(path)
        try:
            run = ModelRun.from_dict(record["run"])
            same = (run.model, run.seed) == (model, seed)
        except (TypeError, KeyError):
            same = False
        if not same:
            raise LogError(f"{path}: not a run of {model}, seed {seed}; delete it to do it again.")
        if record["hash"] != self.config.settings_hash:
            raise ConfigError(
                f"{path}: hash == {record['hash']}, must be {self.config.settings_hash}: it is a "
                "run of other settings."
            )
        return run

    def programs(self) -> list[dict[str, Any]]:
        """The different programs that made the runs of this comparison, each once."""
        found: dict[str, dict[str, Any]] = {}
        for model in self.config.models:
            for seed in self.config.seed_range:
                path = self.path(model, seed)
                if path.exists():
                    program = self.read(path)["program"]
                    found[json.dumps(program, sort_keys=True)] = program
        return list(found.values())

    def read(self, path: Path) -> dict[str, Any]:
        """One of the folder's JSON files.

        Raises:
            LogError: if it is damaged.
        """
        try:
            record = json.loads(path.read_bytes())
            if not isinstance(record, dict) or "hash" not in record:
                raise TypeError
        except (ValueError, TypeError):
            raise LogError(f"{path}: not a record of an evaluation; it is damaged.") from None
        return record

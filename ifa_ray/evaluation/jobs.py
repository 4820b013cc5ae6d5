"""Every missing (model, seed) of a comparison, here or in worker processes.

Knows runs and processes; nothing of tables. A run is a pure function of its config, model and
seed, so results do not depend on the number of processes.
"""

from __future__ import annotations

import functools
import multiprocessing
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from ifa_ray.errors import RankerError
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.evaluation.run import ModelRun, Progress, read_seed, run_model
from ifa_ray.processes import worker_pool
from ifa_ray.training.sources import SampleStream

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

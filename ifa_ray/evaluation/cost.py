"""Cost of a request for each model: milliseconds to rank and to learn, megabytes while ranking.

Measured after the comparison, with nothing else of it running. Time in this process: models take
turns request by request, so that whatever slows the machine slows all of them. Memory in a fresh
process for each model, because a peak cannot be told from what an earlier model has left.

Knows learners, clocks and Linux's `/proc`; nothing of metrics.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.evaluation.config import EvaluationConfig
from ifa_ray.models import build_model
from ifa_ray.processes import worker_pool
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import History, RankRequest
from ifa_ray.training.learner import Learner, batches
from ifa_ray.training.sources import SampleStream

_PROC = Path("/proc/self")
_MEMORY_REQUESTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one request.

    Attributes:
        rank_ms: median of ranking a request alone.
        train_ms: median over batches of testing and training, per request.
        peak_bytes: memory of ranking at its peak beyond the model, the catalogue and what is
            prepared of them once; None where the platform cannot tell.
    """

    rank_ms: float
    train_ms: float
    peak_bytes: int | None


def measure_costs(
    config: EvaluationConfig,
    stream: SampleStream,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
    clock: Callable[[], float] | None = None,
) -> dict[str, Cost]:
    """Every model's cost, of the last requests of a stream, whose histories are the longest.

    Each model is made anew and learns from those requests first: a model's time depends little on
    what it has learned.

    Args:
        config: which models; `timed_requests` of them.
        stream: of any seed.
        on_progress: told (what is measured, steps done, steps in all).
        clock: seconds; by default those of CPU where one thread works, which other programs
            cannot lengthen by taking turns, else those of the wall.
    """
    clock = clock or (time.process_time if config.threads == 1 else time.perf_counter)
    items, samples = stream.items, stream.samples[-config.timed_requests :]
    parts = batches(samples, config.batch_size)
    total = len(parts) + len(samples) + len(config.models)
    learners = {
        name: Learner(config.model(name), config.training(), items, config.first_seed, clock=clock)
        for name in config.models
    }
    train_s: dict[str, list[float]] = {name: [] for name in learners}
    for done, part in enumerate(parts, start=1):
        for name, learner in learners.items():
            train_s[name].append(learner.step(part).seconds / len(part))
        on_progress("training steps", done, total)
    rankers = {name: ModelRanker(each.model, items, version=0) for name, each in learners.items()}
    for ranker in rankers.values():
        # Once unmeasured: the first call of a version prepares what the others reuse.
        ranker.rank([samples[0].request])
    rank_s: dict[str, list[float]] = {name: [] for name in learners}
    for done, sample in enumerate(samples, start=len(parts) + 1):
        for name, ranker in rankers.items():
            started = clock()
            ranker.rank([sample.request])
            rank_s[name].append(clock() - started)
        on_progress("ranking", done, total)
    requests = sorted(
        (sample.request for sample in samples),
        key=lambda request: len(request.history) + len(request.candidates_C),
    )[-_MEMORY_REQUESTS:]
    costs = {}
    for done, name in enumerate(config.models, start=total - len(config.models) + 1):
        costs[name] = Cost(
            rank_ms=1e3 * statistics.median(rank_s[name]),
            train_ms=1e3 * statistics.median(train_s[name]),
            peak_bytes=_peak_in_a_process(config, name, items, requests),
        )
        on_progress("memory", done, total)
    return costs


def _peak_in_a_process(
    config: EvaluationConfig, name: str, items: ItemTable, requests: Sequence[RankRequest]
) -> int | None:
    with worker_pool(1, torch.set_num_threads, config.threads) as pool:
        arguments = (config.model(name), items, requests, config.first_seed)
        return pool.submit(peak_request_bytes, *arguments).result()


def peak_request_bytes(
    config: ModelConfig, items: ItemTable, requests: Sequence[RankRequest], seed: int
) -> int | None:
    """The rise of this process' memory while it ranks the largest requests, in bytes.

    By the kernel's high-water mark of resident memory, so that numpy's and torch's scratch both
    count. Call it in a process that has ranked nothing: freed memory that an allocator keeps would
    be used again unseen. A request of one candidate and no history goes first, so that what is
    made once (prepared items, threads, kernels) is not counted.

    Returns:
        None where the platform has no such mark, or refuses to reset it.
    """
    ranker = ModelRanker(build_model(config, items, seed), items, version=0)
    one, none = requests[0].candidates_C[:1], History.empty()
    small = dataclasses.replace(requests[0], candidates_C=one, channels_C=None, history=none, k=1)
    ranker.rank([small])
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # gives freed memory back, where the C library can (glibc)
    try:
        (_PROC / "clear_refs").write_text("5")  # sets the mark to what is resident now
        before = _status_bytes("VmHWM")
        ranker.rank(requests)  # one after the other
        return _status_bytes("VmHWM") - before
    except (OSError, KeyError):
        return None


def _status_bytes(field: str) -> int:
    """A field of this process' status, which the kernel gives in KiB."""
    lines = (line.partition(":") for line in (_PROC / "status").read_text().splitlines())
    return 1024 * int({name: value for name, _, value in lines}[field].split()[0])

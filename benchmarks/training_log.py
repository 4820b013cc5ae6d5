"""A log on disk to learn from, of the size of a platform's requests; nothing in it can be learned.

Knows the layout of a run. Writing and reading need pyarrow, which is imported where it is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.synthetic import catalogue, request
from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS, OBJECTIVES, RankRequest, TrainingSample

__all__ = ["BenchmarkLog", "sample", "write_log"]

NUM_ITEMS = 50_000
SHOWN = 20
_ARM = "bench"


@dataclasses.dataclass(frozen=True)
class BenchmarkLog:
    """Where it lies, and how many requests its last day has."""

    root: Path
    requests: int

    def read(self, clock: Callable[[], float]) -> tuple[list[TrainingSample], ItemTable, float]:
        """The samples of the last day, the catalogue, and the seconds that a sample took to load.

        The histories before that day are read outside of the measurement: a training reads them
        once, however long it goes on.
        """
        from ifa_ray.data.log import read_impressions, read_items, read_requests
        from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
        from ifa_ray.training.samples import LogFollower

        folder = RunFolder(self.root)
        items = read_items(folder.items(0))
        follower = LogFollower(max_history=1 << 20)
        follower.append(read_impressions(folder.table("impressions", ShardDay(WARMUP, 0, 0, 0))))
        key = ShardDay(_ARM, 0, 0, 0)
        read_requests(folder.table("requests", key))  # once unmeasured: the first file pays more
        started = clock()
        impressions = read_impressions(folder.table("impressions", key))
        requests = read_requests(folder.table("requests", key))
        follower.append(impressions)
        samples = follower.samples(requests, impressions)
        return samples, items, (clock() - started) / len(samples)


def write_log(root: Path, *, m: int, n: int, requests: int, seed: int) -> BenchmarkLog:
    """Writes a warm-up of n impressions for each of as many users as there are requests."""
    from ifa_ray.data.log import write_impressions, write_items, write_requests
    from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay

    folder, items = RunFolder(root), catalogue(NUM_ITEMS, seed)
    write_items(folder.items(0), items)
    asked = [request(items, m, n, seed=seed, number=number) for number in range(requests)]
    past, shown = ShardDay(WARMUP, 0, 0, 0), ShardDay(_ARM, 0, 0, 0)
    write_impressions(folder.table("impressions", past), _history(asked, n))
    write_impressions(folder.table("impressions", shown), _impressions(asked, seed))
    write_requests(folder.table("requests", shown), _requests(asked, n))
    return BenchmarkLog(root, requests)


def sample(items: ItemTable, m: int, n: int, *, seed: int, number: int) -> TrainingSample:
    """The same in memory: a request and labels of its candidates."""
    one = request(items, m, n, seed=seed, number=number)
    labels_CL = np.zeros((m, len(OBJECTIVES)), np.uint8)
    labels_CL[:SHOWN, 0] = 1
    rng = np.random.default_rng([seed, 2, number])
    labels_CL[:SHOWN, 1:] = rng.random((min(SHOWN, m), len(OBJECTIVES) - 1)) < 0.4
    return TrainingSample(request=one, labels_CL=labels_CL)


def _empty(rows: int) -> dict[str, np.ndarray]:
    return {name: np.zeros(rows, kind) for name, kind in IMPRESSION_COLUMNS.items()}


def _history(asked: list[RankRequest], n: int) -> dict[str, np.ndarray]:
    columns = _empty(n * len(asked))
    columns["request_id"][:] = 1_000_000 + np.arange(n * len(asked))
    columns["user_id"][:] = np.repeat([one.user_id for one in asked], n)
    columns["video_id"][:] = np.concatenate([one.history.ids_T for one in asked])
    columns["time_ms"][:] = np.concatenate([one.history.times_ms_T for one in asked])
    actions = np.concatenate([one.history.actions_T for one in asked])
    for bit, name in enumerate(ACTIONS):
        columns[name][:] = (actions >> bit) & 1
    return columns


def _impressions(asked: list[RankRequest], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 3])
    columns = _empty(SHOWN * len(asked))
    columns["request_id"][:] = np.repeat([one.request_id for one in asked], SHOWN)
    columns["user_id"][:] = np.repeat([one.user_id for one in asked], SHOWN)
    columns["video_id"][:] = np.concatenate([one.candidates_C[:SHOWN] for one in asked])
    columns["time_ms"][:] = np.repeat([one.time_ms for one in asked], SHOWN) + 1
    columns["position"][:] = np.tile(np.arange(SHOWN), len(asked))
    for name in ACTIONS[:3]:
        columns[name][:] = rng.random(SHOWN * len(asked)) < 0.4
    return columns


def _requests(asked: list[RankRequest], n: int) -> dict[str, np.ndarray]:
    return {
        "request_id": np.array([one.request_id for one in asked], np.int64),
        "user_id": np.array([one.user_id for one in asked], np.int32),
        "time_ms": np.array([one.time_ms for one in asked], np.int64),
        "watermark": np.full(len(asked), n, np.int32),
        "candidates": np.stack([one.candidates_C for one in asked]),
        "channels": np.stack([one.channels_C for one in asked if one.channels_C is not None]),
    }

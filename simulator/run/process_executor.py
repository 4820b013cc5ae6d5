"""Runs a plan in plain processes: no Ray, no serving, and the same bytes of log and models.

Knows worlds, learners and the run folder. Arms share nothing but the warm-up, so each is a process
that simulates its days and learns from them in turn. For a machine without Ray, for many small runs
(`simulator.studies.sensitivity`), and as the reference of `simulator.run.ray_executor`, which a
test holds it to.
"""

from __future__ import annotations

import asyncio
import functools
import time
from pathlib import Path

from ifa_ray.checkpoints.format import load_model, version_folder
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_items
from ifa_ray.data.run_folder import RunFolder, ShardDay
from ifa_ray.plugins import load_ranker_class
from ifa_ray.processes import in_processes
from ifa_ray.ranking.ranker import ModelRanker, Ranker
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving.versions import Loaded, score
from ifa_ray.training.learner import StreamMetrics
from ifa_ray.training.stream import StreamSettings, train_stream
from simulator.run.presets import Arm, RunConfig
from simulator.run.progress import RunProgress
from simulator.run.shards import Shards, simulate_warmups


def run_in_processes(
    folder: RunFolder, config: RunConfig, processes: int, progress: RunProgress
) -> None:
    """Simulates all days of all arms that are not committed.

    Args:
        folder: open (see `simulator.run.opening.open_run`).
        config: what to run.
        processes: side by side, at most one an arm; 1 is this one.
        progress: is told of each arm's end.

    Raises:
        LogError: if a process died.
        IfaRayError: whatever an arm raised, unchanged.
    """
    for _ in simulate_warmups(folder.root, config, processes):
        pass
    progress.say("warm-up: done; now the arms, each reported when it has ended")
    jobs = [(folder.root, config, arm) for arm in config.parsed_arms]
    for (_, _, arm), requests in in_processes(_simulate_arm, jobs, processes):
        progress.say(f"{arm.name}: {requests} requests")


def stream_settings(folder: RunFolder, config: RunConfig, arm: Arm) -> StreamSettings:
    """The settings of a learning arm's trainer."""
    return StreamSettings(
        root=str(folder.root.resolve()),
        arm=arm.name,
        model_seeds=tuple(config.model_seed(r, arm.name) for r in range(config.replicates)),
        days=config.days,
        shards=config.shards,
        train_requests_per_day=config.train_requests_per_day,
        model=config.model_of(arm.name),
        training=config.training,
    )


def _simulate_arm(root: Path, config: RunConfig, arm: Arm) -> int:
    """Simulates an arm to its end in this process; its number of requests."""
    return _ArmRun(RunFolder(root), config, arm).run()


class _ArmRun:
    """One arm: learns a day, simulates the days that its newest version may rank, and so on."""

    def __init__(self, folder: RunFolder, config: RunConfig, arm: Arm) -> None:
        self._folder, self._config, self._arm = folder, config, arm
        self._shards = Shards(folder, config)
        self._items = functools.cache(self._read_items)
        self._next_day = [0] * config.replicates
        self._requests = 0

    def run(self) -> int:
        """Simulates all days of all replicates."""
        config, replicates = self._config, range(self._config.replicates)
        if self._arm.ranker is not None:
            for replicate in replicates:
                self._simulate_days(replicate, config.days)
            return self._requests
        # A resumed run may hold versions whose days were not simulated.
        for replicate in replicates:
            while self._next_day[replicate] < config.days and self._has_version(replicate):
                self._simulate_days(replicate, self._next_day[replicate] + 1)

        def on_version(replicate: int, version: int, _: StreamMetrics) -> None:
            ready = sum(config.version_of_day(day) <= version for day in range(config.days))
            self._simulate_days(replicate, ready)

        train_stream(stream_settings(self._folder, config, self._arm), on_version)
        return self._requests

    def _has_version(self, replicate: int) -> bool:
        version = self._config.version_of_day(self._next_day[replicate])
        return version_folder(self._folder.models(self._arm.name, replicate), version).exists()

    def _simulate_days(self, replicate: int, until: int) -> None:
        """Simulates a replicate's days before `until`, those that are committed not again."""
        for day in range(self._next_day[replicate], until):
            version = self._config.version_of_day(day) if self._arm.ranker is None else 0
            loaded = functools.cache(functools.partial(self._load, replicate, version))

            async def rank(requests: list[RankRequest]) -> list[RankResponse]:
                return score(loaded(), requests)  # noqa: B023  (awaited within this turn)

            for shard in range(self._config.shards):
                key = ShardDay(self._arm.name, replicate, day, shard)
                answer = None if self._arm.in_world else rank
                summary = asyncio.run(self._shards.simulate_day(key, version, answer))
                self._requests += summary["requests"]
        self._next_day[replicate] = max(self._next_day[replicate], until)

    def _load(self, replicate: int, version: int) -> Loaded:
        items, arm = self._items(replicate), self._arm
        if arm.ranker is not None:
            seed = self._config.model_seed(replicate, arm.name)
            ranker: Ranker = load_ranker_class(arm.ranker)(items=items, seed=seed)
        else:
            models = self._folder.models(arm.name, replicate)
            model = load_model(version_folder(models, version), items)
            # CPU time, which a busy machine does not inflate.
            ranker = ModelRanker(model, items, version, time.thread_time)
        return Loaded(version, ranker)

    def _read_items(self, replicate: int) -> ItemTable:
        return read_items(self._folder.items(replicate))

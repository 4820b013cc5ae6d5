"""A run in plain processes: no Ray, no serving, and the same bytes of log and models.

Knows worlds, learners and the run folder. Arms share nothing but the warm-up, so each is a process
that simulates its days and learns from them in turn. For a machine without Ray, for many small runs
(`simulator.studies.sensitivity`), and as the reference of `simulator.run.ray_executor`, which a
test holds it to.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TextIO

from ifa_ray.checkpoints.format import load_model, version_folder
from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_items
from ifa_ray.data.run_folder import RunFolder, ShardDay
from ifa_ray.errors import LogError
from ifa_ray.models.base import RankModel
from ifa_ray.plugins import load_ranker_class
from ifa_ray.processes import worker_pool
from ifa_ray.ranking.ranker import ModelRanker, Ranker
from ifa_ray.schema import RankRequest, RankResponse
from ifa_ray.serving.versions import Loaded, score
from ifa_ray.training.learner import StreamMetrics
from ifa_ray.training.stream import StreamSettings, train_stream
from simulator.run.opening import begin_part, end_part
from simulator.run.presets import Arm, RunConfig
from simulator.run.progress import PeakMemory, RunProgress
from simulator.run.result import write_result
from simulator.run.shards import live_warmups, shard_before, write_shard_day
from simulator.world.day import run_day
from simulator.world.policy import world_ranker
from simulator.world.queries import Candidates, RetrievalQuery
from simulator.world.world import ShardState, World

MakeRanker = Callable[[RankModel, ItemTable, int, Callable[[], float]], Ranker]
"""As `ModelRanker`: a model, its catalogue, its version and a clock of seconds."""


def run_plain(
    folder: RunFolder, config: RunConfig, processes: int, stream: TextIO | None = None
) -> None:
    """Lives all days of all arms, and writes result.json and report.html.

    Args:
        folder: open (see `simulator.run.opening.open_run`); what is committed is kept.
        config: what to run.
        processes: side by side, at most one an arm; 1 is this one.
        stream: where progress is told; standard error by default.

    Raises:
        LogError: if a process died.
        IfaRayError: whatever an arm raised, unchanged.
    """
    require(processes >= 1, "processes", processes, ">= 1")
    started = time.monotonic()
    begin_part(folder, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    arms = config.parsed_arms
    progress = RunProgress(
        arms=tuple(arm.name for arm in arms),
        units_per_arm=config.replicates * config.shards,
        stream=stream,
    )
    memory = PeakMemory()
    try:
        with memory, progress:
            progress.say(
                f"{config.preset}: arms {', '.join(config.arms)}, {config.replicates} replicates x "
                f"{config.users} users x {config.days} days, seed {config.seed}, in {folder.root}, "
                f"{processes} processes without Ray"
            )
            for _ in live_warmups(folder.root, config, processes):
                pass
            progress.say("warm-up: lived; now the arms, each reported when it has ended")
            for arm, requests in _live_arms(folder.root, config, arms, processes):
                progress.say(f"{arm.name}: lived {requests} requests")
    finally:
        end_part(folder, time.monotonic() - started, memory.peak_bytes)
    write_result(folder, config)


def stream_settings(folder: RunFolder, config: RunConfig, arm: Arm) -> StreamSettings:
    """What the trainer of a learning arm must know."""
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


def _live_arms(
    root: Path, config: RunConfig, arms: tuple[Arm, ...], processes: int
) -> Iterator[tuple[Arm, int]]:
    """Arms and their numbers of requests, as they end."""
    if processes == 1:
        for arm in arms:
            yield arm, live_arm(root, config, arm)
        return
    with worker_pool(min(processes, len(arms))) as pool:
        futures = {pool.submit(live_arm, root, config, arm): arm for arm in arms}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise LogError(
                f"{root}: a process died before its arm had ended, perhaps for want of memory: "
                "each holds all worlds. Continue with --resume, and fewer --processes."
            ) from None


def live_arm(root: Path, config: RunConfig, arm: Arm, make_ranker: MakeRanker = ModelRanker) -> int:
    """Lives an arm to its end in this process, after the warm-up was lived.

    Args:
        root: of the run's folder.
        config: of the run.
        arm: of its arms.
        make_ranker: makes the ranker of each version of a model that learns.

    Returns:
        Its number of requests.
    """
    return _PlainArm(RunFolder(root), config, arm, make_ranker).live()


class _PlainArm:
    """One arm: learns a day, lives the days that its newest version may rank, and so on."""

    def __init__(
        self, folder: RunFolder, config: RunConfig, arm: Arm, make_ranker: MakeRanker
    ) -> None:
        self._folder, self._config, self._arm = folder, config, arm
        self._make_ranker = make_ranker
        self._world = functools.cache(self._build_world)
        self._items = functools.cache(self._read_items)
        # (replicate, shard) -> the next day to live, and the shard as it stands before it.
        self._shards: dict[tuple[int, int], tuple[int, ShardState]] = {}
        self._next_day = [0] * config.replicates
        self._requests = 0

    def live(self) -> int:
        """All days of all replicates."""
        if self._arm.ranker is not None:
            for replicate in range(self._config.replicates):
                self._live_days(replicate, self._config.days)
            return self._requests
        settings = stream_settings(self._folder, self._config, self._arm)
        # A resumed run may hold versions whose days were not lived.
        for replicate in range(self._config.replicates):
            while self._next_day[replicate] < self._config.days and self._has_version(replicate):
                self._live_days(replicate, self._next_day[replicate] + 1)

        def on_version(replicate: int, version: int, _: StreamMetrics) -> None:
            days = range(self._config.days)
            ready = sum(self._config.version_of_day(day) <= version for day in days)
            self._live_days(replicate, ready)

        train_stream(settings, on_version)
        return self._requests

    def _has_version(self, replicate: int) -> bool:
        version = self._config.version_of_day(self._next_day[replicate])
        models = self._folder.models(self._arm.name, replicate)
        return version_folder(models, version).exists()

    def _live_days(self, replicate: int, until: int) -> None:
        """Lives a replicate's days before `until`, those that are committed not again."""
        for day in range(self._next_day[replicate], until):
            learns = self._arm.ranker is None
            version = self._config.version_of_day(day) if learns else 0
            keys = [
                ShardDay(self._arm.name, replicate, day, shard)
                for shard in range(self._config.shards)
            ]
            if not all(map(self._folder.is_committed, keys)):
                ranker = None if self._arm.in_world else self._ranker(replicate, version)
                for key in keys:
                    if not self._folder.is_committed(key):
                        self._live_day(key, version, ranker)
            self._requests += sum(self._folder.summary(key)["requests"] for key in keys)
        self._next_day[replicate] = max(self._next_day[replicate], until)

    def _live_day(self, key: ShardDay, version: int, ranker: Ranker | None) -> None:
        """Lives a shard's day; an arm in the world makes its ranker of the shard."""
        world = self._world(key.replicate)
        next_day, state = self._shards.pop((key.replicate, key.shard), (-1, None))
        if state is None or next_day != key.day:
            state = shard_before(self._folder, world, key)
        loaded = Loaded(version, ranker or world_ranker(self._arm.name, world, state))
        timings: list[tuple[int, float, float]] = []

        async def find(query: RetrievalQuery) -> Candidates:
            return world.retrieval.retrieve(query)

        async def rank(requests: list[RankRequest]) -> list[RankResponse]:
            responses = score(loaded, requests)
            timings.extend((each.request_id, each.rank_ms, each.rank_ms) for each in responses)
            return responses

        log = asyncio.run(
            run_day(
                world,
                state,
                key.day,
                retrieve=find,
                rank=rank,
                model_version=version,
                num_candidates=self._config.candidates_of(key.arm),
            )
        )
        write_shard_day(self._folder, key, log, state, timings)
        self._shards[key.replicate, key.shard] = (key.day + 1, state)

    def _ranker(self, replicate: int, version: int) -> Ranker:
        items = self._items(replicate)
        if self._arm.ranker is not None:
            seed = self._config.model_seed(replicate, self._arm.name)
            ranker: Ranker = load_ranker_class(self._arm.ranker)(items=items, seed=seed)
            return ranker
        models = self._folder.models(self._arm.name, replicate)
        # CPU time, which a busy machine does not inflate.
        clock: Callable[[], float] = time.thread_time
        model = load_model(version_folder(models, version), items)
        return self._make_ranker(model, items, version, clock)

    def _build_world(self, replicate: int) -> World:
        return World(self._config.world, self._config.world_seed(replicate))

    def _read_items(self, replicate: int) -> ItemTable:
        return read_items(self._folder.items(replicate))

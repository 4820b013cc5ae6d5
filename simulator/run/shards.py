"""Simulates the days of shards of users, and the warm-up that every run begins with.

Knows the run folder and worlds. Plain processes and Ray's actors simulate through `Shards`, so both
write the same bytes. No Ray, and no models: a warm-up's processes do not load torch (0.25 GB each).
"""

from __future__ import annotations

import asyncio
import functools
import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ifa_ray.data.log import (
    read_impressions,
    write_impressions,
    write_items,
    write_requests,
    write_timings,
)
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.processes import in_processes
from ifa_ray.schema import ACTIONS, RankRequest, RankResponse, pack_actions
from simulator.run.opening import driver_part
from simulator.run.presets import RunConfig
from simulator.world.config import WorldConfig
from simulator.world.day import DayLog, Rank, Retrieve, run_day, run_warmup
from simulator.world.policy import world_ranker
from simulator.world.queries import Candidates, RetrievalQuery
from simulator.world.world import ShardState, World


class Shards:
    """Shards of users as they stand before their next day.

    Memory is a cache of what committed days say: whoever begins anew reads the log and continues
    to the same bytes.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        self.world = functools.cache(self._build_world)
        # (arm, replicate, shard) -> the next day, and the shard as it stands before it.
        self._states: dict[tuple[str, int, int], tuple[int, ShardState]] = {}

    async def warm_up(self, replicate: int, shard: int) -> dict[str, int]:
        """The summary of a shard's prehistory, which is simulated unless it is committed."""
        key = ShardDay(WARMUP, replicate, 0, shard)
        if not self.folder.is_committed(key):
            state = ShardState.new(self.world(replicate), self.config.shard_users(shard))
            log = await run_warmup(self.world(replicate), state)
            _write_day(self.folder, key, log, state)
        return self.folder.summary(key)

    async def simulate_day(
        self, key: ShardDay, version: int, rank: Rank | None, retrieve: Retrieve | None = None
    ) -> dict[str, int]:
        """The summary of a shard's day, which is simulated unless it is committed.

        Args:
            key: whose warm-up and earlier days are committed.
            version: of the model that ranks.
            rank: answers requests; None is the arm's ranker that knows the world.
            retrieve: answers queries; None is this process.

        Raises:
            LogError: if a file of an earlier day is missing or damaged.
        """
        if self.folder.is_committed(key):
            return self.folder.summary(key)
        world, state = self.world(key.replicate), self._state_before(key)
        timings: list[tuple[int, float, float]] = []

        async def retrieve_here(query: RetrievalQuery) -> Candidates:
            return world.retrieval.retrieve(query)

        async def rank_here(requests: list[RankRequest]) -> list[RankResponse]:
            return world_ranker(key.arm, world, state).rank(requests)

        async def timed(requests: list[RankRequest]) -> list[RankResponse]:
            begun = time.perf_counter()
            responses = await (rank or rank_here)(requests)
            wait_ms = 1e3 * (time.perf_counter() - begun) / len(requests)
            timings.extend((each.request_id, each.rank_ms, wait_ms) for each in responses)
            return responses

        log = await run_day(
            world,
            state,
            key.day,
            retrieve=retrieve or retrieve_here,
            rank=timed,
            model_version=version,
            num_candidates=self.config.candidates_of(key.arm),
        )
        _write_day(self.folder, key, log, state, timings)
        self._states[key.arm, key.replicate, key.shard] = (key.day + 1, state)
        return self.folder.summary(key)

    def _state_before(self, key: ShardDay) -> ShardState:
        """The shard at the start of a day: from memory, or read again from the log."""
        next_day, state = self._states.pop((key.arm, key.replicate, key.shard), (-1, None))
        if state is not None and next_day == key.day:
            return state
        past = [ShardDay(WARMUP, key.replicate, 0, key.shard)] + [
            ShardDay(key.arm, key.replicate, day, key.shard) for day in range(key.day)
        ]
        with np.load(self.folder.state(past[-1]), allow_pickle=False) as arrays:
            state = ShardState.from_arrays(self.world(key.replicate), dict(arrays))
        for day in past:
            columns = read_impressions(self.folder.table("impressions", day))
            actions = pack_actions({name: columns[name] for name in ACTIONS})
            state.histories.append_sorted(
                columns["user_id"], columns["video_id"], actions, columns["time_ms"]
            )
        return state

    def _build_world(self, replicate: int) -> World:
        return World(self.config.world, self.config.world_seed(replicate))


def _write_day(
    folder: RunFolder,
    key: ShardDay,
    log: DayLog,
    state: ShardState,
    timings: list[tuple[int, float, float]] | None = None,
) -> None:
    """Writes and commits a shard's day; no ranker was timed in the warm-up."""
    write_impressions(folder.table("impressions", key), log.impressions)
    write_requests(folder.table("requests", key), log.requests)
    if timings is not None:
        rows = sorted(timings)
        columns: dict[str, np.ndarray] = {
            "request_id": np.array([row[0] for row in rows], np.int64),
            "rank_ms": np.array([row[1] for row in rows], np.float32),
            "wait_ms": np.array([row[2] for row in rows], np.float32),
        }
        write_timings(folder.table("timings", key), columns)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **state.to_arrays())
    write_atomically(folder.state(key), buffer.getvalue())
    folder.commit(key, log.summary())


def write_catalogue(folder: RunFolder, config: RunConfig, replicate: int) -> None:
    """Writes the observed items of a replicate's world, unless they are there."""
    path = folder.items(replicate)
    if not path.exists():
        world = World(config.world, config.world_seed(replicate))
        write_items(path, world.catalog.item_table())


def compile_ahead() -> None:
    """Simulates two users of a tiny world, so that compiled functions are on disk for all."""
    config = WorldConfig(
        num_items=1_000,
        num_candidates=50,
        warmup_candidates=25,
        max_history=50,
        history_median=40.0,
        min_history=20,
        warmup_requests_per_user=1,
    )
    world = World(config, 0)
    asyncio.run(run_warmup(world, ShardState.new(world, np.arange(2, dtype=np.int32))))


def write_warmup_log(folder: RunFolder, config: RunConfig, processes: int) -> dict[str, int]:
    """Writes the catalogues and warm-up logs of all replicates.

    The bytes depend on the config alone: every shard is a pure function of it.

    Args:
        folder: open (see `simulator.run.opening.open_run`); what is committed is kept.
        config: of the run that this is the beginning of.
        processes: side by side, a shard each; 1 is this one.

    Returns:
        Counts, summed over shards and replicates.

    Raises:
        LogError: if a process died.
    """
    total: dict[str, int] = {}
    units = config.replicates * config.shards
    with driver_part(folder, config, "warm-up log", units={WARMUP: units}) as progress:
        for summary in simulate_warmups(folder.root, config, processes):
            progress.finished(WARMUP, 0, summary["requests"])
            for name, count in summary.items():
                total[name] = total.get(name, 0) + count
    return total


def simulate_warmups(root: Path, config: RunConfig, processes: int) -> Iterator[dict[str, int]]:
    """Simulates what is missing of the warm-ups of all shards; their summaries as they come."""
    if processes > 1:
        compile_ahead()
    jobs = itertools.product([root], [config], range(config.replicates), range(config.shards))
    for _, summary in in_processes(_warm_up, jobs, processes):
        yield summary


def _warm_up(root: Path, config: RunConfig, replicate: int, shard: int) -> dict[str, int]:
    shards = _shards_of(root, config, replicate)
    write_catalogue(shards.folder, config, replicate)
    return asyncio.run(shards.warm_up(replicate, shard))


@functools.lru_cache(maxsize=1)
def _shards_of(root: Path, config: RunConfig, _replicate: int) -> Shards:
    # Replicates come in order, so one world is enough and memory does not grow with them.
    return Shards(RunFolder(root), config)

"""Writes a shard's day, and simulates the warm-up that every run begins with.

Knows the run folder, worlds and processes; no Ray, so that plain processes and a run's actors write
the same bytes, and no models: a warm-up's processes do not load torch (0.25 GB each).
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import io
import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from ifa_ray.config import require
from ifa_ray.data.log import (
    read_impressions,
    write_impressions,
    write_items,
    write_requests,
    write_timings,
)
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.errors import LogError
from ifa_ray.processes import worker_pool
from ifa_ray.schema import ACTIONS, pack_actions
from simulator.run.opening import begin_part, end_part
from simulator.run.presets import RunConfig
from simulator.run.progress import PeakMemory, RunProgress
from simulator.world.config import WorldConfig
from simulator.world.day import DayLog, run_warmup
from simulator.world.world import ShardState, World


def write_catalogue(folder: RunFolder, config: RunConfig, replicate: int) -> None:
    """Writes the observed items of a replicate's world, unless they are there."""
    path = folder.items(replicate)
    if not path.exists():
        world = World(config.world, config.world_seed(replicate))
        write_items(path, world.catalog.item_table())


async def live_prehistory(
    folder: RunFolder, config: RunConfig, world: World, replicate: int, shard: int
) -> dict[str, int]:
    """Lives the prehistory of a shard's users, which all arms of a replicate share.

    A committed one is not lived again.

    Args:
        folder: where its log is written and committed.
        config: says which users are the shard's.
        world: the replicate's.
        replicate: which.
        shard: which.

    Returns:
        Its summary.
    """
    key = ShardDay(WARMUP, replicate, 0, shard)
    if not folder.is_committed(key):
        state = ShardState.new(world, config.shard_users(shard))
        log = await run_warmup(world, state)
        write_shard_day(folder, key, log, state, timings=None)
    return folder.summary(key)


def write_shard_day(
    folder: RunFolder,
    key: ShardDay,
    log: DayLog,
    state: ShardState,
    timings: Sequence[tuple[int, float, float]] | None,
) -> None:
    """Writes and commits a shard's day.

    Args:
        folder: of the run.
        key: which day of which shard.
        log: what its users did.
        state: of the shard at the day's end.
        timings: request id, ranking and waiting milliseconds of each request, in any order; None
            where no ranker was timed.
    """
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


def shard_before(folder: RunFolder, world: World, key: ShardDay) -> ShardState:
    """The shard at the start of a day: hidden state of the day before, histories of the whole log.

    Args:
        folder: of the run; the warm-up and all earlier days of the arm's shard are committed.
        world: of the replicate.
        key: the day that is to be lived.

    Raises:
        LogError: if a file is missing or damaged.
    """
    past = [ShardDay(WARMUP, key.replicate, 0, key.shard)] + [
        ShardDay(key.arm, key.replicate, day, key.shard) for day in range(key.day)
    ]
    with np.load(folder.state(past[-1]), allow_pickle=False) as arrays:
        state = ShardState.from_arrays(world, dict(arrays))
    for day in past:
        columns = read_impressions(folder.table("impressions", day))
        state.histories.append_sorted(
            columns["user_id"],
            columns["video_id"],
            pack_actions({name: columns[name] for name in ACTIONS}),
            columns["time_ms"],
        )
    return state


def compile_ahead() -> None:
    """Lives two users of a world as small as can be; a tenth of a second when all is on disk."""
    config = WorldConfig(
        num_items=1_000, num_candidates=50, warmup_candidates=25, max_history=50,
        history_median=40.0, min_history=20, warmup_requests_per_user=1,
    )  # fmt: skip
    world = World(config, 0)
    shard = ShardState.new(world, np.arange(2, dtype=np.int32))
    asyncio.run(run_warmup(world, shard))


def write_warmup_log(folder: RunFolder, config: RunConfig, processes: int) -> dict[str, int]:
    """Writes the catalogues and warm-up logs of all replicates.

    The bytes depend on the config alone: every shard is a pure function of it.

    Args:
        folder: open (see `simulator.run.opening.open_run`); what is committed is kept.
        config: of the run that this is the beginning of.
        processes: how many shards are lived at a time, each in a process of its own; 1 is this one.

    Returns:
        Counts, summed over shards and replicates.

    Raises:
        LogError: if a process died.
    """
    require(processes >= 1, "processes", processes, ">= 1")
    started = time.monotonic()
    begin_part(folder, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    num_jobs = config.replicates * config.shards
    progress = RunProgress(arms=(WARMUP,), units_per_arm=num_jobs)
    memory = PeakMemory()
    total: dict[str, int] = {}
    try:
        with memory, progress:
            progress.say(
                f"{config.preset}: warm-up log of {config.replicates} replicates x {config.users} "
                f"users, seed {config.seed}, in {folder.root}"
            )
            for summary in live_warmups(folder.root, config, processes):
                progress.lived(WARMUP, 0, summary["requests"])
                for name, count in summary.items():
                    total[name] = total.get(name, 0) + count
    finally:
        end_part(folder, time.monotonic() - started, memory.peak_bytes)
    return total


def live_warmups(root: Path, config: RunConfig, processes: int) -> Iterator[dict[str, int]]:
    """Lives what is missing of the warm-ups of all shards; their summaries as they come."""
    jobs = list(itertools.product(range(config.replicates), range(config.shards)))
    if processes == 1:
        for job in jobs:
            yield _live(root, config, *job)
        return
    compile_ahead()
    with worker_pool(min(processes, len(jobs))) as pool:
        futures = [pool.submit(_live, root, config, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise LogError(
                f"{root}: a process died before its shard was written, perhaps for want of memory: "
                "each holds a world. Continue with --resume, and fewer --processes."
            ) from None


def _live(root: Path, config: RunConfig, replicate: int, shard: int) -> dict[str, int]:
    folder = RunFolder(root)
    write_catalogue(folder, config, replicate)
    world = _world(config, replicate)
    return asyncio.run(live_prehistory(folder, config, world, replicate, shard))


@functools.lru_cache(maxsize=1)
def _world(config: RunConfig, replicate: int) -> World:
    # Replicates come in order, so one world is enough and memory does not grow with them.
    return World(config.world, config.world_seed(replicate))

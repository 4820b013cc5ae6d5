"""What a shard's day leaves on disk, and the prehistory that every run begins with.

Knows the run folder and worlds; no Ray, so a warm-up log can be made by plain processes
(`simulator.run.process_executor`) as well as by a run's actors, and is the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from ifa_ray.data.log import (
    read_impressions,
    write_impressions,
    write_items,
    write_requests,
    write_timings,
)
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.schema import ACTIONS, pack_actions
from simulator.run.presets import RunConfig
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

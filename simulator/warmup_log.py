"""A log without a closed loop: lifelong histories and requests under the earlier policy, no Ray.

Knows the run folder and processes. What it leaves is the beginning of a run: `run --resume`
continues it, and `ifa_ray.training.sources.read_run` reads it, so that rankers can be trained and
compared offline.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ifa_ray.config import require
from ifa_ray.data.run_folder import WARMUP, RunFolder
from ifa_ray.errors import LogError
from ifa_ray.processes import worker_pool
from simulator.compile_ahead import compile_ahead
from simulator.memory import PeakMemory
from simulator.parts import begin_part, end_part
from simulator.prehistory import live_prehistory, write_catalogue
from simulator.presets import RunConfig
from simulator.progress import RunProgress
from simulator.world.world import World


def write_warmup_log(folder: RunFolder, config: RunConfig, processes: int) -> dict[str, int]:
    """Writes the catalogues and warm-up logs of all replicates.

    The bytes depend on the config alone: every shard is a pure function of it.

    Args:
        folder: open (see `simulator.opening.open_run`); what is committed in it is not done again.
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

"""Compiles the world's loops before many processes ask for them at once.

Knows the story of a warm-up, which calls them all. What is compiled is kept on disk beside the
source (or under NUMBA_CACHE_DIR): some seconds the first time on a machine, nothing afterwards.
"""

from __future__ import annotations

import asyncio

import numpy as np

from simulator.world.config import WorldConfig
from simulator.world.day import run_warmup
from simulator.world.world import ShardState, World


def compile_ahead() -> None:
    """Lives two users of a world as small as can be; a tenth of a second when all is on disk."""
    config = WorldConfig(
        num_items=1_000, num_candidates=50, warmup_candidates=25, max_history=50,
        history_median=40.0, min_history=20, warmup_requests_per_user=1,
    )  # fmt: skip
    world = World(config, 0)
    shard = ShardState.new(world, np.arange(2, dtype=np.int32))
    asyncio.run(run_warmup(world, shard))

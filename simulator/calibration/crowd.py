"""Popularity among thousands of users: a short life of many, in a catalogue that is their size.

Knows worlds. No user sees an item twice, so a few dozen users, however long their histories, bound
the share of the top 1%. Keeping one item in h keeps the curve and makes every history h times
shorter, so popularity is measured on a crowd with short histories in a small catalogue.
"""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import numpy.typing as npt

from simulator.config import WorldConfig
from simulator.day import run_warmup
from simulator.world import ShardState, World

__all__ = ["CROWDS", "Crowd", "crowd_config", "crowd_views"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crowd:
    """How many live how long in how large a catalogue.

    Attributes:
        users: all in one world.
        history_median: of their prehistories.
        num_items: catalogue; what is never seen does not count in any figure.
        num_candidates: over `warmup_candidates`, in how many stripes the catalogue is searched.
    """

    users: int
    history_median: float
    num_items: int
    num_candidates: int


CROWDS = {
    name: Crowd(users=3_000, history_median=90.0, num_items=60_000, num_candidates=600)
    for name in ("kuairand", "kuaishou_paper")
}
"""Scales whose popularity is measured on a crowd."""


def crowd_config(config: WorldConfig, crowd: Crowd) -> WorldConfig:
    """The world at the crowd's size, with the same mechanisms and levels."""
    share = crowd.history_median / config.history_median
    return dataclasses.replace(
        config,
        num_items=crowd.num_items,
        num_candidates=crowd.num_candidates,
        warmup_candidates=min(config.warmup_candidates, crowd.num_candidates),
        history_median=crowd.history_median,
        min_history=max(1, int(share * config.min_history)),
        max_history=max(1, int(share * config.prehistory_limit)),
        longest_prehistory=0,
        warmup_requests_per_user=1,
    )


def crowd_views(config: WorldConfig, crowd: Crowd, seed: int) -> npt.NDArray[np.int32]:
    """Video ids of everything that the crowd sees, one for each impression."""
    world = World(crowd_config(config, crowd), seed)
    shard = ShardState.new(world, np.arange(crowd.users, dtype=np.int32))
    return asyncio.run(run_warmup(world, shard)).impressions["video_id"]

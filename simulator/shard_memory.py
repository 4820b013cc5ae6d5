"""A shard as it stands before a day, read again from what its committed days say.

Knows the run folder and the log. A shard in memory is a cache of this: an actor that died, a driver
that was killed, and a run without actors all continue from here to the same bytes.
"""

from __future__ import annotations

import numpy as np

from ifa_ray.data.log import read_impressions
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from ifa_ray.schema import ACTIONS, pack_actions
from simulator.world.world import ShardState, World


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

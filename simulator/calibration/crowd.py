"""Popularity among thousands of users: a short life of many, in a catalogue that is their size.

Knows worlds. No user sees an item twice, so a few dozen users, however long their histories, bound
the share of the top 1%. Keeping one item in h keeps the curve and makes every history h times
shorter, so popularity is measured on a crowd with short histories in a small catalogue.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from simulator.calibration.measure import concentration
from simulator.config import WorldConfig
from simulator.day import run_warmup
from simulator.world import ShardState, World

__all__ = ["CROWDS", "Crowd", "crowd_config", "crowd_views", "solve_popularity"]

Report = Callable[[str], None]


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


# Change of (top 1% share, Gini) with (popularity_slope, policy_popularity), as it was seen: where
# the search starts, and Broyden's updates correct it.
JACOBIAN = ((0.41, 0.25), (0.36, 0.38))
UNITS = np.array([0.04, 0.03])
MAX_STEPS = 6
LOWEST, HIGHEST = np.array([0.05, 0.0]), np.array([2.5, 4.0])


def solve_popularity(
    config: WorldConfig,
    crowd: Crowd,
    targets: Mapping[str, float],
    seed: int,
    report: Report,
) -> WorldConfig:
    """The world whose crowd gathers on as few items as the targets say.

    A steeper slope and a policy that looks more at popularity both concentrate; the slope more at
    the head, the policy more in the tail. Each step lives a crowd, so steps are few.

    Args:
        config: the world; its slope and policy are where the search starts.
        crowd: that is lived.
        targets: `top_1pct_share` and `gini`.
        seed: of the crowd's world.
        report: is given a line a step.

    Returns:
        The world of the step that came nearest.
    """
    wanted = np.array([targets["top_1pct_share"], targets["gini"]])
    x = np.array([config.popularity_slope, config.policy_popularity])
    slope = np.array(JACOBIAN)
    best, nearest, before = config, np.inf, None
    for _ in range(MAX_STEPS):
        config = dataclasses.replace(
            config, popularity_slope=float(x[0]), policy_popularity=float(x[1])
        )
        figures = concentration(crowd_views(config, crowd, seed), crowd.users)
        found = np.array([figures["top_1pct_share"], figures["gini"]])
        report(
            f"popularity_slope {x[0]:.3f}, policy_popularity {x[1]:.3f}: top 1% {found[0]:.3f}, "
            f"Gini {found[1]:.3f}"
        )
        distance = float(np.abs((found - wanted) / UNITS).max())
        if distance < nearest:
            best, nearest = config, distance
        if distance < 0.4:
            break
        if before is not None:
            moved = x - before[0]
            slope += np.outer(found - before[1] - slope @ moved, moved) / (moved @ moved)
        before = x, found
        step = np.clip(np.linalg.solve(slope, wanted - found), -0.3, 0.3)
        x = np.clip(x + step, LOWEST, HIGHEST)
    return best

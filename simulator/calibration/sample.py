"""Simulated warm-ups to solve levels on and to measure: thinned worlds, and a crowd for popularity.

Knows the hidden world. On a fixed sample every rate is a smooth closed form of the levels. Sampled
worlds are thinned: shorter histories in a smaller catalogue, so that the share of the catalogue
that a user has seen, and the number of items that an approximate search visits, stay as they are.

Letters: U users, X items per user, P impressions of the sample, Q random exposures of the sample.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np

from simulator.world.arrays import Floats, Ints, Longs
from simulator.world.config import START_MS, WorldConfig
from simulator.world.crn import Purpose, uniform
from simulator.world.day import run_warmup
from simulator.world.responses import bias, utility
from simulator.world.slates import Visit
from simulator.world.world import ShardState, World

Pool = tuple[float, float]
"""Mean and standard deviation of the log durations (s) of randomly exposed videos."""

SAMPLE_HISTORY = 600.0
SAMPLE_ITEMS = 20_000
MAX_IMPRESSIONS = 4_000
RANDOM_PER_USER = 120


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Exposures whose rates are a function of the levels."""

    core_P: Floats  # utility over `utility_scale`; bias_P is eagerness in its unit
    bias_P: Floats
    duration_s_P: Floats
    user_P: Longs  # row of the user
    session_joy_P: Floats  # satisfaction with the session so far
    core_Q: Floats  # of random exposures, as the next two
    bias_Q: Floats
    duration_s_Q: Floats
    weight_Q: Floats  # sums to 1; a user counts by the impressions, as random slots do


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crowd:
    """Thousands of users with short histories in a small catalogue, to measure popularity.

    No user sees an item twice, so a few dozen users, however long their histories, bound the share
    of the top 1%. Keeping one item in h keeps the curve and makes every history h times shorter.
    """

    users: int  # all in one world
    history_median: float  # of their prehistories
    num_items: int  # catalogue; unseen items count in no figure
    num_candidates: int  # over `warmup_candidates`, in how many stripes the catalogue is searched


CROWDS = {
    name: Crowd(users=3_000, history_median=90.0, num_items=60_000, num_candidates=600)
    for name in ("kuairand", "kuaishou_paper")
}
"""Scales whose popularity is measured on a crowd."""


def crowd_views(config: WorldConfig, crowd: Crowd, seed: int) -> Ints:
    """Video ids of all impressions of a crowd, with the mechanisms and levels of a world."""
    share = crowd.history_median / config.history_median
    config = dataclasses.replace(
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
    world = World(config, seed)
    shard = ShardState.new(world, np.arange(crowd.users, dtype=np.int32))
    return asyncio.run(run_warmup(world, shard)).impressions["video_id"]


def thinned(
    config: WorldConfig, history_median: float | None = None, least_items: int = SAMPLE_ITEMS
) -> WorldConfig:
    """The world with shorter histories in a smaller catalogue, to sample in seconds.

    Args:
        config: the world.
        history_median: of the thinned one, at most the world's; None: at most 600.
        least_items: the catalogue shrinks with the histories, but not below this.
    """
    median = min(config.history_median, history_median or SAMPLE_HISTORY)
    share = median / config.history_median
    num_items = max(int(share * config.num_items), min(least_items, config.num_items))
    # The stripe of the catalogue that a warm-up request searches keeps its size.
    num_candidates = int(config.num_candidates * num_items / config.num_items)
    longest = max(1, int(share * config.prehistory_limit))
    return dataclasses.replace(
        config,
        num_items=num_items,
        num_candidates=max(num_candidates, config.warmup_candidates),
        history_median=median,
        min_history=max(1, int(share * config.min_history)),
        max_history=min(longest, config.max_history),
        longest_prehistory=longest if longest > config.max_history else 0,
        warmup_requests_per_user=1,
    )


def pool_weights(duration_s: Floats, catalogue: Pool, pool: Pool | None) -> Floats:
    """Weights of random exposures, of mean 1, that give them the durations of a pool of videos.

    KuaiRand's random exposures are of 7,583 videos whose median duration is 81 s, not of its whole
    catalogue, whose median is 35 s.

    Args:
        duration_s: of uniformly random items of the catalogue.
        catalogue: of its log durations.
        pool: None counts all alike.
    """
    if pool is None or not len(duration_s):
        return np.ones(len(duration_s))
    log_s = np.log(np.maximum(duration_s, 0.1))
    mass = [np.exp(-0.5 * ((log_s - mean) / sd) ** 2) / sd for mean, sd in (pool, catalogue)]
    weight = mass[0] / np.maximum(mass[1], 1e-12)
    return weight / weight.mean()


def draw_sample(
    config: WorldConfig, seeds: Sequence[int], num_users: int, pool: Pool | None = None
) -> Sample:
    """Simulates warm-ups of several thinned worlds and keeps the hidden side of each impression.

    Several, because a hundred users' mean eagerness moves the click rate by several percent.
    """
    small = thinned(config)
    parts = [simulate_warmup(World(small, seed), num_users, pool)[0] for seed in seeds]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Sample)
    }
    offsets = np.repeat(num_users * np.arange(len(parts)), [len(part.user_P) for part in parts])
    joined["user_P"] += offsets
    joined["weight_Q"] /= len(parts)
    return Sample(**joined)


def simulate_warmup(
    world: World, num_users: int, pool: Pool | None = None
) -> tuple[Sample, dict[str, np.ndarray]]:
    """Simulates one world's warm-up; its sample, and all its impressions as they are logged."""
    config, seed = world.config, world.seed
    shard = ShardState.new(world, np.arange(num_users, dtype=np.int32))
    visits: list[Visit] = []
    log = asyncio.run(run_warmup(world, shard, observe=visits.append))
    columns = {
        name: np.concatenate([{**v.impressions, **v.hidden}[name] for v in visits])
        for name in ("user_id", "duration_ms", "is_rand", "utility", "bias", "session_joy")
    }
    impressions_U = np.bincount(columns["user_id"], minlength=num_users)
    feed = np.flatnonzero(columns["is_rand"] == 0)
    feed = feed[:: -(-len(feed) // MAX_IMPRESSIONS)]  # every user keeps its share

    slot = np.arange(RANDOM_PER_USER)
    live = world.catalog.observed.num_live(np.full(1, START_MS))
    draw_UX = uniform(seed, Purpose.RANDOM_ITEM, shard.user_ids[:, None], START_MS, slot)
    ids_UX = (draw_UX * live).astype(np.int32)
    now_U = np.full(num_users, START_MS)
    random_UX = utility(config, world.catalog, shard.users, ids_UX, now_U)
    bias_U = bias(config, shard.users)
    duration_s_UX = world.catalog.observed.items.duration_ms_N[ids_UX] / 1000
    catalogue = (float(np.log(config.duration_median_s)), config.duration_log_sd)
    weight_UX = pool_weights(duration_s_UX.ravel(), catalogue, pool).reshape(ids_UX.shape)
    weight_UX *= (impressions_U / impressions_U.sum())[:, None]
    # Divided by what multiplied them; of a mechanism that is off nothing is left to divide.
    scale, sd = config.utility_scale or 1.0, config.bias_sd or 1.0
    sample = Sample(
        core_P=(columns["utility"] - columns["bias"])[feed] / scale,
        bias_P=columns["bias"][feed] / sd,
        duration_s_P=columns["duration_ms"][feed] / 1000,
        user_P=columns["user_id"][feed].astype(np.int64),
        session_joy_P=columns["session_joy"][feed],
        core_Q=((random_UX - bias_U[:, None]) / scale).ravel(),
        bias_Q=np.repeat(bias_U / sd, RANDOM_PER_USER),
        duration_s_Q=duration_s_UX.ravel(),
        weight_Q=(weight_UX / weight_UX.sum()).ravel(),
    )
    return sample, log.impressions

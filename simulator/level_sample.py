"""What levels are solved on: what users met under the earlier policy, and would have met at random.

Knows the hidden world. On a fixed sample every rate is a smooth closed form of the levels. Sampled
worlds are thinned: shorter histories in a smaller catalogue, so that how much of the catalogue a
user has seen, and how many items an approximate search looks at, stay as they are.

Letters: U users, X items per user, P impressions of the sample, Q random exposures of the sample.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from simulator.config import START_MS, WorldConfig
from simulator.crn import Purpose, uniform
from simulator.day import run_warmup
from simulator.slates import Visit
from simulator.utility import bias, utility
from simulator.world import ShardState, World

__all__ = [
    "Pool",
    "Sample",
    "draw_lives",
    "draw_sample",
    "pool_weights",
    "sample_config",
    "thinned",
]

Array = npt.NDArray[np.float64]
Pool = tuple[float, float]

SAMPLE_HISTORY = 600.0
SAMPLE_ITEMS = 20_000
MAX_IMPRESSIONS = 4_000
RANDOM_PER_USER = 120


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Exposures whose rates are a function of the levels.

    Attributes:
        core_P, bias_P: float64, utility over `utility_scale`, and eagerness in its unit.
        duration_s_P: float64.
        user_P: int64, row of the user.
        session_joy_P: float64, joy of the session so far.
        core_Q, bias_Q, duration_s_Q: the same of random exposures.
        weight_Q: float64, sums to 1; a user counts by the impressions, as random slots do.
    """

    core_P: Array
    bias_P: Array
    duration_s_P: Array
    user_P: npt.NDArray[np.int64]
    session_joy_P: Array
    core_Q: Array
    bias_Q: Array
    duration_s_Q: Array
    weight_Q: Array


def sample_config(config: WorldConfig) -> WorldConfig:
    """The world with prehistories short enough to sample in seconds, otherwise alike."""
    return thinned(config, min(config.history_median, SAMPLE_HISTORY), SAMPLE_ITEMS)


def thinned(config: WorldConfig, history_median: float, least_items: int) -> WorldConfig:
    """The world with shorter histories in a smaller catalogue.

    Args:
        config: the world.
        history_median: of the thinned one, at most the world's.
        least_items: the catalogue shrinks with the histories, but not below this.
    """
    share = history_median / config.history_median
    num_items = max(int(share * config.num_items), min(least_items, config.num_items))
    # The stripe of the catalogue that a warm-up request searches keeps its size.
    num_candidates = int(config.num_candidates * num_items / config.num_items)
    longest = max(1, int(share * config.prehistory_limit))
    return dataclasses.replace(
        config,
        num_items=num_items,
        num_candidates=max(num_candidates, config.warmup_candidates),
        history_median=history_median,
        min_history=max(1, int(share * config.min_history)),
        max_history=min(longest, config.max_history),
        longest_prehistory=longest if longest > config.max_history else 0,
        warmup_requests_per_user=1,
    )


def pool_weights(duration_s: Array, catalogue: Pool, pool: Pool | None) -> Array:
    """How much each random exposure counts, so that durations are those of a pool of videos.

    KuaiRand's random exposures are of 7,583 videos whose median duration is 81 s, not of its whole
    catalogue, whose median is 35 s.

    Args:
        duration_s: of uniformly random items of the catalogue.
        catalogue: mean and sd of the catalogue's log durations.
        pool: of the pool's; None counts all alike.

    Returns:
        Weights of mean 1.
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
    """Lives warm-ups under the earlier policy and keeps the hidden side of what was met.

    Several worlds, because a hundred users' mean eagerness moves the click rate by several percent.

    Args:
        config: the world, with levels that shape what the earlier policy shows.
        seeds: of the worlds.
        num_users: of each.
        pool: mean and sd of the log durations of the random exposures; None: the catalogue's.
    """
    sampled = sample_config(config)
    parts = [draw_lives(World(sampled, seed), num_users, pool)[0] for seed in seeds]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Sample)
    }
    offsets = np.repeat(num_users * np.arange(len(parts)), [len(part.user_P) for part in parts])
    joined["user_P"] += offsets
    joined["weight_Q"] /= len(parts)
    return Sample(**joined)


def draw_lives(
    world: World, num_users: int, pool: Pool | None = None
) -> tuple[Sample, dict[str, np.ndarray]]:
    """Lives one world's warm-up; the sample of it, and all its impressions as they are logged."""
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

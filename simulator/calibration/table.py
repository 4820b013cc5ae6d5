"""A named world, or the arms of a finished run, beside the real figures.

Knows worlds and run folders. The feed is measured on the log of worlds that were not solved on;
random exposure in closed form, as a uniformly random ranker of the live catalogue would meet it;
popularity on a crowd; lengths of histories and days on as many users as KuaiRand has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from simulator.calibration.measure import (
    compare,
    concentration,
    history_figures,
    measure,
    random_pool,
    sessions,
    surface_of,
)
from simulator.calibration.sample import Crowd, crowd_views, simulate_warmup, thinned
from simulator.calibration.solve import rates
from simulator.world.config import WorldConfig
from simulator.world.users import UserState, history_targets, make_users, plan_day
from simulator.world.world import World

if TYPE_CHECKING:  # a run's config names this package's world; at run time only its sizes are read
    from simulator.run.presets import RunConfig

# Other worlds than those that were solved on.
MEASURING_SEEDS = tuple(range(1, 7))
MEASURING_USERS = 64
KUAIRAND_USERS = 27_285
PLANNED_USERS = 4_000
PLANNED_DAYS = 31


def sample_worlds(
    config: WorldConfig,
    seeds: Sequence[int] = MEASURING_SEEDS,
    num_users: int = MEASURING_USERS,
    *,
    surface: str = "kuairand",
    crowd: Crowd | None = None,
) -> list[dict[str, float]]:
    """Figures by key of simulated worlds, with histories as short as the solving sample's.

    Args:
        config: the world at full size.
        seeds: of the sampled worlds.
        num_users: of each.
        surface: whose random exposures they are weighted to.
        crowd: on which popularity is measured; None: on the sampled worlds.
    """
    small = thinned(config)
    # Users do not depend on the catalogue, so the smallest that is allowed will do.
    history_U = history_targets(config, _users(config, seeds[0], KUAIRAND_USERS))
    planned = {**history_figures(history_U), "candidates_per_request": config.num_candidates}
    if crowd is not None:
        planned |= concentration(crowd_views(config, crowd, seeds[0]), crowd.users)
    found = []
    for seed in seeds:
        world = World(small, seed)
        sample, log = simulate_warmup(world, num_users, random_pool(surface))
        per_session = float(sessions(log["user_id"], log["time_ms"]).mean())
        # Of users as satisfied as they are on average, days without a session included.
        users = _users(config, seed, PLANNED_USERS)
        days = [plan_day(config, seed, users, day)[0].mean() for day in range(PLANNED_DAYS)]
        per_day = float(np.mean(days))
        # In closed form: the few random slots of a log say little.
        expected = rates(world.config, sample)
        found.append(
            {
                **measure(log, world.catalog.item_table().duration_ms_N),
                **{key: value for key, value in expected.items() if key.startswith("random_")},
                "impressions_per_session": per_session,
                "sessions_per_user_day": per_day,
                "impressions_per_user_day": per_session * per_day,
                **planned,
            }
        )
    return found


def compare_worlds(
    found: Sequence[Mapping[str, float]], surface: str = "kuairand", crowd: Crowd | None = None
) -> list[dict[str, Any]]:
    """Compares the figures of worlds with a surface's."""
    bounds = [each["top_1pct_bound"] for each in found if "top_1pct_bound" in each]
    users = "so few users" if crowd is None else f"{crowd.users:,} users"
    notes = {"top_1pct_share": f"at most {np.mean(bounds):.2f} with {users}"} if bounds else {}
    return compare(found, surface, notes)


def calibration_of_run(folder: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """Compares the figures of a run's warm-up log, over the replicates."""
    return _of_arm(folder, config, WARMUP, [0])


def calibration_of_arms(folder: RunFolder, config: RunConfig) -> dict[str, list[dict[str, Any]]]:
    """Compares the figures of a run's warm-up, and of the days of each arm after the burn-in.

    A trained ranker's feed is held against the feed's targets; the slots that were filled at random
    against those of random exposure, under every ranker.
    """
    days = range(config.burn_in_days, config.days)
    arms = {arm.name: _of_arm(folder, config, arm.name, days) for arm in config.parsed_arms}
    return {WARMUP: calibration_of_run(folder, config), **arms}


def _users(config: WorldConfig, seed: int, count: int) -> UserState:
    return make_users(thinned(config), seed, np.arange(count, dtype=np.int32))


def _of_arm(
    folder: RunFolder, config: RunConfig, arm: str, days: Sequence[int]
) -> list[dict[str, Any]]:
    from ifa_ray.data.log import read_impressions, read_items

    surface = surface_of(config.preset)
    found = []
    for replicate in range(config.replicates):
        files = [
            read_impressions(folder.table("impressions", ShardDay(arm, replicate, day, shard)))
            for day in days
            for shard in range(config.shards)
        ]
        columns = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
        duration_ms = read_items(folder.items(replicate)).duration_ms_N
        figures = measure(columns, duration_ms, random_pool(surface))
        size = sessions(columns["user_id"], columns["time_ms"])
        span = config.world.warmup_days if arm == WARMUP else len(days)
        figures |= {
            "impressions_per_session": float(size.mean()),
            "sessions_per_user_day": len(size) / config.users / span,
            "impressions_per_user_day": len(columns["user_id"]) / config.users / span,
            "candidates_per_request": config.world.num_candidates,
        }
        if arm != WARMUP:  # a few days are not a history
            figures = {key: value for key, value in figures.items() if "history" not in key}
        found.append(figures)
    return compare_worlds(found, surface)

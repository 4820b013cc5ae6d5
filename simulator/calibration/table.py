"""A named world, or a finished run, beside the real figures.

Knows worlds and run folders. The feed is measured on the log of worlds that were not solved on;
random exposure in closed form, as a uniformly random ranker of the live catalogue would meet it;
popularity on a crowd; lengths of histories and days on as many users as KuaiRand has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from simulator.calibration.crowd import CROWDS, Crowd, crowd_views
from simulator.calibration.measure import concentration, measure, sessions
from simulator.calibration.targets import SURFACES, compare, random_pool
from simulator.config import WorldConfig, world_config
from simulator.level_sample import draw_lives, sample_config
from simulator.levels import rates
from simulator.transition import plan_day
from simulator.users import history_targets, make_users
from simulator.world import World

if TYPE_CHECKING:  # a run's config names this package's world; at run time only its sizes are read
    from simulator.presets import RunConfig

__all__ = [
    "Lives",
    "calibration_of_arms",
    "calibration_of_run",
    "calibration_rows",
    "calibration_table",
    "live_worlds",
]

# Other worlds than those that were solved on.
MEASURING_SEEDS = tuple(range(1, 7))
MEASURING_USERS = 64
KUAIRAND_USERS = 27_285
PLANNED_USERS = 4_000
PLANNED_DAYS = 31


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Lives:
    """What was lived for a table; figures are drawn from it.

    Attributes:
        config: of the world, at full size.
        impressions: the columns of each sampled world's log.
        duration_ms: the catalogue of each.
        found: figures by key, of each.
        history_U: lengths of the prehistories of as many users as KuaiRand has.
        views: video ids of the crowd's impressions; of the sampled worlds' where there is no crowd.
    """

    config: WorldConfig
    impressions: Sequence[Mapping[str, np.ndarray]]
    duration_ms: Sequence[np.ndarray]
    found: Sequence[Mapping[str, float]]
    history_U: npt.NDArray[np.int64]
    views: npt.NDArray[np.int32]


def calibration_rows(scale: str, world: str) -> list[dict[str, Any]]:
    """Lives the warm-up of a fresh sample of a named world and compares its figures."""
    config = world_config(scale, world)
    return calibration_table(config, surface=surface_of(scale), crowd=CROWDS.get(scale))


def surface_of(scale: str) -> str:
    """Whose figures a scale is held against."""
    return scale if scale in SURFACES else "kuairand"


def calibration_table(
    config: WorldConfig,
    seeds: Sequence[int] = MEASURING_SEEDS,
    num_users: int = MEASURING_USERS,
    *,
    surface: str = "kuairand",
    crowd: Crowd | None = None,
) -> list[dict[str, Any]]:
    """Compares a world's figures under the earlier policy, on worlds it was not solved on."""
    lives = live_worlds(config, seeds, num_users, surface=surface, crowd=crowd)
    return compare_lives(lives, surface, crowd)


def compare_lives(lives: Lives, surface: str, crowd: Crowd | None) -> list[dict[str, Any]]:
    """The rows of what was lived."""
    return compare(lives.found, surface, _notes(lives.found, crowd))


def live_worlds(
    config: WorldConfig,
    seeds: Sequence[int] = MEASURING_SEEDS,
    num_users: int = MEASURING_USERS,
    *,
    surface: str = "kuairand",
    crowd: Crowd | None = None,
) -> Lives:
    """Lives sampled worlds, with histories as short as those of the solving sample, and a crowd.

    Args:
        config: the world at full size.
        seeds: of the sampled worlds.
        num_users: of each.
        surface: whose random exposures they are weighted to.
        crowd: on which popularity is measured; None: on the sampled worlds.
    """
    sampled = sample_config(config)
    history_U = _histories(config, seeds[0])
    planned = {**_history_figures(history_U), "candidates_per_request": config.num_candidates}
    views = None
    if crowd is not None:
        views = crowd_views(config, crowd, seeds[0])
        planned |= concentration(views, crowd.users)
    logs, durations, found = [], [], []
    for seed in seeds:
        world = World(sampled, seed)
        sample, log = draw_lives(world, num_users, random_pool(surface))
        duration_ms = world.catalog.item_table().duration_ms_N
        expected = rates(world.config, sample)
        per_session = float(sessions(log["user_id"], log["time_ms"]).mean())
        per_day = _sessions_per_day(config, seed)
        logs.append(log)
        durations.append(duration_ms)
        found.append({
            **measure(log, duration_ms),
            # In closed form: the few random slots of a log say little.
            **{key: value for key, value in expected.items() if key.startswith("random_")},
            "impressions_per_session": per_session,
            "sessions_per_user_day": per_day,
            "impressions_per_user_day": per_session * per_day,
            **planned,
        })  # fmt: skip
    return Lives(
        config=config,
        impressions=logs,
        duration_ms=durations,
        found=found,
        history_U=history_U,
        views=np.concatenate([log["video_id"] for log in logs]) if views is None else views,
    )


def _histories(config: WorldConfig, seed: int) -> npt.NDArray[np.int64]:
    # Users do not depend on the catalogue, so the smallest that is allowed will do.
    world = World(sample_config(config), seed)
    users = make_users(world, np.arange(KUAIRAND_USERS, dtype=np.int32))
    return history_targets(config, users)


def _history_figures(history_U: npt.NDArray[np.int64]) -> dict[str, float]:
    log_U = np.log(history_U)
    return {
        "history_log_mean": float(log_U.mean()),
        "history_log_sd": float(log_U.std()),
        "history_10k_share": float((history_U >= 10_000).mean()),
    }


def _sessions_per_day(config: WorldConfig, seed: int) -> float:
    """Of users as satisfied as they are on average, days without a session included."""
    world = World(sample_config(config), seed)
    users = make_users(world, np.arange(PLANNED_USERS, dtype=np.int32))
    days = [plan_day(config, seed, users, day)[0].mean() for day in range(PLANNED_DAYS)]
    return float(np.mean(days))


def _notes(found: Sequence[Mapping[str, float]], crowd: Crowd | None) -> dict[str, str]:
    bounds = [each["top_1pct_bound"] for each in found if "top_1pct_bound" in each]
    if not bounds:
        return {}
    users = "so few users" if crowd is None else f"{crowd.users:,} users"
    return {"top_1pct_share": f"at most {np.mean(bounds):.2f} with {users}"}


def calibration_of_run(folder: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """Compares the figures of a run's warm-up log, over the replicates."""
    return _of_arm(folder, config, WARMUP, [0])


def calibration_of_arms(folder: RunFolder, config: RunConfig) -> dict[str, list[dict[str, Any]]]:
    """Compares the figures of a run's warm-up, and of the days of each arm after the burn-in.

    A trained ranker's feed is held against the feed's targets; the slots that were filled at random
    against those of random exposure, under every ranker.
    """
    tables = {WARMUP: calibration_of_run(folder, config)}
    days = range(config.burn_in_days, config.days)
    for arm in config.parsed_arms:
        tables[arm.name] = _of_arm(folder, config, arm.name, days)
    return tables


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
    return compare(found, surface, _notes(found, None))

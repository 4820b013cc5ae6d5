"""The world's rates beside the real ones: target, achieved, distance, verdict.

Knows logs and targets. How levels are solved is in `simulator.levels`; what is printed here is
measured on sampled behaviour, not on the sample that was solved on. A miss is shown, not hidden.

    python -m simulator.calibration --scale quick --world balanced     solves and stores levels
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from ifa_ray.schema import ACTIONS
from simulator.config import (
    LEVELS_PATH,
    SCALES,
    WORLDS,
    WorldConfig,
    uncalibrated_config,
    world_config,
)
from simulator.day import run_warmup
from simulator.levels import sample_config, solve_levels
from simulator.world import ShardState, World

if TYPE_CHECKING:  # a run's config names this module's world; at run time only its sizes are read
    from simulator.presets import RunConfig

__all__ = [
    "calibration_of_run",
    "calibration_rows",
    "calibration_table",
    "format_rows",
    "measure",
    "solve_levels",
    "targets",
]

TARGETS_PATH = Path(__file__).parent / "data" / "kuairand_targets.json"
SOLVING_SEED = 2022
# Other worlds than those that were solved on.
MEASURING_SEEDS = tuple(range(1, 7))
MEASURING_USERS = 64

Columns = Mapping[str, np.ndarray]


@functools.cache
def targets() -> dict[str, dict[str, Any]]:
    """The real rates by key, each with name, target, source, tier, tolerance."""
    return json.loads(TARGETS_PATH.read_text())["targets"]


def calibration_rows(scale: str, world: str) -> list[dict[str, Any]]:
    """Lives the warm-up of a fresh sample of a named world and compares its rates."""
    return calibration_table(world_config(scale, world))


def calibration_table(
    config: WorldConfig,
    seeds: Sequence[int] = MEASURING_SEEDS,
    num_users: int = MEASURING_USERS,
) -> list[dict[str, Any]]:
    """Compares a world's rates under the earlier policy, on worlds it was not solved on.

    Histories are as short as those of the solving sample.
    """
    sampled = sample_config(config)
    found = []
    for seed in seeds:
        world = World(sampled, seed)
        shard = ShardState.new(world, np.arange(num_users, dtype=np.int32))
        log = asyncio.run(run_warmup(world, shard))
        found.append(measure(log.impressions, world.catalog.item_table().duration_ms_N))
    return _compare(found, sampled)


def calibration_of_run(folder: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """Compares the rates of a run's warm-up log, averaged over the replicates."""
    from ifa_ray.data.log import read_impressions, read_items

    found = []
    for replicate in range(config.replicates):
        files = [
            read_impressions(folder.table("impressions", ShardDay(WARMUP, replicate, 0, shard)))
            for shard in range(config.shards)
        ]
        columns = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
        found.append(measure(columns, read_items(folder.items(replicate)).duration_ms_N))
    return _compare(found, config.world)


def measure(impressions: Columns, catalogue_duration_ms: np.ndarray) -> dict[str, float]:
    """Rates of a log by the keys of the targets; those with too few rows are left out.

    Args:
        impressions: the log's columns.
        catalogue_duration_ms: durations of all items.
    """
    random = impressions["is_rand"] != 0
    feed = {name: column[~random] for name, column in impressions.items()}
    found = {
        **_rates("feed", feed),
        **_rates("random", {name: column[random] for name, column in impressions.items()}),
        **_joint_rates(feed),
        **_user_rates(feed),
        **_concentration(impressions["video_id"], len(np.unique(impressions["user_id"]))),
    }
    p50, p95 = np.percentile(catalogue_duration_ms[catalogue_duration_ms > 0] / 1000, [50, 95])
    return {**found, "duration_p50_s": float(p50), "duration_p95_s": float(p95)}


def _rates(surface: str, columns: Columns) -> dict[str, float]:
    if not len(columns["user_id"]):
        return {}
    found = {f"{surface}_{name}": float(columns[name].mean()) for name in ACTIONS}
    found[f"{surface}_mean_play_s"] = float(columns["play_time_ms"].mean() / 1000)
    return found


def _joint_rates(feed: Columns) -> dict[str, float]:
    click, long = feed["is_click"] != 0, feed["long_view"] != 0
    play_ms = feed["play_time_ms"]
    return {
        "feed_zero_play": float((play_ms == 0).mean()),
        "feed_below_3s_of_unclicked": float((play_ms < 3000).mean() / (~click).mean()),
        "feed_mean_duration_s": float(feed["duration_ms"].mean() / 1000),
        "feed_long_view_given_click": float((click & long).mean() / click.mean()),
        "feed_click_given_long_view": float((click & long).mean() / long.mean()),
        "feed_like_given_click": float(feed["is_like"][click].mean()),
        "feed_like_given_no_click": float(feed["is_like"][~click].mean()),
    }


def _user_rates(feed: Columns) -> dict[str, float]:
    seen_U = np.bincount(feed["user_id"])
    present = seen_U > 0
    seen_U = seen_U[present]
    click_U = np.bincount(feed["user_id"], feed["is_click"])[present] / seen_U
    return {
        "user_click_mean": float(click_U.mean()),
        "user_click_sd": float(click_U.std()),
        "activity_click_spearman": float(np.corrcoef(_ranks(seen_U), _ranks(click_U))[0, 1]),
        "history_p50": float(np.median(seen_U)),
        "history_log_sd": float(np.log(seen_U).std()),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks: histories cut at the longest are tied."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _concentration(video_ids: np.ndarray, num_users: int) -> dict[str, float]:
    """How impressions gather on few of the items that were seen at all, as KuaiRand counts.

    No user sees an item twice, so few users bound the share of the top 1%.
    """
    counts = np.sort(np.unique(video_ids, return_counts=True)[1])
    n, top = len(counts), max(1, len(counts) // 100)
    gini = 2 * (np.arange(1, n + 1) @ counts) / (n * counts.sum()) - (n + 1) / n
    return {
        "top_1pct_share": float(counts[-top:].sum() / counts.sum()),
        "top_1pct_bound": float(min(1.0, top * num_users / counts.sum())),
        "gini": float(gini),
    }


def _compare(found: Sequence[Mapping[str, float]], config: WorldConfig) -> list[dict[str, Any]]:
    """One row a target, from the measures of one or more worlds."""
    rows = []
    for key, target in targets().items():
        values = [each[key] for each in found if key in each]
        if not values:
            continue
        # The scale sets how long histories are; what is compared is whether it is met.
        wanted = config.history_median if key == "history_p50" else target["target"]
        achieved = float(np.mean(values))
        # Within a factor of 1 + tolerance, either way.
        source = target["source"] + (" (solved)" if target["solved"] else "")
        if key == "history_p50":
            source += f" has {target['target']}; the target is this scale's"
        if key == "top_1pct_share":
            bound = np.mean([each["top_1pct_bound"] for each in found])
            source += f"; at most {bound:.2f} with so few users"
        same_sign = achieved * wanted > 0
        ratio = max(achieved / wanted, wanted / achieved) if same_sign else np.inf
        rows.append(
            {
                "key": key,
                "name": target["name"],
                "target": wanted,
                "source": source,
                "tier": target["tier"],
                "achieved": float(f"{achieved:.4g}"),
                "spread": float(f"{np.std(values):.2g}"),
                "distance": round(achieved / wanted - 1, 4),
                "tolerance": target["tolerance"],
                "verdict": "hit" if ratio <= 1 + target["tolerance"] else "miss",
            }
        )
    return rows


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a text table; `spread` is the standard deviation between worlds."""
    lines = [f"{'':46}{'target':>9} {'achieved':>9} {'spread':>8} {'distance':>9}  verdict  source"]
    lines += [
        f"{row['name']:46}{row['target']:>9.4g} {row['achieved']:>9.4g} {row['spread']:>8.2g} "
        f"{row['distance']:>+9.1%}  {row['verdict']:7}  {row['source']}, tier {row['tier']}"
        for row in rows
    ]
    hits = sum(row["verdict"] == "hit" for row in rows)
    return "\n".join([*lines, f"{hits} of {len(rows)} targets hit."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Solves the levels of named worlds and stores them with the package."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.calibration", description="Solve the levels of a world."
    )
    parser.add_argument("--scale", choices=sorted(SCALES), action="append")
    parser.add_argument("--world", choices=sorted(WORLDS), action="append")
    parser.add_argument("--seed", type=int, default=SOLVING_SEED)
    args = parser.parse_args(arguments)
    wanted = {key: target["target"] for key, target in targets().items()}
    for scale in args.scale or SCALES:
        for world in args.world or WORLDS:
            config = uncalibrated_config(scale, world)
            solved = solve_levels(config, wanted, args.seed, report=print)
            _store(f"{scale}/{world}", solved, args.seed)
    return 0


def _store(key: str, config: WorldConfig, seed: int) -> None:
    stored = json.loads(LEVELS_PATH.read_text()) if LEVELS_PATH.exists() else {"levels": {}}
    stored["about"] = (
        "Levels of the named worlds, solved against kuairand_targets.json. Written by "
        f"`python -m simulator.calibration --seed {seed}`; not edited by hand."
    )
    stored["levels"][key] = {name: round(value, 5) for name, value in config.levels.items()}
    ordered = {"about": stored["about"], "levels": dict(sorted(stored["levels"].items()))}
    LEVELS_PATH.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

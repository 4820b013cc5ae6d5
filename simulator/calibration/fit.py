"""A world fitted to a user's own log: the same levels by the same solver, and the distributions.

Knows the log's contract and worlds; no rankers. Sizes (catalogue, candidates, users, T) are a
preset's, because a log's may be more than a machine can live; what is fitted is what people do.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from ifa_ray.data.log import read_impressions, read_items
from ifa_ray.data.run_folder import WARMUP, RunFolder, write_atomically
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS
from simulator.calibration.measure import concentration, measure, sessions
from simulator.calibration.sample import Crowd, crowd_views, draw_sample
from simulator.calibration.solve import WATCH_FIT, rates, solve_levels
from simulator.run.presets import RunConfig
from simulator.world.config import DAY_MS, WorldConfig

LEAST_ROWS = 1_000
LEAST_USERS = 10
LEAST_RANDOM = 500
LEAST_POSITIVE = 5
SKEWED_USERS = 500
CROWD_USERS = 3_000
CROWD_HISTORY = 90.0
SLOPES = (0.0, 2.5)
SLOPE_STEPS = 6
TURNS = 2
ROUNDS = 5  # a log's world may be far from where the search starts

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Log:
    """One world's impressions and its catalogue."""

    impressions: Mapping[str, np.ndarray]  # the log's columns
    duration_ms_N: np.ndarray  # of all items, int32


def read_log(path: Path) -> Log:
    """The warm-up log of the first replicate of a run's folder; without one, its only arm's.

    Raises:
        LogError: if there is no log, or it holds too little to fit a world to.
    """
    folder = RunFolder(path)
    arms = sorted(folder.log.glob("impressions/arm=*"))
    chosen = [arm for arm in arms if arm.name == f"arm={WARMUP}"] or arms
    if len(chosen) != 1:
        raise LogError(
            f"{folder.log}: {len(chosen)} arms with impressions, must be one, or a warm-up: a "
            "folder in the form of docs/log.md."
        )
    files = [read_impressions(file) for file in sorted(chosen[0].glob("replicate=0/**/*.parquet"))]
    if not files:
        raise LogError(f"{chosen[0]}: no impressions of replicate 0.")
    columns = {name: np.concatenate([file[name] for file in files]) for name in files[0]}
    log = Log(impressions=columns, duration_ms_N=read_items(folder.items(0)).duration_ms_N)
    _check(log, path)
    return log


def _check(log: Log, path: Path) -> None:
    columns = log.impressions
    rows, users = len(columns["user_id"]), len(np.unique(columns["user_id"]))
    if rows < LEAST_ROWS or users < LEAST_USERS:
        raise LogError(
            f"{path}: {rows} impressions of {users} users, must be >= {LEAST_ROWS:,} of "
            f">= {LEAST_USERS}: rates of fewer say nothing."
        )
    for name in ("play_time_ms", "duration_ms"):
        if not (columns[name] > 0).any():
            raise LogError(
                f"{path}: {name} is 0 in all {rows} rows, must be known: watch times are what a "
                "world is fitted to."
            )
    for name in ("is_click", "long_view"):
        if not 0 < columns[name].mean() < 1:
            raise LogError(
                f"{path}: {name} is {int(columns[name][0])} in all {rows} rows, must be of both "
                "classes."
            )


def fit_log(path: Path, base: RunConfig, seed: int, report: Report) -> RunConfig:
    """A preset with the sizes of `base` and a world like the log's.

    Args:
        path: a folder in the form of docs/log.md.
        base: sizes, mechanisms, and where the search starts.
        seed: of the first sampled world.
        report: is given lines: what is solved, what was left out, what could not be met.

    Raises:
        LogError: as `read_log`.
        ConfigError: if what the log says is outside what a world can have.
    """
    log = read_log(path)
    name = path.resolve().name
    return dataclasses.replace(base, preset=name, world=fit_world(log, base.world, seed, report))


def fit_world(log: Log, base: WorldConfig, seed: int, report: Report) -> WorldConfig:
    """The world of a log: distributions in closed form, then popularity and levels in turns.

    What is popular decides what the earlier policy shows, and what users make of it is in the
    profiles that this policy looks at.
    """
    figures = measure(log.impressions, log.duration_ms_N)
    wanted = _targets(log, figures, report)
    world = _distributions(log, base, figures)
    for _ in range(TURNS):
        world = solve_levels(world, wanted, seed, rounds=1)
        slope = _popularity_slope(log, world, figures["gini"], seed, report)
        world = dataclasses.replace(world, popularity_slope=slope)
    world = solve_levels(world, wanted, seed, rounds=ROUNDS, report=report)
    found = rates(world, draw_sample(world, range(seed + 100, seed + 103), 48))
    report(f"{'':28}{'log':>10}{'world':>10}")
    for key, value in wanted.items():
        if key in found:
            report(f"{key:28}{value:>10.4g}{found[key]:>10.4g}")
    return world


def _distributions(log: Log, base: WorldConfig, figures: Mapping[str, float]) -> WorldConfig:
    columns = log.impressions
    duration_s = log.duration_ms_N[log.duration_ms_N > 0] / 1000
    seen_U = np.unique(columns["user_id"], return_counts=True)[1]
    log_U = np.log(seen_U)
    spread = max(float(log_U.std()), 1e-3)
    skew = float((((log_U - log_U.mean()) / spread) ** 3).mean())
    days = max(1, math.ceil(float(np.ptp(columns["time_ms"])) / DAY_MS))
    activity = figures.get("activity_click_spearman", -0.518)
    world = dataclasses.replace(
        base,
        duration_median_s=float(np.exp(np.log(duration_s).mean())),
        duration_log_sd=float(np.log(duration_s).std()),
        history_median=float(np.median(seen_U)),
        history_log_sd=spread,
        history_skew=float(np.clip(skew, -0.6, 0.6)) if len(seen_U) >= SKEWED_USERS else 0.0,
        min_history=int(seen_U.min()),
        longest_prehistory=int(seen_U.max()),
        warmup_days=days,
        # As of a Gaussian copula; where it is more than nothing, it is solved with the levels.
        activity_bias=float(np.clip(-2 * math.sin(math.pi / 6 * activity), 0.0, 0.95)),
    )
    return world.from_dict({**world.to_dict(), **_days(columns, base, days, figures)})


def _days(
    columns: Mapping[str, np.ndarray], base: WorldConfig, days: int, figures: Mapping[str, float]
) -> dict[str, float | int]:
    """Settings of sessions and days."""
    size = sessions(columns["user_id"], columns["time_ms"])
    mean = max(float(size.mean()), 1.01)
    day = columns["user_id"].astype(np.int64) * (days + 2) + (
        (columns["time_ms"] - columns["time_ms"].min()) // DAY_MS
    )
    user_days, users = len(np.unique(day)), len(np.unique(columns["user_id"]))
    per_day = max(1.0, len(size) / user_days)
    slate_size = min(int(columns["position"].max()) + 1, base.warmup_candidates)
    per_request = figures.get("feed_impressions_per_request", slate_size)
    max_requests = max(base.max_requests, math.ceil(4 * mean / per_request))
    cap = max_requests * per_request

    def excess(impressions: float) -> float:  # of a geometric number, cut at the cap
        return impressions * (1 - (1 - 1 / impressions) ** cap) - mean

    top = 100 * mean
    return {
        "slate_size": slate_size,
        "rand_share": min(float(columns["is_rand"].mean()), 1 / slate_size),
        "max_requests": max_requests,
        "session_impressions": float(brentq(excess, 1.001, top)) if excess(top) > 0 else mean,
        "sessions_per_day": per_day,
        "max_sessions": max(base.max_sessions, math.ceil(2 * per_day)),
        "active_rate": float(np.clip(user_days / (users * days), 0.02, 0.98)),
    }


def _popularity_slope(
    log: Log, world: WorldConfig, gini: float, seed: int, report: Report
) -> float:
    """The slope at which a crowd of the log's size gathers on items as the log does."""
    users, counts = np.unique(log.impressions["user_id"], return_counts=True)
    share = min(1.0, CROWD_HISTORY / float(np.median(counts)))
    kept = log.impressions["video_id"]
    if share < 1 or len(users) > CROWD_USERS:
        # One item in h, and so many users: by a hash, so that the same items are kept each time.
        mixed = log.impressions["video_id"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        of_item = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
        inside = (of_item < share) & np.isin(log.impressions["user_id"], users[:CROWD_USERS])
        kept = log.impressions["video_id"][inside]
        gini = concentration(kept, min(len(users), CROWD_USERS)).get("gini", gini)
    longest = max(1, int(share * world.prehistory_limit))
    least = (world.warmup_candidates + longest) / world.live_share + 1
    items = max(int(share * len(log.duration_ms_N)), math.ceil(least))
    room = int(world.live_share * items) - longest
    crowd = Crowd(
        users=min(len(users), CROWD_USERS),
        history_median=share * world.history_median,
        num_items=items,
        num_candidates=max(world.warmup_candidates, min(world.num_candidates, room)),
    )

    def excess(slope: float) -> float:
        trial = dataclasses.replace(world, popularity_slope=slope)
        found = concentration(crowd_views(trial, crowd, seed), crowd.users)["gini"]
        report(f"popularity_slope {slope:.3f}: Gini {found:.3f}, the log's {gini:.3f}")
        return found - gini

    low, high = SLOPES
    if excess(low) >= 0:
        return low
    for _ in range(SLOPE_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) >= 0 else (middle, high)
    return (low + high) / 2


def _targets(log: Log, figures: Mapping[str, float], report: Report) -> dict[str, float]:
    """The targets of the solver; what is too rare to say anything is left out, and said so."""
    is_random = log.impressions["is_rand"] != 0
    names = [*WATCH_FIT, *(f"{s}_{name}" for s in ("feed", "random") for name in ACTIONS)]
    wanted = {}
    for name in dict.fromkeys([*names, "feed_impressions_per_request", "activity_click_spearman"]):
        rows = int(is_random.sum()) if name.startswith("random") else int((~is_random).sum())
        value = figures.get(name)
        if value is None or (name.startswith("random") and rows < LEAST_RANDOM):
            report(f"{name}: too few rows, left as it is")
        elif name.endswith(("_s", "_sd", "_per_request", "_spearman")):
            wanted[name] = value
        elif value * rows < LEAST_POSITIVE or (1 - value) * rows < LEAST_POSITIVE:
            report(f"{name}: fewer than {LEAST_POSITIVE} of {rows} rows, left as it is")
        else:
            wanted[name] = value
    return wanted


def write_preset(path: Path, config: RunConfig) -> None:
    """Writes a preset that `run`, `log` and `calibration` take by its path."""
    write_atomically(path, (json.dumps(config.to_dict(), indent=1) + "\n").encode())

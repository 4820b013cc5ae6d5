"""Solves a world's level parameters against KuaiRand's rates, on a fixed sample.

Knows the hidden world. A sample is what users met under the earlier policy, and what they would
have met at random; on it every rate is a smooth closed form of the levels, so they are found by
least squares and bisection, not by trial. New levels change what the policy shows, so sampling and
solving take turns until they agree.

Letters: P impressions of the sample, Q random exposures of the sample.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, least_squares

from simulator.config import START_MS, WorldConfig
from simulator.crn import Purpose, uniform
from simulator.day import run_warmup
from simulator.responses import (
    FEEDBACK,
    Watch,
    expected_play_s,
    feedback_logit,
    play_exceeds,
    sigmoid,
    watch_distribution,
)
from simulator.slates import Visit
from simulator.transition import leave_probability
from simulator.utility import bias, utility
from simulator.world import ShardState, World

__all__ = ["Sample", "draw_sample", "rates", "sample_config", "solve_levels", "solve_on_sample"]

Array = npt.NDArray[np.float64]

SAMPLE_WORLDS = 6
SAMPLE_USERS = 64
SAMPLE_ROUNDS = 4
SAMPLE_HISTORY = 1_000.0
MAX_IMPRESSIONS = 8_000
RANDOM_PER_USER = 40

# How closely each rate is fitted, as a relative error of one unit of the least squares.
WATCH_FIT: Mapping[str, float] = {
    "feed_is_click": 0.005,
    "feed_long_view": 0.005,
    "feed_mean_play_s": 0.01,
    "feed_zero_play": 0.05,
    "feed_below_3s_of_unclicked": 0.1,
    "random_is_click": 0.03,
    "random_long_view": 0.03,
    "random_mean_play_s": 0.1,
    "user_click_sd": 0.03,
}
WATCH_LEVELS = (
    "skip_level", "watch_level", "watch_log_sd", "watch_gain", "utility_scale", "bias_sd",
)  # fmt: skip
# A utility_scale of 1 is a world where tastes decide nearly everything; a misfit is more honest.
LOWER = (-4.0, -1.0, 0.5, 0.0, 0.1, 0.05)
UPPER = (4.0, 5.0, 2.5, 2.0, 1.0, 1.5)


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
    """The world with prehistories short enough to sample in seconds; nothing else differs."""
    median = min(config.history_median, SAMPLE_HISTORY)
    return dataclasses.replace(
        config,
        history_median=median,
        min_history=min(config.min_history, int(0.1 * median)),
        max_history=min(config.max_history, int(2 * median)),
        warmup_requests_per_user=1,
    )


def draw_sample(config: WorldConfig, seeds: Sequence[int], num_users: int = SAMPLE_USERS) -> Sample:
    """Lives warm-ups under the earlier policy and keeps the hidden side of what was met.

    Several worlds, because a hundred users' mean eagerness moves the click rate by several percent.
    """
    parts = [_draw_world(config, seed, num_users) for seed in seeds]
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Sample)
    }
    offsets = np.repeat(num_users * np.arange(len(parts)), [len(part.user_P) for part in parts])
    joined["user_P"] += offsets
    joined["weight_Q"] /= len(parts)
    return Sample(**joined)


def _draw_world(config: WorldConfig, seed: int, num_users: int) -> Sample:
    world = World(sample_config(config), seed)
    shard = ShardState.new(world, np.arange(num_users, dtype=np.int32))
    visits: list[Visit] = []
    asyncio.run(run_warmup(world, shard, observe=visits.append))
    columns = {
        name: np.concatenate([{**v.impressions, **v.hidden}[name] for v in visits])
        for name in ("user_id", "duration_ms", "is_rand", "utility", "bias", "session_joy")
    }
    impressions_U = np.bincount(columns["user_id"], minlength=num_users)
    feed = np.flatnonzero(columns["is_rand"] == 0)
    feed = feed[:: -(-len(feed) // MAX_IMPRESSIONS)]  # every user keeps its share

    slot = np.arange(RANDOM_PER_USER)
    live = world.catalog.observed.num_live(np.full(1, START_MS))
    user_column = shard.user_ids[:, None]
    draw_UX = uniform(seed, Purpose.RANDOM_ITEM, user_column, START_MS, slot)
    ids_UX = (draw_UX * live).astype(np.int32)
    now_U = np.full(num_users, START_MS)
    random_UX = utility(world.config, world.catalog, shard.users, ids_UX, now_U)
    bias_U = bias(world.config, shard.users)
    weight_U = impressions_U / impressions_U.sum() / RANDOM_PER_USER
    scale, sd = config.utility_scale, config.bias_sd
    return Sample(
        core_P=(columns["utility"] - columns["bias"])[feed] / scale,
        bias_P=columns["bias"][feed] / sd,
        duration_s_P=columns["duration_ms"][feed] / 1000,
        user_P=columns["user_id"][feed].astype(np.int64),
        session_joy_P=columns["session_joy"][feed],
        core_Q=((random_UX - bias_U[:, None]) / scale).ravel(),
        bias_Q=np.repeat(bias_U / sd, RANDOM_PER_USER),
        duration_s_Q=world.catalog.observed.items.duration_ms_N[ids_UX].ravel() / 1000,
        weight_Q=np.repeat(weight_U, RANDOM_PER_USER),
    )


def rates(config: WorldConfig, sample: Sample) -> dict[str, float]:
    """Expected rates of the watch on a sample, in closed form, by the names of the targets."""
    feed_utility_P = config.utility_scale * sample.core_P + config.bias_sd * sample.bias_P
    feed = watch_distribution(config, feed_utility_P, sample.duration_s_P)
    random_utility_Q = config.utility_scale * sample.core_Q + config.bias_sd * sample.bias_Q
    random = watch_distribution(config, random_utility_Q, sample.duration_s_Q)
    click_P, long_P = _watch_rates(feed)
    click_Q, long_Q = _watch_rates(random)
    below_3s_P = 1 - play_exceeds(feed, np.minimum(feed.duration_s, 3.0))
    seen_U = np.maximum(np.bincount(sample.user_P), 1)
    user_click_U = np.bincount(sample.user_P, click_P) / seen_U
    return {
        "feed_is_click": float(click_P.mean()),
        "feed_long_view": float(long_P.mean()),
        "feed_mean_play_s": float(expected_play_s(feed, config.replay_share).mean()),
        "feed_zero_play": float((feed.skip * feed.zero_share).mean()),
        "feed_below_3s_of_unclicked": float(below_3s_P.mean() / (1 - click_P).mean()),
        "random_is_click": float(click_Q @ sample.weight_Q),
        "random_long_view": float(long_Q @ sample.weight_Q),
        "random_mean_play_s": float(expected_play_s(random, config.replay_share) @ sample.weight_Q),
        "user_click_sd": float(user_click_U.std()),
    }


def solve_levels(
    config: WorldConfig,
    targets: Mapping[str, float],
    seed: int,
    *,
    num_worlds: int = SAMPLE_WORLDS,
    num_users: int = SAMPLE_USERS,
    rounds: int = SAMPLE_ROUNDS,
    report: Callable[[str], None] | None = None,
) -> WorldConfig:
    """The world with its levels solved.

    Args:
        config: the world; its levels are where the search starts.
        targets: wanted rates, by the names of `rates` and `feed_is_like` and so on.
        seed: of the first sampled world; the others follow.
        num_worlds: of the sample.
        num_users: of each of its worlds.
        rounds: turns of sampling and solving.
        report: is given a line after each round.
    """
    for turn in range(rounds):
        sample = draw_sample(config, range(seed, seed + num_worlds), num_users)
        before = config.levels
        config = solve_on_sample(config, targets, sample)
        if report is not None:
            moved = max(abs(config.levels[name] - before[name]) for name in before)
            found = ", ".join(f"{k} {v:.4f}" for k, v in rates(config, sample).items())
            report(f"round {turn}: largest move {moved:.3f}; {found}")
    return config


def solve_on_sample(
    config: WorldConfig, targets: Mapping[str, float], sample: Sample
) -> WorldConfig:
    """One turn of solving: watch levels together, then every other level alone."""

    def with_watch(x: npt.NDArray[np.float64]) -> WorldConfig:
        return _with(config, dict(zip(WATCH_LEVELS, x.tolist(), strict=True)))

    def misfit(x: npt.NDArray[np.float64]) -> list[float]:
        found = rates(with_watch(x), sample)
        return [np.log(found[name] / targets[name]) / unit for name, unit in WATCH_FIT.items()]

    start = np.clip([getattr(config, name) for name in WATCH_LEVELS], LOWER, UPPER)
    solved = with_watch(least_squares(misfit, start, bounds=(LOWER, UPPER), xtol=1e-6).x)
    utility_P = solved.utility_scale * sample.core_P + solved.bias_sd * sample.bias_P
    watch = watch_distribution(solved, utility_P, sample.duration_s_P)
    for name in FEEDBACK:
        field = f"{name.removeprefix('is_')}_level"
        solved = _solve_feedback(solved, name, field, utility_P, watch, targets[f"feed_{name}"])
    joy_level = float(np.tanh(solved.utility_scale * sample.core_P).mean())
    return _solve_leaving(dataclasses.replace(solved, joy_level=joy_level), sample)


def _with(config: WorldConfig, levels: Mapping[str, float]) -> WorldConfig:
    return WorldConfig.from_dict({**config.to_dict(), **levels})


def _watch_rates(watch: Watch) -> tuple[Array, Array]:
    """P(click) and P(long view) by KuaiRand's rules."""
    click = play_exceeds(watch, np.minimum(watch.duration_s, 7.0))
    return click, play_exceeds(watch, np.minimum(watch.duration_s, 18.0))


def _solve_feedback(
    config: WorldConfig, name: str, field: str, utility_P: Array, watch: Watch, target: float
) -> WorldConfig:
    click_P, long_P = _watch_rates(watch)
    # A long view is a click, but for plays of exactly 7 s: three outcomes, each with its logit.
    share = {(0, 0): 1 - click_P, (1, 0): click_P - long_P, (1, 1): long_P}
    no, yes = np.zeros(1), np.ones(1)

    def excess(level: float) -> float:
        trial = _with(config, {field: level})
        rate = sum(
            (p * sigmoid(feedback_logit(trial, name, utility_P, yes * c + no, yes * v + no))).mean()
            for (c, v), p in share.items()
        )
        return float(rate) - target

    return _with(config, {field: float(brentq(excess, -60.0, 20.0, xtol=1e-4))})


def _solve_leaving(config: WorldConfig, sample: Sample) -> WorldConfig:
    """Sets `leave_level` so that the mean hazard is one in `session_impressions`."""
    centred_P = sample.session_joy_P - sample.session_joy_P.mean() + config.joy_level

    def excess(level: float) -> float:
        trial = dataclasses.replace(config, leave_level=level)
        return float(leave_probability(trial, centred_P).mean()) - 1 / config.session_impressions

    return dataclasses.replace(config, leave_level=float(brentq(excess, -60.0, 20.0, xtol=1e-4)))

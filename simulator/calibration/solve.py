"""Solves a world's level parameters against real rates, on a fixed sample.

Knows the closed forms of the responses and targets by name. Levels are found by least squares and
bisection, not by trial. New levels change what the policy shows, so sampling and solving take turns
until they agree. A level that is exactly zero is a mechanism switched off, and stays so.

Letters: P impressions of the sample, Q random exposures of the sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, least_squares

from ifa_ray.config import require
from simulator.calibration.measure import RATIO_RANGE_S, RATIO_THRESHOLDS, concentration
from simulator.calibration.sample import Crowd, Pool, Sample, crowd_views, draw_sample
from simulator.world.arrays import Floats
from simulator.world.config import WorldConfig
from simulator.world.responses import (
    FEEDBACK,
    Watch,
    expected_play_s,
    feedback_logit,
    play_exceeds,
    play_exceeds_beyond,
    sigmoid,
    watch_distribution,
)
from simulator.world.users import leave_probability

Report = Callable[[str], None]

# How closely each rate is fitted, as a relative error of one unit of the least squares.
WATCH_FIT: Mapping[str, float] = {
    "feed_is_click": 0.005,
    "feed_long_view": 0.005,
    "feed_mean_play_s": 0.01,
    "feed_zero_play": 0.04,
    "feed_below_3s": 0.006,
    "feed_ratio_beyond_q25": 0.03,
    "feed_ratio_beyond_q50": 0.02,
    "feed_ratio_beyond_q75": 0.05,
    "random_is_click": 0.012,
    "random_long_view": 0.02,
    "random_mean_play_s": 0.03,
    "user_click_sd": 0.03,
}
WATCH_BOUNDS: Mapping[str, tuple[float, float]] = {
    "skip_level": (-4.0, 4.0),
    "skip_mean_s": (0.8, 3.5),
    "watch_level": (-1.0, 5.0),
    "watch_log_sd": (0.4, 2.5),
    "watch_gain": (0.0, 2.0),
    # At a utility_scale of 1 tastes decide nearly everything; beyond, a misfit is more honest.
    "utility_scale": (0.1, 1.0),
    "bias_sd": (0.05, 1.5),
    "zero_share": (0.02, 0.95),
    "replay_share": (0.0, 0.95),
    "duration_gain": (0.0, 1.2),
    "duration_skip": (0.0, 2.5),
}
GAIN_BOUNDS = (0.05, 2.0)
# Where targets leave a level open, it stays near where it was: this many units per unit moved.
ANCHOR = 0.1
UNMET = 0.05
# Of the least squares in a round: enough where targets bind, an end where they leave levels open.
MAX_STEPS = 30

# Popularity: change of (top 1% share, Gini) with (popularity_slope, policy_popularity), measured;
# where the search starts, and Broyden's updates correct it.
JACOBIAN = ((0.41, 0.25), (0.36, 0.38))
UNITS = np.array([0.04, 0.03])
MAX_CROWDS = 6
LOWEST, HIGHEST = np.array([0.05, 0.0]), np.array([2.5, 4.0])


def rates(config: WorldConfig, sample: Sample) -> dict[str, float]:
    """Expected rates on a sample, in closed form, by the names of the targets."""
    utility_P, watch_P = _feed(config, sample)
    utility_Q, watch_Q = _random(config, sample)
    click_P, long_P = _watch_rates(watch_P)
    click_Q, long_Q = _watch_rates(watch_Q)
    below_3s_P = 1 - play_exceeds(watch_P, np.minimum(watch_P.duration_s, 3.0))
    count_U = np.bincount(sample.user_P)
    user_click_U = np.bincount(sample.user_P, click_P) / np.maximum(count_U, 1)
    equal_P = np.full(len(click_P), 1 / len(click_P))
    found = {
        "feed_is_click": click_P @ equal_P,
        "feed_long_view": long_P @ equal_P,
        "feed_mean_play_s": expected_play_s(watch_P, config.replay_share) @ equal_P,
        "feed_zero_play": (watch_P.skip * watch_P.zero_share) @ equal_P,
        "feed_below_3s": below_3s_P @ equal_P,
        **_ratio_shares(config, watch_P),
        "random_is_click": click_Q @ sample.weight_Q,
        "random_long_view": long_Q @ sample.weight_Q,
        "random_mean_play_s": expected_play_s(watch_Q, config.replay_share) @ sample.weight_Q,
        "user_click_mean": user_click_U.mean(),
        "activity_click_spearman": _spearman(count_U, user_click_U),
        "user_click_sd": user_click_U.std(),
    }
    for name in FEEDBACK:
        found[f"feed_{name}"] = _feedback_rate(config, name, utility_P, watch_P, equal_P)
        found[f"random_{name}"] = _feedback_rate(config, name, utility_Q, watch_Q, sample.weight_Q)
    return {name: float(value) for name, value in found.items()}


def solve_levels(
    config: WorldConfig,
    targets: Mapping[str, float],
    seed: int,
    *,
    num_worlds: int = 4,
    num_users: int = 48,
    rounds: int = 2,
    pool: Pool | None = None,
    report: Report = lambda _: None,
) -> WorldConfig:
    """Solves the levels of a world.

    Args:
        config: the world; its levels are where the search starts.
        targets: wanted rates, by the names of `rates`; levels that they leave open stay.
        seed: of the first sampled world; the others follow.
        num_worlds: of the sample.
        num_users: of each of its worlds.
        rounds: turns of sampling and solving.
        pool: of random exposures; None: the catalogue's.
        report: is given a line after each round, and one for each target that was not met.

    Raises:
        ConfigError: if a target is out of its range.
    """
    _check_targets(targets)
    sample = None
    for turn in range(rounds):
        sample = draw_sample(config, range(seed, seed + num_worlds), num_users, pool)
        before = config.levels
        config = solve_on_sample(config, targets, sample)
        moved = {name: abs(config.levels[name] - before[name]) for name in before}
        most = max(moved, key=moved.__getitem__)
        report(f"round {turn + 1} of {rounds}: largest move {moved[most]:.3f}, of {most}")
    for line in unmet(config, targets, sample) if sample is not None else ():
        report(line)
    return config


def _check_targets(targets: Mapping[str, float]) -> None:
    """Refuses targets that no world can have."""
    for name, value in targets.items():
        if name.endswith(("_s", "_per_request")):
            require(0 < value < np.inf, f"targets.{name}", value, "a finite number > 0")
        elif name in WATCH_FIT or name.removeprefix("feed_").removeprefix("random_") in FEEDBACK:
            require(0 < value < 1, f"targets.{name}", value, "a probability in (0, 1)")
    for surface in ("feed", "random"):
        click, long = (targets.get(f"{surface}_{name}") for name in ("is_click", "long_view"))
        if click is not None and long is not None:
            rule = f"<= {surface}_is_click == {click}: a long view is a click"
            require(long <= click, f"targets.{surface}_long_view", long, rule)


def unmet(config: WorldConfig, targets: Mapping[str, float], sample: Sample) -> Iterator[str]:
    """A line for each target that the levels cannot meet on a sample, with the nearest value."""
    found = rates(config, sample)
    for name, wanted in targets.items():
        if name in found and abs(found[name] / wanted - 1) > UNMET:
            yield (
                f"{name} == {wanted:.4g} is not met: the nearest that these mechanisms come is "
                f"{found[name]:.4g} ({found[name] / wanted - 1:+.0%})."
            )


def solve_on_sample(
    config: WorldConfig, targets: Mapping[str, float], sample: Sample
) -> WorldConfig:
    """One turn of solving: watch levels together, then the feedbacks one by one, then leaving."""
    solved = _solve_watch(config, targets, sample)
    solved = _solve_activity(solved, targets, sample)
    for name in FEEDBACK:
        if f"feed_{name}" in targets:
            solved = _solve_feedback(solved, name, targets, sample)
    joy_level = float(np.tanh(solved.utility_scale * sample.core_P).mean())
    solved = _solve_leaving(dataclasses.replace(solved, joy_level=joy_level), sample)
    wanted = targets.get("feed_impressions_per_request")
    return solved if wanted is None else _solve_refresh(solved, wanted)


def solve_popularity(
    config: WorldConfig, crowd: Crowd, targets: Mapping[str, float], seed: int, report: Report
) -> WorldConfig:
    """Solves slope and policy so that a crowd gathers on as few items as the targets say.

    A steeper slope and a policy that looks more at popularity both concentrate; the slope more at
    the head, the policy more in the tail. Each step simulates a crowd, so steps are few; the world
    of the step that came nearest is returned.

    Args:
        config: the world; its slope and policy are where the search starts.
        crowd: to simulate.
        targets: `top_1pct_share` and `gini`.
        seed: of the crowd's world.
        report: is given a line a step.
    """
    wanted = np.array([targets["top_1pct_share"], targets["gini"]])
    x = np.array([config.popularity_slope, config.policy_popularity])
    slope = np.array(JACOBIAN)
    best, nearest, before = config, np.inf, None
    for _ in range(MAX_CROWDS):
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


def _solve_watch(config: WorldConfig, targets: Mapping[str, float], sample: Sample) -> WorldConfig:
    fitted = [name for name in WATCH_FIT if name in targets]
    names = [name for name in WATCH_BOUNDS if getattr(config, name) != 0]
    lower, upper = (np.array([WATCH_BOUNDS[name][side] for name in names]) for side in (0, 1))
    margin = 1e-6 * (upper - lower)
    start = np.clip([getattr(config, name) for name in names], lower + margin, upper - margin)

    def with_watch(x: Floats) -> WorldConfig:
        return config.with_levels(dict(zip(names, x.tolist(), strict=True)))

    def misfit(x: Floats) -> Floats:
        found = rates(with_watch(x), sample)
        off = [np.log(max(found[name], 1e-9) / targets[name]) / WATCH_FIT[name] for name in fitted]
        return np.concatenate([off, ANCHOR * (x - start)])

    found = least_squares(misfit, start, bounds=(lower, upper), xtol=1e-4, max_nfev=MAX_STEPS)
    return with_watch(found.x)


def _spearman(activity_U: npt.NDArray, click_U: Floats) -> float:
    """Rank correlation over the users of a sample, ties in order of the user."""
    ranks = [np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (activity_U, click_U)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _solve_activity(
    config: WorldConfig, targets: Mapping[str, float], sample: Sample
) -> WorldConfig:
    """Scales `activity_bias` towards the wanted correlation; the next sample will have it."""
    wanted = targets.get("activity_click_spearman")
    if wanted is None or config.activity_bias == 0:
        return config
    found = rates(config, sample)["activity_click_spearman"]
    factor = np.clip(wanted / min(found, -0.05), 0.5, 1.5) if wanted < 0 else 0.0
    bias = float(np.clip(config.activity_bias * factor, 0.01, 0.95))
    return dataclasses.replace(config, activity_bias=bias)


def _feed(config: WorldConfig, sample: Sample) -> tuple[Floats, Watch]:
    utility_P = config.utility_scale * sample.core_P + config.bias_sd * sample.bias_P
    return utility_P, watch_distribution(config, utility_P, sample.duration_s_P)


def _random(config: WorldConfig, sample: Sample) -> tuple[Floats, Watch]:
    utility_Q = config.utility_scale * sample.core_Q + config.bias_sd * sample.bias_Q
    return utility_Q, watch_distribution(config, utility_Q, sample.duration_s_Q)


def _watch_rates(watch: Watch) -> tuple[Floats, Floats]:
    """P(click) and P(long view) by KuaiRand's rules."""
    click = play_exceeds(watch, np.minimum(watch.duration_s, 7.0))
    return click, play_exceeds(watch, np.minimum(watch.duration_s, 18.0))


def _ratio_shares(config: WorldConfig, watch: Watch) -> dict[str, float]:
    """Shares of plays beyond KuaiRec's quartiles of watch ratio, over its middle durations."""
    low, high = RATIO_RANGE_S
    inside = (watch.duration_s >= low) & (watch.duration_s <= high)
    part = dataclasses.replace(
        watch,
        skip=watch.skip[inside],
        log_mean=watch.log_mean[inside],
        duration_s=watch.duration_s[inside],
    )
    played = max(float((1 - part.skip * part.zero_share).sum()), 1e-9)
    found = {}
    for name, ratio in RATIO_THRESHOLDS.items():
        threshold_s = ratio * part.duration_s
        if ratio <= 1:
            beyond = play_exceeds(part, threshold_s)
        else:
            beyond = play_exceeds_beyond(part, threshold_s, config.replay_share)
        found[f"feed_ratio_beyond_{name}"] = float(beyond.sum()) / played
    return found


def _feedback_rate(
    config: WorldConfig, name: str, utility: Floats, watch: Watch, weight: Floats
) -> float:
    click, long = _watch_rates(watch)
    # A long view is a click, but for plays of exactly 7 s: three outcomes, each with its logit.
    share = {(0, 0): 1 - click, (1, 0): click - long, (1, 1): long}
    no, yes = np.zeros(1), np.ones(1)
    rate = sum(
        p * sigmoid(feedback_logit(config, name, utility, yes * c + no, yes * v + no))
        for (c, v), p in share.items()
    )
    return float(rate @ weight)


def _solve_feedback(
    config: WorldConfig, name: str, targets: Mapping[str, float], sample: Sample
) -> WorldConfig:
    """The level that meets the feed's rate, at the gain that comes nearest to the random one's."""
    level_name, gain_name = (f"{name.removeprefix('is_')}_{part}" for part in ("level", "gain"))
    utility_P, watch_P = _feed(config, sample)
    utility_Q, watch_Q = _random(config, sample)
    equal_P = np.full(len(utility_P), 1 / len(utility_P))

    def at_gain(gain: float) -> WorldConfig:
        trial = config.with_levels({gain_name: gain})

        def excess(level: float) -> float:
            at_level = trial.with_levels({level_name: level})
            found = _feedback_rate(at_level, name, utility_P, watch_P, equal_P)
            return np.log(found / targets[f"feed_{name}"])

        return trial.with_levels({level_name: float(brentq(excess, -40.0, 20.0, xtol=1e-4))})

    wanted = targets.get(f"random_{name}")
    if wanted is None or getattr(config, gain_name) == 0:
        return at_gain(getattr(config, gain_name))

    def at_random(gain: float) -> float:
        found = _feedback_rate(at_gain(gain), name, utility_Q, watch_Q, sample.weight_Q)
        return np.log(found / wanted)

    ends = [at_random(gain) for gain in GAIN_BOUNDS]
    if ends[0] * ends[1] > 0:
        return at_gain(GAIN_BOUNDS[int(abs(ends[1]) < abs(ends[0]))])
    return at_gain(float(brentq(at_random, *GAIN_BOUNDS, xtol=1e-3)))


def _solve_leaving(config: WorldConfig, sample: Sample) -> WorldConfig:
    """Sets `leave_level` so that the mean hazard is one in `session_impressions`."""
    centred_P = sample.session_joy_P - sample.session_joy_P.mean() + config.joy_level

    def excess(level: float) -> float:
        trial = dataclasses.replace(config, leave_level=level)
        return float(leave_probability(trial, centred_P).mean()) - 1 / config.session_impressions

    return dataclasses.replace(config, leave_level=float(brentq(excess, -60.0, 20.0, xtol=1e-4)))


def _solve_refresh(config: WorldConfig, impressions: float) -> WorldConfig:
    """Sets `refresh_rate` so that so many of a slate's items are seen, users leaving as they do."""
    rule = f"in [1, slate_size == {config.slate_size})"
    inside = 1 <= impressions < config.slate_size
    require(inside, "targets.feed_impressions_per_request", impressions, rule)
    stay = 1 - 1 / config.session_impressions

    def excess(rate: float) -> float:
        on = stay * (1 - rate)
        return sum(on**k for k in range(config.slate_size)) - impressions

    rate = float(brentq(excess, 0.0, 1.0)) if excess(0.0) > 0 else 0.0
    return dataclasses.replace(config, refresh_rate=rate)

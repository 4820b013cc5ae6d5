"""A user's response to an item that is seen: one watch time, and all feedback given it.

Knows utilities and durations; no users, no slates. Watch time is a mixture: with probability
p_skip a quick skip (zero, or exponential around two seconds), else a counterfactual lognormal watch
time cut at the duration, unless the video is left to loop. One uniform decides all of it: its low
part is skips, its high part quantiles of the watch.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from simulator.world.arrays import Bools, Floats, Ints, Longs
from simulator.world.catalog import DURATION_MEDIAN_S, NUM_STYLES, Catalog
from simulator.world.config import DAY_MS, WorldConfig
from simulator.world.crn import Purpose, ndtr, ndtri, sigmoid, uniform
from simulator.world.users import UserState, interest_matrix

LOOP_LIMIT = 3.0
"""A looping video is left at the latest after so many times its duration."""

# (sign of the gain of utility, bonus of a click, bonus of a long view), in logits. The bonuses put
# likes and comments on watched videos, as in KuaiRand-Pure: P(like|click) = .034, else .005;
# P(comment) = .0068 given a long view, .0017 given a click alone, else .0001.
FEEDBACK = {
    "is_like": (Purpose.LIKE, 1.0, 0.6, 0.2),
    "is_comment": (Purpose.COMMENT, 1.0, 2.6, 1.4),
    "is_follow": (Purpose.FOLLOW, 1.0, 1.2, 0.5),
    "is_forward": (Purpose.FORWARD, 1.0, 0.2, 0.1),
    "is_hate": (Purpose.HATE, -1.0, 0.0, 0.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """The distribution of a watch time; arrays of one shape."""

    skip: Floats  # probability of a quick skip
    zero_share: float  # share of skips that play nothing
    skip_mean_s: float  # mean of the other skips
    log_mean: Floats  # of the counterfactual watch time in seconds
    log_sd: float
    duration_s: Floats  # of the video


def watch_distribution(config: WorldConfig, utility: Floats, duration_s: Floats) -> Watch:
    """The distribution of watch time at a utility, of any shape."""
    log_duration = np.log(duration_s / DURATION_MEDIAN_S)
    log_mean = config.watch_level + config.watch_gain * utility
    return Watch(
        skip=sigmoid(config.skip_level - utility + config.duration_skip * log_duration),
        zero_share=config.zero_share,
        skip_mean_s=config.skip_mean_s,
        log_mean=log_mean + config.duration_gain * log_duration,
        log_sd=config.watch_log_sd,
        duration_s=duration_s,
    )


def play_time_s(watch: Watch, u: Floats, loops: Bools) -> Floats:
    """Watch time at the quantile `u` of the mixture; where `loops`, not cut at the duration."""
    within = np.minimum(u / watch.skip, 1 - 1e-12)
    moved = np.maximum(within - watch.zero_share, 0) / max(1 - watch.zero_share, 1e-12)
    skipped_s = np.minimum(-watch.skip_mean_s * np.log1p(-moved), watch.duration_s)
    beyond = np.clip((u - watch.skip) / (1 - watch.skip), 1e-12, 1 - 1e-12)
    watched_s = np.exp(watch.log_mean + watch.log_sd * ndtri(beyond))
    limit_s = watch.duration_s * np.where(loops, LOOP_LIMIT, 1.0)
    return np.where(u < watch.skip, skipped_s, np.minimum(watched_s, limit_s))


def play_exceeds(watch: Watch, threshold_s: Floats) -> Floats:
    """P(play >= threshold), exactly, for thresholds in (0, duration]."""
    moved = (1 - watch.zero_share) * np.exp(-threshold_s / watch.skip_mean_s)
    watched = ndtr((watch.log_mean - np.log(threshold_s)) / watch.log_sd)
    return watch.skip * moved + (1 - watch.skip) * watched


def play_exceeds_beyond(watch: Watch, threshold_s: Floats, replay_share: float) -> Floats:
    """P(play >= threshold), exactly, for thresholds in (duration, LOOP_LIMIT * duration]."""
    watched = ndtr((watch.log_mean - np.log(threshold_s)) / watch.log_sd)
    return replay_share * (1 - watch.skip) * watched


def expected_play_s(watch: Watch, replay_share: float) -> Floats:
    """E[play], in closed form."""
    skipped = -np.expm1(-watch.duration_s / watch.skip_mean_s)
    skipped = watch.skip_mean_s * (1 - watch.zero_share) * skipped
    watched = (1 - replay_share) * _mean_cut(watch, watch.duration_s)
    watched = watched + replay_share * _mean_cut(watch, LOOP_LIMIT * watch.duration_s)
    return watch.skip * skipped + (1 - watch.skip) * watched


def _mean_cut(watch: Watch, limit_s: Floats) -> Floats:
    """E[min(W, limit)] of a lognormal W."""
    d = (np.log(limit_s) - watch.log_mean) / watch.log_sd
    mean = np.exp(watch.log_mean + 0.5 * watch.log_sd**2)
    return mean * ndtr(d - watch.log_sd) + limit_s * ndtr(-d)


def is_click(play_ms: Ints, duration_ms: Ints) -> npt.NDArray:
    """KuaiRand's rule: the whole of a video of at most 7 s, else more than 7 s of it."""
    return np.where(duration_ms <= 7_000, play_ms >= duration_ms, play_ms > 7_000)


def is_long_view(play_ms: Ints, duration_ms: Ints) -> npt.NDArray:
    """KuaiRand's rule: the whole of a video of at most 18 s, else at least 18 s of it."""
    return np.where(duration_ms <= 18_000, play_ms >= duration_ms, play_ms >= 18_000)


def feedback_logit(
    config: WorldConfig, name: str, utility: Floats, click: Floats, long_view: Floats
) -> Floats:
    """Logit of an explicit feedback given the watch."""
    _, sign, click_bonus, long_bonus = FEEDBACK[name]
    level = getattr(config, f"{name.removeprefix('is_')}_level")
    gain = sign * getattr(config, f"{name.removeprefix('is_')}_gain")
    return level + gain * utility + click_bonus * click + long_bonus * long_view


def feedback(
    config: WorldConfig,
    seed: int,
    keys: tuple[npt.ArrayLike, ...],
    utility: Floats,
    play_ms: Ints,
    duration_ms: Ints,
) -> dict[str, npt.NDArray[np.int8]]:
    """All feedback columns given watch and utility; `keys` are user, day, session, item."""
    click = is_click(play_ms, duration_ms)
    long_view = is_long_view(play_ms, duration_ms)
    columns = {"is_click": click.astype(np.int8), "long_view": long_view.astype(np.int8)}
    for name, (purpose, *_) in FEEDBACK.items():
        p = sigmoid(feedback_logit(config, name, utility, click, long_view))
        columns[name] = (uniform(seed, purpose, *keys) < p).astype(np.int8)
    return columns


FRESH_DAYS = 3.0
MAX_LOYALTY = 2.0


def utility(
    config: WorldConfig,
    catalog: Catalog,
    users: UserState,
    ids_UX: Ints,
    time_ms_U: Longs,
    mood_U: Ints | None = None,
) -> Floats:
    """Utility of items before boredom, [U, X], on the logit scale of not skipping.

    The users' interests have drifted to now. `mood_U` is the topic of each session's intent; None
    leaves it out.
    """
    rows = np.arange(len(users))[:, None]
    topic_UX, second_UX = catalog.topic_N[ids_UX], catalog.second_N[ids_UX]
    mix_UX = catalog.mix_N[ids_UX]
    interest_UK = interest_matrix(config, users)
    core_UX = config.interest_gain * (
        (1 - mix_UX) * interest_UK[rows, topic_UX] + mix_UX * interest_UK[rows, second_UX]
    )
    if mood_U is not None:
        mood = mood_U[:, None]
        match_UX = (1 - mix_UX) * (topic_UX == mood) + mix_UX * (second_UX == mood)
        core_UX += config.mood_gain * match_UX
    if config.loyalty_gain > 0:
        core_UX += config.loyalty_gain * loyalty(users, catalog.observed.items.author_id_N[ids_UX])
    for s in range(NUM_STYLES):
        taste_U1 = users.taste_US[:, s, None] / np.sqrt(NUM_STYLES)
        core_UX += config.taste_gain * taste_U1 * catalog.style_NS[ids_UX, s]
    core_UX += config.quality_gain * catalog.quality_N[ids_UX]
    core_UX += config.popularity_gain * catalog.log_popularity_N[ids_UX]
    age_days_UX = (time_ms_U[:, None] - catalog.observed.items.upload_ms_N[ids_UX]) / DAY_MS
    core_UX += config.freshness_gain * np.exp(-np.maximum(age_days_UX, 0) / FRESH_DAYS)
    return config.utility_scale * core_UX + bias(config, users)[:, None]


def bias(config: WorldConfig, users: UserState) -> Floats:
    """Each user's eagerness to watch anything, [U]."""
    return config.bias_sd * users.bias_U


def loyalty(users: UserState, author_UX: Ints) -> Floats:
    """log(1 + remembered long views of the item's author), bounded, [U, X]."""
    # Users and authors packed into one key, so that counting is a sort and two binary searches.
    row = np.arange(len(users), dtype=np.int64)[:, None] << 32
    loved = np.sort((row + users.loved_UL).ravel())
    key_UX = row + author_UX
    count_UX = np.searchsorted(loved, key_UX, side="right") - np.searchsorted(loved, key_UX)
    return np.minimum(np.log1p(count_UX), MAX_LOYALTY)

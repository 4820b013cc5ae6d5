"""The settings of a world: its sizes, its mechanisms, and the levels that were solved for them.

Knows numbers only. Three kinds of settings: *scale* (how much of everything), *mechanisms* (one
knob each; zero switches the mechanism off) and *levels* (solved by `simulator.calibration` so that
the world's rates meet KuaiRand's, never tuned by hand).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from ifa_ray.config import Config, require, setting
from ifa_ray.errors import ConfigError, unknown_name

DAY_MS = 86_400_000
START_MS = 1_652_054_400_000
"""Midnight before day 0: 2022-05-09 UTC, the day after KuaiRand's log ends."""

LEVELS_PATH = Path(__file__).parent.parent / "data" / "levels.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig(Config):
    """One world."""

    # Scale.
    num_items: int = setting(20_000, "N, the catalogue over the whole run", ge=1)
    num_topics: int = setting(48, "latent topics, four to a category", ge=1)
    content_width: int = setting(16, "D, of the observed content vectors", ge=4)
    num_candidates: int = setting(1_000, "C, of each request", ge=1)
    slate_size: int = setting(10, "K, shown per request", ge=1)
    max_history: int = setting(2_000, "T, latest impressions that a request carries", ge=1)
    longest_prehistory: int = setting(0, "of any user; 0 is max_history")
    min_history: int = setting(100, "impressions of a user's prehistory, lognormal: least", ge=1)
    history_median: float = setting(1_000.0, "median of it", gt=0)
    history_log_sd: float = setting(0.94, "standard deviation of its logarithm", ge=0)
    # Skewed quantiles then increase up to 5 standard deviations.
    history_skew: float = setting(
        0.0, "of its logarithm; KuaiRand's is -0.47, a lognormal's 0", ge=-0.6, le=0.6
    )
    duration_median_s: float = setting(35.1, "of the catalogue's videos, lognormal", gt=0)
    duration_log_sd: float = setting(1.2356, "standard deviation of its logarithm", ge=0)
    warmup_days: int = setting(31, "span of the prehistory", ge=1)
    warmup_candidates: int = setting(
        200,
        "C of most warm-up requests, from one in num_candidates / warmup_candidates of the "
        "catalogue",
        ge=1,
    )
    warmup_requests_per_user: int = setting(
        8, "last requests of the warm-up, with all C candidates and all logged", ge=1
    )
    horizon_days: int = setting(30, "items keep arriving until this day")
    live_share: float = setting(0.6, "of items, uploaded before the warm-up starts", gt=0, lt=1)
    # KuaiRand's users have about 5 of 79 impressions; one shorter keeps the small scales cheap.
    sessions_per_day: float = setting(1.2, "mean of an active day", ge=1)
    max_sessions: int = setting(3, "most sessions of a day", ge=1)
    max_requests: int = setting(8, "a session ends after this many requests", ge=1)
    session_impressions: float = setting(36.0, "mean of a session, met by leave_level", gt=0)
    active_rate: float = setting(
        0.85, "probability that a satisfied median user comes on a day", gt=0, lt=1
    )
    sample_rate: float = setting(
        0.1, "share of requests logged with all candidates (paper: 10%)", ge=0, le=1
    )
    rand_share: float = setting(0.01, "share of slots given to uniformly random items (KuaiRand)")

    # Mechanisms, zero is off.
    interest_gain: float = setting(1.0, "persistent interests over latent topics", ge=0)
    interest_spread: float = setting(
        1.2, "how unlike in weight a user's interests are; at 0 one is there or not", ge=0
    )
    dormancy: float = setting(0.95, "how much less an interest weighs while asleep", ge=0, le=1)
    drift_rate: float = setting(
        0.01, "expected changes of each interest per day: replaced, asleep or awake", ge=0, le=1
    )
    mood_gain: float = setting(0.5, "session intent: one interest, for a session", ge=0)
    loyalty_gain: float = setting(0.4, "affinity to authors of earlier long views", ge=0)
    taste_gain: float = setting(0.4, "taste for style and duration, across topics", ge=0)
    quality_gain: float = setting(0.35, "of the item, alike for all users", ge=0)
    freshness_gain: float = setting(0.15, "of a new item, alike for all users", ge=0)
    popularity_gain: float = setting(0.2, "of a popular item, alike for all users", ge=0)
    topic_boredom: float = setting(0.12, "repeated topics inside a session", ge=0)
    author_boredom: float = setting(0.2, "repeated authors inside a session", ge=0)
    leave_gain: float = setting(1.0, "satisfaction moves the hazard of leaving the session", ge=0)
    return_gain: float = setting(1.5, "satisfaction moves the probability of coming back", ge=0)
    activity_spread: float = setting(1.0, "active users come more often", ge=0)
    activity_bias: float = setting(
        0.536,
        "correlation of activity with watching less eagerly; gives the Spearman correlation of "
        "-0.52 between impressions and click rate",
        ge=0,
        lt=1,
    )
    popularity_slope: float = setting(
        1.0, "of the power law of rank that shares out the popular channel; 0: all alike", ge=0
    )
    policy_popularity: float = setting(0.4, "weight of popularity in the earlier policy", ge=0)
    policy_noise: float = setting(0.4, "how much luck is in its scores", ge=0)
    category_noise: float = setting(0.2, "share of category labels drawn at random", ge=0, le=1)
    content_noise: float = setting(0.5, "of content vectors, relative to the latent signal", ge=0)
    retrieval_noise: float = setting(0.3, "of the query vectors of the content channels", ge=0)

    # Levels, solved.
    skip_level: float = setting(1.2, "logit of a quick skip")
    skip_mean_s: float = setting(2.8, "mean of a skip that plays anything", gt=0)
    watch_level: float = setting(2.4, "log seconds of a watch")
    watch_log_sd: float = setting(0.6, "standard deviation of it", gt=0)
    watch_gain: float = setting(0.4, "effect of utility on it", ge=0)
    utility_scale: float = setting(0.9, "logits per unit of utility", ge=0)
    bias_sd: float = setting(1.2, "spread of users' eagerness to watch anything", ge=0)
    zero_share: float = setting(0.25, "quick skips that play nothing at all", ge=0, le=1)
    replay_share: float = setting(0.8, "completed videos that are left to loop", ge=0, le=1)
    duration_gain: float = setting(
        0.6, "longer videos are watched longer, less than in proportion", ge=0
    )
    duration_skip: float = setting(1.6, "longer videos are skipped more often", ge=0)
    like_level: float = setting(-5.5, "logit of a like")
    comment_level: float = setting(-8.0, "logit of a comment")
    follow_level: float = setting(-8.5, "logit of a follow")
    forward_level: float = setting(-7.5, "logit of a forward")
    hate_level: float = setting(-7.0, "logit of a hate")
    like_gain: float = setting(0.6, "effect of utility, beyond the watch, on a like", ge=0)
    comment_gain: float = setting(0.6, "the same on a comment", ge=0)
    follow_gain: float = setting(0.8, "the same on a follow", ge=0)
    forward_gain: float = setting(0.3, "the same on a forward", ge=0)
    hate_gain: float = setting(0.4, "effect of the want of utility on a hate", ge=0)
    leave_level: float = setting(-3.7, "logit of leaving the session after an impression")
    refresh_rate: float = setting(
        0.04, "probability per position of asking for a new slate early", ge=0, le=1
    )
    joy_level: float = setting(0.3, "mean satisfaction with an impression")

    def check(self) -> None:
        """Checks the rules between settings.

        Raises:
            ConfigError: naming field, value and rule.
        """
        candidates, least, longest = self.num_candidates, self.min_history, self.longest_prehistory
        # Retrieval promises exactly C candidates to a user who has seen max_history items.
        needed = candidates + self.max_history
        needed_items = needed / self.live_share
        rules = {
            "longest_prehistory": (
                longest == 0 or longest >= least,
                f"0, or >= min_history == {least}",
            ),
            "slate_size": (self.slate_size <= candidates, f"<= num_candidates == {candidates}"),
            "warmup_candidates": (
                self.slate_size <= self.warmup_candidates <= candidates,
                "in [slate_size, num_candidates]",
            ),
            "min_history": (
                longest > 0 or least <= self.max_history,
                f"<= max_history == {self.max_history}",
            ),
            "rand_share": (
                0 <= self.rand_share * self.slate_size <= 1,
                "in [0, 1 / slate_size]: at most one random slot a slate",
            ),
            "sessions_per_day": (
                self.sessions_per_day <= self.max_sessions,
                "in [1, max_sessions]",
            ),
            "num_items": (
                self.live_share * self.num_items >= needed,
                f">= (num_candidates + max_history) / live_share == {needed_items:.0f}",
            ),
        }
        for name, (holds, rule) in rules.items():
            require(holds, name, getattr(self, name), rule)

    @property
    def prehistory_limit(self) -> int:
        """Impressions of the longest prehistory."""
        return self.longest_prehistory or self.max_history

    @property
    def seen_limit(self) -> int:
        """Latest impressions of a user that are no candidates: as many as leave C items.

        At least max_history, as checked above; the longest histories of the named sizes fit in it.
        """
        return int(np.ceil(self.live_share * self.num_items)) - self.num_candidates

    @property
    def levels(self) -> dict[str, float]:
        """The solved settings alone."""
        return {name: getattr(self, name) for name in LEVELS}

    def with_levels(self, levels: Mapping[str, Any]) -> Self:
        """The same world with other levels."""
        return dataclasses.replace(self, **levels)


_NAMES = [field.name for field in dataclasses.fields(WorldConfig)]
LEVELS = (
    *_NAMES[_NAMES.index("skip_level") :],
    "popularity_slope",
    "policy_popularity",
    "activity_bias",
)
"""The fields that are solved."""

WORLDS: Mapping[str, Mapping[str, float]] = {
    # Every mechanism at work, none dominant.
    "balanced": {},
    # What decides is in few past impressions: the same author, the mood of now, sharp topics.
    "exact_heavy": {
        "interest_gain": 0.8, "mood_gain": 1.0, "loyalty_gain": 0.9, "taste_gain": 0.2,
        "drift_rate": 0.02,
    },
    # What decides is spread over the whole life: taste across topics, steady interests.
    "profile_heavy": {
        "interest_gain": 0.8, "mood_gain": 0.15, "loyalty_gain": 0.1, "taste_gain": 1.0,
        "drift_rate": 0.003, "content_noise": 0.3,
    },
}  # fmt: skip
"""Named worlds, fixed before any trained ranker was run on them. The defaults that they share moved
later, while warm-up rates and the random, popularity and oracle rankers were looked at."""

# KuaiRand as published: histories of 31 days, 5 sessions of 79 impressions a day, batches of 6.
KUAIRAND: Mapping[str, float] = {
    "num_items": 200_000, "num_topics": 64, "num_candidates": 2_000, "slate_size": 6,
    "max_history": 10_000, "longest_prehistory": 60_000, "min_history": 100,
    "history_median": 8_571.0, "history_skew": -0.47, "warmup_candidates": 100,
    "sessions_per_day": 5.4, "max_sessions": 12, "max_requests": 60, "session_impressions": 79.0,
    "active_rate": 0.9, "refresh_rate": 0.01, "popularity_slope": 0.69, "policy_popularity": 0.72,
}  # fmt: skip

SCALES: Mapping[str, Mapping[str, float]] = {
    "smoke": {
        "num_items": 2_000, "num_topics": 24, "num_candidates": 120, "slate_size": 8,
        "max_history": 200, "min_history": 40, "history_median": 120.0, "warmup_candidates": 60,
        "warmup_requests_per_user": 4, "max_requests": 4, "session_impressions": 20.0,
    },
    "quick": {},
    "standard": {
        "num_items": 200_000, "num_topics": 64, "num_candidates": 10_000, "max_history": 10_000,
        "min_history": 500, "history_median": 8_600.0, "warmup_candidates": 400,
        "warmup_requests_per_user": 8, "sessions_per_day": 2.0, "max_sessions": 5,
    },
    "kuairand": KUAIRAND,
    # The paper's stream (Table 1): 2,516 candidates and 3.26 impressions a request. What it does
    # not say of users and items is KuaiRand's.
    "kuaishou_paper": {**KUAIRAND, "num_candidates": 2_516, "max_requests": 120},
}  # fmt: skip
"""Named sizes."""


def uncalibrated_config(scale: str, world: str = "balanced") -> WorldConfig:
    """A named world at a named scale, its levels still the hand-set starting points.

    Raises:
        ConfigError: on an unknown name, with the near miss.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    if world not in WORLDS:
        raise unknown_name("world", world, WORLDS)
    return WorldConfig.from_dict({**SCALES[scale], **WORLDS[world]})


def world_config(scale: str, world: str = "balanced") -> WorldConfig:
    """A named world at a named scale, with its solved levels.

    Raises:
        ConfigError: on an unknown name, or if the levels of this pair were never solved.
    """
    config = uncalibrated_config(scale, world)
    solved = json.loads(LEVELS_PATH.read_text())["levels"]
    key = f"{scale}/{world}"
    if key not in solved:
        raise ConfigError(
            f"levels[{key!r}] is missing, must be solved: "
            f"python -m simulator.calibration --scale {scale} --world {world}"
        )
    return dataclasses.replace(config, **solved[key])

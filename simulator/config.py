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
from typing import Self

import numpy as np

from ifa_ray.config import Config, require
from ifa_ray.errors import ConfigError, unknown_name

__all__ = [
    "DAY_MS",
    "LEVELS",
    "SCALES",
    "START_MS",
    "WORLDS",
    "WorldConfig",
    "uncalibrated_config",
    "world_config",
]

DAY_MS = 86_400_000
START_MS = 1_652_054_400_000
"""Midnight before day 0: 2022-05-09 UTC, the day after KuaiRand's log ends."""

LEVELS = (
    "skip_level", "skip_mean_s", "watch_level", "watch_log_sd", "watch_gain", "utility_scale",
    "bias_sd", "zero_share", "replay_share", "duration_gain", "duration_skip",
    "like_level", "comment_level", "follow_level", "forward_level", "hate_level",
    "like_gain", "comment_gain", "follow_gain", "forward_gain", "hate_gain",
    "leave_level", "refresh_rate", "joy_level", "popularity_slope", "policy_popularity",
    "activity_bias",
)  # fmt: skip
"""The fields that are solved."""

LEVELS_PATH = Path(__file__).parent / "data" / "levels.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig(Config):
    """One world.

    Scale:
        num_items: N, the catalogue over the whole run.
        num_topics: latent topics, four to a category.
        content_width: D, of the observed content vectors.
        num_candidates: C, of each request.
        slate_size: K, shown per request.
        max_history: T, latest impressions that a request carries.
        longest_prehistory: of any user; 0 is max_history.
        min_history, history_median, history_log_sd: impressions of a user's prehistory, lognormal.
        history_skew: of the log history; KuaiRand's is -0.47, a lognormal's 0.
        duration_median_s, duration_log_sd: of the catalogue's videos, lognormal.
        warmup_days: span of the prehistory.
        warmup_candidates: C of most warm-up requests, taken from one in
            num_candidates / warmup_candidates of the catalogue.
        warmup_requests_per_user: the last requests of the warm-up, made with all C candidates and
            all logged.
        horizon_days: items keep arriving until this day.
        live_share: items uploaded before the warm-up starts.
        sessions_per_day: mean of an active day. KuaiRand's users have about 5 of 79 impressions;
            one shorter session keeps the small scales cheap.
        max_sessions: at most this many a day.
        max_requests: a session ends after this many requests.
        session_impressions: mean impressions of a session, met by `leave_level`.
        active_rate: probability that a satisfied median user comes on a day.
        sample_rate: share of requests logged with all their candidates (paper: 10%).
        rand_share: share of slots given to uniformly random items, as KuaiRand does (0.4%).

    Mechanisms, zero is off:
        interest_gain: persistent interests over latent topics.
        interest_spread: how unlike in weight a user's interests are; at 0 one is there or not.
        dormancy: how much less an interest weighs while it sleeps; at 0 as much as awake.
        drift_rate: expected changes of each interest per day: replaced, put to sleep or woken.
        mood_gain: one interest that a session is in the mood for.
        loyalty_gain: authors of videos viewed long before.
        taste_gain: taste for style and duration, which crosses topics.
        quality_gain, freshness_gain, popularity_gain: of the item, alike for all users.
        topic_boredom, author_boredom: repetition inside a session.
        leave_gain: what was seen moves the hazard of leaving the session.
        return_gain: satisfaction moves the probability of coming back.
        activity_spread: active users come more often.
        activity_bias: correlation of a user's activity with watching less eagerly; gives the
            Spearman correlation of -0.52 between impressions and click rate.
        refresh_rate: probability per position of asking for a new slate before the end of this one.
        replay_share: completed videos that are left to loop.
        zero_share: quick skips that play nothing at all.
        duration_gain: longer videos are watched longer, less than in proportion.
        duration_skip: longer videos are skipped more often.
        like_gain, comment_gain, follow_gain, forward_gain: utility, beyond the watch, asks for it.
        hate_gain: the want of utility asks for it.
        popularity_slope: of the power law of rank that shares out the popular channel; at 0 all
            items are equally popular.
        policy_popularity: how much the earlier policy looks at popularity.
        policy_noise: how much luck is in its scores.
        category_noise: share of category labels drawn at random.
        content_noise: noise of content vectors relative to the latent signal.
        retrieval_noise: noise of the query vectors of the content channels.
    """

    num_items: int = 20_000
    num_topics: int = 48
    content_width: int = 16
    num_candidates: int = 1_000
    slate_size: int = 10
    max_history: int = 2_000
    longest_prehistory: int = 0
    min_history: int = 100
    history_median: float = 1_000.0
    history_log_sd: float = 0.94
    history_skew: float = 0.0
    duration_median_s: float = 35.1
    duration_log_sd: float = 1.2356
    warmup_days: int = 31
    warmup_candidates: int = 200
    warmup_requests_per_user: int = 8
    horizon_days: int = 30
    live_share: float = 0.6
    sessions_per_day: float = 1.2
    max_sessions: int = 3
    max_requests: int = 8
    session_impressions: float = 36.0
    active_rate: float = 0.85
    sample_rate: float = 0.1
    rand_share: float = 0.01

    interest_gain: float = 1.0
    interest_spread: float = 1.2
    dormancy: float = 0.95
    drift_rate: float = 0.01
    mood_gain: float = 0.5
    loyalty_gain: float = 0.4
    taste_gain: float = 0.4
    quality_gain: float = 0.35
    freshness_gain: float = 0.15
    popularity_gain: float = 0.2
    topic_boredom: float = 0.12
    author_boredom: float = 0.2
    leave_gain: float = 1.0
    return_gain: float = 1.5
    activity_spread: float = 1.0
    activity_bias: float = 0.536
    popularity_slope: float = 1.0
    policy_popularity: float = 0.4
    policy_noise: float = 0.4
    category_noise: float = 0.2
    content_noise: float = 0.5
    retrieval_noise: float = 0.3

    skip_level: float = 1.2
    skip_mean_s: float = 2.8
    watch_level: float = 2.4
    watch_log_sd: float = 0.6
    watch_gain: float = 0.4
    utility_scale: float = 0.9
    bias_sd: float = 1.2
    zero_share: float = 0.25
    replay_share: float = 0.8
    duration_gain: float = 0.6
    duration_skip: float = 1.6
    like_level: float = -5.5
    comment_level: float = -8.0
    follow_level: float = -8.5
    forward_level: float = -7.5
    hate_level: float = -7.0
    like_gain: float = 0.6
    comment_gain: float = 0.6
    follow_gain: float = 0.8
    forward_gain: float = 0.3
    hate_gain: float = 0.4
    leave_level: float = -3.7
    refresh_rate: float = 0.04
    joy_level: float = 0.3

    def __post_init__(self) -> None:
        for field in ("num_items", "num_topics", "content_width", "num_candidates", "slate_size",
                      "max_history", "min_history", "warmup_days", "warmup_candidates",
                      "warmup_requests_per_user", "max_sessions", "max_requests"):  # fmt: skip
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        for field in ("live_share", "active_rate"):
            require(0 < getattr(self, field) < 1, field, getattr(self, field), "in (0, 1)")
        for field in ("sample_rate", "category_noise", "refresh_rate", "replay_share",
                      "zero_share", "drift_rate", "dormancy"):  # fmt: skip
            require(0 <= getattr(self, field) <= 1, field, getattr(self, field), "in [0, 1]")
        for field in ("skip_mean_s", "duration_median_s", "history_median", "watch_log_sd",
                      "session_impressions"):  # fmt: skip
            require(getattr(self, field) > 0, field, getattr(self, field), "> 0")
        for name, value in self.to_dict().items():
            require(np.isfinite(value), name, value, "a finite number")
            if name.endswith(("_gain", "_boredom", "_noise", "_spread", "_sd", "_scale", "_slope",
                              "_skip", "_popularity")):  # fmt: skip
                require(value >= 0, name, value, ">= 0")
        require(0 <= self.activity_bias < 1, "activity_bias", self.activity_bias, "in [0, 1)")
        # The skewed quantiles are then increasing up to 5 standard deviations.
        require(abs(self.history_skew) <= 0.6, "history_skew", self.history_skew, "in [-0.6, 0.6]")
        require(self.longest_prehistory == 0 or self.longest_prehistory >= self.min_history,
                "longest_prehistory", self.longest_prehistory,
                f"0, or >= min_history == {self.min_history}")  # fmt: skip
        require(self.content_width >= 4, "content_width", self.content_width, ">= 4")
        require(self.slate_size <= self.num_candidates, "slate_size", self.slate_size,
                f"<= num_candidates == {self.num_candidates}")  # fmt: skip
        require(self.slate_size <= self.warmup_candidates <= self.num_candidates,
                "warmup_candidates", self.warmup_candidates,
                "in [slate_size, num_candidates]")  # fmt: skip
        if self.longest_prehistory == 0:
            require(self.min_history <= self.max_history, "min_history", self.min_history,
                    f"<= max_history == {self.max_history}")  # fmt: skip
        require(0 <= self.rand_share * self.slate_size <= 1, "rand_share", self.rand_share,
                "in [0, 1 / slate_size]: at most one random slot a slate")  # fmt: skip
        require(1 <= self.sessions_per_day <= self.max_sessions, "sessions_per_day",
                self.sessions_per_day, "in [1, max_sessions]")  # fmt: skip
        # Retrieval promises exactly C candidates to a user who has seen max_history items.
        needed = self.num_candidates + self.max_history
        require(self.live_share * self.num_items >= needed, "num_items", self.num_items,
                f">= (num_candidates + max_history) / live_share == "
                f"{needed / self.live_share:.0f}")  # fmt: skip

    @property
    def prehistory_limit(self) -> int:
        """Impressions of the longest prehistory."""
        return self.longest_prehistory or self.max_history

    @property
    def seen_limit(self) -> int:
        """How many of a user's latest impressions are no candidates: as many as leave C items.

        At least max_history, as checked above; the longest histories of the named sizes fit in it.
        """
        return int(np.ceil(self.live_share * self.num_items)) - self.num_candidates

    @property
    def levels(self) -> dict[str, float]:
        """The solved settings alone."""
        return {name: getattr(self, name) for name in LEVELS}

    def with_levels(self, levels: Mapping[str, float]) -> Self:
        """The same world with other levels."""
        return self.from_dict({**self.to_dict(), **levels})


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

"""Effects of impressions on a user: boredom, leaving, satisfaction, author affinity, coming back.

Knows hidden user state and responses; no slates, no retrieval. The state of a session is in
`SessionState`; what outlives it is in `UserState`.

Letters: U users, X items per user, K topics, S sessions of a day.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from simulator.config import DAY_MS, START_MS, WorldConfig
from simulator.crn import Purpose, uniform
from simulator.queries import RowArrays
from simulator.responses import sigmoid
from simulator.users import LOYALTY_MEMORY, UserState

RECENT_AUTHORS = 10
TOPIC_MEMORY = 0.9
JOY_MEMORY = 0.85
SATISFACTION_MEMORY = 0.99

# Satisfaction is a bounded number; this turns its deviations into logits of order one.
JOY_UNIT = 0.2

GAP_MS = 30 * 60_000
"""KuaiRand's sessions are cut at gaps of 30 minutes, so two sessions are at least that apart."""

# Share of impressions by hour, a trough at 4h and a peak at 21h as in KuaiRand's hourly log.
HOURLY = np.array([
    3.6, 2.2, 1.4, 1.0, 0.85, 1.0, 1.8, 2.9, 3.6, 3.9, 4.2, 4.7,
    6.0, 5.6, 4.5, 4.3, 4.4, 4.8, 5.3, 6.0, 6.8, 7.3, 6.9, 5.4,
])  # fmt: skip


@dataclasses.dataclass(kw_only=True, eq=False)
class SessionState(RowArrays):
    """State of one session of U users.

    Attributes:
        mood_U: int32, topic of the session's intent.
        seen_topic_UK: float64, fading mass of topics seen.
        seen_author_UX: int32, authors of the latest impressions, a ring, -1 where none.
        seen_count_U: int64, impressions in the session.
        joy_U: float64, fading average of the satisfaction with impressions.
    """

    mood_U: npt.NDArray[np.int32]
    seen_topic_UK: npt.NDArray[np.float64]
    seen_author_UX: npt.NDArray[np.int32]
    seen_count_U: npt.NDArray[np.int64]
    joy_U: npt.NDArray[np.float64]

    @classmethod
    def new(cls, config: WorldConfig, mood_U: npt.NDArray[np.int32]) -> SessionState:
        """Sessions that have just begun."""
        num_users = len(mood_U)
        return cls(
            mood_U=mood_U,
            seen_topic_UK=np.zeros((num_users, config.num_topics)),
            seen_author_UX=np.full((num_users, RECENT_AUTHORS), -1, np.int32),
            seen_count_U=np.zeros(num_users, np.int64),
            joy_U=np.full(num_users, config.joy_level),
        )

    def boredom(
        self,
        config: WorldConfig,
        topic_U: npt.NDArray[np.int32],
        second_U: npt.NDArray[np.int32],
        mix_U: npt.NDArray[np.float64],
        author_U: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.float64]:
        """Utility lost to repetition by showing each user one item now, [U]."""
        rows = np.arange(len(topic_U))
        topics_U = (1 - mix_U) * self.seen_topic_UK[rows, topic_U]
        topics_U += mix_U * self.seen_topic_UK[rows, second_U]
        authors_U = (self.seen_author_UX == author_U[:, None]).sum(axis=1)
        bored = config.topic_boredom * topics_U + config.author_boredom * authors_U
        return config.utility_scale * bored

    def see(
        self,
        seen_U: npt.NDArray[np.bool_],
        topic_U: npt.NDArray[np.int32],
        second_U: npt.NDArray[np.int32],
        mix_U: npt.NDArray[np.float64],
        author_U: npt.NDArray[np.int32],
        joy_U: npt.NDArray[np.float64],
    ) -> None:
        """Adds one impression to each session where `seen_U`."""
        rows = np.flatnonzero(seen_U)
        self.seen_topic_UK[rows] *= TOPIC_MEMORY
        self.seen_topic_UK[rows, topic_U[rows]] += 1 - mix_U[rows]
        self.seen_topic_UK[rows, second_U[rows]] += mix_U[rows]
        self.seen_author_UX[rows, self.seen_count_U[rows] % RECENT_AUTHORS] = author_U[rows]
        self.seen_count_U[rows] += 1
        self.joy_U[rows] += (1 - JOY_MEMORY) * (joy_U[rows] - self.joy_U[rows])


def joy(utility: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Satisfaction with an impression, in (-1, 1); eagerness to watch anything does not count."""
    return np.tanh(utility - bias)


def leave_probability(
    config: WorldConfig, joy_U: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Hazard of leaving the session after an impression; low satisfaction raises it."""
    better_U = (joy_U - config.joy_level) / JOY_UNIT
    return sigmoid(config.leave_level - config.leave_gain * better_U)


def satisfy(
    users: UserState, joy_UX: npt.NDArray[np.float64], seen_UX: npt.NDArray[np.bool_]
) -> None:
    """Moves each user's slow satisfaction by the impressions seen, in order, in place."""
    for position in range(joy_UX.shape[1]):
        step_U = (1 - SATISFACTION_MEMORY) * (joy_UX[:, position] - users.satisfaction_U)
        users.satisfaction_U += np.where(seen_UX[:, position], step_U, 0)


def remember_authors(
    users: UserState, author_UX: npt.NDArray[np.int32], long_UX: npt.NDArray[np.bool_]
) -> None:
    """Adds the authors of long views to each user's memory, in place."""
    row, column = np.nonzero(long_UX)
    nth = np.cumsum(long_UX, axis=1)[row, column] - 1
    users.loved_UL[row, (users.loved_count_U[row] + nth) % LOYALTY_MEMORY] = author_UX[row, column]
    users.loved_count_U += long_UX.sum(axis=1)


def day_fraction(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Maps uniforms to times of day by the hourly profile, keeping their order."""
    reach = np.concatenate([[0.0], np.cumsum(HOURLY) / HOURLY.sum()])
    return np.interp(u, reach, np.arange(25) / 24)


def plan_day(
    config: WorldConfig, seed: int, users: UserState, day: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Plans the sessions of a day.

    Returns:
        The number of sessions of each user [U], 0 for the absent, and their start times in
        milliseconds [U, S], increasing; beyond its number of sessions a row says nothing.
    """
    user_U, slot = users.user_id_U, np.arange(config.max_sessions)
    happy_U = config.return_gain * (users.satisfaction_U - config.joy_level) / JOY_UNIT
    base = np.log(config.active_rate / (1 - config.active_rate))
    logit_U = base + 0.5 * config.activity_spread * users.activity_U + happy_U
    active_U = uniform(seed, Purpose.ACTIVE, user_U, day) < sigmoid(logit_U)
    extra = (config.sessions_per_day - 1) / max(config.max_sessions - 1, 1)
    more_U = extra * np.exp(0.4 * config.activity_spread * users.activity_U - 0.08)
    draws_US = uniform(seed, Purpose.SESSIONS, user_U[:, None], day, slot)
    count_U = 1 + (draws_US[:, 1:] < more_U[:, None]).sum(axis=1)
    count_U = np.where(active_U, count_U, 0)
    start_US = uniform(seed, Purpose.SESSION_START, user_U[:, None], day, slot)
    start_US = np.sort(np.where(slot < count_U[:, None], start_US, 1.0), axis=1)
    start_ms_US = START_MS + day * DAY_MS + (DAY_MS * day_fraction(start_US)).astype(np.int64)
    return count_U, start_ms_US

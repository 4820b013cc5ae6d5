"""Hidden user state: traits, interests and their drift. Nothing here is ever logged.

Knows users only, no items beyond topic and author numbers. All arrays are over users in any order;
a user's row depends on the user alone.

Letters: U users, M interests per user, K topics, S style directions, L remembered long views.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from simulator.world.arrays import Bools, Floats, Ints, Longs, RowArrays
from simulator.world.catalog import NUM_STYLES
from simulator.world.config import DAY_MS, START_MS, WorldConfig
from simulator.world.crn import Purpose, ndtri, normal, sigmoid, uniform

NUM_INTERESTS = 12
AWAKE_SHARE = 0.6
LOYALTY_MEMORY = 256


@dataclasses.dataclass(kw_only=True, eq=False)
class UserState(RowArrays):
    """Hidden state of U users."""

    user_id_U: Ints
    activity_U: Floats  # standard normal; high comes often and has a long history
    bias_U: Floats  # standard normal; eagerness to watch anything
    taste_US: Floats  # taste for style and duration
    topic_UM: Ints  # the persistent interests
    weight_UM: Floats
    awake_UM: Bools
    loved_UL: Ints  # authors of the latest long views, a ring; -1 where empty
    loved_count_U: Longs  # long views so far; the ring's next place is this modulo L
    satisfaction_U: Floats  # slow average of the satisfaction with an impression
    last_day_U: Ints  # the day that interests have drifted to
    last_ms_U: Longs  # end of the last impression

    def __len__(self) -> int:
        return len(self.user_id_U)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def make_users(config: WorldConfig, seed: int, user_ids: Ints) -> UserState:
    """Users as they are before the warm-up, for any subset of ids in any order."""
    users = np.asarray(user_ids, np.int32)
    column, slot = users[:, None], np.arange(NUM_INTERESTS)
    activity_U = _spread_out(seed, Purpose.ACTIVITY, users, 0.7548776662466927)
    # KuaiRand's Spearman of activity and click rate is -0.518; the default is that of a Gaussian
    # copula, rho = 2 sin(pi/6 * Spearman).
    rho = -config.activity_bias if config.activity_spread > 0 else 0.0
    own_bias_U = _spread_out(seed, Purpose.BIAS, users, 0.5698402909980532)
    bias_U = rho * activity_U + np.sqrt(1 - rho**2) * own_bias_U
    # Exponential of a wide normal: few large interests, many small ones.
    weight_UM = np.exp(config.interest_spread * normal(seed, Purpose.INTEREST_WEIGHT, column, slot))
    return UserState(
        user_id_U=users.copy(),
        activity_U=activity_U,
        bias_U=bias_U,
        taste_US=normal(seed, Purpose.TASTE, column, np.arange(NUM_STYLES)),
        topic_UM=_topics(config, seed, Purpose.INTEREST_TOPIC, column, slot),
        weight_UM=weight_UM,
        awake_UM=uniform(seed, Purpose.INTEREST_AWAKE, column, slot) < AWAKE_SHARE,
        loved_UL=np.full((len(users), LOYALTY_MEMORY), -1, np.int32),
        loved_count_U=np.zeros(len(users), np.int64),
        satisfaction_U=np.full(len(users), config.joy_level),
        last_day_U=np.full(len(users), -config.warmup_days, np.int32),
        last_ms_U=np.zeros(len(users), np.int64),
    )


def _spread_out(seed: int, purpose: Purpose, users: Ints, step: float) -> Floats:
    """Standard normals that fill the distribution evenly as user ids run from 0 (Roberts' R2).

    A world of a few dozen users is then a stratified sample of the population: with independent
    draws its mean click rate would differ from the next world's by a tenth, for no reason that
    concerns any ranker. The shift is the world's, a user's value still depends on the id alone.
    """
    shift = uniform(seed, purpose, 0)
    return ndtri(np.clip((shift + step * users) % 1.0, 1e-9, 1 - 1e-9))


def _topics(config: WorldConfig, seed: int, purpose: Purpose, *keys: npt.ArrayLike) -> Ints:
    return (config.num_topics * uniform(seed, purpose, *keys)).astype(np.int32)


def history_targets(config: WorldConfig, users: UserState) -> Longs:
    """Impressions of each user's prehistory, lognormal in activity, clipped to the settings.

    With a skew the logarithm is z + skew / 6 z^2 of a standard normal z: the first terms of
    Cornish and Fisher's expansion, about the median.
    """
    z_U = users.activity_U
    skewed_U = z_U + config.history_skew / 6 * z_U**2
    target = config.history_median * np.exp(config.history_log_sd * skewed_U)
    return np.clip(np.rint(target), config.min_history, config.prehistory_limit).astype(np.int64)


def drift(config: WorldConfig, seed: int, users: UserState, day_U: Ints) -> None:
    """Moves interests to the given days, in place: replaced, put to sleep or woken.

    A user who was away drifts for all the days at once, keyed by the day of coming back.
    """
    elapsed_U = np.maximum(day_U - users.last_day_U, 0)
    keys = (users.user_id_U[:, None], day_U[:, None], np.arange(NUM_INTERESTS))
    rate_U = 1.0 - (1.0 - config.drift_rate) ** elapsed_U
    changes = uniform(seed, Purpose.DRIFT, *keys) < rate_U[:, None]
    replaced = changes & (uniform(seed, Purpose.DRIFT_KIND, *keys) < 0.4)
    fresh = _topics(config, seed, Purpose.DRIFT_TOPIC, *keys)
    users.topic_UM = np.where(replaced, fresh, users.topic_UM)
    users.awake_UM = np.where(changes, ~users.awake_UM | replaced, users.awake_UM)
    users.last_day_U = np.maximum(users.last_day_U, day_U)


def _awake_weights(config: WorldConfig, users: UserState) -> Floats:
    """Weight of each interest now, [U, M]: less while it sleeps."""
    return users.weight_UM * np.where(users.awake_UM, 1.0, 1.0 - config.dormancy)


def interest_matrix(config: WorldConfig, users: UserState) -> Floats:
    """Interest in each topic, [U, K], standardised within a user: graded, not yes or no."""
    weight_UM = _awake_weights(config, users)
    share_UK = np.zeros((len(users), config.num_topics))
    rows = np.arange(len(users))
    for m in range(NUM_INTERESTS):  # interests may share a topic, so they are added one by one
        share_UK[rows, users.topic_UM[:, m]] += weight_UM[:, m]
    share_UK /= share_UK.sum(axis=1, keepdims=True)
    graded_UK = np.log(share_UK + 0.01)
    graded_UK -= graded_UK.mean(axis=1, keepdims=True)
    return graded_UK / graded_UK.std(axis=1, keepdims=True)


def mood_topics(
    config: WorldConfig, seed: int, users: UserState, day_U: Ints, session_U: Ints
) -> Ints:
    """Draws the intent of each user's session, a topic, from the user's interests."""
    reach_UM = np.cumsum(_awake_weights(config, users), axis=1)
    draw_U = uniform(seed, Purpose.MOOD, users.user_id_U, day_U, session_U)
    chosen_U = (reach_UM < draw_U[:, None] * reach_UM[:, -1:]).sum(axis=1)
    return users.topic_UM[np.arange(len(users)), chosen_U]


RECENT_AUTHORS = 10
TOPIC_MEMORY = 0.9
JOY_MEMORY = 0.85
SATISFACTION_MEMORY = 0.99

# Satisfaction is a bounded number; this turns its deviations into logits of order one.
JOY_UNIT = 0.2

GAP_MS = 30 * 60_000
"""KuaiRand's sessions are cut at gaps of 30 minutes, so two sessions are at least that apart."""

# Share of impressions by hour, a trough at 4h and a peak at 21h as in KuaiRand's hourly log.
HOURLY = np.array(
    [
        3.6,
        2.2,
        1.4,
        1.0,
        0.85,
        1.0,
        1.8,
        2.9,
        3.6,
        3.9,
        4.2,
        4.7,
        6.0,
        5.6,
        4.5,
        4.3,
        4.4,
        4.8,
        5.3,
        6.0,
        6.8,
        7.3,
        6.9,
        5.4,
    ]
)


@dataclasses.dataclass(kw_only=True, eq=False)
class SessionState(RowArrays):
    """State of one session of U users."""

    mood_U: Ints  # topic of the session's intent
    seen_topic_UK: Floats  # fading mass of topics seen
    seen_author_UX: Ints  # authors of the latest impressions, a ring, -1 where none
    seen_count_U: Longs  # impressions in the session
    joy_U: Floats  # fading average of the satisfaction with impressions

    @classmethod
    def new(cls, config: WorldConfig, mood_U: Ints) -> SessionState:
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
        self, config: WorldConfig, topic_U: Ints, second_U: Ints, mix_U: Floats, author_U: Ints
    ) -> Floats:
        """Utility lost to repetition by showing each user one item now, [U]."""
        rows = np.arange(len(topic_U))
        topics_U = (1 - mix_U) * self.seen_topic_UK[rows, topic_U]
        topics_U += mix_U * self.seen_topic_UK[rows, second_U]
        authors_U = (self.seen_author_UX == author_U[:, None]).sum(axis=1)
        bored = config.topic_boredom * topics_U + config.author_boredom * authors_U
        return config.utility_scale * bored

    def see(
        self,
        seen_U: Bools,
        topic_U: Ints,
        second_U: Ints,
        mix_U: Floats,
        author_U: Ints,
        joy_U: Floats,
    ) -> None:
        """Adds one impression to each session where `seen_U`."""
        rows = np.flatnonzero(seen_U)
        self.seen_topic_UK[rows] *= TOPIC_MEMORY
        self.seen_topic_UK[rows, topic_U[rows]] += 1 - mix_U[rows]
        self.seen_topic_UK[rows, second_U[rows]] += mix_U[rows]
        self.seen_author_UX[rows, self.seen_count_U[rows] % RECENT_AUTHORS] = author_U[rows]
        self.seen_count_U[rows] += 1
        self.joy_U[rows] += (1 - JOY_MEMORY) * (joy_U[rows] - self.joy_U[rows])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """R users at the moment of a request; never changed by who reads it."""

    users: UserState
    sessions: SessionState  # of the same users, in the same order
    time_ms_R: Longs  # now

    def take(self, rows: Longs) -> Moment:
        """A copy of some rows."""
        return Moment(
            users=self.users.take(rows),
            sessions=self.sessions.take(rows),
            time_ms_R=self.time_ms_R[rows],
        )


def joy(utility: Floats, bias: Floats) -> Floats:
    """Satisfaction with an impression, in (-1, 1); eagerness to watch anything does not count."""
    return np.tanh(utility - bias)


def leave_probability(config: WorldConfig, joy_U: Floats) -> Floats:
    """Hazard of leaving the session after an impression; low satisfaction raises it."""
    better_U = (joy_U - config.joy_level) / JOY_UNIT
    return sigmoid(config.leave_level - config.leave_gain * better_U)


def satisfy(users: UserState, joy_UX: Floats, seen_UX: Bools) -> None:
    """Moves each user's slow satisfaction by the impressions seen, in order, in place."""
    for position in range(joy_UX.shape[1]):
        step_U = (1 - SATISFACTION_MEMORY) * (joy_UX[:, position] - users.satisfaction_U)
        users.satisfaction_U += np.where(seen_UX[:, position], step_U, 0)


def remember_authors(users: UserState, author_UX: Ints, long_UX: Bools) -> None:
    """Adds the authors of long views to each user's memory, in place."""
    row, column = np.nonzero(long_UX)
    nth = np.cumsum(long_UX, axis=1)[row, column] - 1
    users.loved_UL[row, (users.loved_count_U[row] + nth) % LOYALTY_MEMORY] = author_UX[row, column]
    users.loved_count_U += long_UX.sum(axis=1)


def day_fraction(u: Floats) -> Floats:
    """Maps uniforms to times of day by the hourly profile, keeping their order."""
    reach = np.concatenate([[0.0], np.cumsum(HOURLY) / HOURLY.sum()])
    return np.interp(u, reach, np.arange(25) / 24)


def plan_day(config: WorldConfig, seed: int, users: UserState, day: int) -> tuple[Longs, Longs]:
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

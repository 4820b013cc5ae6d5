"""Hidden user state: traits, interests and their drift. Nothing here is ever logged.

Knows users only, no items beyond topic and author numbers. All arrays are over users in any order;
a user's row depends on the user alone.

Letters: U users, M interests per user, K topics, S style directions, L remembered long views.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from simulator.catalog import NUM_STYLES
from simulator.config import WorldConfig
from simulator.crn import Purpose, ndtri, normal, uniform
from simulator.queries import RowArrays

if TYPE_CHECKING:  # a world makes its users; at run time the arrow points the other way
    from simulator.world import World

NUM_INTERESTS = 12
AWAKE_SHARE = 0.6
LOYALTY_MEMORY = 256


@dataclasses.dataclass(kw_only=True, eq=False)
class UserState(RowArrays):
    """Hidden state of U users.

    Attributes:
        user_id_U: int32.
        activity_U: float64, standard normal; high comes often and has a long history.
        bias_U: float64, standard normal; eagerness to watch anything.
        taste_US: float64, taste for style and duration.
        topic_UM, weight_UM, awake_UM: int32, float64 and bool, the persistent interests.
        loved_UL: int32, authors of the latest long views, a ring; -1 where empty.
        loved_count_U: int64, long views so far; the ring's next place is this modulo L.
        satisfaction_U: float64, slow average of the satisfaction with an impression.
        last_day_U: int32, the day that interests have drifted to.
        last_ms_U: int64, end of the last impression.
    """

    user_id_U: npt.NDArray[np.int32]
    activity_U: npt.NDArray[np.float64]
    bias_U: npt.NDArray[np.float64]
    taste_US: npt.NDArray[np.float64]
    topic_UM: npt.NDArray[np.int32]
    weight_UM: npt.NDArray[np.float64]
    awake_UM: npt.NDArray[np.bool_]
    loved_UL: npt.NDArray[np.int32]
    loved_count_U: npt.NDArray[np.int64]
    satisfaction_U: npt.NDArray[np.float64]
    last_day_U: npt.NDArray[np.int32]
    last_ms_U: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_id_U)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def make_users(world: World, user_ids: npt.NDArray[np.int32]) -> UserState:
    """Users as they are before the warm-up, for any subset of ids in any order."""
    config, seed = world.config, world.seed
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


def _spread_out(
    seed: int, purpose: Purpose, users: npt.NDArray[np.int32], step: float
) -> npt.NDArray[np.float64]:
    """Standard normals that fill the distribution evenly as user ids run from 0 (Roberts' R2).

    A world of a few dozen users is then a stratified sample of the population: with independent
    draws its mean click rate would differ from the next world's by a tenth, for no reason that
    concerns any ranker. The shift is the world's, a user's value still depends on the id alone.
    """
    shift = uniform(seed, purpose, 0)
    return ndtri(np.clip((shift + step * users) % 1.0, 1e-9, 1 - 1e-9))


def _topics(
    config: WorldConfig, seed: int, purpose: Purpose, *keys: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    return (config.num_topics * uniform(seed, purpose, *keys)).astype(np.int32)


def history_targets(config: WorldConfig, users: UserState) -> npt.NDArray[np.int64]:
    """Impressions of each user's prehistory, lognormal in activity, clipped to the settings.

    With a skew the logarithm is z + skew / 6 z^2 of a standard normal z: the first terms of
    Cornish and Fisher's expansion, about the median.
    """
    z_U = users.activity_U
    skewed_U = z_U + config.history_skew / 6 * z_U**2
    target = config.history_median * np.exp(config.history_log_sd * skewed_U)
    return np.clip(np.rint(target), config.min_history, config.prehistory_limit).astype(np.int64)


def drift(config: WorldConfig, seed: int, users: UserState, day_U: npt.NDArray[np.int32]) -> None:
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


def _awake_weights(config: WorldConfig, users: UserState) -> npt.NDArray[np.float64]:
    """Weight of each interest now, [U, M]: less while it sleeps."""
    return users.weight_UM * np.where(users.awake_UM, 1.0, 1.0 - config.dormancy)


def interest_matrix(config: WorldConfig, users: UserState) -> npt.NDArray[np.float64]:
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
    config: WorldConfig,
    seed: int,
    users: UserState,
    day_U: npt.NDArray[np.int32],
    session_U: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    """Draws the intent of each user's session, a topic, from the user's interests."""
    reach_UM = np.cumsum(_awake_weights(config, users), axis=1)
    draw_U = uniform(seed, Purpose.MOOD, users.user_id_U, day_U, session_U)
    chosen_U = (reach_UM < draw_U[:, None] * reach_UM[:, -1:]).sum(axis=1)
    return users.topic_UM[np.arange(len(users)), chosen_U]

"""The hidden utility of an item to a user now, as a sum of mechanisms.

Knows hidden user state and the hidden catalogue; no slates, no responses. Boredom by repetition
inside a session is in `simulator.transition`.

Letters: U users, X items per user, K topics.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.catalog import NUM_STYLES, Catalog
from simulator.config import DAY_MS, WorldConfig
from simulator.users import UserState, interest_matrix

FRESH_DAYS = 3.0
MAX_LOYALTY = 2.0


def utility(
    config: WorldConfig,
    catalog: Catalog,
    users: UserState,
    ids_UX: npt.NDArray[np.int32],
    time_ms_U: npt.NDArray[np.int64],
    mood_U: npt.NDArray[np.int32] | None = None,
) -> npt.NDArray[np.float64]:
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


def bias(config: WorldConfig, users: UserState) -> npt.NDArray[np.float64]:
    """Each user's eagerness to watch anything, [U]."""
    return config.bias_sd * users.bias_U


def loyalty(users: UserState, author_UX: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """log(1 + remembered long views of the item's author), bounded, [U, X]."""
    # Users and authors packed into one key, so that counting is a sort and two binary searches.
    row = np.arange(len(users), dtype=np.int64)[:, None] << 32
    loved = np.sort((row + users.loved_UL).ravel())
    key_UX = row + author_UX
    count_UX = np.searchsorted(loved, key_UX, side="right") - np.searchsorted(loved, key_UX)
    return np.minimum(np.log1p(count_UX), MAX_LOYALTY)

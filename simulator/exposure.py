"""How far a user scrolls through a slate, position by position, and what is felt on the way.

Knows utilities before boredom, and draws; no ranker, no log. The first position is always seen.

Letters: U users, K slate size.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from simulator.catalog import Catalog
from simulator.config import WorldConfig
from simulator.crn import Purpose, uniform
from simulator.transition import SessionState, joy, leave_probability

__all__ = ["Exposure", "scroll"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Exposure:
    """What became of the slates of U users.

    Attributes:
        seen_UK: bool; a prefix of each row.
        utility_UK: float64, with boredom; meaningless where not seen.
        joy_UK: float64, of each impression.
        session_joy_UK: float64, joy of the session so far, this impression included.
        left_U: bool, the user left the session here.
    """

    seen_UK: npt.NDArray[np.bool_]
    utility_UK: npt.NDArray[np.float64]
    joy_UK: npt.NDArray[np.float64]
    session_joy_UK: npt.NDArray[np.float64]
    left_U: npt.NDArray[np.bool_]


def scroll(
    config: WorldConfig,
    seed: int,
    catalog: Catalog,
    session: SessionState,
    keys: tuple[npt.ArrayLike, ...],
    slate_UK: npt.NDArray[np.int32],
    fresh_utility_UK: npt.NDArray[np.float64],
    bias_U: npt.NDArray[np.float64],
) -> Exposure:
    """Walks down the slates of all users at once; updates the sessions in place.

    Args:
        config: boredom and leaving.
        seed: the world's.
        catalog: the hidden catalogue.
        session: of the U users.
        keys: user, day, session and item, broadcastable to [U, K].
        slate_UK: items shown.
        fresh_utility_UK: utilities before boredom.
        bias_U: each user's eagerness, which is not joy.
    """
    leave_UK = uniform(seed, Purpose.LEAVE, *keys)
    refresh_UK = uniform(seed, Purpose.REFRESH, *keys) < config.refresh_rate
    author_UK = catalog.observed.items.author_id_N[slate_UK]
    topic_UK, second_UK = catalog.topic_N[slate_UK], catalog.second_N[slate_UK]
    mix_UK = catalog.mix_N[slate_UK]
    seen_UK = np.zeros(slate_UK.shape, bool)
    utility_UK, joy_UK, session_joy_UK = (np.zeros(slate_UK.shape) for _ in range(3))
    here_U, left_U = np.ones(len(slate_UK), bool), np.zeros(len(slate_UK), bool)
    for k in range(slate_UK.shape[1]):
        item = (topic_UK[:, k], second_UK[:, k], mix_UK[:, k], author_UK[:, k])
        seen_UK[:, k] = here_U
        utility_UK[:, k] = fresh_utility_UK[:, k] - session.boredom(config, *item)
        joy_UK[:, k] = joy(utility_UK[:, k], bias_U)
        session.see(here_U, *item, joy_UK[:, k])
        session_joy_UK[:, k] = session.joy_U
        leaves_U = here_U & (leave_UK[:, k] < leave_probability(config, session.joy_U))
        left_U |= leaves_U
        here_U = here_U & ~leaves_U & ~refresh_UK[:, k]
        if not here_U.any():
            break
    return Exposure(
        seen_UK=seen_UK,
        utility_UK=utility_UK,
        joy_UK=joy_UK,
        session_joy_UK=session_joy_UK,
        left_U=left_U,
    )

"""What a slate is truly worth, beside the best that could have been chosen; only on request.

Knows everything that is hidden, so nothing here may reach an agent as an observation.

Letters: R requests, C candidates, K slate size, P pool.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.environments.episodes import Episodes, Ids, Rows
from simulator.set_value import fresh_utility, oracle_set, slate_watch_s

__all__ = ["oracle_slates", "regret_columns"]

ORACLE_POOL = 200
"""The oracle chooses from so many candidates of the highest utility."""


def oracle_slates(episodes: Episodes, rows: Rows) -> Ids:
    """Slates [R, K] for pending requests: greedy by true expected watch time, boredom included.

    Greedy, so a bound that can be passed: by a slate that keeps the user longer with less now.
    """
    world, moment = episodes.population.world, episodes.moment(rows)
    ids_RC = episodes.ids_BC[rows]
    if ids_RC.shape[1] > ORACLE_POOL:
        utility_RC = fresh_utility(world, moment, ids_RC)
        likely_RP = np.argsort(-utility_RC, axis=1, kind="stable")[:, :ORACLE_POOL]
        ids_RC = np.take_along_axis(ids_RC, likely_RP, axis=1)
    return oracle_set(world, moment, ids_RC, world.config.slate_size, repetition=True)


def regret_columns(
    episodes: Episodes, rows: Rows, ids_RK: Ids
) -> dict[str, npt.NDArray[np.float64]]:
    """Expected watch seconds of chosen slates and of the oracle's, before they are shown, [R].

    Of the slate as chosen: that a slot may be filled at random is not the agent's doing.
    """
    world, moment = episodes.population.world, episodes.moment(rows)
    chosen_R = slate_watch_s(world, moment, ids_RK)
    best_R = slate_watch_s(world, moment, oracle_slates(episodes, rows))
    return {
        "expected_watch_s": chosen_R,
        "oracle_watch_s": best_R,
        "regret_s": best_R - chosen_R,
    }

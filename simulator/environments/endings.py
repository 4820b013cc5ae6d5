"""How episodes go on after a request, or end: one rule for each kind of environment.

Knows episodes and the world's calendar; no Gymnasium, no rewards. *Terminated* is an end of the
story that nothing follows; *truncated* is where we stop looking while the user would ask again, so
the next request is made all the same and may be used for bootstrapping.

Letters: B rows (episodes side by side), R some of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from simulator.environments.episodes import Episodes, Rows
from simulator.environments.settings import EnvironmentSettings
from simulator.transition import plan_day

__all__ = ["ENDINGS", "Ended"]

Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ended:
    """What follows R requests.

    Attributes:
        terminated_R: bool, nothing does.
        truncated_R: bool, a request does that is beyond what we look at.
        returned_R: bool, a request on a later day does.
    """

    terminated_R: Flags
    truncated_R: Flags
    returned_R: Flags


def _end_ranking(
    episodes: Episodes, settings: EnvironmentSettings, rows: Rows, left_R: Flags
) -> Ended:
    """One request is the whole story."""
    del episodes, settings, left_R
    never_R = np.zeros(len(rows), bool)
    return Ended(terminated_R=~never_R, truncated_R=never_R, returned_R=never_R.copy())


def _end_session(
    episodes: Episodes, settings: EnvironmentSettings, rows: Rows, left_R: Flags
) -> Ended:
    """The story is over when the user leaves; the cap on a session's requests is only ours."""
    capped_R = episodes.round_B[rows] >= settings.world.max_requests
    return Ended(
        terminated_R=left_R.copy(),
        truncated_R=capped_R & ~left_R,
        returned_R=np.zeros(len(rows), bool),
    )


def _end_retention(
    episodes: Episodes, settings: EnvironmentSettings, rows: Rows, left_R: Flags
) -> Ended:
    """Goes on to the next request that the user makes, on whatever day.

    Gone is who stays away for `gone_after_days` days in a row: this world's users never decide to
    stay away for good, so that is a platform's definition and not a hidden fact.
    """
    over_R = left_R | (episodes.round_B[rows] >= settings.world.max_requests)
    over = rows[over_R]
    episodes.session_B[over] += 1
    again = episodes.session_B[over] < episodes.num_sessions_B[over]
    if again.any():
        episodes.begin_sessions(over[again])
    before_R = episodes.day_B[rows].copy()
    gone = _come_back(episodes, settings, over[~again])
    terminated_R = np.isin(rows, gone)
    returned_R = ~terminated_R & (episodes.day_B[rows] > before_R)
    return Ended(
        terminated_R=terminated_R,
        # Only who comes anew can cross the horizon.
        truncated_R=returned_R & (episodes.day_B[rows] >= settings.horizon_days),
        returned_R=returned_R,
    )


def _come_back(episodes: Episodes, settings: EnvironmentSettings, rows: Rows) -> Rows:
    """Moves users to the next day on which they come; returns the rows of those who do not."""
    world = episodes.population.world
    last_B = episodes.day_B.copy()
    for days_away in range(settings.gone_after_days):
        staying = []
        # Rows are at different days, and a plan is made for one day.
        for day in np.unique(last_B[rows]):
            group = rows[last_B[rows] == day]
            next_day = int(day) + days_away + 1
            users = episodes.users.take(group)
            count_R, start_RS = plan_day(world.config, world.seed, users, next_day)
            comes = count_R > 0
            if comes.any():
                episodes.begin_day(group[comes], next_day, count_R[comes], start_RS[comes])
            staying.append(group[~comes])
        rows = np.sort(np.concatenate([np.empty(0, np.int64), *staying]))
    return rows


ENDINGS: Mapping[str, Callable[[Episodes, EnvironmentSettings, Rows, Flags], Ended]] = {
    "ranking": _end_ranking,
    "session": _end_session,
    "retention": _end_retention,
}
"""By kind of environment."""

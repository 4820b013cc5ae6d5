"""What the single and the batched environments share: B episodes, their observations and rewards.

Knows everything of an environment but the face that Gymnasium asks for: `single` shows one row of
it, `vector` all. So a row of a batch and a single environment of the same seed live the same
episodes, to the bit.

Letters: B rows (episodes side by side), R some of them, C candidates, K slate size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ifa_ray.errors import ConfigError, unknown_name
from simulator.environments.endings import ENDINGS
from simulator.environments.episodes import Episodes, Rows, Shown
from simulator.environments.regret import regret_columns
from simulator.environments.repair import repair
from simulator.environments.settings import EnvironmentSettings
from simulator.environments.spaces import Observation, fill_observation, observation_space
from simulator.environments.starts import Population, population

__all__ = ["Core", "Stepped", "user_option"]

# Of the columns of the log, those that say what became of a slate.
OUTCOMES = (
    "time_ms", "play_time_ms", "duration_ms", "is_click", "long_view", "is_like", "is_comment",
    "is_follow", "is_forward", "is_hate", "is_rand", "channel",
)  # fmt: skip

COUNTED = {
    "clicks": "is_click",
    "long_views": "long_view",
    "likes": "is_like",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stepped:
    """What one step of R rows gave.

    Attributes:
        reward_R: float64.
        terminated_R, truncated_R: bool.
        info: arrays [R, ...] by name.
    """

    reward_R: npt.NDArray[np.float64]
    terminated_R: npt.NDArray[np.bool_]
    truncated_R: npt.NDArray[np.bool_]
    info: dict[str, np.ndarray]


class Core:
    """B episodes and what is seen of them.

    Attributes:
        settings: of the environment.
        population: where episodes begin; it, `episodes` and nothing else hold hidden state.
        episodes: side by side.
    """

    def __init__(self, settings: EnvironmentSettings, num_rows: int) -> None:
        self.settings = settings
        self.population: Population = population(
            settings.world, settings.world_seed, settings.users
        )
        self.episodes = Episodes(self.population, num_rows)
        self._buffer: Observation = {
            name: np.zeros((num_rows, *space.shape), space.dtype)
            for name, space in observation_space(settings).items()
            if space.shape is not None
        }

    def begin(
        self,
        rows: Rows,
        generators: Sequence[np.random.Generator],
        user_ids: Sequence[int | None] | None = None,
    ) -> None:
        """Starts new episodes; their first requests are not made yet.

        Args:
            rows: increasing.
            generators: one for each of all B rows; two draws are taken from those of `rows`.
            user_ids: whose episodes, one of each of `rows`; None leaves it to the draw.
        """
        users = np.zeros(len(rows), np.int64)
        keys = np.zeros(len(rows), np.int32)
        for r, row in enumerate(rows.tolist()):
            users[r] = generators[row].integers(len(self.population))
            keys[r] = generators[row].integers(2**31)
            chosen = user_ids[r] if user_ids is not None else None
            users[r] = users[r] if chosen is None else chosen
        self.episodes.begin(rows, users, keys)

    def ask(self, rows: Rows) -> None:
        """Makes the next requests of some rows and puts them into the observation."""
        if len(rows):
            self.episodes.ask(rows)
            fill_observation(self._buffer, self.episodes, rows)

    def step(self, rows: Rows, slates_RK: npt.NDArray[np.int64]) -> Stepped:
        """Shows slates to some rows; what they ask next is not asked yet.

        Args:
            rows: increasing; all have asked.
            slates_RK: int64, places of candidates, all in range; repetitions are repaired.
        """
        episodes, settings = self.episodes, self.settings
        places_RK, repaired_R = repair(slates_RK, settings.world.num_candidates)
        ids_RK = np.take_along_axis(episodes.ids_BC[rows], places_RK, axis=1)
        truth = regret_columns(episodes, rows, ids_RK) if settings.oracle else {}
        shown = episodes.show(rows, ids_RK)
        ended = ENDINGS[settings.kind](episodes, settings, rows, shown.left_R)
        rewards = _rewards(shown, ended.returned_R)
        # What nothing follows is seen once more, with what was just watched in the history.
        fill_observation(self._buffer, episodes, rows[ended.terminated_R])
        info = {
            "shown_ids": shown.ids_RK,
            "seen": shown.seen_RK,
            **{name: shown.columns[name] for name in OUTCOMES},
            "watch_s": rewards["watch_s"],
            "left": shown.left_R,
            "returned": ended.returned_R,
            "repaired": repaired_R,
            **truth,
        }
        return Stepped(
            reward_R=rewards[settings.reward].astype(np.float64),
            terminated_R=ended.terminated_R,
            truncated_R=ended.truncated_R,
            info=info,
        )

    def observation(self) -> Observation:
        """The pending requests of all rows, a copy."""
        return {name: array.copy() for name, array in self._buffer.items()}


def _rewards(shown: Shown, returned_R: npt.NDArray[np.bool_]) -> dict[str, np.ndarray]:
    """All of `REWARDS`, float64 [R]; sums of integers, so exact in any order."""
    play_ms_R = shown.columns["play_time_ms"].sum(axis=1, dtype=np.int64)
    return {
        "watch_s": play_ms_R / 1000,
        "impressions": shown.seen_RK.sum(axis=1),
        **{name: shown.columns[column].sum(axis=1) for name, column in COUNTED.items()},
        "returns": returned_R,
    }


def user_option(options: dict[str, Any] | None, settings: EnvironmentSettings) -> int | None:
    """The user that `reset(options={"user_id": ...})` asks for.

    Raises:
        ConfigError: on another option, or a user that there is not.
    """
    for name in options or {}:
        if name != "user_id":
            raise unknown_name("option", name, ("user_id",))
    user_id = (options or {}).get("user_id")
    if user_id is not None and not 0 <= int(user_id) < settings.users:
        raise ConfigError(f"user_id == {user_id}, must be in [0, {settings.users}).")
    return None if user_id is None else int(user_id)

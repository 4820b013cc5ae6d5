"""The environments one episode at a time, as `gymnasium.make` gives them.

Knows Gymnasium's `Env`; what happens in a step is in `simulator.environments.core`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import ConfigError
from simulator.config import WorldConfig
from simulator.environments.core import Core, Stepped, user_option
from simulator.environments.regret import oracle_slates
from simulator.environments.repair import validate_slates
from simulator.environments.settings import EnvironmentSettings, environment_settings
from simulator.environments.spaces import Observation, action_space, observation_space

__all__ = ["RENDER_MODES", "RankingEnv", "RetentionEnv", "SessionEnv"]

RENDER_MODES = ("ansi",)

_ROW = np.zeros(1, np.int64)


class _UserEnv(gymnasium.Env[dict[str, Any], npt.NDArray[np.int64]]):
    """A user asks, is shown a slate, and reacts.

    ## Action Space
    `MultiDiscrete([C] * K)`: for each slot, the top one first, the place of a candidate in
    `candidate_ids`. An index that occurs again is replaced by the lowest one left over, and
    `info["repaired"]` says how many were.

    ## Observation Space
    `Dict`; see docs/environments.md. All of it is what a platform's ranker may see.

    ## Rewards
    Seconds watched of the slate, or another of `REWARDS`.

    ## Arguments
    `scale`, `world` or a whole `config`; `world_seed` and `users`, whose prehistories are lived
    when the first environment over them is made and then kept; `reward`; `oracle`.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 1}  # noqa: RUF012  as Gymnasium's

    def __init__(self, settings: EnvironmentSettings, render_mode: str | None) -> None:
        require(render_mode is None or render_mode in RENDER_MODES, "render_mode", render_mode,
                "None or 'ansi'")  # fmt: skip
        self.render_mode = render_mode
        self.settings = settings
        self.observation_space = observation_space(settings)
        self.action_space = action_space(settings)
        self._core = Core(settings, num_rows=1)
        self._last: Stepped | None = None
        self._asks = False

    @property
    def core(self) -> Core:
        """The episode with all that is hidden; for oracles and tests, never for an agent."""
        return self._core

    @property
    def items(self) -> ItemTable:
        """The catalogue as a ranker knows it; ids are its row numbers, from 0."""
        return self._core.population.world.catalog.item_table()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode of a user drawn at random, or of `options["user_id"]`."""
        super().reset(seed=seed)
        user_id = user_option(options, self.settings)
        self._core.begin(_ROW, [self.np_random], [user_id])
        self._core.ask(_ROW)
        self._last = None
        self._asks = True
        return self._observation(), {}

    def step(
        self, action: npt.NDArray[np.int64]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Shows the user a slate.

        Raises:
            RankerError: if an index is out of range.
            ConfigError: before a reset, or after the episode's end.
        """
        if not self._asks:
            raise ConfigError("no request is pending, reset() must be called before step().")
        world = self.settings.world
        slate_K = validate_slates(action, (world.slate_size,), world.num_candidates)
        last = self._core.step(_ROW, slate_K[None])
        self._last = last
        self._asks = not (last.terminated_R[0] or last.truncated_R[0])
        terminated, truncated = bool(last.terminated_R[0]), bool(last.truncated_R[0])
        if not terminated:
            self._core.ask(_ROW)
        info = {name: _plain(column[0]) for name, column in last.info.items()}
        return self._observation(), float(last.reward_R[0]), terminated, truncated, info

    def oracle_slate(self) -> npt.NDArray[np.int64]:
        """The slate that the oracle would show now: uses hidden state, for bounds only."""
        ids_RK = oracle_slates(self._core.episodes, _ROW)
        return np.searchsorted(self._core.episodes.ids_BC[0], ids_RK[0])

    def render(self) -> str | None:
        """One line about the request and what became of the slate before it."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() without render_mode='ansi' shows nothing.")
            return None
        episodes = self._core.episodes
        line = (
            f"user {episodes.user_B[0]}, day {episodes.day_B[0]}, session "
            f"{episodes.session_B[0]}, request {episodes.round_B[0]}"
        )
        if self._last is None:
            return f"{line} asks"
        info = self._last.info
        return (
            f"{line} asks; before: {info['seen'][0].sum()} of {info['seen'].shape[1]} seen, "
            f"{info['is_click'][0].sum()} clicks, {info['watch_s'][0]:.1f} s"
        )

    def _observation(self) -> Observation:
        return {name: array[0].copy() for name, array in self._core.observation().items()}


class RankingEnv(_UserEnv):
    """One request of one user: a contextual bandit with slates.

    ## Episode End
    Terminates after one step.

    ## Version History
    * v0: first version
    """

    def __init__(
        self,
        *,
        scale: str = "smoke",
        world: str = "balanced",
        config: WorldConfig | None = None,
        world_seed: int = 0,
        users: int = 64,
        reward: str = "watch_s",
        oracle: bool = False,
        render_mode: str | None = None,
    ) -> None:
        settings = environment_settings(
            "ranking", scale=scale, world=world, config=config, world_seed=world_seed, users=users,
            reward=reward, oracle=oracle,
        )  # fmt: skip
        super().__init__(settings, render_mode)


class SessionEnv(_UserEnv):
    """The requests of one session.

    ## Episode End
    Terminates when the user leaves; truncated after `max_requests` of the world's config, with the
    request that the user would make next as the last observation.

    ## Version History
    * v0: first version
    """

    def __init__(
        self,
        *,
        scale: str = "smoke",
        world: str = "balanced",
        config: WorldConfig | None = None,
        world_seed: int = 0,
        users: int = 64,
        reward: str = "watch_s",
        oracle: bool = False,
        render_mode: str | None = None,
    ) -> None:
        settings = environment_settings(
            "session", scale=scale, world=world, config=config, world_seed=world_seed, users=users,
            reward=reward, oracle=oracle,
        )  # fmt: skip
        super().__init__(settings, render_mode)


class RetentionEnv(_UserEnv):
    """All sessions of some days: a satisfied user comes back more often.

    ## Episode End
    Terminates when the user has stayed away for `gone_after_days` days in a row; truncated when
    the user comes on day `horizon_days`, with that request as the last observation.

    ## Version History
    * v0: first version
    """

    def __init__(
        self,
        *,
        scale: str = "smoke",
        world: str = "balanced",
        config: WorldConfig | None = None,
        world_seed: int = 0,
        users: int = 64,
        reward: str = "watch_s",
        oracle: bool = False,
        horizon_days: int = 7,
        gone_after_days: int = 3,
        render_mode: str | None = None,
    ) -> None:
        settings = environment_settings(
            "retention", scale=scale, world=world, config=config, world_seed=world_seed,
            users=users, reward=reward, oracle=oracle, horizon_days=horizon_days,
            gone_after_days=gone_after_days,
        )  # fmt: skip
        super().__init__(settings, render_mode)


def _plain(value: Any) -> Any:
    """Arrays as copies, numpy's scalars as Python's."""
    return value.copy() if isinstance(value, np.ndarray) else value.item()

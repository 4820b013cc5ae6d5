"""The environments many episodes at a time, as `gymnasium.make_vec` gives them.

Knows Gymnasium's `VectorEnv`. All rows are stepped in one numpy pass: there are no sub-environments
and no processes. Row i lives the episodes of the single environment that is reset with row i's
seed, to the bit, whatever lies beside it.

Letters: B rows (sub-environments), R some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import ConfigError, unknown_name
from simulator.config import WorldConfig
from simulator.environments.core import Core, user_option
from simulator.environments.regret import oracle_slates
from simulator.environments.repair import validate_slates
from simulator.environments.settings import EnvironmentSettings, environment_settings
from simulator.environments.spaces import Observation, action_space, observation_space

__all__ = ["RankingVectorEnv", "RetentionVectorEnv", "SessionVectorEnv"]

Array = npt.NDArray[Any]


class _UserVectorEnv(VectorEnv[Observation, npt.NDArray[np.int64], Array]):
    """Many users at once; spaces, rewards and ends of each are those of the single environment.

    `autoreset_mode` is Gymnasium's. `NextStep`, its default: the step after a row's end ignores its
    action, rewards nothing and returns the next episode's first observation. `SameStep`: the next
    episode begins in the step that ends one, whose last observation and infos are `final_obs` and
    `final_info`.
    """

    metadata = {  # noqa: RUF012  as Gymnasium's
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int,
        settings: EnvironmentSettings,
        autoreset_mode: str | AutoresetMode,
        render_mode: str | None,
    ) -> None:
        require(num_envs >= 1, "num_envs", num_envs, ">= 1")
        require(render_mode is None, "render_mode", render_mode, "None: batches are not rendered")
        self._mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self._mode}
        self.num_envs = num_envs
        self.settings = settings
        self.single_observation_space = observation_space(settings)
        self.single_action_space = action_space(settings)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._core = Core(settings, num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._ended_B = np.zeros(num_envs, bool)
        self._begun = False

    @property
    def core(self) -> Core:
        """The episodes with all that is hidden; for oracles and tests, never for an agent."""
        return self._core

    @property
    def items(self) -> ItemTable:
        """The catalogue as a ranker knows it; ids are its row numbers, from 0."""
        return self._core.population.world.catalog.item_table()

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts episodes in all rows, or in those of `options["reset_mask"]`.

        Args:
            seed: of each row, or of the first, the others following; None continues the draws.
            options: `user_id`, the same for all rows, and `reset_mask`, bool [B].
        """
        seeds = self._seeds(seed)
        options = dict(options or {})
        mask_B = self._reset_mask(options.pop("reset_mask", None))
        user_id = user_option(options, self.settings)
        rows = np.flatnonzero(mask_B)
        for row in rows.tolist():
            if (row_seed := seeds[row]) is not None:
                self._generators[row] = seeding.np_random(row_seed)[0]
        self._core.begin(rows, self._generators, [user_id] * len(rows))
        self._core.ask(rows)
        self._ended_B[rows] = False
        self._begun = True
        return self._core.observation(), {}

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Observation, Array, Array, Array, dict[str, Any]]:
        """Shows each user a slate, and starts ended episodes anew as `autoreset_mode` says.

        Raises:
            RankerError: if an index is out of range, in whatever row.
            ConfigError: before the first reset.
        """
        if not self._begun:
            raise ConfigError("reset() was not called, must be before step().")
        world, B = self.settings.world, self.num_envs
        slates_BK = validate_slates(actions, (B, world.slate_size), world.num_candidates)
        rows, anew = np.flatnonzero(~self._ended_B), np.flatnonzero(self._ended_B)
        reward_B, terminated_B, truncated_B = np.zeros(B), np.zeros(B, bool), np.zeros(B, bool)
        infos: dict[str, Any] = {}
        if len(anew):
            self._core.begin(anew, self._generators)
        if len(rows):
            stepped = self._core.step(rows, slates_BK[rows])
            reward_B[rows] = stepped.reward_R
            terminated_B[rows], truncated_B[rows] = stepped.terminated_R, stepped.truncated_R
        self._core.ask(np.flatnonzero(~terminated_B))
        ended_B = terminated_B | truncated_B
        if self._mode is AutoresetMode.NEXT_STEP:
            self._ended_B = ended_B
            infos = self._infos(rows, stepped.info) if len(rows) else {}
        else:
            infos = self._infos(rows, stepped.info, except_B=ended_B)
            if ended_B.any():
                infos |= self._finals(ended_B, stepped.info)
                self._core.begin(np.flatnonzero(ended_B), self._generators)
                self._core.ask(np.flatnonzero(ended_B))
        return self._core.observation(), reward_B, terminated_B, truncated_B, infos

    def oracle_slates(self) -> npt.NDArray[np.int64]:
        """The slates that the oracle would show now: uses hidden state, for bounds only."""
        ids_BK = oracle_slates(self._core.episodes, np.arange(self.num_envs))
        ids_BC = self._core.episodes.ids_BC
        return np.stack([np.searchsorted(*pair) for pair in zip(ids_BC, ids_BK, strict=True)])

    def _infos(
        self,
        rows: npt.NDArray[np.int64],
        info: dict[str, np.ndarray],
        except_B: npt.NDArray[np.bool_] | None = None,
    ) -> dict[str, Any]:
        """Gymnasium's form of infos: arrays over all rows, and which rows have them."""
        has_B = np.zeros(self.num_envs, bool)
        has_B[rows] = True
        if except_B is not None:
            has_B &= ~except_B
        infos: dict[str, Any] = {}
        for name, column_R in info.items() if has_B.any() else ():
            infos[name] = np.zeros((self.num_envs, *column_R.shape[1:]), column_R.dtype)
            infos[name][has_B] = column_R[has_B[rows]]
            infos[f"_{name}"] = has_B.copy()
        return infos

    def _finals(
        self, ended_B: npt.NDArray[np.bool_], info: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """The last observations and infos of the rows that ended, all rows having stepped."""
        observation = self._core.observation()
        final_obs_B = np.full(self.num_envs, None, object)
        for row in np.flatnonzero(ended_B):
            final_obs_B[row] = {name: array[row].copy() for name, array in observation.items()}
        everybody = np.arange(self.num_envs)
        return {
            "final_obs": final_obs_B,
            "_final_obs": ended_B.copy(),
            "final_info": self._infos(everybody, info, except_B=~ended_B),
            "_final_info": ended_B.copy(),
        }

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        require(len(seed) == self.num_envs, "len(seed)", len(seed), f"num_envs == {self.num_envs}")
        return seed

    def _reset_mask(self, mask_B: Any) -> npt.NDArray[np.bool_]:
        if mask_B is None:
            return np.ones(self.num_envs, bool)
        mask_B = np.asarray(mask_B)
        fits = mask_B.shape == (self.num_envs,) and mask_B.dtype == bool and mask_B.any()
        require(bool(fits), "reset_mask", mask_B.tolist(), "booleans, one a row, one of them True")
        require(self._begun or bool(mask_B.all()), "reset_mask", mask_B.tolist(),
                "all True at the first reset")  # fmt: skip
        return mask_B


class RankingVectorEnv(_UserVectorEnv):
    """`RankingEnv`, many at a time."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scale: str = "smoke",
        world: str = "balanced",
        config: WorldConfig | None = None,
        world_seed: int = 0,
        users: int = 64,
        reward: str = "watch_s",
        oracle: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        settings = environment_settings(
            "ranking", scale=scale, world=world, config=config, world_seed=world_seed, users=users,
            reward=reward, oracle=oracle,
        )  # fmt: skip
        super().__init__(num_envs, settings, autoreset_mode, render_mode)


class SessionVectorEnv(_UserVectorEnv):
    """`SessionEnv`, many at a time."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scale: str = "smoke",
        world: str = "balanced",
        config: WorldConfig | None = None,
        world_seed: int = 0,
        users: int = 64,
        reward: str = "watch_s",
        oracle: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        settings = environment_settings(
            "session", scale=scale, world=world, config=config, world_seed=world_seed, users=users,
            reward=reward, oracle=oracle,
        )  # fmt: skip
        super().__init__(num_envs, settings, autoreset_mode, render_mode)


class RetentionVectorEnv(_UserVectorEnv):
    """`RetentionEnv`, many at a time."""

    def __init__(
        self,
        num_envs: int = 1,
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
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        settings = environment_settings(
            "retention", scale=scale, world=world, config=config, world_seed=world_seed,
            users=users, reward=reward, oracle=oracle, horizon_days=horizon_days,
            gone_after_days=gone_after_days,
        )  # fmt: skip
        super().__init__(num_envs, settings, autoreset_mode, render_mode)


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    known = {m.value: m for m in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)}
    name = mode.value if isinstance(mode, AutoresetMode) else mode
    if name not in known:
        raise unknown_name("autoreset_mode", name, known)
    return known[name]

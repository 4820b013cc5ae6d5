"""Batches of users for Stable-Baselines3, whose own vector environments are another interface.

Knows both interfaces. Without it Stable-Baselines3 takes single environments and steps them one by
one, which costs ten times as much. Needs `stable-baselines3`, which is no dependency of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from ifa_ray.config import require

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise ImportError(
        "stable-baselines3 is not installed, must be for "
        "simulator.environments.stable_baselines: pip install stable-baselines3"
    ) from None

__all__ = ["BatchedUsers"]

_Indices = None | int | Iterable[int]


class BatchedUsers(VecEnv):
    """A vector environment of this package, wrapped or not, as Stable-Baselines3 wants one.

    Args:
        env: made with autoreset_mode="SameStep".
    """

    def __init__(self, env: VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        require(mode is AutoresetMode.SAME_STEP, "autoreset_mode", mode, "'SameStep'")
        self.env = env
        self._actions: npt.NDArray[Any] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """First observations; with the seeds of `seed`, once."""
        # Any: ours take a list of seeds, which Gymnasium's type does not say.
        seeds: Any = self._seeds if any(seed is not None for seed in self._seeds) else None
        observation, _ = self.env.reset(seed=seeds)
        self._reset_seeds()
        return observation

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, npt.NDArray[np.float32], npt.NDArray[np.bool_], list]:
        """Steps; infos tell ended rows their last observation and whether they were truncated."""
        assert self._actions is not None
        observation, reward_B, terminated_B, truncated_B, infos = self.env.step(self._actions)
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(infos.get("_final_obs", False)):
            rows[row] = {
                "terminal_observation": infos["final_obs"][row],
                "TimeLimit.truncated": bool(truncated_B[row] and not terminated_B[row]),
            }
        return observation, reward_B.astype(np.float32), terminated_B | truncated_B, rows

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: _Indices = None) -> list[Any]:
        """The environment's attribute, once a row."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: _Indices = None) -> None:
        """Refused: rows have no attributes of their own."""
        del value, indices
        raise AttributeError(f"{attr_name} cannot be set: rows of a batch share one environment.")

    def env_method(
        self, method_name: str, *method_args: Any, indices: _Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refused: rows have no methods of their own."""
        del method_args, indices, method_kwargs
        raise AttributeError(f"{method_name} cannot be called on rows: they share one environment.")

    def env_is_wrapped(self, wrapper_class: type, indices: _Indices = None) -> Sequence[bool]:
        """No row is wrapped by itself."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]

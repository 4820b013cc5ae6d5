"""What an agent sees and chooses, as Gymnasium spaces, and the arrays that fill them.

Knows episodes and spaces. Everything here is what a platform's ranker may see; hidden state stays
in `simulator.environments.episodes`.

Letters: B rows (episodes side by side), C candidates, T history length, K slate size, N items.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from simulator.config import DAY_MS, START_MS
from simulator.environments.episodes import Episodes, Rows
from simulator.environments.settings import EnvironmentSettings
from simulator.queries import Channel

__all__ = ["Observation", "action_space", "fill_observation", "observation_space"]

Observation = dict[str, np.ndarray]

# A request is made on a day of the world or soon after it; this is beyond all of them.
_LAST_MS = START_MS + 365 * DAY_MS


def action_space(settings: EnvironmentSettings) -> spaces.MultiDiscrete:
    """A slate: for each of K slots the place of a candidate, the top slot first."""
    world = settings.world
    return spaces.MultiDiscrete(np.full(world.slate_size, world.num_candidates, np.int64))


def observation_space(settings: EnvironmentSettings) -> spaces.Dict:
    """A request; docs/environments.md has it as a table."""
    world = settings.world
    C, T, N = world.num_candidates, world.max_history, world.num_items
    return spaces.Dict({
        "user_id": _numbers(0, settings.users, np.int32, 1),
        "time_ms": _numbers(START_MS, _LAST_MS, np.int64, 1),
        "day": _numbers(0, world.horizon_days, np.int32, 1),
        "session": _numbers(0, world.max_sessions, np.int32, 1),
        "request": _numbers(0, world.max_requests, np.int32, 1),
        "history_ids": _numbers(-1, N - 1, np.int32, T),
        "history_actions": _numbers(0, 127, np.uint8, T),
        "history_times_ms": _numbers(0, _LAST_MS, np.int64, T),
        "history_mask": spaces.MultiBinary(T),
        "candidate_ids": _numbers(0, N - 1, np.int32, C),
        "candidate_channels": _numbers(0, max(Channel), np.int8, C),
        "candidate_mask": spaces.MultiBinary(C),
    })  # fmt: skip


def fill_observation(buffer: Observation, episodes: Episodes, rows: Rows) -> None:
    """Writes the pending requests of some rows into arrays [B, ...] of the observation space."""
    buffer["user_id"][rows, 0] = episodes.user_B[rows]
    buffer["time_ms"][rows, 0] = episodes.time_ms_B[rows]
    buffer["day"][rows, 0] = episodes.day_B[rows]
    buffer["session"][rows, 0] = episodes.session_B[rows]
    buffer["request"][rows, 0] = episodes.round_B[rows]
    limit = buffer["history_ids"].shape[1]
    names = ("history_ids", "history_actions", "history_times_ms", "history_mask")
    for name, column_RT in zip(names, episodes.histories(rows, limit), strict=True):
        buffer[name][rows] = column_RT
    buffer["candidate_ids"][rows] = episodes.ids_BC[rows]
    buffer["candidate_channels"][rows] = episodes.channels_BC[rows]
    # Retrieval promises exactly C candidates; the mask is for agents that are written for fewer.
    buffer["candidate_mask"][rows] = 1


def _numbers(low: int, high: int, dtype: type[np.integer], length: int) -> spaces.Box:
    return spaces.Box(low=low, high=high, shape=(length,), dtype=dtype)

"""The Gymnasium environment: its settings, spaces, actions, rewards and ends.

The user's behaviour is in `simulator.environments.episodes`. Hidden state
leaves it through `infos` of `oracle=True` alone.

Letters: C candidates, T history length, K slate size, N items.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ifa_ray.config import Config, require, setting
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import ConfigError, RankerError, unknown_name
from ifa_ray.schema import ACTIONS
from simulator.environments.episodes import Episode, Shown, population
from simulator.world.arrays import Ints, Longs
from simulator.world.config import DAY_MS, START_MS, WorldConfig, world_config
from simulator.world.queries import Channel

KINDS = ("ranking", "session", "retention")
REWARDS = ("watch_s", "impressions", "clicks", "long_views", "likes", "returns")

Observation = dict[str, np.ndarray]

# Beyond every request: they are made on a day of the world or soon after it.
_LAST_MS = START_MS + 365 * DAY_MS
# Columns of the log that describe the user's reaction.
_OUTCOMES = ("time_ms", "play_time_ms", "duration_ms", *ACTIONS, "is_rand", "channel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentSettings(Config):
    """Settings of one environment."""

    kind: str = setting(doc="an episode is a request, a session or some days", choices=KINDS)
    world: WorldConfig
    world_seed: int = setting(0, "of catalogue, users and their past; not of episodes", ge=0)
    users: int = setting(64, "size of the population that episodes are drawn from", ge=1)
    reward: str = setting(
        "watch_s",
        "of a request: seconds watched, items seen, clicked, viewed long or liked; or 1 where the "
        "user came back on a later day",
        choices=REWARDS,
    )
    oracle: bool = setting(False, "infos carry true expectations and regret; never learn from them")
    horizon_days: int = setting(7, "Retention-v0 is truncated on this day of the episode", ge=1)
    gone_after_days: int = setting(
        3, "Retention-v0 terminates when the user stays away this many days in a row", ge=1
    )

    def check(self) -> None:  # noqa: D102  as the base says
        if self.kind != "retention":
            lasting = "another one: only the episodes of Retention-v0 last for days"
            require(self.reward != "returns", "reward", self.reward, lasting)
            for name, default in (("horizon_days", 7), ("gone_after_days", 3)):
                value = getattr(self, name)
                require(value == default, name, value, "left out: it is Retention-v0's")
            return
        days, most = self.world.horizon_days, self.world.horizon_days - self.gone_after_days
        rule = f"<= {most}: the world's horizon_days == {days} less gone_after_days"
        require(self.horizon_days <= most, "horizon_days", self.horizon_days, rule)


class UserEnv(gymnasium.Env[dict[str, Any], Longs]):
    """A user asks, is shown a slate, and reacts.

    ## Action Space
    `MultiDiscrete([C] * K)`: for each slot, the top one first, the place of a candidate in
    `candidate_ids`. An index that occurs again is replaced by the lowest one left over, and
    `info["repaired"]` counts them: libraries sample slots independently.

    ## Observation Space
    `Dict`; see docs/environments.md. All of it is known to a platform's ranker.

    ## Rewards
    Seconds watched of the slate, or another of `REWARDS`.

    ## Episode End
    Ranking-v0: terminates after one step. Session-v0: terminates when the user leaves; truncated
    after `max_requests` of the world's config. Retention-v0: terminates when the user has stayed
    away for `gone_after_days` days in a row; truncated when the user comes on day `horizon_days`.
    A truncated episode's last observation is the request that the user would make next.

    ## Arguments
    `scale` and `world`, or a whole `config`; the other fields of `EnvironmentSettings`.
    """

    def __init__(
        self,
        *,
        kind: str,
        scale: str = "smoke",
        world: str = "balanced",
        config: WorldConfig | None = None,
        **settings: Any,
    ) -> None:
        sizes = world_config(scale, world) if config is None else config
        self.settings = EnvironmentSettings(kind=kind, world=sizes, **settings)
        self.observation_space = _observation_space(self.settings)
        self.action_space = spaces.MultiDiscrete([sizes.num_candidates] * sizes.slate_size)
        self.population = population(sizes, self.settings.world_seed, self.settings.users)
        self.episode: Episode | None = None  # hidden state, for oracles and tests
        self._asks = False

    @property
    def items(self) -> ItemTable:
        """The catalogue as a ranker knows it; ids are its row numbers, from 0."""
        return self.population.world.catalog.item_table()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode of a user drawn at random, or of `options["user_id"]`.

        Raises:
            ConfigError: on another option, or an unknown user.
        """
        super().reset(seed=seed)
        for name in options or {}:
            if name != "user_id":
                raise unknown_name("option", name, ("user_id",))
        num_users, chosen = self.settings.users, (options or {}).get("user_id")
        if chosen is not None and not 0 <= int(chosen) < num_users:
            raise ConfigError(f"user_id == {chosen}, must be in [0, {num_users}).")
        drawn, key = int(self.np_random.integers(num_users)), int(self.np_random.integers(2**31))
        self.episode = Episode(self.population, drawn if chosen is None else int(chosen), key)
        self.episode.ask()
        self._asks = True
        return observe(self.episode), {}

    def pending(self) -> Episode:
        """The episode, whose user waits for a slate.

        Raises:
            ConfigError: before a reset, or after the episode's end.
        """
        if self.episode is None or not self._asks:
            raise ConfigError("no request is pending, reset() must be called before step().")
        return self.episode

    def step(self, action: Longs) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Shows the user a slate.

        Raises:
            RankerError: if the action is no slate of candidates.
            ConfigError: before a reset, or after the episode's end.
        """
        episode, settings = self.pending(), self.settings
        slate_K = self._validated(action)
        places_K = repair(slate_K)
        ids_K = episode.candidates.ids_UC[0, places_K]
        truth = _regret(episode, ids_K) if settings.oracle else {}
        day, shown = episode.day, episode.show(ids_K)
        terminated, truncated = self._end(episode, shown.left)
        returned = not terminated and episode.day > day
        truncated |= returned and episode.day >= settings.horizon_days
        if not terminated:
            episode.ask()
        self._asks = not (terminated or truncated)
        rewards = _rewards(shown, returned)
        info = {
            "shown_ids": shown.ids_K,
            "seen": shown.seen_K,
            **{name: shown.columns[name] for name in _OUTCOMES},
            "watch_s": rewards["watch_s"],
            "left": shown.left,
            "returned": returned,
            "repaired": int((places_K != slate_K).sum()),
            **truth,
        }
        return observe(episode), float(rewards[settings.reward]), terminated, truncated, info

    def oracle_slate(self) -> Longs:
        """The slate that the oracle would show now: uses hidden state, for bounds only."""
        episode = self.pending()
        return np.searchsorted(episode.candidates.ids_UC[0], episode.oracle_slate())

    def _end(self, episode: Episode, left: bool) -> tuple[bool, bool]:
        """Decides whether nothing follows (terminated), or a request beyond our cap (truncated)."""
        capped = episode.round >= self.settings.world.max_requests
        if self.settings.kind == "ranking":
            return True, False
        if self.settings.kind == "session":
            return left, capped and not left
        if left or capped:
            return not episode.come_again(self.settings.gone_after_days), False
        return False, False

    def _validated(self, action: npt.ArrayLike) -> Longs:
        num_candidates = self.settings.world.num_candidates
        slate, shape = np.asarray(action), (self.settings.world.slate_size,)
        if slate.shape != shape:
            raise RankerError(f"action has shape {slate.shape}, must be {shape}.")
        if not np.issubdtype(slate.dtype, np.integer):
            raise RankerError(f"action has dtype {slate.dtype}, must be of integers.")
        for slot in np.flatnonzero((slate < 0) | (slate >= num_candidates)):
            raise RankerError(f"action[{slot}] == {slate[slot]}, must be in [0, {num_candidates}).")
        return slate.astype(np.int64)


def observe(episode: Episode) -> Observation:
    """The pending request as docs/environments.md has it; the caller may change the arrays."""
    T, candidates = episode.population.world.config.max_history, episode.candidates
    past = episode.history(T)
    missing = (T - len(past), 0)
    return {
        "user_id": np.array([episode.user_id], np.int32),
        "time_ms": np.array([episode.time_ms], np.int64),
        "day": np.array([episode.day], np.int32),
        "session": np.array([episode.session], np.int32),
        "request": np.array([episode.round], np.int32),
        "history_ids": np.pad(past.ids_T, missing, constant_values=-1),
        "history_actions": np.pad(past.actions_T, missing),
        "history_times_ms": np.pad(past.times_ms_T, missing),
        "history_mask": np.pad(np.ones(len(past), np.int8), missing),
        "candidate_ids": candidates.ids_UC[0].copy(),
        "candidate_channels": candidates.channels_UC[0].copy(),
        # Retrieval promises exactly C candidates; the mask is for agents written for fewer.
        "candidate_mask": np.ones(candidates.ids_UC.shape[1], np.int8),
    }


def repair(slate_K: Longs) -> Longs:
    """Keeps the first occurrence of each index; the other slots get the lowest ones left over."""
    _, first = np.unique(slate_K, return_index=True)
    again_K = ~np.isin(np.arange(len(slate_K)), first)
    spare = np.setdiff1d(np.arange(len(slate_K)), slate_K)
    repaired_K = slate_K.copy()
    repaired_K[again_K] = spare[: again_K.sum()]
    return repaired_K


def _observation_space(settings: EnvironmentSettings) -> spaces.Dict:
    """A request; docs/environments.md has it as a table."""
    world = settings.world
    C, T, N = world.num_candidates, world.max_history, world.num_items

    def numbers(low: int, high: int, dtype: type[np.integer], length: int) -> spaces.Box:
        return spaces.Box(low=low, high=high, shape=(length,), dtype=dtype)

    return spaces.Dict(
        {
            "user_id": numbers(0, settings.users, np.int32, 1),
            "time_ms": numbers(START_MS, _LAST_MS, np.int64, 1),
            "day": numbers(0, world.horizon_days, np.int32, 1),
            "session": numbers(0, world.max_sessions, np.int32, 1),
            "request": numbers(0, world.max_requests, np.int32, 1),
            "history_ids": numbers(-1, N - 1, np.int32, T),
            "history_actions": numbers(0, 127, np.uint8, T),
            "history_times_ms": numbers(0, _LAST_MS, np.int64, T),
            "history_mask": spaces.MultiBinary(T),
            "candidate_ids": numbers(0, N - 1, np.int32, C),
            "candidate_channels": numbers(0, max(Channel), np.int8, C),
            "candidate_mask": spaces.MultiBinary(C),
        }
    )


def _rewards(shown: Shown, returned: bool) -> dict[str, float]:
    """All of `REWARDS`."""
    columns = shown.columns
    return {
        "watch_s": int(columns["play_time_ms"].sum(dtype=np.int64)) / 1000,
        "impressions": int(shown.seen_K.sum()),
        "clicks": int(columns["is_click"].sum()),
        "long_views": int(columns["long_view"].sum()),
        "likes": int(columns["is_like"].sum()),
        "returns": returned,
    }


def _regret(episode: Episode, ids_K: Ints) -> dict[str, float]:
    """True expected watch seconds of a chosen slate and of the oracle's, before it is shown."""
    chosen = episode.expected_watch_s(ids_K)
    best = episode.expected_watch_s(episode.oracle_slate())
    return {"expected_watch_s": chosen, "oracle_watch_s": best, "regret_s": best - chosen}

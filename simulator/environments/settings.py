"""What an environment is made of: one frozen config, checked where it is made.

Knows settings only; `gymnasium.make` passes them one by one.
"""

from __future__ import annotations

import dataclasses

from ifa_ray.config import Config, require
from ifa_ray.errors import unknown_name
from simulator.config import WorldConfig, world_config

__all__ = ["KINDS", "REWARDS", "EnvironmentSettings", "environment_settings"]

KINDS = ("ranking", "session", "retention")
"""How an episode ends: after one request, with the session, or when the user stays away."""

REWARDS = ("watch_s", "impressions", "clicks", "long_views", "likes", "returns")
"""What a step may be rewarded with.

`watch_s`: seconds watched in the request. `impressions`, `clicks`, `long_views`, `likes`: how many
of its items were seen, clicked, viewed long, liked. `returns`: 1 where the user came back on a
later day after it, else 0 (Retention-v0 alone).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentSettings(Config):
    """One environment.

    Attributes:
        kind: of `KINDS`.
        world: sizes, mechanisms and levels.
        world_seed: of the catalogue, the users and their prehistory; not of the episodes.
        users: population that episodes are drawn from, with ids 0 to users - 1.
        reward: of `REWARDS`.
        oracle: whether infos carry true expectations and regret, which no ranker may learn from.
        horizon_days: Retention-v0 is truncated when the user comes on this day of the episode.
        gone_after_days: Retention-v0 terminates when the user stays away for so many days in a row.
    """

    kind: str
    world: WorldConfig
    world_seed: int = 0
    users: int = 64
    reward: str = "watch_s"
    oracle: bool = False
    horizon_days: int = 7
    gone_after_days: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind", self.kind, KINDS)
        if self.reward not in REWARDS:
            raise unknown_name("reward", self.reward, REWARDS)
        require(self.reward != "returns" or self.kind == "retention", "reward", self.reward,
                "another one: only the episodes of Retention-v0 last for days")  # fmt: skip
        require(self.world_seed >= 0, "world_seed", self.world_seed, ">= 0")
        for field in ("users", "horizon_days", "gone_after_days"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")
        if self.kind == "retention":
            days = self.world.horizon_days
            require(self.horizon_days + self.gone_after_days <= days, "horizon_days",
                    self.horizon_days, f"<= {days - self.gone_after_days}: the world's "
                    f"horizon_days == {days} less gone_after_days")  # fmt: skip


def environment_settings(
    kind: str,
    *,
    scale: str,
    world: str,
    config: WorldConfig | None,
    world_seed: int,
    users: int,
    reward: str,
    oracle: bool,
    horizon_days: int = 7,
    gone_after_days: int = 3,
) -> EnvironmentSettings:
    """The settings of an environment, its world by name or as a config of one's own.

    Args:
        kind: of `KINDS`.
        scale: of `simulator.config.SCALES`.
        world: of `simulator.config.WORLDS`.
        config: instead of scale and world.
        world_seed: of the world, not of the episodes.
        users: of the population.
        reward: of `REWARDS`.
        oracle: whether infos carry regret.
        horizon_days: of Retention-v0.
        gone_after_days: of Retention-v0.

    Raises:
        ConfigError: on an unknown name or a value outside its rule.
    """
    return EnvironmentSettings(
        kind=kind,
        world=world_config(scale, world) if config is None else config,
        world_seed=world_seed,
        users=users,
        reward=reward,
        oracle=oracle,
        horizon_days=horizon_days,
        gone_after_days=gone_after_days,
    )

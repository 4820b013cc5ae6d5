"""Plays policies in an environment and says what they earned.

Knows vector environments and policies. Episode i of every policy has the same seed, so policies
meet the same users at the same moments and their difference is measured on pairs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from ifa_ray.config import require
from ifa_ray.errors import unknown_name
from ifa_ray.ranker import RandomRanker
from simulator.environments.policies import OraclePolicy, Policy, PopularityPolicy, RankerPolicy
from simulator.environments.registration import IDS
from simulator.environments.trained import train_on_prehistory
from simulator.presets import MODEL_ARMS, preset

__all__ = ["POLICIES", "Played", "evaluate", "measure_speed", "play"]

POLICIES = ("random", "popularity", *MODEL_ARMS, "oracle")
"""The names of policies; a model is trained on the prehistory first."""

ROWS = 64
"""So many episodes are played side by side."""

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """E episodes of one policy.

    Attributes:
        return_E: sum of rewards.
        requests_E: steps.
        regret_s_E: mean regret of a request, expected watch seconds.
    """

    return_E: Array
    requests_E: Array
    regret_s_E: Array


def play(
    make: Callable[[int], Any], policy_of: Callable[[Any], Policy], episodes: int, seed: int
) -> Played:
    """Plays episodes with seeds `seed`, `seed + 1`, ...

    Args:
        make: a vector environment of so many rows, with oracle=True.
        policy_of: the policy for it.
        episodes: how many.
        seed: of the first.
    """
    require(episodes >= 1, "episodes", episodes, ">= 1")
    parts = []
    for start in range(0, episodes, ROWS):
        env = make(min(ROWS, episodes - start))
        parts.append(_play_once(env, policy_of(env), seed + start))
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return_E, requests_E, regret_E = columns
    return Played(return_E=return_E, requests_E=requests_E, regret_s_E=regret_E / requests_E)


def _play_once(env: Any, policy: Policy, seed: int) -> tuple[Array, Array, Array]:
    """One episode a row: its return, requests and sum of regrets."""
    observation, _ = env.reset(seed=seed)
    return_B, requests_B, regret_B = (np.zeros(env.num_envs) for _ in range(3))
    playing_B = np.ones(env.num_envs, bool)
    while playing_B.any():
        slates_BK = policy.slates(observation)
        observation, reward_B, terminated_B, truncated_B, infos = env.step(slates_BK)
        return_B += np.where(playing_B, reward_B, 0)
        requests_B += playing_B
        regret_B += np.where(playing_B, infos.get("regret_s", 0.0), 0)
        playing_B &= ~(terminated_B | truncated_B)
    return return_B, requests_B, regret_B


def evaluate(
    env_id: str,
    policies: tuple[str, ...],
    *,
    episodes: int,
    seed: int,
    scale: str,
    world: str,
    world_seed: int,
    users: int,
    reward: str = "watch_s",
    epochs: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Plays some policies in one environment.

    Args:
        env_id: of `IDS`.
        policies: of `POLICIES`.
        episodes: of each.
        seed: of the first episode, and of trained weights.
        scale: of the world.
        world: its name.
        world_seed: which of its catalogues and populations.
        users: of the population.
        reward: of `simulator.environments.settings.REWARDS`.
        epochs: how often models go through the prehistory's log.
        say: is given lines of progress.

    Returns:
        JSON values: the settings, and for each policy mean and standard error of the return, of
        the regret of a request, and of the return over that of the first policy on the same seeds.

    Raises:
        ConfigError: on an unknown name or a value outside its rule.
    """
    if env_id not in IDS:
        raise unknown_name("env", env_id, IDS)
    for name in policies:
        if name not in POLICIES:
            raise unknown_name("policy", name, POLICIES)

    def make(num_envs: int) -> Any:
        return gymnasium.make_vec(
            env_id, num_envs=num_envs, scale=scale, world=world, world_seed=world_seed,
            users=users, reward=reward, oracle=True,
        )  # fmt: skip

    played: dict[str, Played] = {}
    for name in policies:
        started = time.monotonic()
        policy_of = _policy(name, make(1), scale, world, seed, epochs, say)
        played[name] = play(make, policy_of, episodes, seed)
        say(f"{name}: {episodes} episodes in {time.monotonic() - started:.1f} s")
    first = played[policies[0]].return_E
    return {
        "env": env_id, "scale": scale, "world": world, "world_seed": world_seed, "users": users,
        "reward": reward, "episodes": episodes, "seed": seed,
        "policies": {name: _summary(found, first) for name, found in played.items()},
    }  # fmt: skip


def _policy(
    name: str, env: Any, scale: str, world: str, seed: int, epochs: int, say: Callable[[str], None]
) -> Callable[[Any], Policy]:
    """How to make the policy for an environment over the population of `env`."""
    k = env.settings.world.slate_size
    population = env.core.population
    if name == "oracle":
        return OraclePolicy
    if name == "popularity":
        policy: Policy = PopularityPolicy(population.world.catalog.observed, k)
    elif name == "random":
        policy = RankerPolicy(RandomRanker(env.items, seed), k)
    else:
        config = preset(scale, world)
        model = type(config.model).from_dict({**config.model.to_dict(), "name": name})
        ranker = train_on_prehistory(
            population, model, config.training, seed=seed, epochs=epochs, say=say
        )
        policy = RankerPolicy(ranker, k)
    return lambda _: policy


def _summary(found: Played, first_E: Array) -> Mapping[str, float]:
    over_E = found.return_E - first_E
    return {
        "return": float(found.return_E.mean()),
        "return_se": _standard_error(found.return_E),
        "requests": float(found.requests_E.mean()),
        "regret_s": float(found.regret_s_E.mean()),
        "regret_s_se": _standard_error(found.regret_s_E),
        "over_first": float(over_E.mean()),
        "over_first_se": _standard_error(over_E),
    }


def _standard_error(x_E: Array) -> float:
    return float(x_E.std(ddof=1) / np.sqrt(len(x_E))) if len(x_E) > 1 else float("nan")


def measure_speed(
    env_id: str, num_envs: tuple[int, ...], seconds: float, *, scale: str, world: str, users: int
) -> dict[str, float]:
    """Requests per CPU second under random actions: of the single environment and of batches.

    Steps of a batch that only start an episode anew are no requests and do not count.
    """
    single = gymnasium.make(env_id, scale=scale, world=world, users=users)
    single.action_space.seed(0)
    single.reset(seed=0)
    found, ended, requests, started = {}, False, 0, time.process_time()
    while time.process_time() - started < seconds:
        if ended:
            single.reset()
        *_, terminated, truncated, _ = single.step(single.action_space.sample())
        ended, requests = terminated or truncated, requests + 1
    found["single"] = requests / (time.process_time() - started)
    for size in num_envs:
        batch = gymnasium.make_vec(env_id, num_envs=size, scale=scale, world=world, users=users)
        batch.action_space.seed(0)
        batch.reset(seed=0)
        requests, started = 0, time.process_time()
        while time.process_time() - started < seconds:
            *_, infos = batch.step(batch.action_space.sample())
            requests += int(infos["_watch_s"].sum()) if infos else 0
        found[str(size)] = requests / (time.process_time() - started)
    return found

"""Agents to compare with: rankers of `ifa_ray`, popularity, the oracle; and what they earn.

Knows observations; only the oracle is given more. Episode i of every policy has the same seed, so
policies meet the same users at the same moments and their difference is measured on pairs.

Letters: B requests, C candidates, K slate size, E episodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.errors import unknown_name
from ifa_ray.ranking.ranker import ModelRanker, RandomRanker, Ranker
from ifa_ray.schema import History, RankRequest, validate_response
from ifa_ray.training.learner import Learner
from ifa_ray.training.samples import LogFollower
from simulator.environments import IDS
from simulator.environments.env import Observation, UserEnv
from simulator.environments.episodes import Population
from simulator.environments.wrappers import slates_of_scores
from simulator.run.presets import MODEL_ARMS, preset
from simulator.world.arrays import Floats, Longs
from simulator.world.config import START_MS

POLICIES = ("random", "popularity", *MODEL_ARMS, "oracle")
"""Names of policies; a model is trained on the prehistory's log first."""

ROWS = 64  # episodes played side by side

Say = Callable[[str], None]
Policy = Callable[[Observation], Longs]
"""Answers batched observations with places of candidates, [B, K]."""


class RankerPolicy:
    """Lets a ranker choose: ours, trained or not, or a custom one."""

    def __init__(self, ranker: Ranker, k: int) -> None:
        self._ranker, self._k = ranker, k

    def __call__(self, observation: Observation) -> Longs:
        """Asks the ranker.

        Raises:
            RankerError: if an answer breaks the contract.
        """
        num_rows = len(observation["user_id"])
        requests = [request_of(observation, row, self._k) for row in range(num_rows)]
        slates = []
        for request, response in zip(requests, self._ranker.rank(requests), strict=True):
            validate_response(request, response)
            order = np.argsort(request.candidates_C)
            place = np.searchsorted(request.candidates_C, response.ids_K, sorter=order)
            slates.append(order[place])
        return np.stack(slates)


def popularity_policy(population: Population) -> Policy:
    """Shows everybody the candidates that the platform shows most."""
    log_N = np.log(population.world.catalog.observed.popularity_N)
    k = population.world.config.slate_size
    return lambda observation: slates_of_scores(log_N[observation["candidate_ids"]], k)


def request_of(observation: Observation, row: int, k: int) -> RankRequest:
    """Makes the request of one row of a batched observation.

    The id is made of user and second, as an observation has no watermark.
    """
    past = observation["history_mask"][row] != 0
    user_id, time_ms = int(observation["user_id"][row, 0]), int(observation["time_ms"][row, 0])
    return RankRequest(
        request_id=user_id << 32 | (time_ms - START_MS) // 1000,
        user_id=user_id,
        time_ms=time_ms,
        candidates_C=observation["candidate_ids"][row],
        channels_C=observation["candidate_channels"][row],
        history=History(
            ids_T=observation["history_ids"][row][past],
            actions_T=observation["history_actions"][row][past],
            times_ms_T=observation["history_times_ms"][row][past],
        ),
        k=k,
    )


def evaluate(
    env_id: str,
    policies: tuple[str, ...],
    *,
    episodes: int,
    seed: int,
    scale: str,
    epochs: int = 1,
    say: Say = lambda _: None,
    **settings: Any,
) -> dict[str, Any]:
    """Plays some policies in one environment of such settings; models are trained on its log first.

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

    def make() -> UserEnv:
        env: Any = gymnasium.make(env_id, scale=scale, oracle=True, **settings)
        return env.unwrapped

    played = {}
    for name in policies:
        started = time.monotonic()
        policy = _policy(name, make(), scale, seed, epochs, say)
        played[name] = play(make, policy, episodes, seed)
        say(f"{name}: {episodes} episodes in {time.monotonic() - started:.1f} s")
    first_E = played[policies[0]]["return"]
    return {
        "env": env_id,
        "scale": scale,
        **settings,
        "episodes": episodes,
        "seed": seed,
        "policies": {name: _summary(found, first_E) for name, found in played.items()},
    }


def play(
    make: Callable[[], UserEnv], policy: Policy | None, episodes: int, seed: int
) -> Mapping[str, Floats]:
    """Plays episodes with seeds `seed`, `seed + 1`, ..., side by side: a ranker gets batches.

    The oracle (None) looks into the environments, as no agent may.

    Returns:
        `return`, `requests` and `regret_s` (mean of a request) of each episode, [E] each.
    """
    require(episodes >= 1, "episodes", episodes, ">= 1")
    return_E, requests_E, regret_E = np.zeros((3, episodes))
    for start in range(0, episodes, ROWS):
        envs = {e: make() for e in range(start, min(start + ROWS, episodes))}
        asked = {e: env.reset(seed=seed + e)[0] for e, env in envs.items()}
        while asked:
            names = next(iter(asked.values()))
            batch = {name: np.stack([one[name] for one in asked.values()]) for name in names}
            chosen = policy(batch) if policy else [envs[e].oracle_slate() for e in asked]
            for e, slate_K in zip(list(asked), chosen, strict=True):
                asked[e], reward, terminated, truncated, info = envs[e].step(slate_K)
                return_E[e] += reward
                requests_E[e] += 1
                regret_E[e] += info["regret_s"]
                if terminated or truncated:
                    del asked[e]
    return {"return": return_E, "requests": requests_E, "regret_s": regret_E / requests_E}


def train_on_prehistory(
    population: Population,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    seed: int,
    epochs: int,
    say: Say = lambda _: None,
) -> ModelRanker:
    """Trains a model on the logged requests of the prehistory, shown by the earlier policy."""
    require(epochs >= 1, "epochs", epochs, ">= 1")
    items = population.world.catalog.item_table()
    learner = Learner(model, training, items, seed)
    follower = LogFollower(max_history=model.max_history)
    follower.append(population.log.impressions)
    samples = follower.samples(population.log.requests, population.log.impressions)
    samples.sort(key=lambda sample: (sample.request.time_ms, sample.request.request_id))
    for epoch in range(epochs):
        metrics = learner.train(samples)
        unseen = "before learning from it" if epoch == 0 else "already seen"
        found = ", ".join(
            f"{name} AUC {metrics.auc[name] or 0:.3f}" for name in ("is_click", "long_view")
        )
        say(f"{model.name}: {len(samples)} requests ({unseen}): {found}")
    return ModelRanker(learner.model, items, version=0)


def _policy(name: str, env: UserEnv, scale: str, seed: int, epochs: int, say: Say) -> Policy | None:
    """Makes the policy for environments over the population of `env`; None is the oracle."""
    k = env.settings.world.slate_size
    if name == "oracle":
        return None
    if name == "popularity":
        return popularity_policy(env.population)
    if name == "random":
        return RankerPolicy(RandomRanker(env.items, seed), k)
    config = preset(scale)
    model = config.model.replace({"name": name})
    ranker = train_on_prehistory(
        env.population, model, config.training, seed=seed, epochs=epochs, say=say
    )
    return RankerPolicy(ranker, k)


def _summary(found: Mapping[str, Floats], first_E: Floats) -> dict[str, float]:
    columns = {**found, "over_first": found["return"] - first_E}
    count = len(first_E)
    summary = {}
    for name, x_E in columns.items():
        summary[name] = float(x_E.mean())
        error = float(x_E.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        summary[f"{name}_se"] = error
    return summary

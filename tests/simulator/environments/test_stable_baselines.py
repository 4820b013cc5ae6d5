"""Agents of a common library learn in the score-weights version: the examples of the docs."""

import numpy as np
import pytest
from small_environments import small, small_batch

from ifa_ray.errors import ConfigError
from simulator.environments import (
    FeatureObservation,
    ScoredSlates,
    VectorFeatureObservation,
    VectorScoredSlates,
)

stable_baselines3 = pytest.importorskip("stable_baselines3")


def ppo(env, **settings):
    return stable_baselines3.PPO("MlpPolicy", env, seed=0, device="cpu", **settings)


def batched(num_envs):
    from simulator.environments.stable_baselines import BatchedUsers

    batch = small_batch("session", num_envs, autoreset_mode="SameStep")
    return BatchedUsers(VectorFeatureObservation(VectorScoredSlates(batch, by="weights")))


def weights_of(agent):
    return [parameter.detach().clone() for parameter in agent.policy.parameters()]


def test_ppo_trains_on_score_weights_and_acts():
    from stable_baselines3.common.env_checker import check_env

    env = FeatureObservation(ScoredSlates(small("session"), by="weights"))
    check_env(env)
    agent = ppo(env, n_steps=64, batch_size=64, n_epochs=2)
    before = weights_of(agent)
    agent.learn(total_timesteps=128)
    assert agent.num_timesteps == 128
    assert any((old != new).any() for old, new in zip(before, weights_of(agent), strict=True))
    observation, _ = env.reset(seed=1)
    action, _ = agent.predict(observation, deterministic=True)
    _, reward, *_, info = env.step(action)
    assert np.isfinite(reward)
    assert info["seen"].any()


def test_ppo_trains_on_a_batch_of_users():
    agent = ppo(batched(16), n_steps=32, batch_size=128, n_epochs=2)
    before = weights_of(agent)
    agent.learn(total_timesteps=512)
    assert agent.num_timesteps == 512
    assert any((old != new).any() for old, new in zip(before, weights_of(agent), strict=True))


def test_a_batch_steps_as_the_librarys_own_environments_of_the_same_seeds():
    from stable_baselines3.common.vec_env import DummyVecEnv

    batch = batched(3)
    singles = DummyVecEnv(
        [lambda: FeatureObservation(ScoredSlates(small("session"), by="weights"))] * 3
    )
    for env in (batch, singles):
        env.seed(4)
    np.testing.assert_array_equal(batch.reset(), singles.reset())
    rng, ended = np.random.default_rng(0), 0
    for _ in range(8):
        action_BX = rng.uniform(-1, 1, (3, *batch.action_space.shape)).astype(np.float32)
        *one, infos = batch.step(action_BX)
        *other, expected = singles.step(action_BX)
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for row in np.flatnonzero(one[2]):
            ended += 1
            assert infos[row]["TimeLimit.truncated"] == expected[row]["TimeLimit.truncated"]
            np.testing.assert_array_equal(
                infos[row]["terminal_observation"], expected[row]["terminal_observation"]
            )
    assert ended >= 3


def test_a_batch_that_resets_a_step_later_is_refused():
    from simulator.environments.stable_baselines import BatchedUsers

    with pytest.raises(ConfigError, match=r"autoreset_mode == .*NEXT_STEP.*, must be 'SameStep'"):
        BatchedUsers(small_batch("session", 2))

"""Agents of a common library learn in the score-weights version: the example of the docs."""

import numpy as np
import pytest
from small_environments import small

from simulator.environments import FeatureObservation, ScoredSlates

stable_baselines3 = pytest.importorskip("stable_baselines3")


def test_ppo_trains_on_score_weights_and_acts():
    from stable_baselines3.common.env_checker import check_env

    env = FeatureObservation(ScoredSlates(small("session"), by="weights"))
    check_env(env)
    agent = stable_baselines3.PPO(
        "MlpPolicy", env, seed=0, device="cpu", n_steps=64, batch_size=64, n_epochs=2
    )
    before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
    agent.learn(total_timesteps=128)
    assert agent.num_timesteps == 128
    after = agent.policy.parameters()
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    observation, _ = env.reset(seed=1)
    action, _ = agent.predict(observation, deterministic=True)
    _, reward, *_, info = env.step(action)
    assert np.isfinite(reward)
    assert info["seen"].any()

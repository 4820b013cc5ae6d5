"""An agent of a common library learns in the score-weights version: the example of the docs."""

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
        "MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu"
    )
    before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
    agent.learn(total_timesteps=256)
    assert agent.num_timesteps == 256
    moved = [
        bool((parameter != old).any())
        for parameter, old in zip(agent.policy.parameters(), before, strict=True)
    ]
    assert any(moved)
    observation, _ = env.reset(seed=1)
    action, _ = agent.predict(observation, deterministic=True)
    _, reward, *_, info = env.step(action)
    assert np.isfinite(reward)
    assert info["seen"].any()

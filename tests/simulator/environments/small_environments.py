"""Environments over one small population, and helpers to play them."""

import dataclasses

import gymnasium
import numpy as np

import simulator.environments  # noqa: F401  registers the ids
from simulator.world.config import world_config

USERS = 12
SMALL = dataclasses.replace(
    world_config("smoke"),
    num_items=1_200,
    num_candidates=80,
    warmup_candidates=40,
    max_history=120,
    history_median=60.0,
    min_history=30,
    warmup_requests_per_user=2,
)


def small(kind, config=SMALL, **settings):
    name = f"simulator/{kind.capitalize()}-v0"
    return gymnasium.make(name, config=config, users=USERS, **settings)


def small_batch(kind, num_envs, config=SMALL, **settings):
    name = f"simulator/{kind.capitalize()}-v0"
    return gymnasium.make_vec(name, num_envs=num_envs, config=config, users=USERS, **settings)


def actions_of(env, count, seed=3):
    """Actions as a library samples them: slots independent of each other."""
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def episode(env, seed, action_seed=3, limit=200):
    """All that one episode returned, step by step."""
    env.action_space.seed(action_seed)
    steps = [(*env.reset(seed=seed),)]
    for _ in range(limit):
        steps.append(env.step(env.action_space.sample()))
        if steps[-1][2] or steps[-1][3]:
            return steps
    raise AssertionError(f"no end after {limit} steps")


def assert_same(one, other):
    """Equal to the bit, whatever is nested in whatever."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert_same(one.tolist(), other.tolist())
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other

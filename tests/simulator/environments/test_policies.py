"""Policies earn in the order that they should, and the command says so."""

import json

import numpy as np
import pytest
from small_environments import SMALL, small

from ifa_ray.ranking.ranker import RandomRanker
from ifa_ray.schema import validate_request
from simulator.environments.__main__ import main
from simulator.environments.env import UserEnv
from simulator.environments.episodes import population
from simulator.environments.policies import (
    RankerPolicy,
    evaluate,
    play,
    popularity_policy,
    request_of,
    train_on_prehistory,
)
from simulator.run.presets import preset


def make():
    return small("session", oracle=True).unwrapped


def random_policy():
    return RankerPolicy(RandomRanker(make().items, 0), SMALL.slate_size)


def test_the_oracle_earns_more_than_popularity_and_popularity_more_than_chance():
    # Of the same 96 episodes; the differences below are several standard errors each.
    policies = (random_policy(), popularity_policy(make().population), None)
    random, popular, oracle = (play(make, policy, episodes=96, seed=1) for policy in policies)
    assert oracle["return"].mean() > 2 * popular["return"].mean()
    assert popular["return"].mean() > 1.2 * random["return"].mean()
    assert random["regret_s"].mean() > popular["regret_s"].mean() > oracle["regret_s"].mean() == 0


def test_episodes_repeat_and_do_not_depend_on_how_many_are_played():
    few, many = (play(make, random_policy(), episodes=n, seed=4) for n in (2, 5))
    np.testing.assert_array_equal(few["return"], many["return"][:2])


def test_an_observation_holds_the_request_that_a_ranker_is_asked():
    env = small("session")
    observation, _ = env.reset(seed=2)
    request = request_of({name: array[None] for name, array in observation.items()}, 0, 8)
    validate_request(request)
    env = env.unwrapped
    history = env.population.shard.histories.view(int(observation["user_id"][0]))
    np.testing.assert_array_equal(request.history.ids_T, history.ids_T[-SMALL.max_history :])
    np.testing.assert_array_equal(request.candidates_C, env.episode.candidates.ids_UC[0])
    assert request.history.times_ms_T[-1] < request.time_ms


def test_a_rankers_slate_is_shown_in_its_order():
    observation, _ = make().reset(seed=0)
    batch = {name: array[None] for name, array in observation.items()}
    answer = RandomRanker(make().items, 0).rank([request_of(batch, 0, 8)])[0]
    slate_K = random_policy()(batch)[0]
    np.testing.assert_array_equal(observation["candidate_ids"][slate_K], answer.ids_K)


def test_a_model_learns_from_the_prehistory_and_beats_chance():
    config = preset("smoke")
    people = population(config.world, 0, 96)
    said = []
    ranker = train_on_prehistory(
        people, config.model, config.training, seed=1, epochs=1, say=said.append
    )
    assert len(said) == 1
    assert "384 requests (before learning from it)" in said[0]

    def make():
        return UserEnv(kind="session", config=config.world, users=96, oracle=True)

    random = RankerPolicy(RandomRanker(make().items, 0), 8)
    learned, chance = (
        play(make, policy, episodes=64, seed=3)["return"].mean()
        for policy in (RankerPolicy(ranker, 8), random)
    )
    assert learned > 1.2 * chance


def test_the_command_prints_returns_and_regrets(capsys):
    arguments = ["--policy", "random,oracle", "--episodes", "6", "--users", "8", "--seed", "3"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["random", "oracle"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["policies"]["oracle"]["regret_s"] == 0
    assert f"{report['policies']['random']['return']:.1f} +-" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "simulator/Sesion-v0"], "Did you mean 'simulator/Session-v0'"),
        (["--policy", "orakel"], "Did you mean 'oracle'"),
        (["--episodes", "0"], "episodes == 0, must be >= 1"),
        (["--scale", "smokey"], "Did you mean 'smoke'"),
    ],
)
def test_the_command_names_what_is_wrong(arguments, message, capsys):
    assert main([*arguments, "--users", "4"]) == 2
    assert message in capsys.readouterr().err


def test_differences_are_measured_on_the_same_episodes():
    report = evaluate(
        "simulator/Ranking-v0", ("random", "random"), episodes=3, seed=0, scale="smoke", users=4
    )
    assert report["policies"]["random"]["over_first"] == 0

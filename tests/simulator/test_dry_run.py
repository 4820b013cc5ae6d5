"""The estimate of a run's cost is made of what was measured and of what the config counts."""

import dataclasses
import math

import pytest

from simulator.__main__ import main
from simulator.run.costs import estimate_run
from simulator.run.presets import preset


@pytest.fixture(scope="module")
def config():
    return dataclasses.replace(preset("smoke"), arms=("ifa", "aa", "random", "avg_pooling"))


@pytest.fixture(scope="module")
def cost(config):
    return estimate_run(config, lambda _: None)


def test_every_learning_arm_has_a_cost_and_the_control_trained_again_its_own(cost):
    for costs_ms in (cost.rank_ms, cost.train_ms):
        assert set(costs_ms) == {"ifa", "avg_pooling", "aa"}
        assert costs_ms["aa"] == costs_ms["ifa"]
        assert all(value > 0 for value in costs_ms.values())


def test_samples_are_those_of_the_warm_up_and_of_each_day(config, cost):
    warmup = config.users * config.world.warmup_requests_per_user
    daily = config.train_requests_per_day * config.days
    assert cost.samples == (warmup + daily) * config.replicates


def test_products_are_of_what_was_measured(config, cost):
    user_days = config.users * config.days * config.replicates
    assert cost.requests == math.ceil(cost.requests_per_user_day[1] * user_days)
    assert cost.rank_h("ifa") == pytest.approx(cost.requests * cost.rank_ms["ifa"] / 3.6e6)
    assert cost.train_h("ifa") == pytest.approx(cost.samples * cost.train_ms["ifa"] / 3.6e6)


def test_the_command_prints_it_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--preset", "smoke", "--arms", "ifa,random", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "ifa: " in said
    assert "hours of one core like this one" in said
    assert list(tmp_path.iterdir()) == []


def test_the_papers_preset_is_of_the_papers_sizes():
    config = preset("paper")
    assert config.world.num_candidates == config.world.max_history == 10_000
    assert config.model.top_k == 100
    assert config.replicates >= 10

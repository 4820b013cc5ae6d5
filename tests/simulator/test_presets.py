"""Settings are checked where they are made, and errors name field, value and rule."""

import dataclasses
import json

import pytest

from ifa_ray.errors import ConfigError
from simulator.run.presets import MODEL_ARMS, Arm, RunConfig, preset
from simulator.world.config import WORLDS


@pytest.fixture
def smoke():
    return preset("smoke")


@pytest.mark.parametrize(
    ("name", "world"),
    [(n, w) for n in ("smoke", "quick", "standard") for w in WORLDS]
    + [(name, "balanced") for name in ("kuairand", "kuaishou_paper", "experiment", "paper")],
)
def test_presets_survive_json(name, world):
    config = preset(name, world)
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.config_hash == config.config_hash


def test_the_quick_and_standard_sizes_are_those_promised():
    quick, standard = preset("quick"), preset("standard")
    assert (quick.world.num_candidates, quick.world.max_history) == (1_000, 2_000)
    assert (standard.world.num_candidates, standard.world.max_history) == (10_000, 10_000)
    assert quick.arms == ("twin", "ifa", "ifa_plus")
    assert quick.replicates >= 3


def test_a_preset_in_a_file_is_a_preset(smoke, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(smoke.to_dict()))
    assert preset(str(path)) == smoke


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a preset"),
        ("[]", "not a preset"),
        ('{"userz": 3}', "Did you mean 'users'"),
        ('{"preset": "x", "model": {"name": "ifa"}, "world": {"zero_share": 2.0}}',
         "zero_share == 2.0, must be in"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_preset_is_refused(tmp_path, text, says):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        preset(str(path))


def test_a_preset_in_a_file_has_its_own_world(tmp_path):
    with pytest.raises(ConfigError, match="world == 'exact_heavy', must be left out"):
        preset(str(tmp_path / "mine.json"), "exact_heavy")


def test_model_arms_are_the_models():
    from ifa_ray.models import MODELS

    assert sorted(MODELS) == sorted(MODEL_ARMS)


def test_an_unknown_preset_names_the_near_miss():
    with pytest.raises(ConfigError, match=r"preset == 'quik'.* Did you mean 'quick'\?"):
        preset("quik")


def test_an_unknown_arm_names_the_near_miss():
    with pytest.raises(ConfigError, match=r"arm == 'twinn'.* Did you mean 'twin'\?"):
        Arm.parse("twinn")


@pytest.mark.parametrize(
    "text", ["mine=module", "mine=a:", "mine=:B", "=a:B", "ifa=a:B", "warmup=a:B", "m ine=a:B"]
)
def test_a_malformed_arm_is_refused(text):
    with pytest.raises(ConfigError, match=r"NAME=package\.module:Class"):
        Arm.parse(text)


def test_a_named_ranker_is_an_arm():
    assert Arm.parse("mine=package.module:Class") == Arm("mine", "package.module:Class")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"users": -1}, "users == -1, must be >= 1"),
        ({"replicates": 0}, "replicates == 0, must be >= 1"),
        ({"seed": -3}, "seed == -3, must be >= 0"),
        ({"burn_in_days": 3}, "burn_in_days == 3, must be < days == 3"),
        ({"arms": ("twin",)}, "at least a control and a treatment"),
        ({"arms": ("twin", "ifa", "twin")}, "named once each"),
        ({"arms": ("random", "aa", "ifa")}, "led by a model, where aa is a control trained again"),
        ({"arms": ("twin", "aa")}, "a control and a treatment beside aa"),
        ({"world.num_candidates": -5}, "num_candidates == -5, must be >= 1"),
        ({"world.slate_size": 500}, "slate_size == 500, must be <= num_candidates == 120"),
        ({"model.top_k": 0}, "top_k == 0, must be >= 1"),
        ({"world.num_candidate": 5}, "Did you mean 'num_candidates'"),
        ({"dayz": 5}, "Did you mean 'days'"),
        ({"days": "many"}, "days == 'many', must be of type int"),
        ({"days": 2.5}, "days == 2.5, must be of type int"),
        ({"users": True}, "users == True, must be of type int"),
        ({"world.mood_gain": "high"}, "mood_gain == 'high', must be of type float"),
        ({"wordl.mood_gain": 1}, "setting == 'wordl', .* Did you mean 'world'"),
    ],
)
def test_settings_outside_their_rule_are_refused(smoke, changes, says):
    with pytest.raises(ConfigError, match=says):
        smoke.replace(changes)


def test_overrides_reach_nested_settings(smoke):
    changed = smoke.replace({"world.num_candidates": 200, "days": 3})
    assert (changed.world.num_candidates, changed.days) == (200, 3)
    assert changed.config_hash != smoke.config_hash


def test_seeds_differ_by_replicate_and_purpose_and_not_by_arm(smoke):
    seeds = [smoke.world_seed(r) for r in range(3)] + [
        smoke.model_seed(r, "twin") for r in range(3)
    ]
    assert len(set(seeds)) == 6
    other_arms = dataclasses.replace(smoke, arms=("ifa", "twin"))
    assert other_arms.world_seed(1) == smoke.world_seed(1)


def test_the_control_trained_again_has_its_model_and_another_seed(smoke):
    again = dataclasses.replace(smoke, arms=("twin", "aa", "ifa"))
    assert again.model_of("aa") == again.model_of("twin")
    assert again.model_of("ifa").name == "ifa"
    assert again.model_seed(0, "ifa") == again.model_seed(0, "twin") != again.model_seed(0, "aa")


def test_every_user_is_in_one_shard(smoke):
    users = [user for shard in range(smoke.shards) for user in smoke.shard_users(shard)]
    assert sorted(users) == list(range(smoke.users))


def test_the_version_of_a_day_has_not_seen_the_day(smoke):
    # Version v has seen days before v, so with lag 1 day d gets one that ends before d - 1.
    assert [smoke.version_of_day(day) for day in range(4)] == [0, 0, 1, 2]

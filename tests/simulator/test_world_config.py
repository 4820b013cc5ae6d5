"""Settings are checked where they are made; every named world has its solved levels."""

import dataclasses
import json

import pytest

from ifa_ray.errors import ConfigError
from simulator.world.config import (
    LEVELS,
    LEVELS_PATH,
    SCALES,
    WORLDS,
    WorldConfig,
    uncalibrated_config,
    world_config,
)

SOLVED = sorted(tuple(key.split("/")) for key in json.loads(LEVELS_PATH.read_text())["levels"])


def test_every_scale_is_solved_and_the_runs_scales_in_every_world():
    needed = {(scale, world) for scale in ("smoke", "quick", "standard") for world in WORLDS}
    needed |= {(scale, "balanced") for scale in SCALES}
    assert needed <= set(SOLVED)


def test_a_world_that_was_never_solved_says_how_to(monkeypatch, tmp_path):
    (tmp_path / "levels.json").write_text('{"levels": {}}')
    monkeypatch.setattr("simulator.world.config.LEVELS_PATH", tmp_path / "levels.json")
    with pytest.raises(ConfigError, match=r"python -m simulator\.calibration --scale quick"):
        world_config("quick")


@pytest.mark.parametrize(("scale", "world"), SOLVED)
def test_every_named_world_has_levels_of_its_own(scale, world):
    config = world_config(scale, world)
    plain = uncalibrated_config(scale, world)
    assert config.levels != plain.levels
    assert dataclasses.replace(config, **plain.levels) == plain
    assert set(config.levels) == set(LEVELS)


def test_the_scales_have_the_sizes_they_are_named_for():
    sizes = {
        scale: (c.num_items, c.num_candidates, c.max_history, c.slate_size)
        for scale, c in ((s, uncalibrated_config(s)) for s in SCALES)
    }
    assert sizes == {
        "smoke": (2_000, 120, 200, 8),
        "quick": (20_000, 1_000, 2_000, 10),
        "standard": (200_000, 10_000, 10_000, 10),
        "kuairand": (200_000, 2_000, 10_000, 6),
        "kuaishou_paper": (200_000, 2_516, 10_000, 6),
    }


def test_a_config_survives_the_way_through_plain_values():
    config = world_config("quick", "exact_heavy")
    assert WorldConfig.from_dict(config.to_dict()) == config


def test_the_named_worlds_differ_in_what_decides():
    exact, profile = (uncalibrated_config("quick", w) for w in ("exact_heavy", "profile_heavy"))
    assert exact.loyalty_gain > profile.loyalty_gain
    assert exact.mood_gain > profile.mood_gain
    assert exact.taste_gain < profile.taste_gain
    assert exact.drift_rate > profile.drift_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 0}, "num_candidates == 0, must be >= 1"),
        ({"loyalty_gain": -0.1}, "loyalty_gain == -0.1, must be >= 0"),
        ({"rand_share": 0.2}, "rand_share == 0.2, must be in"),
        ({"warmup_candidates": 5}, "warmup_candidates == 5, must be in"),
        ({"min_history": 5_000}, "min_history == 5000, must be <= max_history == 2000"),
        ({"num_items": 4_000}, "num_items == 4000, must be >= .* == 5000"),
        ({"sessions_per_day": 0.5}, "sessions_per_day == 0.5"),
        ({"zero_share": 1.2}, r"zero_share == 1.2, must be in \[0, 1\]"),
        ({"replay_share": -0.1}, r"replay_share == -0.1, must be in \[0, 1\]"),
        ({"drift_rate": 1.5}, r"drift_rate == 1.5, must be in \[0, 1\]"),
        ({"active_rate": 1.0}, r"active_rate == 1.0, must be in \(0, 1\)"),
        ({"activity_bias": 1.0}, r"activity_bias == 1.0, must be in \[0, 1\)"),
        ({"skip_level": float("nan")}, "skip_level == nan, must be a finite number"),
        ({"history_skew": 2.0}, "history_skew == 2.0, must be in"),
        ({"longest_prehistory": 50}, "longest_prehistory == 50, must be 0, or >= min_history"),
        ({"duration_median_s": 0.0}, "duration_median_s == 0.0, must be > 0"),
    ],
)
def test_a_setting_outside_its_rule_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        WorldConfig(**changes)


def test_unknown_names_are_answered_with_the_near_miss():
    with pytest.raises(ConfigError, match="Did you mean 'quick'"):
        world_config("quik")
    with pytest.raises(ConfigError, match="Did you mean 'balanced'"):
        world_config("quick", "balance")

"""The sensitivity table: its rows are runs that differ in one knob, and it goes on where it was."""

import pytest

from ifa_ray.errors import ConfigError
from simulator.run.presets import preset
from simulator.studies.sensitivity import (
    KNOBS,
    SensitivitySettings,
    format_table,
    measure_sensitivity,
)
from simulator.world.config import WorldConfig

TINY = SensitivitySettings(
    knobs=("mood_gain",), arms=("random", "ifa"), replicates=3, users=3, days=2,
    train_requests_per_day=2,
)  # fmt: skip


def test_every_knob_is_a_setting_of_the_world_and_is_also_switched_off():
    names = WorldConfig().to_dict()
    for knob, values in KNOBS.items():
        assert knob in names
        assert 0.0 in values
        assert names[knob] not in values, "the world as it is has a row already"


def test_rows_differ_from_the_world_as_it_is_in_one_setting():
    base, *moved = SensitivitySettings().configs(preset("smoke")).values()
    assert len(moved) == sum(map(len, KNOBS.values()))
    for config in moved:
        before, after = base.world.to_dict(), config.world.to_dict()
        assert sum(before[name] != after[name] for name in before) == 1
        assert {**base.to_dict(), "world": 0} == {**config.to_dict(), "world": 0}


def test_an_unknown_knob_is_named_with_its_near_miss():
    with pytest.raises(ConfigError, match="mood_gain"):
        SensitivitySettings(knobs=("mod_gain",))


def test_two_worlds_give_no_interval():
    with pytest.raises(ConfigError, match="replicates == 2, must be >= 3"):
        SensitivitySettings(replicates=2)


def test_a_table_is_measured_printed_and_not_measured_again(tmp_path):
    said = []
    first = measure_sensitivity(preset("smoke"), TINY, tmp_path, 1, said.append)
    names = [row["row"] for row in first["rows"]]
    assert names == ["as it is", "mood_gain = 0", "mood_gain = 1", "mood_gain = 2"]
    assert len(said) == 4
    assert "ETA" in said[0]
    table = format_table(first)
    assert all(f"| {name} |" in table for name in names)
    assert "ifa, % of random" in table
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert measure_sensitivity(preset("smoke"), TINY, tmp_path, 2, said.append) == first
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_folder_of_other_settings_is_refused(tmp_path):
    measure_sensitivity(preset("smoke"), TINY, tmp_path, 1, lambda _: None)
    with pytest.raises(ConfigError):
        measure_sensitivity(preset("smoke", "exact_heavy"), TINY, tmp_path, 1, lambda _: None)

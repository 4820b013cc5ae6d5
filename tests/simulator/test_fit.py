"""A log of a differently parameterised world gives its parameters back; poor logs are refused."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_worlds import TINY, live, shuffled_candidates

from ifa_ray.data.log import write_impressions, write_items
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay
from simulator.__main__ import main
from simulator.run.presets import RunConfig, preset
from simulator.world.world import World

# Other people than TINY's: shorter videos, longer and more even lives, sharper popularity.
OTHER = dataclasses.replace(
    TINY, duration_median_s=22.0, duration_log_sd=0.9, history_median=90.0, history_log_sd=0.5,
    min_history=20, max_history=300, popularity_slope=1.4, num_items=1_600, max_requests=12,
    rand_share=0.1, skip_level=0.6, skip_mean_s=1.8, watch_level=2.9, watch_log_sd=0.7,
    watch_gain=0.6, utility_scale=0.6, bias_sd=0.6, zero_share=0.4, replay_share=0.4,
    duration_gain=0.7, duration_skip=0.5, like_level=-4.0, leave_level=-3.4,
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a log, and its columns."""
    root = tmp_path_factory.mktemp("other")
    world = World(OTHER, 3)
    _, logs = live(world, np.arange(150), days=0)
    _write(root, logs[0].impressions, world)
    return root, logs[0].impressions, world


def _write(root, impressions, world):
    folder = RunFolder(root)
    write_items(folder.items(0), world.catalog.item_table())
    write_impressions(folder.table("impressions", ShardDay(WARMUP, 0, 0, 0)), impressions)


@pytest.fixture(scope="module")
def fitted(written, tmp_path_factory):
    base = preset("smoke")
    base = dataclasses.replace(base, world=dataclasses.replace(TINY, num_items=1_600))
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "base.json").write_text(json.dumps(base.to_dict()))
    out = folder / "mine.json"
    flags = ["--preset", str(folder / "base.json"), "--seed", "7"]
    assert main(["calibrate", "--log", str(written[0]), "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("duration_median_s", 1.0), ("duration_log_sd", 0.05), ("history_median", 9.0),
        ("history_log_sd", 0.05), ("rand_share", 0.02), ("popularity_slope", 0.35),
        ("zero_share", 0.06), ("replay_share", 0.15), ("skip_mean_s", 0.4), ("watch_level", 0.4),
        ("duration_gain", 0.15), ("leave_level", 0.25), ("activity_bias", 0.15),
        ("refresh_rate", 0.03), ("like_level", 1.2),
    ],
)  # fmt: skip
def test_parameters_come_back(fitted, name, tolerance):
    world = RunConfig.from_dict(json.loads(fitted.read_text())).world
    found, hidden = getattr(world, name), getattr(OTHER, name)
    assert found == pytest.approx(hidden, abs=tolerance)
    # The search began elsewhere: further off than what is found.
    if abs(getattr(TINY, name) - hidden) > 2 * tolerance:
        assert abs(found - hidden) < abs(getattr(TINY, name) - hidden)


def test_a_fitted_world_that_was_lived_has_the_rates_of_the_log(written, fitted):
    # Tastes, their effect on watch times and luck all spread watch times: rates alone tell them
    # poorly apart, so not each of these parameters comes back, but what they do together does.
    _, impressions, _ = written
    world = World(RunConfig.from_dict(json.loads(fitted.read_text())).world, 11)
    _, logs = live(world, np.arange(150), days=0)
    lived = logs[0].impressions
    for name, tolerance in (("is_click", 0.03), ("long_view", 0.03), ("is_like", 0.01)):
        assert lived[name].mean() == pytest.approx(impressions[name].mean(), abs=tolerance)
    for share in (0.25, 0.5, 0.75, 0.9):
        plays = [np.quantile(log["play_time_ms"], share) for log in (lived, impressions)]
        assert plays[0] == pytest.approx(plays[1], rel=0.3, abs=600)
    assert lived["play_time_ms"].mean() == pytest.approx(
        impressions["play_time_ms"].mean(), rel=0.2
    )


def test_the_file_is_a_preset(fitted):
    config = preset(str(fitted))
    assert config.world.num_candidates == TINY.num_candidates
    assert config.preset.startswith("other")


def _broken(tmp_path, written, change):
    _, impressions, world = written
    _write(tmp_path, change(dict(impressions)), world)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: {n: v[:500] for n, v in c.items()}, "500 impressions of .* must be >= 1,000"),
        (lambda c: c | {"play_time_ms": 0 * c["play_time_ms"]}, "play_time_ms is 0 in all"),
        (lambda c: c | {"duration_ms": 0 * c["duration_ms"]}, "duration_ms is 0 in all"),
        (lambda c: c | {"is_click": 0 * c["is_click"]}, "is_click is 0 in all .* both classes"),
        (lambda c: c | {"long_view": 0 * c["long_view"] + 1}, "long_view is 1 in all"),
        (lambda c: c | {"user_id": 0 * c["user_id"]}, "of 1 users, must be"),
    ],
)
def test_a_log_that_says_too_little_is_refused(tmp_path, written, capsys, change, says):
    import re

    root = _broken(tmp_path, written, change)
    assert main(["calibrate", "--log", str(root), "--out", str(tmp_path / "x.json")]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "x.json").exists()


def test_a_folder_without_a_log_is_refused(tmp_path, capsys):
    assert main(["calibrate", "--log", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    assert "0 arms with impressions" in capsys.readouterr().err


def test_every_arm_of_a_run_has_its_own_table(tmp_path, capsys):
    config = dataclasses.replace(
        preset("smoke"), users=30, replicates=1, shards=1, days=1, arms=("twin", "random"),
        world=TINY,
    )  # fmt: skip
    world = World(TINY, 3)
    _, logs = live(world, np.arange(30), days=0)
    folder = RunFolder(tmp_path)
    _write(tmp_path, logs[0].impressions, world)
    for arm, choose in (("twin", oracle_like(world)), ("random", shuffled_candidates)):
        day = live(world, np.arange(30), days=1, choose=choose)[1][1]
        write_impressions(folder.table("impressions", ShardDay(arm, 0, 0, 0)), day.impressions)
    folder.config.write_text(json.dumps(config.to_dict()))
    assert main(["calibration", "--run", str(tmp_path), "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert list(tables) == ["warmup", "twin", "random"]
    found = {arm: {row["key"]: row for row in rows} for arm, rows in tables.items()}
    clicks = {arm: rows["feed_is_click"]["achieved"] for arm, rows in found.items()}
    assert clicks["twin"] > clicks["random"]
    assert "random_is_click" in found["twin"]
    assert "history_log_mean" in found["warmup"]
    assert "history_log_mean" not in found["twin"]  # a day is no history
    assert main(["calibration", "--run", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("targets hit") == 3


def oracle_like(world):
    """Ranks by the hidden quality of items: better than chance, for the test's sake."""

    def choose(request):
        return request.candidates_C[np.argsort(-world.catalog.quality_N[request.candidates_C])]

    return choose

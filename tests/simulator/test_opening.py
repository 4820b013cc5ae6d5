"""A run's folder is opened by one driver, empty or as it was left."""

import dataclasses
import os

import pytest

from ifa_ray.data.run_folder import WARMUP, ShardDay, write_atomically
from ifa_ray.errors import CheckpointError, ConfigError, LogError
from simulator.run.opening import link_latest, load_config, open_run
from simulator.run.presets import preset


@pytest.fixture
def config():
    return preset("smoke")


def test_a_new_run_saves_its_config(tmp_path, config):
    with open_run(tmp_path / "run", config, resume=False):
        pass
    assert load_config(tmp_path / "run") == config


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path, config):
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(ConfigError, match=r"holds 1 entries \(thesis.txt.*--resume"),
        open_run(tmp_path, config, resume=False),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "config.json").exists()


def test_a_finished_run_is_not_started_again(tmp_path, config):
    with open_run(tmp_path, config, resume=False):
        pass
    with pytest.raises(ConfigError, match="--resume"), open_run(tmp_path, config, resume=False):
        pass


def test_what_a_killed_start_left_behind_is_removed(tmp_path, config):
    partial = tmp_path / ".config.json.17.tmp"
    for resume in (False, True):
        partial.write_text("{")
        with open_run(tmp_path, config, resume=resume):
            assert not partial.exists()


@pytest.mark.parametrize("name", ["absent", ""])
def test_resuming_needs_a_run(tmp_path, config, name):
    with (
        pytest.raises(ConfigError, match=r"no config\.json"),
        open_run(tmp_path / name, config, resume=True),
    ):
        pass
    assert not (tmp_path / "absent").exists()


def test_a_gap_in_the_published_versions_is_named_on_resume(tmp_path, config):
    with open_run(tmp_path, config, resume=False) as folder:
        (folder.models("ifa", 0) / "version=00001").mkdir(parents=True)
    with (
        pytest.raises(CheckpointError, match=r"version=00000/checkpoint\.json"),
        open_run(tmp_path, config, resume=True),
    ):
        pass


def test_hidden_files_are_files(tmp_path, config):
    (tmp_path / ".git").mkdir()
    with (
        pytest.raises(ConfigError, match=r"holds 1 entries \(\.git"),
        open_run(tmp_path, config, resume=False),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".git"]


def test_resuming_needs_the_same_config(tmp_path, config):
    with open_run(tmp_path, config, resume=False):
        pass
    other = dataclasses.replace(config, seed=7)
    with (
        pytest.raises(ConfigError, match="seed == 7, must be 0, with which"),
        open_run(tmp_path, other, resume=True),
    ):
        pass
    deeper = dataclasses.replace(config, model=dataclasses.replace(config.model, top_k=3))
    with (
        pytest.raises(ConfigError, match="top_k == 3, must be 10, with which"),
        open_run(tmp_path, deeper, resume=True),
    ):
        pass


def test_a_folder_below_a_file_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match="must be a folder that can be written"),
        open_run(tmp_path / "file" / "run", config, resume=False),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder_is_refused(tmp_path, config):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(ConfigError, match="must be a folder that can be written"),
        open_run(tmp_path, config, resume=False),
    ):
        pass


def test_a_second_driver_is_refused(tmp_path, config):
    with (
        open_run(tmp_path, config, resume=False),
        pytest.raises(ConfigError, match="in use by another driver"),
        open_run(tmp_path, config, resume=True),
    ):
        pass


def test_a_truncated_log_file_is_named_on_resume(tmp_path, config):
    with open_run(tmp_path, config, resume=False) as folder:
        for replicate in range(config.replicates):
            for shard in range(config.shards):
                key = ShardDay(WARMUP, replicate, 0, shard)
                for path in (
                    folder.table("impressions", key),
                    folder.table("requests", key),
                    folder.state(key),
                ):
                    write_atomically(path, b"0123456789")
                folder.commit(key, {})
    with open_run(tmp_path, config, resume=True):
        pass
    damaged = folder.table("requests", ShardDay(WARMUP, 1, 0, 1))
    damaged.write_bytes(b"01234")
    with (
        pytest.raises(LogError, match="truncated") as error,
        open_run(tmp_path, config, resume=True),
    ):
        pass
    assert str(damaged) in str(error.value)


def test_a_damaged_config_is_named(tmp_path, config):
    with open_run(tmp_path, config, resume=False):
        pass
    (tmp_path / "config.json").write_text('{"preset": "smo')
    with pytest.raises(ConfigError, match="not the config of a run"):
        load_config(tmp_path)


def test_latest_points_to_the_newest_run_and_spares_a_real_folder(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        link_latest(tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    link_latest(tmp_path / "first")
    assert not (tmp_path / "latest").is_symlink()

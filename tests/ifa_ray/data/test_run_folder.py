"""A day exists once its commit file does, and only as it was written."""

import os

import pytest

from ifa_ray.data.run_folder import TABLES, WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.data.tables import is_half_written, remove_half_written, temporary_of
from ifa_ray.errors import LogError

KEY = ShardDay("twin", 1, 2, 3)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    for table in TABLES:
        write_atomically(folder.table(table, KEY), b"rows")
    write_atomically(folder.state(KEY), b"state")
    return folder


def test_paths_are_hive_partitions(tmp_path):
    path = RunFolder(tmp_path).table("impressions", KEY)
    expected = "log/impressions/arm=twin/replicate=1/day=002/shard=03.parquet"
    assert path.relative_to(tmp_path).as_posix() == expected


def test_a_day_is_committed_only_after_commit(folder):
    assert not folder.is_committed(KEY)
    folder.commit(KEY, {"requests": 7})
    assert folder.is_committed(KEY)
    assert folder.summary(KEY) == {"requests": 7}
    folder.verify(KEY)


@pytest.mark.parametrize("table", TABLES)
def test_a_truncated_file_is_named(folder, table):
    folder.commit(KEY, {})
    path = folder.table(table, KEY)
    path.write_bytes(b"ro")
    with pytest.raises(LogError, match="truncated") as error:
        folder.verify(KEY)
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"ro"


def test_a_missing_state_is_named(folder):
    folder.commit(KEY, {})
    folder.state(KEY).unlink()
    with pytest.raises(LogError, match=r"shard=03\.npz: missing"):
        folder.verify(KEY)


def test_a_truncated_commit_record_is_named(folder):
    folder.commit(KEY, {})
    record = folder.commit_file(KEY)
    record.write_bytes(record.read_bytes()[:10])
    with pytest.raises(LogError, match="not a commit record"):
        folder.verify(KEY)


def test_a_prehistory_has_no_timings(tmp_path):
    folder, key = RunFolder(tmp_path), ShardDay(WARMUP, 0, 0, 0)
    for path in (folder.table("impressions", key), folder.table("requests", key)):
        write_atomically(path, b"rows")
    write_atomically(folder.state(key), b"state")
    folder.commit(key, {})
    folder.verify(key)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(folder):
    folder.commit(KEY, {})
    mine = folder.root / ".notes.tmp"
    mine.write_text("the user's own")
    before = sorted(folder.root.rglob("*"))
    half = temporary_of(folder.root / "models" / "version=00001")
    assert is_half_written(half)
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (folder.root / "log" / ".shard=03.parquet.17.tmp").write_bytes(b"ro")
    remove_half_written(folder.root)
    half.parent.rmdir()
    assert sorted(folder.root.rglob("*")) == before
    folder.verify(KEY)

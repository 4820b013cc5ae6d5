"""What is wrong with a log is named by `train`, in one line, before anything is published."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_logs import commit_all, read, train_arguments, write_run

from ifa_ray.cli import main
from ifa_ray.data.run_folder import ShardDay
from ifa_ray.errors import LogError

SHARD = ShardDay("ifa", 0, 1, 0)
NAME = "arm=ifa/replicate=0/day=001/shard=00.parquet"


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "log")


def call(folder):
    return main(train_arguments(folder.root, folder.root.parent / "out"))


def rewrite(folder, name, change):
    """Writes a column of a shard again with what a careless writer would have put there."""
    path = folder.table("impressions", SHARD)
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    values = pa.array(change(table.column(name).to_numpy()), table.schema.field(name).type)
    pq.write_table(table.set_column(place, table.schema.field(name), values), path)


def truncate(folder):
    path = folder.table("impressions", SHARD)
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_byte_of_a_committed_shard(folder):
    commit_all(folder)
    path = folder.table("requests", SHARD)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


def swap_days(folder):
    for table in ("impressions", "requests"):
        one, other = (folder.table(table, ShardDay("ifa", 0, day, 0)) for day in (1, 2))
        data = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(data)


def copy_over_the_day_before(folder):
    for table in ("impressions", "requests"):
        before = folder.table(table, ShardDay("ifa", 0, 0, 0))
        shutil.copy(before, folder.table(table, SHARD))


DAMAGE = {
    "days in the wrong order": (swap_days, "the future is not a feature"),
    "a copy of another": (copy_over_the_day_before, "impressions.time_ms of user 0 goes back"),
    "truncated": (truncate, "not a whole Parquet file"),
    "changed": (flip_a_byte_of_a_committed_shard, "its checksum is not the committed one"),
    "missing requests": (lambda f: f.table("requests", SHARD).unlink(), "no such file"),
    "an impression of no candidate": (
        lambda f: rewrite(f, "video_id", lambda values: np.where(values == values[0], 999, values)),
        "video 999 of request .* was not a candidate",
    ),
    "a user's clock going back": (
        lambda f: rewrite(f, "time_ms", lambda values: values[::-1].copy()),
        "impressions.time_ms of user 0 goes back",
    ),
}


@pytest.mark.parametrize("case", DAMAGE, ids=lambda case: case.replace(" ", "-"))
def test_a_damaged_shard_is_named_and_nothing_is_published(folder, case, capsys):
    damage, message = DAMAGE[case]
    damage(folder)
    assert call(folder) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert NAME in last
    with pytest.raises(LogError, match=message):
        read(folder.root)
    assert not (folder.root.parent / "out" / "models").exists()


def test_a_day_that_is_not_there_at_all_is_missing(folder, capsys):
    for table in ("impressions", "requests"):
        shutil.rmtree(folder.table(table, SHARD).parent)
    assert call(folder) == 2
    assert f"{NAME}: no such file" in capsys.readouterr().err


def test_an_empty_day_makes_no_version_and_no_row(tmp_path):
    folder = write_run(tmp_path / "log", per_day=[6, 0, 6])
    assert call(folder) == 0
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["window"][-2:] for line in lines] == ["01", "02", "04"]

"""What is wrong with a log is named by `train`, in one line, before anything is published."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_logs import FLAGS, commit_all, read, write_run

from ifa_ray.cli import main
from ifa_ray.data.run_folder import ShardDay
from ifa_ray.errors import LogError

SHARD = ShardDay("ifa", 0, 1, 0)
NAME = "arm=ifa/replicate=0/day=001/shard=00.parquet"


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "log")


def call(folder, *more):
    out = folder.root.parent / "out"
    return main(["train", "--data", str(folder.root), "--arm", "ifa", "--out", str(out), *FLAGS,
                 "--publish-every", "day", *more])  # fmt: skip


def rewrite(folder, table, change, key=SHARD):
    """Writes a shard again with what a careless writer would have put there."""
    path = folder.table(table, key)
    read_back = pq.read_table(path)
    changed = change(read_back)
    pq.write_table(changed.replace_schema_metadata(read_back.schema.metadata), path)


def set_column(name, change):
    def apply(table):
        place = table.schema.get_field_index(name)
        values = change(table.column(name).to_numpy().copy())
        return table.set_column(place, table.schema.field(name), pa.array(values))

    return apply


def first(value):
    def change(values):
        values[0] = value
        return values

    return change


def truncate(folder):
    path = folder.table("impressions", SHARD)
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_byte_of_a_committed_shard(folder):
    commit_all(folder)
    path = folder.table("requests", SHARD)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "truncated": (truncate, "not a whole Parquet file"),
    "changed": (flip_a_byte_of_a_committed_shard, "its checksum is not the committed one"),
    "missing requests": (lambda f: f.table("requests", SHARD).unlink(), "no such file"),
    "missing impressions": (lambda f: f.table("impressions", SHARD).unlink(), "no such file"),
    "a column too few": (
        lambda f: rewrite(f, "impressions", lambda t: t.drop_columns(["is_like"])),
        "column is_like is missing, must be int8",
    ),
    "a column too many": (
        lambda f: rewrite(f, "requests", lambda t: t.append_column("note", t.column("user_id"))),
        "column note is foreign",
    ),
    "another type": (
        lambda f: rewrite(f, "impressions", lambda t: t.set_column(
            t.schema.get_field_index("is_click"), "is_click",
            t.column("is_click").cast(pa.float32()))),
        "column is_click is float, must be int8",
    ),
    "a label of 2": (
        lambda f: rewrite(f, "impressions", set_column("is_click", first(2))),
        "column is_click holds 2, must be 0 or 1",
    ),
    "an impression of no candidate": (
        lambda f: rewrite(f, "impressions", set_column("video_id", first(999))),
        "video 999 of request .* was not a candidate",
    ),
    "a user's clock going back": (
        lambda f: rewrite(f, "impressions", set_column("time_ms", lambda v: v[::-1].copy())),
        "impressions.time_ms of user 0 goes back",
    ),
}  # fmt: skip


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
    assert call(folder, "--metrics-every", "day") == 0
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["window"][-2:] for line in lines] == ["01", "02", "04"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(folder, bad, capsys):
    path = folder.items(0)
    table = pq.read_table(path)
    content = table.column("content").combine_chunks()
    values = content.flatten().to_numpy().copy()
    values[3] = bad
    lists = pa.ListArray.from_arrays(content.offsets, pa.array(values), type=content.type)
    pq.write_table(table.set_column(table.schema.get_field_index("content"),
                                    table.schema.field("content"), lists), path)  # fmt: skip
    assert call(folder) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "items.parquet: column content holds NaN or infinity" in last

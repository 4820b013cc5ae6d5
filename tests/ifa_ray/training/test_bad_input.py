"""What is wrong with a log is named by `train`, in one line, before anything is published."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_logs import FLAGS, SHOWN, read, write_run

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
    folder.table("timings", SHARD).parent.mkdir(parents=True)
    for path in (folder.table("timings", SHARD), folder.state(SHARD)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    folder.commit(SHARD, {})
    path = folder.table("requests", SHARD)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


def copy_a_shard(folder):
    for table in ("impressions", "requests"):
        copy = folder.table(table, SHARD).with_name("shard=02.parquet")
        shutil.copy(folder.table(table, SHARD), copy)
    # Every day has as many shards: the others of the third are there, and empty.
    for arm, day in (("warmup", 0), ("ifa", 0), ("ifa", 2)):
        for table in ("impressions", "requests"):
            source = folder.table(table, ShardDay(arm, 0, day, 0))
            pq.write_table(pq.read_table(source)[:0], source.with_name("shard=02.parquet"))


def swap_days(folder):
    for table in ("impressions", "requests"):
        paths = [folder.table(table, ShardDay("ifa", 0, day, 0)) for day in (1, 2)]
        data = [path.read_bytes() for path in paths]
        paths[0].write_bytes(data[1])
        paths[1].write_bytes(data[0])


DAMAGE = {
    "truncated": (truncate, "not a whole Parquet file"),
    "changed": (flip_a_byte_of_a_committed_shard, "its checksum is not the committed one"),
    "missing requests": (lambda f: f.table("requests", SHARD).unlink(), "missing, though other"),
    "missing impressions": (lambda f: f.table("impressions", SHARD).unlink(), "missing, though"),
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


@pytest.mark.parametrize("case", DAMAGE, ids=lambda case: case.replace(" ", "-"))
def test_a_damaged_shard_is_skipped_if_told_to_and_counted(folder, case, capsys):
    whole = read(folder.root)
    DAMAGE[case][0](folder)
    assert call(folder, "--skip-damaged") == 0
    said = capsys.readouterr().err
    assert f"1 damaged shards skipped, and what they held is in no history: {NAME[:-8]}" in said
    found = read(folder.root, skip_damaged=True)
    lost = [s for s in whole.samples if s.request.user_id == 0 and s.request.time_ms // 86_400_000
            == 2]  # fmt: skip
    assert len(found.samples) == len(whole.samples) - len(lost) == 42


def test_histories_after_a_skipped_shard_hold_what_is_left_and_never_the_requests_own(folder):
    whole = {s.request.request_id: s.request for s in read(folder.root, max_history=200).samples}
    truncate(folder)
    for sample in read(folder.root, max_history=200, skip_damaged=True).samples:
        request, before = sample.request, whole[sample.request.request_id]
        # A day of six requests of user 0 is lost; the third day comes after it.
        after = request.user_id == 0 and request.time_ms // 86_400_000 == 3
        lost = 6 * SHOWN if after else 0
        assert len(request.history) == len(before.history) - lost
        assert (request.history.times_ms_T < request.time_ms).all()


def test_a_copied_shard_is_named_with_what_it_is_a_copy_of(folder, capsys):
    copy_a_shard(folder)
    assert call(folder) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "day=001/shard=02.parquet: request" in last
    assert f"{NAME} too, must be in one shard" in last
    assert call(folder, "--skip-damaged") == 0
    assert "1 damaged shards skipped" in capsys.readouterr().err
    found = read(folder.root, skip_damaged=True)
    ids = [s.request.request_id for s in found.samples]
    assert len(ids) == len(set(ids)) == 48, "each request once"


def test_days_in_the_wrong_order_are_refused(folder, capsys):
    swap_days(folder)
    assert call(folder) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "day=001" in last
    assert "the future is not a feature" in last


def test_a_day_that_is_not_there_at_all_is_missing(folder, capsys):
    for table in ("impressions", "requests"):
        shutil.rmtree(folder.table(table, SHARD).parent)
    assert call(folder) == 2
    assert f"{NAME}: missing" in capsys.readouterr().err
    assert call(folder, "--skip-damaged") == 0
    assert "2 damaged shards skipped" in capsys.readouterr().err


def test_an_empty_day_makes_no_version_and_no_row(tmp_path):
    folder = write_run(tmp_path / "log", empty=1)
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


def test_only_a_run_has_shards_to_skip(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    status = main(["train", "--data", str(tmp_path / "films"), "--out", str(tmp_path / "out"),
                   "--skip-damaged"])  # fmt: skip
    assert status == 2
    assert "only the log of a run has shards" in capsys.readouterr().err

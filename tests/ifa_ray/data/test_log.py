import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import (
    read_impressions,
    read_items,
    read_requests,
    write_impressions,
    write_items,
    write_requests,
)
from ifa_ray.data.tables import concat_columns, read_table, sha256_of, write_table
from ifa_ray.errors import LogError
from ifa_ray.schema import IMPRESSION_COLUMNS, SCHEMA_VERSION


def impressions(rows: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        name: rng.integers(0, 2, rows).astype(kind) for name, kind in IMPRESSION_COLUMNS.items()
    }


def requests(lengths: tuple[int, ...] = (3, 3)) -> dict[str, np.ndarray]:
    count = len(lengths)
    return {
        "request_id": np.arange(count, dtype=np.int64),
        "user_id": np.arange(count, dtype=np.int32),
        "time_ms": np.arange(count, dtype=np.int64),
        "watermark": np.zeros(count, np.int32),
        "candidates": np.fromiter((np.arange(n, dtype=np.int32) for n in lengths), object, count),
        "channels": np.fromiter((np.zeros(n, np.int8) for n in lengths), object, count),
    }


def catalogue(width: int = 2) -> ItemTable:
    return ItemTable(
        video_id_N=np.array([2, 5, 9], np.int32),
        author_id_N=np.array([0, 1, 1], np.int32),
        category_N=np.array([3, 3, 0], np.int32),
        duration_ms_N=np.array([0, 7_000, 9], np.int32),
        upload_ms_N=np.array([-5, 0, 2**40], np.int64),
        content_ND=np.arange(3 * width, dtype=np.float32).reshape(3, width),
    )


def test_impressions_come_back_as_they_were_written(tmp_path: Path) -> None:
    columns = impressions()
    write_impressions(tmp_path / "day=000" / "shard=00.parquet", columns)
    read = read_impressions(tmp_path / "day=000" / "shard=00.parquet")
    assert list(read) == list(IMPRESSION_COLUMNS)
    for name, values in columns.items():
        assert read[name].dtype == values.dtype
        assert np.array_equal(read[name], values)


def test_equally_long_candidate_lists_are_a_matrix_and_others_are_arrays(tmp_path: Path) -> None:
    write_requests(tmp_path / "even.parquet", requests((3, 3)))
    even = read_requests(tmp_path / "even.parquet")["candidates"]
    assert even.shape == (2, 3)
    assert even.dtype == np.int32
    write_requests(tmp_path / "ragged.parquet", requests((1, 3, 2)))
    ragged = read_requests(tmp_path / "ragged.parquet")["candidates"]
    assert ragged.shape == (3,)
    assert [row.tolist() for row in ragged] == [[0], [0, 1, 2], [0, 1]]
    assert ragged[0].dtype == np.int32
    assert [row.tolist() for row in ragged[np.array([False, False, True])]] == [[0, 1]]


def test_a_matrix_of_candidates_is_written_like_its_rows(tmp_path: Path) -> None:
    columns = requests((3, 3))
    write_requests(tmp_path / "rows.parquet", columns)
    columns["candidates"] = np.stack(list(columns["candidates"]))
    columns["channels"] = np.stack(list(columns["channels"]))
    write_requests(tmp_path / "matrix.parquet", columns)
    assert sha256_of(tmp_path / "rows.parquet") == sha256_of(tmp_path / "matrix.parquet")


@pytest.mark.parametrize("width", [0, 1, 2])
def test_a_catalogue_comes_back_as_it_was_written(tmp_path: Path, width: int) -> None:
    items = catalogue(width)
    write_items(tmp_path / "items.parquet", items)
    read = read_items(tmp_path / "items.parquet")
    for name in vars(items):
        expected, found = getattr(items, name), getattr(read, name)
        assert found.dtype == expected.dtype, name
        assert np.array_equal(found, expected), name
        assert found.shape == expected.shape, name


def test_an_empty_day_is_a_file_without_rows(tmp_path: Path) -> None:
    write_impressions(tmp_path / "i.parquet", impressions(0))
    write_requests(tmp_path / "r.parquet", requests(()))
    assert len(read_impressions(tmp_path / "i.parquet")["user_id"]) == 0
    assert len(read_requests(tmp_path / "r.parquet")["candidates"]) == 0


def test_writing_again_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    write_items(tmp_path / "here.parquet", catalogue())
    code = (
        "import sys; from pathlib import Path; "
        "from ifa_ray.data.log import read_items, write_items; "
        "write_items(Path(sys.argv[2]), read_items(Path(sys.argv[1])))"
    )
    here, there = str(tmp_path / "here.parquet"), str(tmp_path / "there.parquet")
    subprocess.run([sys.executable, "-c", code, here, there], check=True, timeout=60)
    assert Path(here).read_bytes() == Path(there).read_bytes()
    write_items(there, catalogue())
    assert Path(here).read_bytes() == Path(there).read_bytes()


def test_the_schema_version_is_in_the_file_and_no_other_is_read(tmp_path: Path) -> None:
    path = tmp_path / "i.parquet"
    write_impressions(path, impressions())
    key = b"ifa_ray.schema_version"
    assert pq.read_schema(path).metadata[key] == str(SCHEMA_VERSION).encode()
    table = pq.read_table(path).replace_schema_metadata({key: b"99"})
    pq.write_table(table, path)
    with pytest.raises(LogError, match=r"i\.parquet: schema version == '99', must be 1"):
        read_impressions(path)


def test_a_log_of_another_writer_with_our_columns_is_read(tmp_path: Path) -> None:
    columns = requests((2, 3))
    table = pa.table({
        name: pa.array(list(values), pa.list_(pa.int32() if name == "candidates" else pa.int8()))
        if values.dtype == object else pa.array(values)
        for name, values in columns.items()
    })  # fmt: skip
    pq.write_table(table, tmp_path / "r.parquet")
    assert read_requests(tmp_path / "r.parquet")["candidates"][1].tolist() == [0, 1, 2]


def test_nothing_but_the_file_is_left_even_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "i.parquet"
    write_impressions(path, impressions())
    before = path.read_bytes()

    def no_space(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_impressions(path, impressions(5))
    assert os.listdir(tmp_path) == ["i.parquet"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_click": None}, "column is_click is missing, must be int8"),
        ({"extra": np.zeros(3, np.int8)}, "column extra is foreign"),
        ({"user_id": np.zeros(3, np.int64)}, "column user_id is int64, 1-D, must be int32"),
        ({"user_id": np.zeros((3, 1), np.int32)}, "column user_id is int32, 2-D"),
        ({"user_id": np.zeros(2, np.int32)}, "column user_id has 2 rows, must be 3"),
        ({"user_id": np.full(3, -1, np.int32)}, r"min\(user_id\) == -1, must be >= 0"),
        ({"is_like": np.full(3, 2, np.int8)}, "column is_like holds 2, must be 0 or 1"),
    ],
)
def test_what_breaks_the_contract_is_not_written(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    columns = {k: v for k, v in (impressions() | change).items() if v is not None}
    with pytest.raises(LogError, match=message) as caught:
        write_impressions(tmp_path / "i.parquet", columns)
    assert "i.parquet" in str(caught.value)
    assert not (tmp_path / "i.parquet").exists()


def test_broken_requests_are_not_written(tmp_path: Path) -> None:
    path, good = tmp_path / "r.parquet", requests()
    empty = np.fromiter((np.empty(0, np.int32), np.arange(3, dtype=np.int32)), object, 2)
    wide = np.fromiter((np.arange(3), np.arange(2)), object, 2)
    for change, message in (
        ({"request_id": np.zeros(2, np.int64)}, "holds 0 more than once"),
        ({"candidates": empty}, r"request 0: len\(candidates\) == 0"),
        ({"channels": np.zeros((2, 4), np.int8)}, r"request 0: len\(channels\) == 4, must be 3"),
        ({"candidates": good["candidates"][:1]}, "column candidates has 1 rows, must be 2"),
        ({"candidates": wide, "channels": wide}, "column candidates holds int64"),
    ):
        with pytest.raises(LogError, match=message):
            write_requests(path, good | change)


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "i.parquet"
    with pytest.raises(LogError, match=r"i\.parquet: no such file"):
        read_impressions(path)
    write_impressions(path, impressions(200))
    whole = path.read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(LogError, match=r"i\.parquet: not a whole Parquet file"):
            read_impressions(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(LogError, match=r"i\.parquet: not a whole Parquet file"):
        read_impressions(path)
    write_items(path, catalogue())
    with pytest.raises(LogError, match=r"i\.parquet: column request_id is missing"):
        read_impressions(path)


def test_nulls_and_foreign_values_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "i.parquet"
    write_impressions(path, impressions())
    table = pq.read_table(path)
    place = table.column_names.index("play_time_ms")
    for values, message in (
        (pa.array([1, None, 2], pa.int32()), "play_time_ms has 1 nulls"),
        (pa.array([1, -1, 2], pa.int32()), r"min\(play_time_ms\) == -1"),
        (pa.array([1, 1, 2], pa.int64()), "column play_time_ms is int64, must be int32"),
    ):
        pq.write_table(table.set_column(place, "play_time_ms", values), path)
        with pytest.raises(LogError, match=message):
            read_impressions(path)


def test_nulls_and_nan_inside_lists_are_refused(tmp_path: Path) -> None:
    path, schema = tmp_path / "x.parquet", {"x": "list<float32>"}
    pq.write_table(pa.table({"x": pa.array([[1.0, None]], pa.list_(pa.float32()))}), path)
    with pytest.raises(LogError, match="x has 1 nulls"):
        read_table(path, schema)
    pq.write_table(pa.table({"x": pa.array([[1.0, np.nan]], pa.list_(pa.float32()))}), path)
    with pytest.raises(LogError, match="x holds NaN or infinity"):
        read_table(path, schema)
    with pytest.raises(LogError, match="x holds NaN or infinity"):
        write_table(path, {"x": "float64"}, {"x": np.array([np.inf])})


def test_a_file_that_claims_too_much_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    write_table(path, {"x": "list<int8>"}, {"x": np.zeros((10, 1000), np.int8)})
    monkeypatch.setattr("ifa_ray.data.tables.MAX_VALUES", 9_999)
    with pytest.raises(LogError, match=r"claims 10000 values, must be <= 9999"):
        read_table(path, {"x": "list<int8>"})


def test_shards_are_joined_row_after_row() -> None:
    even, ragged, empty = requests((3, 3)), requests((1, 2)), requests(())
    even["candidates"] = np.stack(list(even["candidates"]))
    joined = concat_columns([empty, even, ragged])
    assert joined["request_id"].tolist() == [0, 1, 0, 1]
    assert [len(row) for row in joined["candidates"]] == [3, 3, 1, 2]
    assert concat_columns([even, even])["candidates"].shape == (4, 3)
    with pytest.raises(LogError, match=r"len\(tables\) == 0"):
        concat_columns([])

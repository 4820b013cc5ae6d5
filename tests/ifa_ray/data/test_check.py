"""Each damage is found and counted, and does not hide the next one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

# The generated logs of the readers' tests are checked here.
from test_ebnerd import ARTICLES, HISTORIES, ROWS, behaviors, histories
from test_kuairand import FIRST, RANDOM, SECOND, VIDEOS, row, text
from test_movielens import MOVIES, RATINGS

from ifa_ray.cli import main
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_impressions, write_items, write_requests
from ifa_ray.data.log_tables import ReadSettings
from ifa_ray.data.readers.check import check_log
from ifa_ray.data.readers.ebnerd import read_ebnerd
from ifa_ray.data.readers.kuairand import read_kuairand
from ifa_ray.data.readers.movielens import read_movielens
from ifa_ray.data.readers.scan import CLEAN, PROBLEMS, UNUSABLE, Findings
from ifa_ray.data.run_folder import RunFolder, ShardDay
from ifa_ray.errors import LogError
from ifa_ray.schema import IMPRESSION_COLUMNS

SHARED = Path(__file__).parents[4] / "shared" / "data"


def problems(found: Findings) -> dict[str, int]:
    return {f"{each.where}: {each.rule}": each.count for each in found.problems}


def notes(found: Findings) -> dict[str, int]:
    return {f"{each.where}: {each.rule}": each.count for each in found.notes}


# A run.


def write_day(folder: RunFolder, key: ShardDay, first: int, watermark: int, second: int) -> None:
    """Two requests of users 0 and 1; each shows two of its ten candidates."""
    ids = np.array([first, first, first + 1, first + 1])
    columns = {name: np.zeros(4, kind) for name, kind in IMPRESSION_COLUMNS.items()}
    columns |= {
        "request_id": ids, "user_id": np.array([0, 0, 1, 1], np.int32),
        "video_id": np.array([1, 2, 3, 4], np.int32),
        "time_ms": np.array([0, 1, 0, 1]) + second * 1000,
        "is_click": np.array([1, 0, 0, 0], np.int8),
        "play_time_ms": np.full(4, 500, np.int32), "duration_ms": np.full(4, 9000, np.int32),
    }  # fmt: skip
    write_impressions(folder.table("impressions", key), columns)
    requests = {
        "request_id": np.array([first, first + 1]), "user_id": np.array([0, 1], np.int32),
        "time_ms": np.array([second, second]) * 1000,
        "watermark": np.full(2, watermark, np.int32),
        "candidates": np.tile(np.arange(10, dtype=np.int32), (2, 1)),
        "channels": np.zeros((2, 10), np.int8),
    }  # fmt: skip
    write_requests(folder.table("requests", key), requests)


WARMUP, DAY0, DAY1 = (
    ShardDay("warmup", 0, 0, 0), ShardDay("twin", 0, 0, 0), ShardDay("twin", 0, 1, 0),
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    zeros = np.zeros(10, np.int32)
    items = ItemTable(
        video_id_N=np.arange(10, dtype=np.int32), author_id_N=zeros, category_N=zeros,
        duration_ms_N=zeros, upload_ms_N=np.zeros(10, np.int64),
        content_ND=np.zeros((10, 2), np.float32),
    )  # fmt: skip
    write_items(folder.items(0), items)
    for i, key in enumerate((WARMUP, DAY0, DAY1)):
        write_day(folder, key, first=10 * (i + 1), watermark=2 * i, second=100 * (i + 1))
    return folder


def change(folder: RunFolder, table: str, key: ShardDay, *expressions: pl.Expr) -> None:
    """Damages a file, which the library's own writer would refuse to write."""
    path = folder.table(table, key)
    pl.read_parquet(path, hive_partitioning=False).with_columns(*expressions).write_parquet(path)


def test_a_whole_run_is_clean_and_counted(run: RunFolder) -> None:
    found = check_log(run.root)
    assert problems(found) == {}
    assert found.status == CLEAN
    assert found.format == "a run"
    twin = next(f for f in found.files if f.name == "impressions/arm=twin/replicate=0")
    assert dataclasses.astuple(twin)[1:6] == (8, 2, 4, 200_000, 300_001)
    assert twin.rates["is_click"] == 0.25
    assert found.facts["share of candidates shown"] == 4 / 20
    assert found.facts["arm=twin/replicate=0: impressions per user"]["p50"] == 6
    assert found.facts["arm=twin/replicate=0: history of a request"] == {
        "min": 0, "p10": 0, "p50": 2, "p90": 4, "p99": 4, "max": 4,
    }  # fmt: skip
    assert set(found.rows.values()) == {10, 4, 2}
    assert len(found.rows) == 7


IMPRESSIONS, REQUESTS = "impressions/arm=twin/replicate=0", "requests/arm=twin/replicate=0"
WORLD = "arm=twin/replicate=0: "


@pytest.mark.parametrize(
    ("table", "damage", "expected"),
    [
        ("impressions", pl.lit(2, pl.Int8).alias("is_like"),
         {f"{IMPRESSIONS}: is_like is not 0 or 1": 4}),
        ("impressions", pl.lit(1, pl.Int32).alias("video_id"),
         {f"{IMPRESSIONS}: the video is logged more than once for its request": 4}),
        ("impressions", (pl.col("video_id") + 50).alias("video_id"),
         {f"{WORLD}impressions: was not a candidate of its request, and is_rand is 0": 4}),
        ("impressions", (1 - pl.col("user_id")).alias("user_id"),
         {f"{WORLD}impressions: is of another user than its request": 4}),
        ("impressions", (pl.col("time_ms") - 150_000).alias("time_ms"),
         {f"{WORLD}impressions: is earlier than its request": 4,
          f"{WORLD}impressions: time_ms of the user goes back": 2}),
        ("impressions", pl.lit(-5, pl.Int32).alias("play_time_ms"),
         {f"{IMPRESSIONS}: play_time_ms is negative": 4}),
        ("requests", pl.lit(9, pl.Int32).alias("watermark"),
         {f"{WORLD}requests: watermark counts impressions that are later than the request": 2}),
        ("requests", pl.lit(30, pl.Int64).alias("request_id"),
         {f"{REQUESTS}: request_id is there more than once": 2}),
        ("requests", (pl.col("candidates").list.eval(pl.element() // 2)).alias("candidates"),
         {f"{REQUESTS}: a candidate is there more than once": 2}),
        ("requests", pl.col("channels").list.head(3).alias("channels"),
         {f"{REQUESTS}: channels and candidates differ in number": 2}),
        ("requests", (pl.col("candidates").list.eval(pl.element() * 3)).alias("candidates"),
         {f"{WORLD}candidates: video_id is not in the catalogue": 12,
          f"{WORLD}impressions: was not a candidate of its request, and is_rand is 0": 3}),
    ],
)  # fmt: skip
def test_each_broken_rule_of_a_run_is_counted(
    run: RunFolder, table: str, damage: pl.Expr, expected: dict[str, int]
) -> None:
    change(run, table, DAY1, damage)
    found = check_log(run.root)
    assert found.status == PROBLEMS
    assert problems(found) == expected
    for each in found.problems:
        assert 1 <= len(each.examples) <= 3
        in_file = "file day=001/shard=00.parquet, row " in each.examples[0]
        assert in_file or each.where.endswith("candidates"), "an example says where it is"


def test_one_damaged_file_hides_no_other(run: RunFolder) -> None:
    path = run.table("impressions", DAY0)
    path.write_bytes(path.read_bytes()[:-9])
    change(run, "impressions", DAY1, pl.lit(3, pl.Int8).alias("is_click"))
    change(run, "requests", DAY1, pl.col("watermark").cast(pl.Float64).alias("watermark"))
    run.table("requests", WARMUP).unlink()
    found = problems(check_log(run.root))
    day = "arm=twin/replicate=0/day="
    assert any(
        rule.startswith(f"log/impressions/{day}000/shard=00.parquet: is not a whole Parquet file")
        for rule in found
    )
    assert found[f"{IMPRESSIONS}: is_click is not 0 or 1"] == 4
    column = "column watermark is Float64, must be int32"
    assert found[f"log/requests/{day}001/shard=00.parquet: {column}"] == 1
    missing = "log/requests/arm=warmup/replicate=0/day=000/shard=00.parquet"
    assert found[f"{missing}: there is no such file"] == 1
    assert len(found) == 4, found


def test_nulls_and_nan_are_found_where_they_are(run: RunFolder) -> None:
    change(run, "impressions", DAY1,
           pl.when(pl.col("video_id") > 2).then("time_ms").alias("time_ms"),
           pl.lit(float("nan")).alias("play_time_ms"))  # fmt: skip
    found = problems(check_log(run.root))
    name = "log/impressions/arm=twin/replicate=0/day=001/shard=00.parquet"
    assert found[f"{name}: time_ms is null"] == 2
    assert found[f"{name}: play_time_ms is NaN or infinite"] == 4
    assert found[f"{name}: column play_time_ms is Float64, must be int32"] == 1


def test_oddities_are_notes(run: RunFolder) -> None:
    change(run, "impressions", DAY1, pl.lit(95_000, pl.Int32).alias("play_time_ms"))
    change(run, "requests", DAY1, pl.lit(1, pl.Int32).alias("watermark"))
    found = check_log(run.root)
    assert found.status == CLEAN
    assert notes(found) == {
        f"{IMPRESSIONS}: play_time_ms is more than ten times duration_ms": 4,
        f"{IMPRESSIONS}: long_view is not what play_time_ms >= min(duration_ms, 18000) says": 4,
        f"{WORLD}requests: watermark leaves out impressions that are earlier than the request": 2,
    }


def test_a_committed_file_that_was_changed_is_found(run: RunFolder) -> None:
    run.table("timings", DAY0).parent.mkdir(parents=True)
    run.table("timings", DAY0).write_bytes(b"")
    run.state(DAY0).parent.mkdir(parents=True)
    run.state(DAY0).write_bytes(b"")
    run.commit(DAY0, {})
    assert check_log(run.root).status == CLEAN
    change(run, "impressions", DAY0, pl.lit(1, pl.Int8).alias("is_click"))
    (problem,) = check_log(run.root).problems
    assert "its checksum is not the committed one" in problem.rule


# KuaiRand.


@pytest.fixture
def kuairand(tmp_path: Path) -> Path:
    data = tmp_path / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)
    (data / "log_standard_4_08_to_4_21_pure.csv").write_text(text(FIRST))
    (data / "log_standard_4_22_to_5_08_pure.csv").write_text(text(SECOND))
    (data / "log_random_4_22_to_5_08_pure.csv").write_text(text(RANDOM))
    (data / "video_features_basic_pure.csv").write_text(VIDEOS)
    return data.parent


LOG = "data/log_standard_4_08_to_4_21_pure.csv"


def test_kuairand_is_counted_per_file(kuairand: Path) -> None:
    found = check_log(kuairand)
    assert problems(found) == {}
    file = next(f for f in found.files if f.name == LOG)
    assert (file.rows, file.users, file.items) == (12, 2, 11)
    assert file.last_ms - file.first_ms == 90_000_000
    assert file.rates["is_click"] == pytest.approx(3 / 12)
    assert found.facts["impressions per user"]["max"] == 8
    assert notes(found)[f"{LOG}: video_id is not in the file of features"] == 1


def test_every_problem_of_a_kuairand_log_is_found_in_one_go(kuairand: Path) -> None:
    lines = [
        *FIRST,
        row(7, 1, 0, is_click=1, long_view=1),  # a copy
        row(7, 11, 70, is_click=2),
        row(7, 12, 71, play=-3),
        row(7, 13, 72).replace(",1000,", ",soon,"),
        row(7, 14, 73).replace("7,14,", "7,,"),
        row(77, 15, 74, play=95_000, long_view=1, is_click=1),
    ]
    (kuairand / LOG).write_text(text(lines)[:-1])
    random = kuairand / "data" / "log_random_4_22_to_5_08_pure.csv"
    random.write_text(text([row(7, 5, 60.2), row(7, 3, 61.2, is_rand=1)]))
    (kuairand / "data" / "video_features_basic_pure.csv").write_text(
        VIDEOS + VIDEOS.splitlines()[1] + "\n"
    )
    found = check_log(kuairand)
    random_name = "data/log_random_4_22_to_5_08_pure.csv"
    assert problems(found) == {
        f"{LOG}: its last line has no end: is it truncated?": 1,
        f"{LOG}: is_click is not 0 or 1": 1,
        f"{LOG}: play_time_ms is not in [0, 2^31)": 1,
        f"{LOG}: play_time_ms is not a number": 1,
        f"{LOG}: video_id is empty": 1,
        f"{random_name}: is_rand is 0 in the log of random slots": 1,
        "data/video_features_basic_pure.csv: video_id is there more than once": 2,
    }
    assert found.status == PROBLEMS
    examples = {each.rule: each.examples for each in found.problems}
    # Line 1 is the header; FIRST has 12 rows, the copy is line 14.
    assert examples["is_click is not 0 or 1"] == (
        "line 15, user_id 7, video_id 11, time_ms 1649548870000, is_click 2",
    )
    assert examples["play_time_ms is not a number"] == ("line 17, play_time_ms soon",)
    odd = notes(found)
    assert odd["all logs: rows repeat another's user_id, video_id, time_ms"] == 1
    assert odd[f"{LOG}: play_time_ms is more than ten times duration_ms"] == 1


def test_files_of_kuairand_that_are_missing_or_no_log_are_named(kuairand: Path) -> None:
    (kuairand / "data" / "video_features_basic_pure.csv").unlink()
    (kuairand / LOG).write_text("user_id,what\n1,2\n")
    found = problems(check_log(kuairand))
    assert found["data/video_features_basic_pure.csv: there is no such file"] == 1
    assert found[f"{LOG}: column video_id is missing"] == 1
    assert found[f"{LOG}: column time_ms is missing"] == 1


def test_a_log_without_a_readable_row_is_unusable(kuairand: Path) -> None:
    for path in (kuairand / "data").iterdir():
        path.write_bytes(b"")
    found = check_log(kuairand)
    assert found.status == UNUSABLE
    assert len(found.problems) >= 4


# MovieLens.


def test_every_problem_of_movielens_is_found_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,A,Drama\n2,B,Drama\n2,C,Drama\n")
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1,5.0,10\n1,2,7.5,20\n1,9,3.0,30\n-4,1,3.0,\n1,1,4.0,50"
    )
    found = check_log(tmp_path)
    assert problems(found) == {
        "movies.csv: movieId is there more than once": 2,
        "ratings.csv: its last line has no end: is it truncated?": 1,
        "ratings.csv: timestamp is empty": 1,
        "ratings.csv: rating is not in [0.5, 5]": 1,
        "ratings.csv: userId is not in [0, 2^31)": 1,
        "ratings.csv: movieId is not in movies.csv": 1,
        "ratings.csv: rows repeat another's userId, movieId": 1,
    }
    ratings = next(f for f in found.files if f.name == "ratings.csv")
    assert ratings.rows == 5
    assert ratings.rates["is_click"] == 3 / 5


# EB-NeRD.


@pytest.fixture
def ebnerd(tmp_path: Path) -> Path:
    behaviors().write_parquet(tmp_path / "behaviors.parquet")
    histories().write_parquet(tmp_path / "history.parquet")
    return tmp_path


def test_a_whole_split_is_clean_and_counted(ebnerd: Path) -> None:
    found = check_log(ebnerd)
    assert problems(found) == {}
    assert found.facts["candidates"] == 8
    assert found.facts["share of candidates shown"] == 1.0
    assert found.facts["is_click per candidate"] == 4 / 8
    lengths = found.facts["clicks before the log per user"]
    assert (lengths["min"], lengths["max"]) == (1, 2)
    assert [file.rows for file in found.files] == [len(ROWS), len(HISTORIES)]


def test_every_problem_of_a_split_is_found_in_one_go(ebnerd: Path) -> None:
    bad = [
        *ROWS,
        (53, 1, 90, [101, 101], [101], -1.0),
        (54, None, 90, [101], [999], 3.0),
        (55, 1, 90, [], [], None),
    ]
    behaviors(bad).write_parquet(ebnerd / "behaviors.parquet")
    late = histories().with_columns(pl.col("read_time_fixed").list.head(1))
    pl.concat([late, late.head(1)]).write_parquet(ebnerd / "history.parquet")
    pl.concat([ARTICLES, ARTICLES.head(1)]).write_parquet(ebnerd / "articles.parquet")
    found = check_log(ebnerd)
    assert problems(found) == {
        "articles.parquet: article_id is there more than once": 2,
        "behaviors.parquet: user_id is null": 1,
        "behaviors.parquet: impression_id is there more than once": 2,
        "behaviors.parquet: nothing is in view": 1,
        "behaviors.parquet: a click is on what was not in view": 1,
        "behaviors.parquet: next_read_time is negative or not finite": 1,
        "history.parquet: user_id is there more than once": 2,
        "history.parquet: read_time_fixed and article_id_fixed differ in length": 2,
    }
    assert notes(found)["behaviors.parquet: an article is not in articles.parquet"] == 7
    assert notes(found)["behaviors.parquet: an article is in view more than once"] == 1


def test_a_split_whose_files_are_cut_off_is_unusable(ebnerd: Path) -> None:
    for name in ("behaviors", "history"):
        path = ebnerd / f"{name}.parquet"
        path.write_bytes(path.read_bytes()[:-4])
    found = check_log(ebnerd)
    assert found.status == UNUSABLE
    assert sum("not a whole Parquet file" in each.rule for each in found.problems) == 2


# Any damage.


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_ends_a_check_before_its_report(
    run: RunFolder, kuairand: Path, ebnerd: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for root in (run.root, kuairand, ebnerd):
        files = sorted(path for path in root.rglob("*.*") if path.is_file())
        for path in rng.choice(np.array(files, object), 2, replace=False):
            data = bytearray(path.read_bytes())
            if rng.random() < 0.3:
                data = data[: rng.integers(len(data))]
            for _ in range(4 if len(data) else 0):
                data[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(data)
        found = check_log(root)
        json.dumps(found.to_dict(), allow_nan=False)


def reads(read: Callable[[], object]) -> bool:
    try:
        read()
    except LogError:
        return False
    return True


@pytest.mark.parametrize("seed", range(12))
def test_a_check_is_clean_where_reading_succeeds(
    kuairand: Path, ebnerd: Path, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    films = tmp_path / "films"
    films.mkdir()
    (films / "movies.csv").write_text(MOVIES)
    (films / "ratings.csv").write_text(RATINGS)
    for path in sorted([*films.iterdir(), *(kuairand / "data").iterdir()]):
        if rng.random() < 0.3:
            lines = [line.split(",") for line in path.read_text().splitlines()]
            bad = lines[rng.integers(len(lines))]
            values = ["", "x", "-1", "0", "1", "1.5", "3000000000", "nan"]
            bad[rng.integers(len(bad))] = str(rng.choice(values))
            path.write_text("\n".join(map(",".join, lines)) + "\n")
    for path in sorted(ebnerd.glob("*.parquet")):
        table = pl.read_parquet(path)
        name = str(rng.choice(table.columns))
        damaged = (
            table,
            table.drop(name),
            table.with_columns(pl.when(pl.int_range(pl.len()) > 0).then(name).alias(name)),
            table.with_columns(pl.col(name).reverse()),
            pl.concat([table, table.head(1)]),
            table.with_columns(pl.lit("x").alias(name)),
        )
        damaged[rng.choice(6, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])].write_parquet(path)
    asked = ReadSettings(num_sampled=1)
    assert reads(lambda: read_movielens(films, num_sampled=1)) == (not check_log(films).problems)
    read = reads(lambda: read_kuairand(kuairand, asked, min_history=0))
    assert read == (not check_log(kuairand).problems)
    read = reads(lambda: read_ebnerd(ebnerd, asked, min_history=0))
    assert read == (not check_log(ebnerd).problems)


# The command.


def test_the_command_ends_with_the_status_and_writes_json(kuairand: Path, tmp_path, capsys) -> None:
    target = tmp_path / "check.json"
    assert main(["data", "check", str(kuairand), "--json", str(target)]) == 0
    assert "no problems" in capsys.readouterr().out
    assert json.loads(target.read_text())["format"] == "KuaiRand"
    (kuairand / LOG).write_text(text([row(7, 1, 0, is_hate=9)]))
    assert main(["data", "check", str(kuairand)]) == 1
    printed = capsys.readouterr().out
    assert "is_hate is not 0 or 1 (1)" in printed
    assert "line 2, user_id 7" in printed
    assert main(["data", "check", str(kuairand), "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == 1
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["data", "check", str(kuairand), "--json", "no/such/folder/x.json"]) == 2


def test_a_folder_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="is no folder of a known format"):
        check_log(tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="no real logs are on this machine")
def test_real_logs_are_clean() -> None:
    for name in ("movielens_small", "ebnerd_fixture"):
        found = check_log(SHARED / name)
        assert problems(found) == {}
        assert found.status == CLEAN

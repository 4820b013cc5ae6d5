"""`python -m ifa_ray abtest` on logs that no simulator wrote: CSV and Parquet, paired or not."""

import csv
import json

import numpy as np
import polars as pl
import pytest

from ifa_ray.abtest import analyze
from ifa_ray.abtest.logs import open_own_logs, parse_log
from ifa_ray.cli import main
from ifa_ray.errors import ConfigError, LogError

DAY_MS = 86_400_000
START = 20_000 * DAY_MS  # 2024-10-04


def impressions(seed, users, days=4, lift=0.0):
    """Plays of these users; each has a taste of its own that lasts."""
    rng = np.random.default_rng(seed)
    users = np.asarray(users)
    taste = np.random.default_rng(5).lognormal(0, 0.5, 100_000)[users]
    user = np.repeat(np.arange(len(users)), 6 * days)
    day = np.tile(np.repeat(np.arange(days), 6), len(users))
    plays = 5_000 * taste[user] * rng.lognormal(0, 0.3, len(user)) * np.exp(lift)
    return pl.DataFrame(
        {
            "user_id": users[user],
            "time_ms": START + day * DAY_MS + rng.integers(0, DAY_MS, len(user)),
            "video_id": rng.integers(0, 50, len(user)),
            "play_time_ms": plays.astype(np.int64),
            "duration_ms": rng.integers(4_000, 60_000, len(user)),
            "is_click": (plays > 7_000).astype(np.int8),
        }
    )


@pytest.fixture
def halves(tmp_path):
    """An unpaired test with a lift of 15%: 400 users of even number against 400 of odd."""
    impressions(1, range(0, 800, 2)).write_parquet(tmp_path / "control.parquet")
    impressions(2, range(1, 800, 2), lift=0.15).write_csv(tmp_path / "treatment.csv")
    return [str(tmp_path / "control.parquet"), str(tmp_path / "treatment.csv")]


def run(*arguments):
    return main(["abtest", *map(str, arguments)])


def test_a_platforms_test_from_parquet_and_csv_to_a_verdict(halves, tmp_path, capsys):
    out = tmp_path / "report"
    assert run("--log", *halves, "--out", out) == 0
    said = capsys.readouterr().out
    assert "treatment is better than control: +" in said
    assert "another training of them may differ" in said
    assert "Watch time, s per user" in said
    assert "metrics need what this log lacks: content, is_comment" in said
    assert sorted(p.name for p in out.iterdir()) == [
        "report.csv", "report.html", "report.md", "result.json",
    ]  # fmt: skip
    result = json.loads((out / "result.json").read_text())
    low, high = result["ab"]["effects"]["treatment"]["watch_time"]["checkpoint"]["interval"]
    assert low < np.expm1(0.15) < high
    assert [check["name"] for check in result["ab"]["health"]] == [
        "sample ratio", "complete logs", "finite numbers",
    ]  # fmt: skip


def test_a_pre_period_inside_of_the_logs_narrows_the_interval(halves):
    plain = analyze(open_own_logs(halves))["effects"]["treatment"]["watch_time"]["checkpoint"]
    # The first day counts as before, though the treatment had begun: what narrows is the point.
    with_pre = analyze(open_own_logs(halves, pre="1"))
    row = with_pre["effects"]["treatment"]["watch_time"]["checkpoint"]
    assert row["se"] < 0.5 * plain["se"]
    assert with_pre["days"] == 3
    assert with_pre["segments"]["treatment"]["history"]["rows"]
    assert "d2q" in with_pre["effects"]["treatment"]


def test_a_column_that_only_one_arm_has_answers_nothing(halves):
    pl.read_csv(halves[1]).drop("is_click", "duration_ms").write_csv(halves[1])
    result = analyze(open_own_logs(halves, pre="1"))
    assert not {"clicks", "completions", "d2q"} & set(result["effects"]["treatment"])
    assert {"name": "clicks", "label": "Clicks", "lacks": ["is_click"]} in result["skipped"]


def test_a_past_in_which_control_saw_nobody_is_no_past(halves):
    later = pl.read_parquet(halves[0]).filter(pl.col("time_ms") >= START + DAY_MS)
    later.write_parquet(halves[0])
    result = analyze(open_own_logs(halves, pre="1"))
    assert result["segments"]["treatment"] is None
    assert "d2q" not in result["effects"]["treatment"]


def test_dates_and_days_say_the_same_period(halves):
    by_days = open_own_logs(halves, pre="2")
    by_dates = open_own_logs(halves, pre="2024-10-04:2024-10-05")
    assert analyze(by_days) == analyze(by_dates)


def test_a_pre_period_of_its_own_log(halves, tmp_path):
    impressions(3, range(800)).write_parquet(tmp_path / "before.parquet")
    result = analyze(open_own_logs(halves, pre=str(tmp_path / "before.parquet")))
    assert result["days"] == 4
    row = result["effects"]["treatment"]["watch_time"]["checkpoint"]
    assert np.expm1(0.05) < row["interval"][0] < np.expm1(0.15) < row["interval"][1]


def test_paired_users_need_no_past(tmp_path):
    for name, seed, lift in (("a", 1, 0.0), ("b", 2, 0.05)):
        impressions(seed, range(200), lift=lift).write_parquet(tmp_path / f"{name}.parquet")
    paths = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    result = analyze(open_own_logs(paths, paired=True))
    assert result["verdicts"]["b"]["decision"] == "better"
    assert result["platform"]["b"]["rows"][0]["price"] > 3


def test_three_replicates_of_each_arm_are_decided_over_replicates(tmp_path):
    logs = []
    for arm, lift in (("a", 0.0), ("b", 0.1)):
        for r in range(3):
            path = tmp_path / f"{arm}{r}.parquet"
            impressions(10 * r + (arm == "b"), range(60), lift=lift).write_parquet(path)
            logs.append(f"{arm}={path}")
    result = analyze(open_own_logs(logs, paired=True))
    assert result["replicates"] == 3
    assert result["effects"]["b"]["watch_time"]["df"] == 2
    assert "may differ" not in result["verdicts"]["b"]["line"]


def test_units_may_be_texts_and_have_a_name_of_their_own(tmp_path):
    frames = [impressions(1, range(0, 40, 2)), impressions(2, range(1, 40, 2))]
    for text in (False, True):
        for name, frame in zip("ab", frames, strict=True):
            unit = pl.col("user_id")
            if text:
                unit = pl.format("device-{}", unit)
            frame.with_columns(unit.alias("device")).drop("user_id").write_csv(
                tmp_path / f"{name}{text}.csv"
            )
    read = [
        analyze(open_own_logs([f"{n}={tmp_path / n}{text}.csv" for n in "ab"], unit="device"))
        for text in (False, True)
    ]
    numbers = [result["effects"]["b"]["watch_time"]["checkpoint"] for result in read]
    assert numbers[0]["interval"] == pytest.approx(numbers[1]["interval"])


def test_a_catalogue_adds_diversity(halves, tmp_path):
    items = pl.DataFrame(
        {"video_id": range(50), "author_id": range(50), "category": [i % 5 for i in range(50)]}
    )
    items.write_csv(tmp_path / "items.csv")
    out = tmp_path / "out"
    assert run("--log", *halves, "--items", tmp_path / "items.csv", "--fixed-k", 5, "--pre", 1,
               "--out", out) == 0  # fmt: skip
    names = set(json.loads((out / "result.json").read_text())["ab"]["effects"]["treatment"])
    assert {"categories_k", "misfit", "novelty", "coverage"} <= names
    assert "distance" not in names  # there are no content vectors
    rows = list(csv.DictReader((out / "report.csv").open()))
    assert {row["metric"] for row in rows} == names
    assert all(row["basis"] == "users" for row in rows if row["low"])


def test_dropping_a_tenth_of_one_arms_users_forbids_the_verdict(tmp_path, capsys):
    impressions(1, range(0, 4000, 2), days=1).write_parquet(tmp_path / "a.parquet")
    impressions(2, range(1, 3400, 2), days=1, lift=1.0).write_parquet(tmp_path / "b.parquet")
    assert run("--log", tmp_path / "a.parquet", tmp_path / "b.parquet") == 1
    said = capsys.readouterr().out
    assert "FAILED sample ratio: b has 1,700 users and a 2,000" in said
    assert "No verdict on b: failed sample ratio" in said


def test_a_paired_arm_that_lost_users_forbids_the_verdict(tmp_path, capsys):
    impressions(1, range(200)).write_parquet(tmp_path / "a.parquet")
    impressions(2, range(180), lift=1.0).write_parquet(tmp_path / "b.parquet")
    assert run("--paired", "--log", tmp_path / "a.parquet", tmp_path / "b.parquet") == 1
    assert "FAILED equal users: On the first day b lacks 20 users" in capsys.readouterr().out


def broken(tmp_path, **columns):
    frame = impressions(1, range(0, 40, 2)).with_columns(**columns)
    frame.write_parquet(tmp_path / "a.parquet")
    impressions(2, range(1, 40, 2)).write_parquet(tmp_path / "b.parquet")
    return [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"play_time_ms": pl.when(pl.col("video_id") > 0).then("play_time_ms")},
         r"a.parquet: play_time_ms holds \d+ nulls, must hold none"),
        ({"user_id": pl.when(pl.col("video_id") > 0).then("user_id")}, "user_id holds"),
        ({"play_time_ms": pl.lit(-1)}, r"min\(play_time_ms\) == -1, must be >= 0"),
        ({"is_click": pl.lit(2)}, "is_click goes from 2 to 2, must be 0 or 1"),
        ({"is_click": pl.lit("yes")}, "is_click is String, must be whole numbers"),
        ({"user_id": pl.col("user_id") + 1}, "20 units are in both a and b .the first is 1."),
        ({"user_id": pl.lit(1)}, "1 units"),
        ({"user_id": pl.col("user_id").cast(pl.String)}, "units of the logs are"),
        ({"user_id": pl.col("user_id").cast(pl.Float64)}, "must be a whole number or text"),
    ],
)  # fmt: skip
def test_broken_logs_are_refused_with_place_and_rule(tmp_path, columns, message):
    with pytest.raises(LogError, match=message):
        open_own_logs(broken(tmp_path, **columns))


def test_absent_columns_are_named_with_the_near_miss(tmp_path):
    logs = broken(tmp_path)
    pl.read_parquet(logs[0]).rename({"play_time_ms": "play_time"}).write_parquet(logs[0])
    with pytest.raises(LogError, match=r"lacks the column play_time_ms; .*Did you mean"):
        open_own_logs(logs)


def test_paired_arms_without_a_common_unit_are_refused(tmp_path):
    with pytest.raises(LogError, match="no unit in common: they aren't paired"):
        open_own_logs(broken(tmp_path), paired=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "c"}, "control == 'c', must be one of a, b"),
        ({"aa_arm": "a"}, "aa_arm == 'a', must be another arm"),
        ({"pre": "9"}, "pre == '9', must leave days"),
        ({"pre": "nowhere.csv"}, "pre == 'nowhere.csv', must be a number of days"),
        ({"pre": "2024-13-01:2024-13-02"}, "must be a date"),
        ({"burn_in_days": 4}, "burn_in_days == 4"),
        ({"alpha": 2.0}, "alpha == 2.0"),
    ],
)
def test_settings_that_break_a_rule_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        open_own_logs(broken(tmp_path), **changes)


def test_logs_of_the_same_name_must_be_named(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        impressions(1, range(9)).write_csv(tmp_path / folder / "log.csv")
    paths = [str(tmp_path / folder / "log.csv") for folder in ("x", "y")]
    with pytest.raises(ConfigError, match="give NAME=PATH"):
        open_own_logs(paths)
    with pytest.raises(LogError, match="replicates differ"):
        open_own_logs([f"a={paths[0]}", f"a={paths[1]}", f"b={paths[1]}"])


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    folder = tmp_path / "arm=twin"
    folder.mkdir()
    assert parse_log(str(folder)) == (None, folder)
    assert parse_log(f"mine={folder}") == ("mine", folder)


def test_a_mistake_ends_with_one_line_and_status_2(tmp_path, capsys):
    assert run("--log", tmp_path / "none.csv", tmp_path / "none2.csv") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help_teaches_by_examples(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    for part in ("--paired", "play_time_ms", "examples:", "CUPED", "status 0"):
        assert part in said

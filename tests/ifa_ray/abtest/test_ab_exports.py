"""Renderings of a result: byte for byte as last looked at, as tables, and side by side."""

import copy
import csv
import io
import json
import re
from pathlib import Path

import pytest
from test_ab_report import Outline

from ifa_ray.abtest.report.render import (
    COMPARED,
    CSV_COLUMNS,
    render_comparison,
    render_csv,
    render_markdown,
    render_report,
    write_comparison,
)
from ifa_ray.abtest.text import interval, percent
from ifa_ray.cli import main
from ifa_ray.errors import ConfigError, LogError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def result():
    return json.loads((GOLDEN / "result.json").read_text())


@pytest.mark.parametrize(
    ("name", "render"),
    [("report.html", render_report), ("report.md", render_markdown), ("report.csv", render_csv)],
)
def test_renderings_are_the_golden_ones(result, name, render):
    # After a deliberate change: python tests/ifa_ray/abtest/make_golden.py, and look at it.
    assert render(result) == (GOLDEN / name).read_text()


def test_csv_holds_every_metric_in_full_precision(result):
    ab = result["ab"]
    rows = list(csv.DictReader(io.StringIO(render_csv(result))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["metric"] for row in rows] == [metric["name"] for metric in ab["metrics"]]
    for row in rows:
        effect = ab["effects"]["ifa"][row["metric"]]
        key = "difference" if row["scale"] == "absolute" else "relative"
        assert float(row["effect"]) == effect[key]
        assert [float(row["low"]), float(row["high"])] == effect["interval"]
        assert row["basis"] == "replicates"


def test_markdown_is_one_table_whose_rows_have_as_many_cells(result):
    text = render_markdown(result)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(result["ab"]["metrics"])
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert result["ab"]["verdicts"]["ifa"]["line"] in text


def test_exports_of_two_replicates_say_that_intervals_are_of_users(result):
    made = copy.deepcopy(result)
    made["ab"]["replicates"] = 2
    for effect in made["ab"]["effects"]["ifa"].values():
        effect |= dict.fromkeys(("interval", "acceptance_region", "p", "se", "df"))
    assert "Intervals over users, as trained." in render_markdown(made)
    assert {row["basis"] for row in csv.DictReader(io.StringIO(render_csv(made)))} == {"users"}


def other_run(result):
    made = copy.deepcopy(result)
    made["run"] |= {"seed": 78, "config_hash": "beef", "preset": "standard"}
    made["ab"]["effects"]["ifa"]["watch_time"] |= {"relative": 0.0123, "interval": [-0.01, 0.035]}
    made["health"].append({"name": "complete logs", "ok": False, "detail": "day 3 is gone"})
    return made


def test_the_comparison_shows_each_runs_own_numbers_and_health(result):
    html = render_comparison({"first": result, "second": other_run(result)})
    outline = Outline(html)
    text = outline.text
    for run in (result, other_run(result)):
        row = run["ab"]["effects"]["ifa"]["watch_time"]
        assert f"{percent(row['relative'])} {interval(row['interval'])} over replicates" in text
        assert str(run["run"]["seed"]) in text
    assert "Configs differ" in text
    assert "failed complete logs" in text
    # The second run's health failed: nothing of it looks decided.
    assert text.count("no verdict") == 1
    assert len(outline.headings) == len(COMPARED)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<script|\bon\w+=", html)


def test_the_comparison_leaves_out_metrics_that_a_run_lacks(result):
    made = other_run(result)
    del made["ab"]["effects"]["ifa"]["d2q"]
    text = Outline(render_comparison({"a": result, "b": made})).text
    assert "D2Q" not in text


def test_comparing_from_the_command_line(tmp_path, result, capsys):
    for name, made in (("one", result), ("two", other_run(result))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(made))
    folders = [str(tmp_path / name) for name in ("one", "two")]
    assert main(["abtest", "--compare", *folders, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'comparison.html'}\n"
    assert "2 runs side by side" in (tmp_path / "comparison.html").read_text()


def test_what_can_not_be_compared_is_named(tmp_path, result):
    with pytest.raises(LogError, match=r"result\.json"):
        write_comparison([tmp_path], tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({**result, "schema_version": 1}))
    with pytest.raises(LogError, match="schema_version == 1"):
        write_comparison([tmp_path], tmp_path)
    with pytest.raises(ConfigError, match="folders of different names"):
        write_comparison([tmp_path, tmp_path], tmp_path)


def test_the_comparison_in_markdown_has_a_row_for_each_arm(result):
    text = render_comparison({"one": result, "two": other_run(result)}, "md")
    sections = text.split("## ")[1:]
    assert [section.splitlines()[0] for section in sections] == ["one", "two"]
    assert "FAILED complete logs" in sections[1]
    for section in sections:
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == result["ab"]["arms"]
        cells = {row.count("|") for row in section.splitlines() if row.startswith("|")}
        assert len(cells) == 1
    watch = result["ab"]["effects"]["ifa"]["watch_time"]
    assert f"{percent(watch['relative'])}" in sections[0]
    assert interval(watch["interval"]) in sections[0]


def test_the_comparison_asks_the_control_trained_again_for_watch_time_alone(result):
    made = copy.deepcopy(result)
    ab = made["ab"]
    ab["arms"], ab["aa_arm"] = [*ab["arms"], "aa"], "aa"
    ab["aa"] = {**ab["effects"]["ifa"]["watch_time"], "arm": "aa"}
    ab["levels"]["aa"] = ab["levels"]["ifa"]
    row = next(line for line in render_comparison({"a": made}, "md").splitlines() if "`aa`" in line)
    assert percent(ab["aa"]["relative"]) in row
    assert row.endswith("| \N{EN DASH} |")

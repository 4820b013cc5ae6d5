import json

from benchmarks import world
from benchmarks.world_stages import Result


def test_the_quick_benchmark_measures_every_part(tmp_path, capsys):
    path = tmp_path / "world.json"
    world.main(["--quick", "--json", str(path)])
    document = json.loads(path.read_text())
    rows = {(row["part"].split(",")[0].split()[0], row["name"]) for row in document["results"]}
    for wanted in (
        ("world", "index of retrieval"), ("warm-up", "whole loop"), ("retrieval", "all channels"),
        ("rest", "exposure"), ("rest", "response"), ("rest", "transition"),
        ("rest", "response kernel alone"), ("closed", "a request"), ("50", "history"),
    ):  # fmt: skip
        assert wanted in rows
    # Memory is a difference, and below 0 where what earlier work had is given back meanwhile.
    differences = ("memory that only this process has", "pages of the files in memory")
    figures = [row for row in document["results"] if not row["name"].startswith(differences)]
    assert len(figures) == len(document["results"]) - 2
    assert all(row["p50"] > 0 for row in figures)
    assert "numba" in document["machine"]
    assert "bytes/impression" in capsys.readouterr().out


def result(part, name, unit, value):
    return Result.of(part, name, unit, [value])


def test_a_missed_target_is_said_to_be_missed():
    lines = world.verdicts([
        result("retrieval, C = 10,000", "all channels", "ms", 5.1),
        result("warm-up of 9 users", "whole loop", "impressions/s", 30_000.0),
        result("warm-up of 9 users", "whole loop", "users/s", 1.0),
    ])  # fmt: skip
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["missed", "met"]
    assert "5.1 ms, wanted <= 5" in lines[0]


def test_a_figure_is_the_median_of_its_trials():
    row = Result.of("part", "name", "ms", [4.0, 1.0, 3.0, 2.0, 10.0])
    assert (row.p25, row.p50, row.p75, row.trials) == (2.0, 3.0, 4.0, 5)

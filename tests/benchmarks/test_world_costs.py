import json

from benchmarks import world
from benchmarks.world import Result


def test_the_quick_benchmark_measures_every_part(tmp_path, capsys):
    path = tmp_path / "world.json"
    world.main(["--quick", "--json", str(path)])
    document = json.loads(path.read_text())
    rows = {(row["part"].split(",")[0].split()[0], row["name"]) for row in document["results"]}
    assert rows >= {
        ("world", "index of retrieval"),
        ("warm-up", "whole loop"),
        ("retrieval", "all channels"),
        ("closed", "a request"),
        ("50", "history"),
    }
    assert all(row["p50"] > 0 for row in document["results"])
    assert "numba" in document["machine"]
    assert "bytes/impression" in capsys.readouterr().out


def test_a_missed_target_is_said_to_be_missed():
    lines = world.verdicts(
        [
            Result("retrieval, C = 10,000", "all channels", "ms", [5.1]),
            Result("warm-up of 9 users", "whole loop", "impressions/s", [30_000.0]),
            Result("warm-up of 9 users", "whole loop", "users/s", [1.0]),
        ]
    )
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["missed", "met"]
    assert "5.1 ms, wanted <= 5" in lines[0]


def test_a_figure_is_the_median_of_its_trials():
    assert Result("part", "name", "ms", [4.0, 1.0, 3.0, 2.0, 10.0]).quartiles == [2.0, 3.0, 4.0]

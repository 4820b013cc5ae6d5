import json

from benchmarks import set_step


def test_the_quick_benchmark_times_every_step(tmp_path, capsys):
    path = tmp_path / "costs.json"
    set_step.main(["--quick", "--json", str(path)])
    document = json.loads(path.read_text())
    assert [row["set_step"] for row in document["results"]] == ["off", "mmr", "dpp", "learned"]
    assert document["results"][0]["step_ms"] == 0
    assert all(row["rank_ms"] > 0 for row in document["results"])
    assert "learned" in capsys.readouterr().out

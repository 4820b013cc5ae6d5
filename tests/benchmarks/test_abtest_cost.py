import json

from benchmarks.abtest import main, write_logs


def test_logs_have_the_asked_number_of_rows(tmp_path):
    rows = write_logs(tmp_path, 20_000)
    assert abs(rows["control"] + rows["treatment"] - 20_000) < 50
    assert abs(rows["before"] - 2_000) < 10


def test_the_command_is_measured_and_its_numbers_have_context(tmp_path, capsys):
    main(["--impressions", "20000", "--json", str(tmp_path / "out" / "abtest.json")])
    found = json.loads((tmp_path / "out" / "abtest.json").read_text())
    assert 0.1 < found["peak_gib"] < 2
    assert found["cpu_s"] > 0.5
    assert found["machine"]["cores"] >= 1
    assert "20,000 impressions" in capsys.readouterr().out

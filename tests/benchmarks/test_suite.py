import importlib
import json

import pytest

from benchmarks import __main__ as suite


@pytest.mark.parametrize("name", sorted(suite.SUITE))
def test_every_module_is_there_and_takes_the_arguments_it_is_given(name, capsys):
    benchmark = suite.SUITE[name]
    module = importlib.import_module(f"benchmarks.{benchmark.module}")
    with pytest.raises(SystemExit) as ended:
        module.main([*benchmark.arguments, "--json", "x.json", "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_results_and_verdicts_are_kept_and_what_cannot_be_measured_is_said(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setitem(suite.SUITE, "kernels", suite.Benchmark("kernels", "parts", ("--quick",)))
    assert suite.main(["--only", "gpu,kernels", "--out", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "== 1 of 2: kernels" in said, "in the suite's order"
    assert said.rstrip().endswith(f"results: {tmp_path}")
    found = json.loads((tmp_path / "verdicts.json").read_bytes())["verdicts"]
    assert found["kernels"] == json.loads((tmp_path / "kernels.json").read_bytes())["verdicts"]
    assert len(found["kernels"]) == 2
    assert found["gpu"] == ["  the same request on a GPU: not measured"]
    for line in found["kernels"] + found["gpu"]:
        assert line in said.partition("== verdicts")[2]


def test_one_that_breaks_is_named_and_the_others_are_run(tmp_path, capfd, monkeypatch):
    (tmp_path / "kernels.json").write_text('{"verdicts": ["old: met"]}')
    monkeypatch.setitem(suite.SUITE, "kernels", suite.Benchmark("no_such_module", "parts"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert suite.main(["--only", "kernels,gpu", "--out", str(tmp_path)]) == 1
    said = capfd.readouterr().out
    assert "broke: kernels" in said
    assert "old: met" not in said
    assert "the same request on a GPU: not measured" in said


def test_verdicts_are_counted_by_kind():
    found = {
        "one": ["  a: 3 ms, wanted <= 4: met", "  b: 5 ms, wanted <= 4: missed; it is far"],
        "two": ["  c: not measured"],
        "three": [],
    }
    lines = suite.summary(found).splitlines()
    assert lines[-1] == "1 met, 1 missed, 1 not measured"
    assert "three" not in lines


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        suite.main(["--only", "kernel"])
    assert "only == 'kernel', must be of: rank_latency" in capsys.readouterr().err


def test_the_list_says_what_each_answers(capsys):
    assert suite.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(suite.SUITE)

"""`python -m ifa_ray evaluate`: tables and JSON, files, and mistakes in one line."""

import io
import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ifa_ray.cli import main
from ifa_ray.evaluation import EvaluationConfig
from ifa_ray.progress import CommandProgress

ARGUMENTS = (
    "--models ifa,twin --seeds 2 --max-requests 24 --candidates-sampled 5 --width 8 --top-k 5 "
    "--timed-requests 3 --counts on --max-history 30 --tower-widths 8,4"
)


@pytest.fixture(scope="module")
def kept(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("command") / "out"
    assert call(films, out) == 0
    return out


def call(films: Path, out: Path, *more: str) -> int:
    """Evaluates; the second time nothing but the output is left to do."""
    return main(["evaluate", "--data", str(films), "--out", str(out), *ARGUMENTS.split(), *more])


def test_the_command_prints_tables_and_writes_json(
    films: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    assert call(films, kept, "--json", str(target)) == 0
    shown, said = capsys.readouterr()
    for text in ("AUC", "GAUC minus twin's, paired by seed", "Cost of a request", "peak, MiB",
                 "last 12 requests", "24 of 160 possible requests", "rating >= 4",
                 "channel, user, category, author", "towers 8-4", "p, Holm"):  # fmt: skip
        assert text in shown
    assert shown.splitlines()[-1] == str(kept)
    assert "4 runs were finished before; 0 are missing" in said
    mean = json.loads(target.read_text())["summary"]["ifa"]["auc"]["impression"]["estimate"]["mean"]
    assert f"{mean:.4f}" in shown


def test_json_on_standard_output_is_nothing_but_json(
    films: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(films, kept, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    settings = EvaluationConfig.from_dict(found["config"])
    assert settings.models == ("ifa", "twin")
    assert settings.cross_features == ("channel", "user", "category", "author")
    assert found["seeds"] == [0, 1]
    assert found["provenance"]["versions"]["torch"]
    cell = found["summary"]["ifa"]["auc"]["is_click"]
    ours, theirs = (
        [r["second_half"]["auc"]["is_click"] for r in found["runs"] if r["model"] == name]
        for name in ("ifa", "twin")
    )
    assert cell["estimate"]["mean"] == pytest.approx(sum(ours) / 2)
    gain = sum(a - b for a, b in zip(ours, theirs, strict=True)) / 2
    assert cell["minus_control"]["mean"] == pytest.approx(gain)
    assert found["summary"]["twin"]["auc"]["is_click"]["minus_control"] is None
    assert found["cost"]["ifa"]["rank_ms"] > 0


def test_the_folder_holds_a_table_to_paste_and_a_figure(kept: Path) -> None:
    text = (kept / "table.md").read_text()
    assert "| ifa | 0." in text
    assert ElementTree.parse(kept / "pareto.svg").getroot().tag.endswith("svg")
    assert json.loads((kept / "evaluation.json").read_text())["settings_hash"] in text


def test_mistakes_end_with_one_line_and_status_2(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(films)]
    for arguments, message in (
        (["--data", str(tmp_path)], "holds neither ratings.csv"),
        ([*data, "--models", "ifa_pluss"], "Did you mean 'ifa_plus'"),
        ([*data, "--max-requests", "-5"], "max_requests == -5, must be >= 0"),
        ([*data, "--jobs", "0"], "jobs == 0, must be >= 1"),
        ([*data, "--replicate", "all"], "replicate == 'all', must be a number >= 0, or each"),
        ([*data, "--replicate", "each"], "seed == 0, must be a replicate of"),
        ([*data, "--tower-widths", "8;4"], "tower_widths == '8;4', must be of type"),
        ([], "data == None, must be given"),
        ([*data, "--cross-features", "autor"], "Did you mean 'author'"),
        ([*data, "--counts", "on", "--cross-features", "author"], "counts == 'on', must be left"),
        ([*data, "--json", str(tmp_path / "no" / "x")], "in a folder that exists"),
    ):
        assert main(["evaluate", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err
        assert captured.out == ""


def test_progress_in_a_pipe_is_a_line_now_and_then() -> None:
    stream, ticks = io.StringIO(), itertools.count()
    with CommandProgress(stream, clock=lambda: float(next(ticks))) as progress:
        progress.tell("1 runs were finished before", None)
        for done in range(1, 41):
            progress.tell(f"batch {done} of 40", done / 80)
    lines = stream.getvalue().splitlines()
    assert "1 runs were finished before" in lines[0]
    assert 2 <= len(lines) - 1 <= 5, "one line for ten seconds"
    assert all("%, batch" in line and "ETA" in line for line in lines[1:])

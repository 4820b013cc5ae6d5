"""A comparison that keeps its runs: killed, continued, grown, and refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from films import config, write_films

from ifa_ray.errors import ConfigError, LogError
from ifa_ray.evaluation import EvaluationConfig, evaluate
from ifa_ray.evaluation.runs import EvaluationFolder, run_all

ROOT = Path(__file__).parents[3]


class Heard:
    """What an evaluation tells: lines, and phases."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.phases: set[str] = set()

    def __call__(self, text: str, share: float | None) -> None:
        if share is None:
            self.lines.append(text)
        else:
            assert 0 <= share <= 1
            self.phases.add(text.split(", batch")[0])


@pytest.fixture(scope="module")
def kept(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "out"
    evaluate(config(films), out=out)
    return out


def again(settings: EvaluationConfig, out: Path) -> Heard:
    heard = Heard()
    evaluate(settings, out=out, tell=heard)
    return heard


def test_a_killed_comparison_continues_to_the_same_numbers(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = "--models avg_pooling,ifa,twin --seeds 2 --candidates-sampled 9 --width 8 --top-k 5 "
    flags += "--max-requests 0 --timed-requests 0 --jobs 2"
    process = subprocess.Popen(
        [sys.executable, "-m", "ifa_ray", "evaluate", "--data", str(films), "--out", str(out),
         *flags.split()], cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == [], "workers end with their parent"
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*.json")}
    assert 1 <= len(before) < 6

    settings = config(
        films, models=["avg_pooling", "ifa", "twin"], max_requests=0, timed_requests=0
    )
    heard = Heard()
    evaluation = evaluate(settings, out=out, tell=heard)
    assert heard.lines == [
        f"{len(before)} runs were finished before; {6 - len(before)} are missing"
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    wanted = [(model, seed) for seed in (0, 1) for model in settings.models]
    whole = list(run_all(settings, wanted, 1, lambda *_: None))
    for ours, theirs in zip(evaluation.runs, whole, strict=True):
        assert (ours.model, ours.seed, ours.stream) == (theirs.model, theirs.seed, theirs.stream)
        assert ours.whole.to_dict() == theirs.whole.to_dict()
        assert ours.second_half.to_dict() == theirs.second_half.to_dict()


def test_nothing_is_done_twice(films: Path, kept: Path) -> None:
    table = (kept / "table.md").read_text()
    heard = again(config(films), kept)
    assert heard.lines == ["4 runs were finished before; 0 are missing"]
    assert heard.phases == set()
    now = (kept / "table.md").read_text()
    assert now.splitlines()[:-1] == table.splitlines()[:-1]  # the last line holds the date


def test_a_comparison_can_grow(films: Path, kept: Path) -> None:
    heard = again(config(films, models=["avg_pooling", "twin"], seeds=3), kept)
    assert heard.phases == {"avg_pooling, seed 2", "twin, seed 2"}
    # Models must be measured in turns, so a new one means measuring all.
    heard = again(config(films, models=["ifa", "twin"], first_seed=1, seeds=1), kept)
    assert heard.lines == ["1 runs were finished before; 1 are missing"]
    assert "measuring costs: memory" in heard.phases
    found = json.loads((kept / "evaluation.json").read_text())
    assert found["seeds"] == [1]
    assert found["cost"].keys() == {"ifa", "twin"}


def test_other_settings_or_data_are_refused_and_nothing_is_changed(
    films: Path, kept: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in kept.rglob("*.json")}
    for other, message in (
        (config(films, width=16), "width == 16, must be 8, with which"),
        (config(films, cross_features=["author"]), r"cross_features == \['author'\], must be"),
        (config(write_films(tmp_path)), r"data == .*, with which"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(other, out=kept)
    assert {path: path.read_bytes() for path in kept.rglob("*.json")} == before


def test_a_call_that_failed_before_its_first_run_binds_nobody(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    with pytest.raises(LogError):
        evaluate(config(tmp_path / "absent"), out=out)
    small = config(films, models=["avg_pooling"], seeds=1, max_requests=40, timed_requests=0)
    assert len(evaluate(small, out=out).runs) == 1


def test_a_folder_of_something_else_is_refused(films: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"must be absent, empty or of an .* thesis\.txt"):
        evaluate(config(films), out=tmp_path)
    with pytest.raises(ConfigError, match="must be a folder"):
        evaluate(config(films), out=tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_runs_are_named(films: Path, tmp_path: Path) -> None:
    settings = config(films, models=["avg_pooling"], seeds=1)
    folder = EvaluationFolder(tmp_path / "out", settings)
    folder.open()
    [run] = run_all(settings, [("avg_pooling", 0)], 1, lambda *_: None)
    folder.save(run)
    assert folder.load("avg_pooling", 0) == run
    path = folder.path("avg_pooling", 0)
    whole = path.read_text()
    for damage, message in (
        (whole[:50], "avg_pooling-seed=0.json: not a record"),
        (whole.replace('"second_half"', '"third"'), "not a run of a model; delete it"),
    ):
        path.write_text(damage)
        with pytest.raises(LogError, match=message):
            folder.load("avg_pooling", 0)

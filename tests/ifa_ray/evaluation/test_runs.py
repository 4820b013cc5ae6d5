"""Models over streams: the same requests for all, and the same numbers in any process."""

import json
from pathlib import Path
from typing import Any

import pytest
from films import config

from ifa_ray.errors import LogError
from ifa_ray.evaluation import EvaluationConfig, ModelRun
from ifa_ray.evaluation.result import part_ends
from ifa_ray.evaluation.runs import fingerprint, read_seed, run_all
from ifa_ray.training.sources import SampleStream, read_stream
from simulator.__main__ import main as simulate


def nothing(*_: object) -> None:
    pass


def run_here(settings: EvaluationConfig, jobs: int = 1, on_progress: Any = nothing) -> Any:
    wanted = [(model, seed) for seed in settings.seed_range for model in settings.models]
    return list(run_all(settings, wanted, jobs, on_progress))


def quality(runs: list[ModelRun]) -> dict[tuple[str, int], Any]:
    """Everything but the clocks."""
    return {
        (run.model, run.seed): (run.stream, run.whole.to_dict(), run.second_half.to_dict())
        for run in runs
    }


def test_every_model_meets_the_same_requests_and_steps(films: Path) -> None:
    calls: list[tuple[str, int, int, int]] = []
    runs = run_here(config(films), on_progress=lambda *c: calls.append(c))
    assert [(r.model, r.seed) for r in runs] == [
        ("avg_pooling", 0), ("twin", 0), ("avg_pooling", 1), ("twin", 1),
    ]  # fmt: skip
    sizes = {(r.whole.steps, r.whole.samples, r.whole.candidates) for r in runs}
    assert sizes == {(10, 40, 400)}
    assert {r.second_half.samples for r in runs} == {20}
    assert runs[0].stream == runs[1].stream != runs[2].stream
    assert calls[:2] == [("avg_pooling", 0, 1, 10), ("avg_pooling", 0, 2, 10)]
    assert len(calls) == 40


def test_the_parts_are_the_whole_stream_in_order(films: Path) -> None:
    runs = run_here(config(films, models=["avg_pooling"]))
    for run in runs:
        # Ten batches of four requests in eight parts.
        assert [part.samples for part in run.curve] == [4, 4, 4, 8, 4, 4, 4, 8]
        assert sum(part.candidates for part in run.curve) == run.whole.candidates
        assert sum(part.seconds for part in run.curve) == pytest.approx(run.whole.seconds)
    assert part_ends(runs) == [4, 8, 12, 20, 24, 28, 32, 40]


def test_an_evaluation_repeats_in_any_process_and_seeds_differ(films: Path) -> None:
    settings, calls = config(films, models=["ifa", "twin"], first_seed=3), []
    first = quality(run_here(settings))
    assert first == quality(run_here(settings, 2, lambda *c: calls.append(c)))
    assert first["ifa", 3] != first["ifa", 4]
    assert {call[2:] for call in calls} == {(10, 10)}


def test_a_failure_in_a_job_is_raised_as_it_was(films: Path) -> None:
    settings = config(films / "nowhere", models=["twin"], seeds=1)
    with pytest.raises(LogError, match=r"holds neither ratings\.csv"):
        run_here(settings, jobs=2)


def test_a_stream_is_read_once_for_each_seed(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[object] = []

    def watched(*arguments: Any, **settings: Any) -> SampleStream:
        seeds.append(settings["seed"])
        return read_stream(*arguments, **settings)

    monkeypatch.setattr("ifa_ray.evaluation.runs.read_stream", watched)
    run_here(config(films, seeds=3, models=["avg_pooling", "twin"], max_requests=8))
    assert seeds == [0, 1, 2]


def test_seeds_read_replicates_of_a_warm_up_log(tmp_path: Path) -> None:
    flags = "--preset smoke --users 3 --replicates 2 --requests 3 --candidates 30 --processes 1"
    assert simulate(["log", *flags.split(), "--out", str(tmp_path / "log")]) == 0
    each = config(tmp_path / "log", models=["avg_pooling"], max_requests=0)
    first, second = (read_seed(each, seed) for seed in (0, 1))
    assert "replicate 0, the warm-up alone; 9 of 9" in first.notes[0]
    assert "replicate 1" in second.notes[0]
    assert fingerprint(first) != fingerprint(second)
    one = config(tmp_path / "log", models=["avg_pooling"], replicate=1, max_requests=0)
    assert fingerprint(read_seed(one, 0)) == fingerprint(second)
    assert [run.whole.samples for run in run_here(each)] == [9, 9]


def test_a_stream_of_one_batch_has_no_second_half_and_is_refused(films: Path) -> None:
    with pytest.raises(LogError, match="4 requests, must be more than one batch of 4"):
        run_here(config(films, max_requests=4))


def test_a_run_survives_json(films: Path) -> None:
    [run] = run_here(config(films, models=["avg_pooling"], seeds=1))
    assert ModelRun.from_dict(json.loads(json.dumps(run.to_dict(), allow_nan=False))) == run


def test_a_model_learns_what_the_log_shows(films: Path) -> None:
    settings = config(films, models=["ifa"], seeds=1, max_requests=0, learning_rate=1e-2)
    [run] = run_here(settings)
    gauc = run.second_half.gauc["is_click"]
    assert gauc is not None
    assert gauc > 0.6, "the liked genre can be told from the history"

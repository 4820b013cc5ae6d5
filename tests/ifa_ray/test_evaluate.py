import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ifa_ray.cli import main
from ifa_ray.errors import ConfigError
from ifa_ray.evaluate import (
    EvaluationConfig,
    ModelRun,
    difference,
    estimate,
    evaluate,
    model_estimate,
    to_json,
)
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.loop import StreamMetrics
from ifa_ray.training.sources import SampleStream, read_stream

REAL = Path(__file__).parents[3] / "shared" / "data" / "movielens_small"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ratings log of 40 users and 40 films: a user rates and likes mostly those of one genre."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(4)
    genres = ("Action", "Comedy", "Drama", "Western")
    lines = [f"{film},Film {film},{genres[film % 4]}" for film in range(1, 41)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *lines, ""]))
    rows, time_s = [], itertools.count(1000)
    rows += [(0, film, 3.0, next(time_s)) for film in range(1, 41)]
    for user in range(1, 41):
        liked = np.arange(1, 41) % 4 == user % 4
        chance = np.where(liked, 8.0, 1.0) / np.where(liked, 8.0, 1.0).sum()
        for film in rng.choice(np.arange(1, 41), 9, replace=False, p=chance):
            rows.append((user, film, 5.0 if liked[film - 1] else 2.0, next(time_s)))
    text = [f"{u},{f},{s},{t}" for u, f, s, t in rows]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *text, ""]))
    return folder


def config(films: Path, **settings: object) -> EvaluationConfig:
    values = {
        "data": str(films), "models": ["avg_pooling", "twin"], "seeds": 2, "num_sampled": 9,
        "width": 8, "top_k": 5, "max_requests": 40, "timed_requests": 3,
    } | settings  # fmt: skip
    return EvaluationConfig.from_dict(values)


def ticks() -> Iterator[float]:
    return (float(t) for t in itertools.count())


def fake_run(model: str, seed: int, value: float | None) -> ModelRun:
    each = dict.fromkeys(OBJECTIVES, value)
    metrics = StreamMetrics(
        steps=1, samples=1, candidates=1, loss=0.0, auc=each, gauc=each, log_loss=each,
        calibration=each, seconds=0.0,
    )  # fmt: skip
    return ModelRun(
        model=model, seed=seed, second_half=metrics, whole=metrics, train_ms=1.0, rank_ms=1.0
    )


def test_an_estimate_is_mean_standard_error_and_t_interval() -> None:
    found = estimate([0.5, 0.6, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.standard_error == pytest.approx(0.1 / math.sqrt(3))
    # The 97.5% quantile of t with 2 degrees of freedom is 4.302653.
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    alone = estimate([0.5])
    assert (alone.mean, alone.standard_error, alone.half_width) == (0.5, None, None)
    assert estimate([0.5, None]).mean is None


def test_differences_are_paired_by_seed_whatever_the_order_of_runs() -> None:
    runs = [
        fake_run("ifa", 1, 0.75),
        fake_run("twin", 0, 0.50),
        fake_run("ifa", 0, 0.625),
        fake_run("twin", 1, 0.625),
    ]
    found = difference(runs, "ifa", "twin", "auc", "is_click")
    assert (found.mean, found.standard_error) == (0.125, 0.0)
    error = model_estimate(runs, "ifa", "auc", "is_click").standard_error
    assert error == pytest.approx(0.0625)
    undefined = [*runs, fake_run("ifa", 2, None), fake_run("twin", 2, 0.5)]
    assert difference(undefined, "ifa", "twin", "auc", "is_click").mean is None


def test_every_model_meets_the_same_requests_and_steps(films: Path) -> None:
    clock = ticks()
    calls: list[tuple[str, int, int, int]] = []
    runs, stream = evaluate(
        config(films), on_progress=lambda *c: calls.append(c), clock=lambda: next(clock)
    )
    assert [(r.model, r.seed) for r in runs] == [
        ("avg_pooling", 0), ("twin", 0), ("avg_pooling", 1), ("twin", 1),
    ]  # fmt: skip
    sizes = {(r.whole.steps, r.whole.samples, r.whole.candidates) for r in runs}
    assert sizes == {(10, 40, 400)}
    assert {r.second_half.samples for r in runs} == {20}
    # This clock ticks once a reading: a step of 4 requests takes 1 s, a ranking 1 s.
    assert {(r.train_ms, r.rank_ms) for r in runs} == {(250.0, 1000.0)}
    assert calls[:2] == [("avg_pooling", 0, 1, 10), ("avg_pooling", 0, 2, 10)]
    assert len(calls) == 40
    assert len(stream.samples) == 40


def test_an_evaluation_repeats_and_seeds_differ(films: Path) -> None:
    settings = config(films, models=["ifa"])
    first, again = evaluate(settings)[0], evaluate(settings)[0]
    assert [r.whole.to_dict() for r in first] == [r.whole.to_dict() for r in again]
    assert first[0].whole.auc != first[1].whole.auc


def test_a_seed_draws_the_candidates_too(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[object] = []

    def watched(*arguments: object, **settings: object) -> SampleStream:
        seeds.append(settings["seed"])
        return read_stream(*arguments, **settings)

    monkeypatch.setattr("ifa_ray.evaluate.read_stream", watched)
    evaluate(config(films, seeds=3, models=["avg_pooling"], max_requests=4))
    assert seeds == [0, 1, 2]


def test_a_model_learns_what_the_log_shows(films: Path) -> None:
    settings = config(films, models=["ifa"], seeds=1, max_requests=0, learning_rate=1e-2)
    [run] = evaluate(settings)[0]
    gauc = run.second_half.gauc["is_click"]
    assert gauc is not None
    assert gauc > 0.6, "the liked genre can be told from the history"


def test_the_json_form_holds_everything_and_no_nan(films: Path) -> None:
    settings = config(films)
    runs, stream = evaluate(settings)
    found = json.loads(json.dumps(to_json(settings, runs, stream.notes), allow_nan=False))
    assert EvaluationConfig.from_dict(found["config"]) == settings
    assert found["seeds"] == [0, 1]
    assert found["provenance"]["versions"]["torch"]
    cell = found["summary"]["avg_pooling"]["gauc"]["is_click"]
    one, other = (r.second_half.gauc["is_click"] for r in runs if r.model == "avg_pooling")
    assert one is not None
    assert other is not None
    assert cell["estimate"]["mean"] == pytest.approx((one + other) / 2)
    assert found["summary"]["twin"]["auc"]["is_click"]["minus_control"] is None
    assert any("of 160 possible requests used" in note for note in found["notes"])
    assert dataclasses.asdict(runs[0])["seed"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ["twn"]}, "models == 'twn', must be one of .* Did you mean 'twin'"),
        ({"control": "twn"}, "control == 'twn', must be one of"),
        ({"models": []}, r"models == \(\), must be at least one name"),
        ({"models": ["ifa", "ifa"]}, "must be unique names"),
        ({"seeds": 0}, "seeds == 0, must be >= 1"),
        ({"max_requests": -1}, "max_requests == -1, must be >= 0"),
        ({"batch_size": -4}, "batch_size == -4, must be >= 1"),
        ({"width": 9}, "width == 9, must be a multiple of num_heads"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    films: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(films, **settings)


ARGUMENTS = ("--seeds", "2", "--max-requests", "24", "--candidates-sampled", "5", "--width", "8",
             "--top-k", "5")  # fmt: skip


def test_the_command_prints_tables_and_writes_json(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    status = main(["evaluate", "--data", str(films), "--models", "ifa,twin", *ARGUMENTS,
                   "--json", str(target)])  # fmt: skip
    shown = capsys.readouterr().out
    assert status == 0
    for text in ("AUC", "GAUC minus twin's, paired by seed", "Milliseconds per request",
                 "last 12 requests", "24 of 160 possible requests", "rating >= 4"):  # fmt: skip
        assert text in shown
    mean = json.loads(target.read_text())["summary"]["ifa"]["auc"]["impression"]["estimate"]["mean"]
    assert f"{mean:.4f}" in shown


def test_json_on_standard_output_is_nothing_but_json(
    films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["evaluate", "--data", str(films), "--models", "ifa", *ARGUMENTS, "--json", "-"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["config"]["models"] == ["ifa"]


def test_mistakes_end_with_one_line_and_status_2(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--data", str(tmp_path)], "holds neither ratings.csv"),
        (["--data", str(films), "--models", "ifa_pluss"], "Did you mean 'ifa_plus'"),
        (["--data", str(films), "--max-requests", "-5"], "max_requests == -5, must be >= 0"),
        (["--data", str(films), "--threads", "0"], "threads == 0, must be >= 1"),
        (["--data", str(films), "--json", str(tmp_path / "no" / "x")], "in a folder that exists"),
    ):
        assert main(["evaluate", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert message in captured.err
        assert captured.out == ""


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "GAUC" in shown


@pytest.mark.skipif(not REAL.exists(), reason="the MovieLens folder is not on this machine")
def test_models_learn_from_the_real_log() -> None:
    settings = EvaluationConfig(
        data=str(REAL), models=("avg_pooling",), seeds=1, max_requests=300, timed_requests=2
    )
    [run] = evaluate(settings)[0]
    gauc = run.second_half.gauc["impression"]
    assert gauc is not None
    assert gauc > 0.55

"""Quality along the stream: parts that are all of it, in order, and lines one can tell apart."""

import dataclasses
from pathlib import Path

import pytest
from films import config, fake_evaluation, fake_run

from ifa_ray.evaluation import ModelRun, evaluate
from ifa_ray.evaluation.figures import learning_svg
from ifa_ray.evaluation.result import part_ends, part_means
from ifa_ray.evaluation.tables import tables


def rising(model: str, seed: int, values: list[float | None]) -> ModelRun:
    parts = [fake_run(model, seed, value).whole for value in values]
    parts = [dataclasses.replace(part, samples=10) for part in parts]
    return dataclasses.replace(fake_run(model, seed, 0.5), curve=tuple(parts))


def test_the_parts_are_the_whole_stream_in_order(films: Path, tmp_path: Path) -> None:
    found = evaluate(config(films, models=["avg_pooling"], timed_requests=0), out=tmp_path / "out")
    for run in found.runs:
        # Ten batches of four requests in eight parts.
        assert [part.samples for part in run.curve] == [4, 4, 4, 8, 4, 4, 4, 8]
        assert sum(part.candidates for part in run.curve) == run.whole.candidates
        assert sum(part.seconds for part in run.curve) == pytest.approx(run.whole.seconds)
        assert [part.steps for part in run.curve[-4:]] == [1, 1, 1, 2]
    assert part_ends(found.runs) == [4, 8, 12, 20, 24, 28, 32, 40]
    [table] = [t for t in tables(found) if t.title.startswith("Along the stream")]
    assert table.columns[1] == "to 4"
    assert len(table.rows[0]) == 9
    assert "AUC of p(click|candidate)" in (tmp_path / "out" / "learning.svg").read_text()


def test_means_are_over_seeds_and_not_defined_where_one_is_not() -> None:
    runs = [rising("twin", 0, [0.5, 0.6, None]), rising("twin", 1, [0.7, 0.7, 0.9])]
    means = part_means(runs, "twin")
    assert means[2] is None
    assert [round(mean, 9) for mean in means[:2] if mean is not None] == [0.6, 0.65]


def test_five_lines_are_drawn_the_control_among_them() -> None:
    models = ["avg_pooling", "din", "sim_hard", "sim_soft", "ifa", "ifa_plus", "twin"]
    runs = [rising(m, 0, [0.5, 0.6 + i / 100]) for i, m in enumerate(reversed(models))]
    text = learning_svg(fake_evaluation(runs))
    assert text is not None
    drawn = [model for model in models if f">{model} " in text]
    assert drawn == ["avg_pooling", "din", "sim_hard", "sim_soft", "twin"]
    assert "twin and the best of the others" in text

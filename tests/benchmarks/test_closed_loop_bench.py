import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.closed_loop import Lived, equal_share, verdicts
from benchmarks.naive_models import FORMS, in_form
from benchmarks.synthetic import catalogue, request
from ifa_ray.config import CROSS_FEATURES, ModelConfig
from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError
from ifa_ray.models import build_model
from ifa_ray.ranker import ModelRanker

ROOT = Path(__file__).parents[2]
ITEMS = catalogue(300, seed=0)


def config(name, **more):
    return ModelConfig(
        name=name, width=16, top_k=5, max_history=90, tower_widths=(16, 8), id_buckets=500,
        author_buckets=100, user_buckets=50, **more,
    )  # fmt: skip


@pytest.mark.parametrize("cross_features", [("channel",), CROSS_FEATURES])
@pytest.mark.parametrize("name", ["ifa", "ifa_plus"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_scores_as_the_fast_one_does(form, name, cross_features):
    model = build_model(config(name, cross_features=cross_features), ITEMS, seed=3)
    slow = in_form(form, model, ITEMS)
    model.freeze()
    slow.freeze()
    sizes = ((70, 90), (70, 0), (3, 1))
    asked = [request(ITEMS, m, n, seed=1, number=i) for i, (m, n) in enumerate(sizes)]
    batch = build_batch(asked, ITEMS, model.config)
    with torch.inference_mode():
        found, expected = slow.log_probabilities(batch), model.log_probabilities(batch)
    real = batch.mask_BC
    assert torch.allclose(found[real], expected[real], atol=2e-5, rtol=0)
    assert not torch.equal(found[real], expected[real])  # they are other computations


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_same_slate(form):
    model = build_model(config("ifa"), ITEMS, seed=3)
    slow = ModelRanker(in_form(form, model, ITEMS), ITEMS, version=7)
    fast = ModelRanker(model, ITEMS, version=7)
    asked = [request(ITEMS, 120, 80, seed=2, number=number) for number in range(5)]
    for one, other in zip(slow.rank(asked), fast.rank(asked), strict=True):
        assert np.array_equal(one.ids_K, other.ids_K)


def test_a_model_without_a_naive_form_is_refused():
    with pytest.raises(ConfigError, match="model == 'twin'"):
        in_form("naive", build_model(config("twin"), ITEMS, seed=0), ITEMS)


def test_an_impression_is_equal_only_if_all_of_it_is():
    one = {"user_id": np.array([1, 1, 2]), "video_id": np.array([5, 6, 5])}
    other = {"user_id": np.array([2, 1, 3]), "video_id": np.array([5, 5, 6])}
    assert equal_share(one, one) == 1
    assert equal_share(one, other) == pytest.approx(2 / 3)


LIVED = Lived(
    model="ifa", form="naive", candidates=10, history=10, requests=5, trials=1, requests_per_s=2.0,
    whole_per_s=1.0, ranked_per_s=3.0, times_naive=1.0, impressions=40, equal=0.9,
)  # fmt: skip


def test_a_slower_loop_and_other_impressions_are_misses():
    fast = dataclasses.replace(LIVED, form="fast", requests_per_s=1.0, equal=1.0)
    first, second = verdicts([LIVED, fast])
    assert "0.50x requests/s, wanted > 1x: missed" in first
    assert "90.00% of impressions equal, wanted >= 99.5%: missed" in second


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "sub" / "loop.json"
    command = [sys.executable, "-m", "benchmarks.closed_loop", "--quick", "--models", "ifa"]
    done = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_every_form_lives_the_same_requests_to_the_same_impressions(quick):
    _, document = quick
    rows = document["results"]
    assert [row["form"] for row in rows] == ["naive", "plain", "fast"]
    assert len({row["requests"] for row in rows}) == 1
    assert rows[0]["impressions"] > 20
    assert all(row["equal"] >= 0.995 for row in rows)
    assert all(row["ranked_per_s"] > row["requests_per_s"] > row["whole_per_s"] for row in rows)


def test_each_form_gets_its_verdicts(quick):
    text, _ = quick
    assert text.count("x requests/s, wanted > 1x") == 2
    assert text.count("100.00% of impressions equal, wanted >= 99.5%: met") == 2

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from ranking_cases import ITEMS, N, make_model, make_request

from ifa_ray.config import ModelConfig
from ifa_ray.cuda.graphs import GraphedModel, unrecorded
from ifa_ray.data.features import build_batch
from ifa_ray.errors import ConfigError, RankerError, RequestError
from ifa_ray.models import MODELS
from ifa_ray.plugins import load_ranker_class
from ifa_ray.ranking.ranker import ModelRanker, RandomRanker
from ifa_ray.schema import OBJECTIVES, History, validate_response


class FixedModel:
    """Gives what it is told to, as log-probabilities of a click."""

    def __init__(self, log_p_by_id):
        self.config = ModelConfig(name="ifa")
        self.device = torch.device("cpu")
        self.log_p_by_id = log_p_by_id

    def freeze(self):
        pass

    def log_probabilities(self, batch, _cached=None):
        ids = batch.candidate_rows_BC[0] - 1
        scores = torch.tensor([self.log_p_by_id[i] for i in ids.tolist()])
        return scores[None, :, None].expand(1, -1, len(OBJECTIVES))


def ranked_by(log_p_by_id, k):
    request = dataclasses.replace(
        make_request(), candidates_C=np.array(list(log_p_by_id), np.int32), k=k
    )
    ranker = ModelRanker(FixedModel(log_p_by_id), ITEMS, version=3)
    return ranker.rank([request])[0]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_slate_is_the_top_k_of_the_models_log_probabilities(name):
    model = make_model(name)
    request = make_request()
    response = ModelRanker(model, ITEMS, version=4).rank([request])[0]
    validate_response(request, response)
    with torch.no_grad():
        log_p = model.log_probabilities(build_batch([request], ITEMS, model.config))[0]
    clicks = log_p[:, OBJECTIVES.index("is_click")]
    best = clicks.argsort(descending=True)[:10]
    assert response.ids_K.tolist() == request.candidates_C[best.numpy()].tolist()
    np.testing.assert_allclose(response.scores_K, clicks[best], atol=1e-5)
    np.testing.assert_allclose(response.probabilities_KL, log_p[best].exp(), rtol=1e-5)
    assert response.model_version == 4
    assert response.request_id == request.request_id
    assert response.ids_K.dtype == np.int32
    assert response.scores_K.dtype == np.float32


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_score_does_not_depend_on_what_else_was_asked(name):
    ranker = ModelRanker(make_model(name), ITEMS, version=0)
    asked = [make_request(40 - i, seed=i) for i in range(4)]
    together = ranker.rank(asked)
    for request, response in zip(reversed(asked), reversed(together), strict=True):
        alone = ranker.rank([request])[0]
        assert alone.ids_K.tolist() == response.ids_K.tolist()
        assert alone.scores_K.tolist() == response.scores_K.tolist()


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="bf16"):
        ModelRanker(make_model(), ITEMS, version=0, precision="bf61")


def graphed_ranker(model, version=0, **more):
    by_graphs = GraphedModel.of_ranker(model).log_probabilities
    return ModelRanker(model, ITEMS, version=version, score_all=by_graphs, **more)


@pytest.mark.parametrize("set_step", ["off", "mmr"])
def test_a_ranker_with_graphs_gives_the_same_slates_whatever_is_asked(set_step, monkeypatch):
    monkeypatch.setattr("ifa_ray.cuda.graphs._CANDIDATES", (16, 64, 128))
    step = {"set_step": set_step, "set_strength": 1.0, "set_pool": 4}
    plain = ModelRanker(make_model(**step), ITEMS, version=5)
    with unrecorded():
        graphed = graphed_ranker(make_model(**step), version=5)
    # 150 candidates fit no bucket; each size comes twice, as buffers are used again.
    asked = [
        make_request(m, k=3, seed=m + again) for m in (150, 5, 16, 17, 100) for again in (0, 1)
    ]
    asked.append(dataclasses.replace(asked[0], history=History.empty()))
    for one, other in zip(plain.rank(asked), graphed.rank(asked), strict=True):
        assert one.ids_K.tolist() == other.ids_K.tolist()
        np.testing.assert_allclose(one.scores_K, other.scores_K, atol=2e-5)
        np.testing.assert_allclose(one.probabilities_KL, other.probabilities_KL, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_graphs_are_refused_where_nothing_records_them():
    with pytest.raises(ConfigError, match=r"graphs == True, must be False with a model on cpu"):
        graphed_ranker(make_model())


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        *((n, "fp32", f"must be False with the model {n}:") for n in sorted({*MODELS} - {"ifa"})),
        ("ifa", "bf16", "precision == 'bf16', must be 'fp32'"),
    ],
)
def test_graphs_are_refused_of_models_that_look_into_a_batch(name, precision, message):
    with unrecorded(), pytest.raises(ConfigError, match=message):
        graphed_ranker(make_model(name), precision=precision)


def test_scores_are_rounded_and_ties_go_by_id():
    response = ranked_by({9: -1.0, 4: -1.000001, 7: -0.999999, 2: -1.1, 5: -0.5}, k=4)
    assert response.ids_K.tolist() == [5, 4, 7, 9]
    np.testing.assert_allclose(response.scores_K, [-0.5, -1.0, -1.0, -1.0], rtol=1e-6)
    assert ranked_by(dict.fromkeys([8, 3, 6, 1], -2.0), k=2).ids_K.tolist() == [1, 3]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_by_name(bad):
    with pytest.raises(RankerError, match=r"request 0: score of candidate 6 == .*version 3"):
        ranked_by({1: -1.0, 6: bad, 7: -2.0}, k=1)


def test_a_diverged_model_is_refused():
    for name in MODELS:
        model = make_model(name)
        with torch.no_grad():
            model.items.category.weight.fill_(math.nan)
        with pytest.raises(RankerError, match="must be finite"):
            ModelRanker(model, ITEMS, version=0).rank([make_request()])


def test_the_rule_of_the_config_is_used():
    request = make_request()
    slates = {
        rule: ModelRanker(make_model(ranking_rule=rule), ITEMS, version=0).rank([request])[0]
        for rule in ("pitctr", "long_view")
    }
    assert slates["pitctr"].scores_K.tolist() != slates["long_view"].scores_K.tolist()


def test_rank_ms_is_read_from_the_clock_once_around_each_request():
    times = iter([1.0, 1.25, 5.0, 5.5])
    ranker = ModelRanker(make_model(), ITEMS, version=0, clock=lambda: next(times))
    responses = ranker.rank([make_request(seed=1), make_request(seed=2)])
    assert [response.rank_ms for response in responses] == [250.0, 500.0]


@pytest.mark.parametrize(
    "ranker", [RandomRanker(items=ITEMS, seed=0), ModelRanker(make_model(), ITEMS, version=0)]
)
def test_requests_are_checked(ranker):
    with pytest.raises(RequestError, match="k == 99"):
        ranker.rank([make_request(k=99)])
    foreign = dataclasses.replace(make_request(), candidates_C=np.array([1, 5000], np.int32), k=1)
    with pytest.raises(RequestError, match="candidate 5000 is not in the catalogue"):
        ranker.rank([foreign])


def test_random_slates_repeat_by_seed_and_do_not_depend_on_candidate_order():
    request = make_request(100, k=20)
    first = RandomRanker(items=ITEMS, seed=1).rank([request])[0]
    validate_response(request, first)
    shuffled = dataclasses.replace(request, candidates_C=request.candidates_C[::-1].copy())
    again = RandomRanker(items=ITEMS, seed=1).rank([make_request(seed=8), shuffled])[1]
    assert again.ids_K.tolist() == first.ids_K.tolist()
    other_seed = RandomRanker(items=ITEMS, seed=2).rank([request])[0]
    other_request = RandomRanker(items=ITEMS, seed=1).rank(
        [dataclasses.replace(request, request_id=5)]
    )[0]
    assert other_seed.ids_K.tolist() != first.ids_K.tolist()
    assert other_request.ids_K.tolist() != first.ids_K.tolist()


def test_random_slates_favour_nobody():
    ranker = RandomRanker(items=ITEMS, seed=0)
    request = make_request(N, k=20)
    shown = np.zeros(N)
    for number in range(1000):
        shown[ranker.rank([dataclasses.replace(request, request_id=number)])[0].ids_K] += 1
    # 1000 draws of 20 of 400: mean 50, standard deviation sqrt(1000 * 0.05 * 0.95) = 6.9.
    assert abs(shown - 50).max() < 5 * 6.9
    assert 5 < shown.std() < 9


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("RandomRanker", "must be written package.module:Class"),
        ("ifa_ray.ranking.ranker:a.b", "must be written package.module:Class"),
        ("ifa_ray.rankers:RandomRanker", "cannot import ifa_ray.rankers: No module named"),
        ("ifa_ray.ranking.ranker:RandomRankers", "Did you mean 'RandomRanker'?"),
        ("ifa_ray.ranking.ranker:top_k", "is a function, must be a class"),
        ("ifa_ray.config:ModelConfig", "has no method rank"),
    ],
)
def test_a_wrong_ranker_name_says_what_is_wrong(spec, message):
    with pytest.raises(ConfigError) as error:
        load_ranker_class(spec)
    assert message in str(error.value)


def test_an_error_inside_a_users_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_ranker.py").write_text("raise RuntimeError('mine')\n")
    (tmp_path / "needy_ranker.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="mine"):
        load_ranker_class("broken_ranker:Mine")
    with pytest.raises(ConfigError, match="No module named 'no_such_module'"):
        load_ranker_class("needy_ranker:Mine")


def test_rankers_need_torch_and_numpy_alone():
    code = (
        "import sys, ifa_ray.ranking.ranker, ifa_ray.models, ifa_ray.plugins\n"
        "print([m for m in ('ray', 'polars', 'pyarrow', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

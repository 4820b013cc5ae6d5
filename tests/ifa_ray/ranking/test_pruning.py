import dataclasses
import math

import numpy as np
import pytest
import torch
from ranking_cases import ITEMS, N, make_model, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.errors import RankerError
from ifa_ray.models import MODELS, build_model
from ifa_ray.ranking.pruning import prune, worth_pruning
from ifa_ray.ranking.ranker import PRECISIONS, ModelRanker, top_k
from ifa_ray.ranking_rule import parse_ranking_rule
from ifa_ray.schema import History

RULES = ("pitctr", "long_view", "imp", "is_click", "imp^2*is_click^0.5*is_like^3")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Small sets are pruned too."""
    monkeypatch.setattr("ifa_ray.ranking.pruning._WORTH_FROM", 0)
    monkeypatch.setattr("ifa_ray.ranking.pruning._AT_LEAST", dict.fromkeys(PRECISIONS.values(), 8))


def spread_model(name="ifa", spread=1.0, **changes):
    """A model; the logits of the impression spread so many times as wide as untrained ones do."""
    model = make_model(name, **changes)
    if model.towers.plain:
        with torch.no_grad():
            model.towers.layers[-1].weight[0].mul_(spread)
    return model


def asked_of(candidates=300, k=3, seed=0):
    return make_request(candidates, k, seed)


def expected_of(model, request):
    """Places, scores and probabilities of the slate by scoring all of every candidate."""
    with torch.inference_mode():
        log_p_CL = model.log_probabilities(build_batch([request], ITEMS, model.config))[0].numpy()
    scores_C = parse_ranking_rule(model.config.ranking_rule).scores(log_p_CL)
    best_K, scores_K = top_k(request.candidates_C, scores_C, request.k)
    return request.candidates_C[best_K], scores_K, np.exp(log_p_CL[best_K])


def assert_slate(response, ids_K, scores_K, p_KL):
    assert response.ids_K.tolist() == ids_K.tolist()
    np.testing.assert_allclose(response.scores_K, scores_K, atol=2e-5)
    np.testing.assert_allclose(response.probabilities_KL, p_KL, rtol=1e-4)


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_pruning_changes_no_slate(name, spread, precision):
    model = spread_model(name, spread)
    ranker = ModelRanker(model, ITEMS, version=0, precision=precision)
    for seed in range(2):
        request = asked_of(seed=seed)
        assert_slate(ranker.rank([request])[0], *expected_of(model, request))


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("rule", RULES)
def test_pruning_changes_no_slate_by_any_rule(rule, spread, precision):
    model = spread_model("ifa_plus", spread, ranking_rule=rule)
    ranker = ModelRanker(model, ITEMS, version=0, precision=precision)
    for seed in range(2):
        request = asked_of(seed=seed)
        assert_slate(ranker.rank([request])[0], *expected_of(model, request))


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("set_step", ["mmr", "dpp", "learned"])
def test_reranking_chooses_from_the_same_pool(set_step, precision):
    model = spread_model(spread=30.0, set_step=set_step, set_strength=1.0, set_pool=12)
    pruned = ModelRanker(model, ITEMS, version=0, precision=precision)
    whole = ModelRanker(model, ITEMS, version=0, prunes=False)
    asked = [asked_of(seed=seed) for seed in range(4)]
    for one, other in zip(whole.rank(asked), pruned.rank(asked), strict=True):
        assert_slate(other, one.ids_K, one.scores_K, one.probabilities_KL)


def test_candidates_alike_to_the_last_digit_go_by_id():
    model = spread_model()
    with torch.no_grad():
        for tensor in (model.towers.from_blocks.weight, model.towers.from_channel.weight):
            tensor.zero_()
    request = asked_of(k=5)
    response = ModelRanker(model, ITEMS, version=0).rank([request])[0]
    assert response.ids_K.tolist() == sorted(request.candidates_C)[:5]


@pytest.mark.parametrize("k", [1, 3, 70, 75, 300])
def test_a_slate_of_any_size_is_found(k):
    model, request = spread_model(spread=30.0), asked_of(k=k)
    assert_slate(
        ModelRanker(model, ITEMS, version=0).rank([request])[0], *expected_of(model, request)
    )


def spied(model, monkeypatch):
    """What is asked of the towers: dtype, objectives, candidates."""
    asked, towers = [], model.towers.forward

    def forward(blocks, user, channel, dtype=torch.float32, only=None):
        asked.append((dtype, only, channel.shape[1]))
        return towers(blocks, user, channel, dtype, only)

    monkeypatch.setattr(model.towers, "forward", forward)
    return asked


def test_only_the_impression_is_computed_of_those_whose_bound_is_too_low(monkeypatch):
    model = spread_model(spread=100.0)
    asked = spied(model, monkeypatch)
    ModelRanker(model, ITEMS, version=0).rank([asked_of()])
    *pruned, slate = asked
    assert pruned[:2] == [(torch.float32, (0,), 300), (torch.float32, (1,), 12)]
    assert sum(count for _, only, count in pruned if only == (1,)) < 60
    assert slate == (torch.float32, None, 3), "the other objectives of the slate"


def test_where_the_bound_says_nothing_the_rules_towers_are_computed_of_all(monkeypatch):
    model = spread_model(spread=0.0)
    asked = spied(model, monkeypatch)
    ModelRanker(model, ITEMS, version=0).rank([asked_of()])
    assert asked == [
        (torch.float32, (0,), 300),
        (torch.float32, (1,), 12),
        (torch.float32, (1,), 300),
        (torch.float32, None, 3),
    ]


def test_in_bfloat16_few_are_scored_again_unless_it_cannot_tell(monkeypatch):
    model = spread_model()
    asked = spied(model, monkeypatch)
    ModelRanker(model, ITEMS, version=0, precision="bf16").rank([asked_of(k=1)])
    assert asked[:2] == [(torch.bfloat16, (0, 1), 300), (torch.float32, (0, 1), 8)]
    assert sum(count for dtype, _, count in asked if dtype == torch.float32) < 60
    alike = spread_model()
    with torch.no_grad():
        alike.towers.from_blocks.weight.mul_(1e-6)
    asked = spied(alike, monkeypatch)
    ModelRanker(alike, ITEMS, version=0, precision="bf16").rank([asked_of(k=1)])
    assert (torch.float32, (0, 1), 300) in asked


def test_few_candidates_are_scored_whole(monkeypatch):
    model = spread_model()
    asked = spied(model, monkeypatch)
    ModelRanker(model, ITEMS, version=0).rank([asked_of(20)])
    assert asked == [(torch.float32, None, 20)]
    assert not worth_pruning(31, 1, torch.float32)
    assert worth_pruning(32, 1, torch.float32)


@pytest.mark.parametrize("module", ["mmoe", "residual", "layer_norm", "pepnet"])
def test_towers_that_are_not_apart_are_computed_whole(module, monkeypatch):
    model = spread_model(modules=(module,), tower_widths=(8, 8))
    asked = spied(model, monkeypatch)
    request = asked_of()
    response = ModelRanker(model, ITEMS, version=0).rank([request])[0]
    assert [only for _, only, _ in asked] == [None]
    assert_slate(response, *expected_of(model, request))


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("tower", [0, 1])
def test_a_diverged_tower_is_refused(tower, precision):
    model = spread_model()
    with torch.no_grad():
        model.towers.layers[-1].weight[tower].fill_(math.nan)
    with pytest.raises(RankerError, match="must be finite"):
        ModelRanker(model, ITEMS, version=0, precision=precision).rank([asked_of()])


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_one_candidate_that_is_not_finite_is_refused_by_name(precision):
    items = dataclasses.replace(ITEMS, author_id_N=np.where(np.arange(N) == 7, 99, 1))
    config = dataclasses.replace(spread_model("din").config, author_buckets=400)
    model = build_model(config, items, seed=0)
    with torch.no_grad():
        model.items.author.weight[1 + 99] = math.nan
    request = dataclasses.replace(
        asked_of(), candidates_C=np.arange(300, dtype=np.int32), history=History.empty()
    )
    with pytest.raises(RankerError, match="score of candidate 7 == nan"):
        ModelRanker(model, items, version=0, precision=precision).rank([request])


def test_what_is_said_of_candidates_kept_is_what_the_model_says_of_all():
    model, request = spread_model(spread=100.0), asked_of()
    batch = build_batch([request], ITEMS, model.config)
    with torch.inference_mode():
        log_p_CL = model.log_probabilities(batch)[0].numpy()
        places_P, log_p_PL = prune(
            model, model.tower_inputs(batch), parse_ranking_rule("pitctr"), 3, torch.float32
        )
    assert (np.diff(places_P) > 0).all()
    assert len(places_P) < 150
    np.testing.assert_allclose(log_p_PL[:, :2], log_p_CL[places_P, :2], rtol=1e-5)
    assert np.isnan(log_p_PL[:, 2:]).all()

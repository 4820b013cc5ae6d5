import dataclasses

import pytest
import torch
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.config import CROSS_FEATURES
from ifa_ray.cuda.graphs import GraphedModel, buckets_of
from ifa_ray.data.features import build_batch, padded_to
from ifa_ray.models import MODELS, build_model
from ifa_ray.schema import MAX_CANDIDATES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_model(name, **changes):
    model = build_model(make_config(name, **changes), ITEMS, 3).to(DEVICE)
    model.freeze()
    return model


@pytest.mark.parametrize("name", MODELS)
def test_padding_to_a_bucket_changes_no_score(name):
    model = make_model(name, cross_features=CROSS_FEATURES)
    batch = build_batch([make_request(20, 30), make_request(9, 50, seed=1)], ITEMS, model.config)
    padded = padded_to(batch, 33, 64)
    with torch.inference_mode():
        expected = model.log_probabilities(batch.to(DEVICE))
        found = model.log_probabilities(padded.to(DEVICE))[:, :20]
    real = batch.mask_BC
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


def test_a_padded_batch_is_what_would_have_been_built():
    config = make_config("ifa", cross_features=CROSS_FEATURES)
    large, small = make_request(33, 64), make_request(9, 20, seed=1)
    both = build_batch([large, small], ITEMS, config)
    alone = padded_to(build_batch([small], ITEMS, config), 33, 64)
    for field in dataclasses.fields(both):
        assert torch.equal(getattr(both, field.name)[1:], getattr(alone, field.name)), field.name


def test_the_smallest_bucket_that_holds_a_request_is_taken():
    graphed = GraphedModel(make_model("ifa"), [(100, 100), (50, 200), (10, 10)])
    assert graphed.bucket(10, 10) == (10, 10)
    assert graphed.bucket(11, 10) == (50, 200)  # 10,000 cells either way, fewer candidates
    assert graphed.bucket(51, 10) == (100, 100)
    assert graphed.bucket(51, 101) is None


def test_a_rankers_buckets_hold_every_request_that_the_contract_allows():
    graphed = GraphedModel(make_model("ifa"), buckets_of(10_000))
    assert graphed.bucket(10_000, 10_000) == (10_000, 10_000)
    assert graphed.bucket(10_001, 2_501) == (25_000, 10_000)
    assert graphed.bucket(1, 0) == (500, 2_500)
    assert graphed.bucket(MAX_CANDIDATES, 10_000) == (MAX_CANDIDATES, 10_000)
    assert len(buckets_of(10_000)) == 14
    assert GraphedModel(make_model("ifa"), buckets_of(1)).bucket(3, 1) == (500, 1)


@pytest.mark.parametrize("name", ["ifa", "ifa_plus"])
def test_requests_of_any_size_get_their_scores_from_buckets(name):
    model = make_model(name)
    graphed = GraphedModel(model, [(16, 32), (32, 64)])
    for m, n in ((16, 32), (5, 0), (20, 40), (7, 12), (40, 20)):  # the last fits none
        batch = build_batch([make_request(m, n)], ITEMS, model.config)
        with torch.inference_mode():
            expected = model.log_probabilities(batch.to(DEVICE))
        found = graphed.log_probabilities(batch)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

"""SIM's two searches and its attention against the paper's equations, in loops."""

import dataclasses
import math

import pytest
import torch
from literal_attention import attended, move_projections
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.models import build_model
from ifa_ray.models.baselines import naive_relevance_pooling, relevance_pooling


def make_sim(name, **changes):
    return move_projections(build_model(make_config(name, **changes), ITEMS, seed=2))


def literal_exact_search(model, q, behaviours, chosen):
    """Section 3.3: multi-head attention of one candidate to z = [e; e_time]."""
    if not chosen:
        return torch.zeros(model.config.width)
    H, d = model.config.num_heads, model.config.width // model.config.num_heads
    time = model.gap.weight[behaviours.gap_BT[0]]
    z = torch.cat([behaviours.features_BTD[0], time], dim=1)[chosen]
    keys = z @ torch.cat([model.key.weight, model.key_time.weight], dim=1).T
    values = z @ torch.cat([model.value.weight, model.value_time.weight], dim=1).T
    query = model.query.weight @ q
    heads = []
    for h in range(H):
        own = slice(h * d, (h + 1) * d)
        weights = (keys[:, own] @ query[own] / math.sqrt(d)).softmax(dim=0)
        heads.append(weights @ values[:, own])
    return model.output.weight @ torch.cat(heads)


@pytest.mark.parametrize("length", [1, 6, 40, 64])
@torch.no_grad()
def test_the_hard_search_attends_to_the_latest_of_the_category(length):
    model, asked = make_sim("sim_hard", top_k=3), make_request(30, length)
    can, behaviours, found = attended(model, ITEMS, asked)
    category = dict(zip(ITEMS.video_id_N.tolist(), ITEMS.category_N.tolist(), strict=True))
    past = [category[video] for video in asked.history.ids_T.tolist()]
    sizes = set()
    for c, video in enumerate(asked.candidates_C.tolist()):
        chosen = [t for t in range(length) if past[t] == category[video]][-3:]
        sizes.add(len(chosen))
        expected = literal_exact_search(model, can[0, c], behaviours, chosen)
        torch.testing.assert_close(found.cs_BCD[0, c], expected, rtol=1e-4, atol=1e-5)
    assert 0 in sizes or length >= 40
    assert 3 in sizes or length < 40


@torch.no_grad()
def test_categories_that_share_a_row_of_the_embedding_are_still_two():
    # 1 + c modulo 255 is the row of category c.
    apart = dataclasses.replace(ITEMS, category_N=(ITEMS.category_N % 2 * 255).astype("int32"))
    model = build_model(make_config("sim_hard", max_history=1), apart, seed=2)
    found = attended(model, apart, make_request(30, 1))[2]
    zero = (found.cs_BCD[0] == 0).all(dim=1)
    assert 0 < zero.sum() < 30


@pytest.mark.parametrize("length", [1, 6, 7, 40, 64])
@torch.no_grad()
def test_the_soft_search_attends_to_the_most_relevant(length):
    model = make_sim("sim_soft")
    can, behaviours, found = attended(model, ITEMS, make_request(12, length))
    for c, q in enumerate(can[0]):
        relevance = [
            (model.search_key.weight @ e).dot(model.search_query.weight @ q).item()
            for e in behaviours.features_BTD[0]
        ]
        chosen = sorted(range(length), key=lambda t: -relevance[t])[: model.config.top_k]
        expected = literal_exact_search(model, q, behaviours, chosen)
        torch.testing.assert_close(found.cs_BCD[0, c], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_search_has_a_prediction_of_its_own_from_the_history_pooled_by_relevance():
    model = make_sim("sim_soft")
    can, behaviours, found = attended(model, ITEMS, make_request(12, 40))
    for c, q in enumerate(can[0]):
        pooled = torch.zeros(model.config.width)
        for e in behaviours.features_BTD[0]:
            r = (model.search_key.weight @ e).dot(model.search_query.weight @ q)
            pooled += r * e / 40
        hidden = torch.relu(model.search_hidden(torch.cat([pooled, q])))
        expected = model.search_click(hidden)[0] - 3.7
        torch.testing.assert_close(found.auxiliary_BC[0, c], expected, rtol=1e-4, atol=1e-5)


def test_search_weights_learn_from_its_own_prediction_alone():
    model = make_sim("sim_soft")
    searching = [p for name, p in model.named_parameters() if name.startswith("search_")]
    assert len(searching) == 6
    outputs = model(build_batch([make_request(12, 40)], ITEMS, model.config))
    of_towers = torch.autograd.grad(
        outputs.logits_BCL.sum(), searching, allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in of_towers)
    for gradient in torch.autograd.grad(outputs.auxiliary_BC.sum(), searching):
        assert (gradient != 0).any()


def test_only_training_pays_for_the_search_s_prediction():
    model = make_sim("sim_soft")
    model.freeze()
    with torch.no_grad():
        outputs = model(build_batch([make_request()], ITEMS, model.config))
    assert outputs.auxiliary_BC is None


@pytest.mark.parametrize("name", ["sim_hard", "sim_soft"])
@torch.no_grad()
def test_nothing_that_is_padding_can_be_found(name):
    model = make_sim(name)
    short, long = make_request(12, 5), make_request(12, 60, seed=1)
    alone = attended(model, ITEMS, short)[2].cs_BCD[0]
    # Row 0 of every table is the unknown item's, which padding points to.
    for table in (model.items.category, model.items.duration):
        table.weight[0] = 50.0
    together = attended(model, ITEMS, short, long)[2].cs_BCD[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["sim_hard", "sim_soft"])
@torch.no_grad()
def test_when_it_happened_matters(name):
    model = make_sim(name)
    before = attended(model, ITEMS, make_request(20, 40))[2].cs_BCD
    model.gap.weight.copy_(model.gap.weight.flip(0))
    after = attended(model, ITEMS, make_request(20, 40))[2].cs_BCD
    assert (after - before).abs().max() > 1e-3


def test_relevance_pooling_equals_the_sum_over_behaviours():
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 11, 5), (3, 20, 5), (3, 20, 5))
    ]
    mask = torch.rand(3, 20, generator=generator) < 0.7
    mask[2] = False
    fast = relevance_pooling(*tensors, mask)
    plain = naive_relevance_pooling(*tensors, mask)
    torch.testing.assert_close(fast, plain)
    assert (fast[2] == 0).all()
    weights = torch.randn(fast.shape, generator=generator).double()
    for mine, expected in zip(
        torch.autograd.grad((fast * weights).sum(), tensors),
        torch.autograd.grad((plain * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected)

"""TWIN against its equations, in loops."""

import math

import numpy as np
import pytest
import torch
from rank_cases import ITEMS, make_config, make_history, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.models import build_model
from ifa_ray.models.target_attention import action_groups
from ifa_ray.models.two_stage import search


def make_twin(**changes):
    """A TWIN whose projections are no longer where they start, at multiples of the identity."""
    model = build_model(make_config("twin", **changes), ITEMS, seed=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in (model.query, model.key, model.value, model.output):
            layer.weight.add_(0.3 * torch.randn(layer.weight.shape, generator=generator))
    return model


def attended(model, *requests):
    """Runs the model and returns what `attend` was given and what it returned."""
    seen = {}
    attend = model.attend

    def spy(candidates, behaviours):
        seen["can"], seen["behaviours"] = candidates.features_BCD, behaviours
        found = attend(candidates, behaviours)
        seen["cs"] = found.cs_BCD
        return found

    model.attend = spy
    try:
        model(build_batch(requests, ITEMS, model.config))
    finally:
        model.attend = attend
    return seen


def literal_twin(model, can_CD, behaviours):
    """F_cs of one request, by the equations of the TWIN paper, one candidate at a time."""
    H, d = model.config.num_heads, model.config.width // model.config.num_heads
    inherent, features = behaviours.items_BTD[0], behaviours.features_BTD[0]
    group = torch.tensor([strongest(byte) for byte in behaviours.actions_BT[0].tolist()])
    cross = [model.action_group.weight[group], model.gap.weight[behaviours.gap_BT[0]]]
    values = torch.cat([features, *cross], dim=1) @ model.value.weight.T
    rows = []
    for q in can_CD:
        alpha = torch.zeros(H, len(inherent))
        for h in range(H):
            own = slice(h * d, (h + 1) * d)
            query, keys = model.query.weight[own] @ q, inherent @ model.key.weight[own].T
            alpha[h] = keys @ query / math.sqrt(d)
            for j, (embedded, w) in enumerate(zip(cross, model.cross_weights, strict=True)):
                alpha[h] += (embedded @ w.weight[0]) * model.beta.weight[h, j]
        chosen, rankings = [], alpha.argsort(dim=1, descending=True)
        for rank in range(alpha.shape[1]):
            for h in range(H):
                offer = rankings[h, rank].item()
                if offer not in chosen and len(chosen) < model.config.top_k:
                    chosen.append(offer)
        heads = [
            alpha[h, chosen].softmax(dim=0) @ values[chosen, h * d : (h + 1) * d] for h in range(H)
        ]
        rows.append(model.output.weight @ torch.cat(heads))
    return torch.stack(rows)


def strongest(byte):
    click, long_view, hate = byte & 1, byte & 2, byte & 64
    engaged = byte & (4 | 8 | 16 | 32)
    return 4 if hate else 3 if engaged else 2 if long_view else 1 if click else 0


@pytest.mark.parametrize("length", [3, 6, 7, 40, 64])
@torch.no_grad()
def test_both_stages_follow_the_equations(length):
    model = make_twin()
    seen = attended(model, make_request(9, length))
    expected = literal_twin(model, seen["can"][0], seen["behaviours"])
    torch.testing.assert_close(seen["cs"][0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_searching_in_chunks_changes_nothing(monkeypatch):
    model = make_twin()
    whole = attended(model, make_request(30, 50))["cs"]
    monkeypatch.setattr("ifa_ray.models.two_stage._CHUNK_SCORES", 4 * 50 * 7)
    torch.testing.assert_close(attended(model, make_request(30, 50))["cs"], whole)


@torch.no_grad()
def test_what_was_not_found_does_not_matter_and_what_was_found_does():
    model = make_twin(num_heads=1, top_k=3)
    history = make_history(40)
    seen = attended(model, make_request(1, history=history))
    key = model.key(seen["behaviours"].items_BTD[0])
    query = model.query(seen["can"][0, 0])
    found = search(query[None] / 4.0, key, torch.zeros(40, 1), top_k=3)[0].tolist()
    expected = (key @ query / 4.0).topk(3).indices.sort().values.tolist()
    assert found == expected


def test_the_gradient_goes_through_the_exact_search_only():
    model = make_twin()
    seen = attended(model, make_request(1, 50))
    inherent = seen["behaviours"].items_BTD
    (gradient,) = torch.autograd.grad(seen["cs"].sum(), inherent)
    # One candidate attends to top_k behaviours, and only they learn.
    assert (gradient[0].abs().sum(dim=1) > 0).sum().item() == model.config.top_k


def test_search_and_attention_share_their_weights():
    names = {name for name, _ in build_model(make_config("twin"), ITEMS, seed=0).named_parameters()}
    own = {
        name for name in names if not name.startswith(("items.", "user.", "towers.", "actions."))
    }
    assert own == {
        "query.weight", "key.weight", "value.weight", "output.weight", "action_group.weight",
        "gap.weight", "cross_weights.0.weight", "cross_weights.1.weight", "beta.weight",
    }  # fmt: skip


def test_an_action_byte_is_of_the_group_of_its_strongest_action():
    expected = [strongest(byte) for byte in range(128)]
    np.testing.assert_array_equal(action_groups(), expected)

"""TWIN against its equations, in loops."""

import pytest
import torch
from literal_attention import attended, literal_read, literal_scores, move_projections
from rank_cases import ITEMS, make_config, make_history, make_request

from ifa_ray.models import build_model
from ifa_ray.models.target_attention import search


def make_twin(**changes):
    return move_projections(build_model(make_config("twin", **changes), ITEMS, seed=2))


def literal_twin(model, can_CD, behaviours):
    """F_cs of one request, by the equations of the TWIN paper, one candidate at a time."""
    rows = []
    for q in can_CD:
        alpha = literal_scores(model, q, behaviours)
        chosen, rankings = [], alpha.argsort(dim=1, descending=True)
        for rank in range(alpha.shape[1]):
            for ranking in rankings:
                offer = ranking[rank].item()
                if offer not in chosen and len(chosen) < model.config.top_k:
                    chosen.append(offer)
        rows.append(literal_read(model, alpha, behaviours, chosen))
    return torch.stack(rows)


@pytest.mark.parametrize("length", [3, 6, 7, 40, 64])
@torch.no_grad()
def test_both_stages_follow_the_equations(length):
    model = make_twin()
    can, behaviours, found = attended(model, ITEMS, make_request(9, length))
    expected = literal_twin(model, can[0], behaviours)
    torch.testing.assert_close(found.cs_BCD[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_searching_in_chunks_changes_nothing(monkeypatch):
    model = make_twin()
    whole = attended(model, ITEMS, make_request(30, 50))[2].cs_BCD
    monkeypatch.setattr("ifa_ray.models.target_attention._CHUNK_SCORES", 4 * 50 * 7)
    chunked = attended(model, ITEMS, make_request(30, 50))[2].cs_BCD
    torch.testing.assert_close(chunked, whole)


@torch.no_grad()
def test_what_was_not_found_does_not_matter_and_what_was_found_does():
    model = make_twin(num_heads=1, top_k=3)
    can, behaviours, _ = attended(model, ITEMS, make_request(1, history=make_history(40)))
    key = model.key(behaviours.items_BTD[0])
    query = model.query(can[0, 0])
    found = search(query[None] / 4.0, key, torch.zeros(40, 1), top_k=3)[0].tolist()
    expected = (key @ query / 4.0).topk(3).indices.sort().values.tolist()
    assert found == expected


def test_the_gradient_goes_through_the_exact_search_only():
    model = make_twin()
    _, behaviours, found = attended(model, ITEMS, make_request(1, 50))
    (gradient,) = torch.autograd.grad(found.cs_BCD.sum(), behaviours.items_BTD)
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

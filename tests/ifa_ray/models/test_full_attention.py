"""Full attention against softmax as it is read; DIN against loops; both beside TWIN."""

import pytest
import torch
from literal_attention import (
    attended,
    literal_read,
    literal_scores,
    move_projections,
    with_weights_of,
)
from rank_cases import ITEMS, make_config, make_request

from ifa_ray.data.features import build_batch
from ifa_ray.models import baselines as module
from ifa_ray.models import build_model
from ifa_ray.models.baselines import full_attention, naive_full_attention


def draw(C, n, H, D):
    generator = torch.Generator().manual_seed(C + n)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((C, D), (n, D), (n, H), (n, D))
    ]


def test_one_head_by_hand():
    query, key = torch.tensor([[2.0]]), torch.tensor([[1.0], [0.5]])
    bias, value = torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [30.0]])
    # Scores 2 * 1 + 0 and 2 * 0.5 + 1 are equal.
    assert full_attention(query, key, bias, value).item() == pytest.approx(20.0)
    with torch.no_grad():
        assert full_attention(query, key, bias, value).item() == pytest.approx(20.0)


@pytest.mark.parametrize("size", [(1, 1, 1, 4), (11, 40, 4, 16), (23, 600, 2, 6)])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_values_and_gradients_equal_the_plain_form(size, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_CANDIDATES", chunk)
    tensors = draw(*size)
    fused, plain = full_attention(*tensors), naive_full_attention(*tensors)
    torch.testing.assert_close(fused, plain)
    with torch.no_grad():
        torch.testing.assert_close(full_attention(*tensors), plain)
    weights = torch.randn(fused.shape, generator=torch.Generator().manual_seed(0)).double()
    for mine, expected in zip(
        torch.autograd.grad((fused * weights).sum(), tensors),
        torch.autograd.grad((plain * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected)


@torch.no_grad()
def test_large_scores_do_not_overflow():
    query, key, bias, value = (x.detach().float() for x in draw(5, 30, 2, 8))
    tensors = (query * 100.0, key * 10.0, bias * 100.0, value)
    torch.testing.assert_close(full_attention(*tensors), naive_full_attention(*tensors))


@pytest.mark.parametrize("length", [1, 5, 40, 64])
def test_twin_that_finds_everything_is_full_attention(length):
    twin = move_projections(build_model(make_config("twin", top_k=64), ITEMS, seed=2))
    full = with_weights_of(twin, "full_attention", ITEMS)
    batch = build_batch([make_request(20, length), make_request(9, 30, 1)], ITEMS, twin.config)
    torch.testing.assert_close(full(batch).logits_BCL, twin(batch).logits_BCL, rtol=1e-5, atol=2e-6)
    weights = torch.randn(full(batch).logits_BCL.shape, generator=torch.Generator().manual_seed(0))
    for model in (twin, full):
        (model(batch).logits_BCL * weights).sum().backward()
    for (name, mine), expected in zip(full.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            mine.grad.to_dense(), expected.grad.to_dense(), rtol=1e-4, atol=1e-4, msg=name
        )


def test_twin_that_finds_less_is_not():
    twin = move_projections(build_model(make_config("twin", top_k=6), ITEMS, seed=2))
    full = with_weights_of(twin, "full_attention", ITEMS)
    batch = build_batch([make_request(20, 64)], ITEMS, twin.config)
    assert (full(batch).logits_BCL - twin(batch).logits_BCL).abs().max() > 1e-3


@pytest.mark.parametrize("length", [3, 6, 7, 40])
@torch.no_grad()
def test_din_attends_to_the_latest_top_k(length):
    model = move_projections(build_model(make_config("din"), ITEMS, seed=2))
    full = with_weights_of(model, "full_attention", ITEMS)
    asked = make_request(9, length)
    found = attended(model, ITEMS, asked)[2]
    # What full attention is given is the whole history; DIN must find the end of it.
    can, behaviours, _ = attended(full, ITEMS, asked)
    latest = list(range(length))[-model.config.top_k :]
    expected = [
        literal_read(model, literal_scores(model, q, behaviours), behaviours, latest)
        for q in can[0]
    ]
    torch.testing.assert_close(found.cs_BCD[0], torch.stack(expected), rtol=1e-4, atol=1e-5)

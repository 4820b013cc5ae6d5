import pytest
import torch

from ifa_ray.models import target_attention as module
from ifa_ray.models.target_attention import chosen_attention, naive_chosen_attention


def draw(C, T, K, H, D):
    generator = torch.Generator().manual_seed(C + T)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((C, D), (T, D), (T, H), (T, D))
    ]
    chosen = torch.stack([torch.randperm(T, generator=generator)[:K] for _ in range(C)])
    return tensors, chosen


def test_one_head_by_hand():
    query, key = torch.tensor([[2.0]]), torch.tensor([[1.0], [5.0], [0.5]])
    bias, value = torch.tensor([[0.0], [9.0], [1.0]]), torch.tensor([[10.0], [99.0], [30.0]])
    # Scores 2 * 1 + 0 and 2 * 0.5 + 1 are equal; the behaviour between was not chosen.
    out = chosen_attention(query, key, bias, value, torch.tensor([[0, 2]]))
    assert out.item() == pytest.approx(20.0)


@pytest.mark.parametrize("size", [(1, 3, 1, 1, 4), (11, 40, 6, 4, 16), (23, 9, 9, 2, 6)])
@pytest.mark.parametrize("chunk_rows", [1, 25, 4096])
def test_values_and_gradients_equal_the_plain_form(size, chunk_rows, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_ROWS", chunk_rows)
    tensors, chosen = draw(*size)
    fast, plain = chosen_attention(*tensors, chosen), naive_chosen_attention(*tensors, chosen)
    torch.testing.assert_close(fast, plain)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0)).double()
    for mine, expected in zip(
        torch.autograd.grad((fast * weights).sum(), tensors),
        torch.autograd.grad((plain * weights).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected)

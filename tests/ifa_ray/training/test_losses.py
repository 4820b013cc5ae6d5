import math

import pytest
import torch

from ifa_ray.training.losses import (
    entire_space_log_probs,
    entire_space_loss,
    log1mexp,
    log_complement,
)

B, C, L = 3, 7, 4


def draw(scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(B, C, L, generator=generator)
    labels = (torch.rand(B, C, L, generator=generator) < 0.3).to(torch.uint8)
    mask = torch.rand(B, C, generator=generator) < 0.8
    mask[:, 0] = True
    return logits, labels, mask


def naive_losses(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """Equation 5 candidate by candidate, in Python's float64."""
    totals, count = [0.0] * L, 0
    for b in range(B):
        for c in range(C):
            if not mask[b, c]:
                continue
            count += 1
            p = [1 / (1 + math.exp(-float(x))) for x in logits[b, c]]
            given_candidate = [p[0]] + [p[0] * q for q in p[1:]]
            for i, q in enumerate(given_candidate):
                totals[i] -= math.log(q) if labels[b, c, i] else math.log(1 - q)
    return [total / count for total in totals]


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_losses_are_equation_5_over_the_real_candidates(scale: float) -> None:
    logits, labels, mask = draw(scale)
    total, losses = entire_space_loss(logits, labels, mask, (1.0, 2.0, 0.0, 0.5))
    expected = naive_losses(logits, labels, mask)
    assert losses.tolist() == pytest.approx(expected, rel=2e-6)
    assert float(total) == pytest.approx(
        expected[0] + 2 * expected[1] + 0.5 * expected[3], rel=2e-6
    )
    assert total.dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_gradients_are_those_of_the_naive_form_in_float64(scale: float) -> None:
    logits, labels, mask = draw(scale, seed=1)
    logits.requires_grad_()
    entire_space_loss(logits, labels, mask, (1.0,) * L)[0].backward()

    exact = logits.detach().double().requires_grad_()
    p = torch.sigmoid(exact)
    p = torch.cat([p[..., :1], p[..., :1] * p[..., 1:]], dim=-1)
    y = labels.double()
    terms = y * p.log() + (1 - y) * (1 - p).log()
    (-(terms * mask[..., None]).sum() / mask.sum()).backward()
    assert exact.grad is not None
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("first", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("second", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits_have_finite_losses_and_gradients(
    first: float, second: float, label: int
) -> None:
    logits = torch.tensor([[[first, second, second, second]]], requires_grad=True)
    labels = torch.full((1, 1, L), label)
    total, _ = entire_space_loss(logits, labels, torch.ones(1, 1, dtype=torch.bool), (1.0,) * L)
    total.backward()
    assert logits.grad is not None
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert (total >= 0).all()


def test_log_complement_is_exact_where_log1mexp_of_float32_is_not() -> None:
    logits = torch.tensor([[[20.0, 21.0, -30.0, 3.0]]])
    expected = [
        math.log(1 / (1 + math.exp(20.0))),
        math.log(math.exp(-20.0) + math.exp(-21.0)),
        math.log1p(-math.exp(-30.0)),
        math.log(1 - 1 / (1 + math.exp(-20.0)) / (1 + math.exp(-3.0))),
    ]
    assert log_complement(logits)[0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_log1mexp_is_exact_at_both_ends() -> None:
    x = [-1e-30, -1e-7, -0.5, -math.log(2), -1.0, -10.0, -80.0]
    expected = [math.log(-math.expm1(v)) if v > -1 else math.log1p(-math.exp(v)) for v in x]
    values = torch.tensor(x, requires_grad=True)
    result = log1mexp(values)
    assert result.tolist() == pytest.approx(expected, rel=1e-5)
    result.sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


def test_further_objectives_are_never_likelier_than_the_impression() -> None:
    logits, _, _ = draw(5.0)
    log_p = entire_space_log_probs(logits)
    assert (log_p[..., 1:] <= log_p[..., :1]).all()
    p = torch.sigmoid(logits.double())
    torch.testing.assert_close(
        log_p[..., 2].exp().double(), p[..., 0] * p[..., 2], rtol=1e-5, atol=0
    )


def test_padding_changes_neither_loss_nor_gradient() -> None:
    logits, labels, _ = draw(1.0)
    real = torch.ones(B, C, dtype=torch.bool)
    padded = torch.nn.functional.pad(logits, (0, 0, 0, 5), value=1e4).requires_grad_()
    more_labels = torch.nn.functional.pad(labels, (0, 0, 0, 5), value=1)
    mask = torch.nn.functional.pad(real, (0, 5), value=False)
    total, _ = entire_space_loss(padded, more_labels, mask, (1.0,) * L)
    assert torch.equal(total, entire_space_loss(logits, labels, real, (1.0,) * L)[0])
    total.backward()
    assert padded.grad is not None
    assert not padded.grad[:, C:].any()

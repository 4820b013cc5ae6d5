"""Entire-space losses in log space, for every candidate of a request (section 4.3, equation 5).

Knows logits and labels, not the model. Tower 0 predicts p(imp|can), each further tower l
p(l|imp); the probability of l given only that the item is a candidate is their product, and that
product is what the labels over the whole candidate set teach.

Letters: B requests, C candidates, L objectives, the first the impression.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


@dataclasses.dataclass(frozen=True, eq=False)
class Importance:
    """What candidates count that were drawn out of more.

    Attributes:
        weights_BC: float32, 1 / probability of having been drawn; 0 where padded.
        candidates: of which they were drawn, over which the loss is a mean.
    """

    weights_BC: torch.Tensor
    candidates: int


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """Computes log(1 - exp(x)) for x < 0, in full precision at both ends.

    The two forms and where they meet are Mächler's ("Accurately computing log(1 - exp(-|a|))",
    2012). Value and gradient are finite up to x == -1.2e-38, float32's smallest normal number.
    """
    near_zero = x > -math.log(2.0)
    # Each branch gets a harmless input where the other one is taken: the gradient of a branch that
    # `where` drops is multiplied by zero, and zero times infinity is NaN.
    near = torch.log(-torch.expm1(torch.where(near_zero, x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near_zero, -1.0, x)))
    return torch.where(near_zero, near, far)


def entire_space_log_probs(logits_BCL: torch.Tensor) -> torch.Tensor:
    """Computes log p(l|can) of every candidate and objective, float32 [B, C, L], never > 0."""
    log_sigmoid_BCL = logsigmoid(logits_BCL.float())
    first_BC1, rest = log_sigmoid_BCL[..., :1], log_sigmoid_BCL[..., 1:]
    return torch.cat([first_BC1, first_BC1 + rest], dim=-1)


def log_complement(logits_BCL: torch.Tensor) -> torch.Tensor:
    """Computes log(1 - p(l|can)), float32 [B, C, L], finite with finite gradients for all logits.

    Where both probabilities are large their product rounds to 1, so that log1mexp(log p) would be
    -inf. With a and b the logits, 1 - s(a) s(b) = (e^-a + e^-b + e^(-a-b)) s(a) s(b) exactly.
    """
    logits = logits_BCL.float()
    a, b = logits[..., :1], logits[..., 1:]
    log_p = logsigmoid(a) + logsigmoid(b)
    likely = log_p > -math.log(2.0)
    # As in log1mexp: the dropped branch must not see what would make its gradient infinite.
    safe_a = torch.where(likely, a, 1.0)
    safe_b = torch.where(likely, b, 1.0)
    terms = torch.stack([-safe_a, -safe_b, -safe_a - safe_b])
    near = torch.logsumexp(terms, dim=0) + logsigmoid(safe_a) + logsigmoid(safe_b)
    far = log1mexp(torch.where(likely, -1.0, log_p))
    return torch.cat([logsigmoid(-a), torch.where(likely, near, far)], dim=-1)


def entire_space_loss(
    logits_BCL: torch.Tensor,
    labels_BCL: torch.Tensor,
    mask_BC: torch.Tensor,
    weights: tuple[float, ...],
    importance: Importance | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy of every objective over the whole candidate sets.

    Args:
        logits_BCL: of the towers.
        labels_BCL: 1 where the objective happened.
        mask_BC: boolean, True where a candidate is real.
        weights: of the L objectives in the sum.
        importance: of the candidates, where these are some of more.

    Returns:
        The weighted sum, and the L losses by themselves. Each is a mean over the real candidates of
        the batch, so that it does not grow with C. Both float32.
    """
    labels = labels_BCL.to(torch.float32)
    log_p, log_not_p = entire_space_log_probs(logits_BCL), log_complement(logits_BCL)
    # Not `labels * log_p + ...`: padding may hold any logit, and a masked term is exactly zero.
    cross_entropy_BCL = -torch.where(labels > 0, log_p, log_not_p)
    masked_BCL = torch.where(mask_BC[..., None], cross_entropy_BCL, 0.0)
    if importance is None:
        losses_L = masked_BCL.sum(dim=(0, 1)) / mask_BC.sum()
    else:
        weighted_BCL = masked_BCL * importance.weights_BC[..., None]
        losses_L = weighted_BCL.sum(dim=(0, 1)) / importance.candidates
    weights_L = torch.tensor(weights, dtype=torch.float32, device=losses_L.device)
    return (weights_L * losses_L).sum(), losses_L


def auxiliary_loss(
    logits_BC: torch.Tensor,
    labels_BC: torch.Tensor,
    mask_BC: torch.Tensor,
    importance: Importance | None = None,
) -> torch.Tensor:
    """Cross entropy of one probability given the candidate, by which a search stage learns.

    A mean over the real candidates of the batch, float32, as in `entire_space_loss`.
    """
    cross_entropy_BC = binary_cross_entropy_with_logits(
        logits_BC.float(), labels_BC.to(torch.float32), reduction="none"
    )
    masked_BC = torch.where(mask_BC, cross_entropy_BC, 0.0)
    if importance is None:
        return masked_BC.sum() / mask_BC.sum()
    return (masked_BC * importance.weights_BC).sum() / importance.candidates

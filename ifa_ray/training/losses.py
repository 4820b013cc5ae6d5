"""Entire-space losses in log space, for every candidate of a request (section 4.3, equation 5).

Knows logits and labels, not the model. Tower 0 predicts p(imp|can), each further tower l
p(l|imp); the probability of l given only that the item is a candidate is their product, and that
product is what the labels over the whole candidate set teach.

Letters: B requests, C candidates, L objectives, the first the impression.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from ifa_ray.schema import TrainingSample


@dataclasses.dataclass(frozen=True, eq=False)
class Importance:
    """The weights of candidates that were drawn out of more."""

    weights_BC: torch.Tensor  # float32, 1 / probability of having been drawn; 0 where padded
    candidates: int  # of which they were drawn, over which the loss is a mean


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
        The weighted sum, and the L losses, each a mean over real candidates. Both float32.
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


def kept_places(
    sample: TrainingSample, rate: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The places of the candidates to learn from, in order, and what each counts.

    Whether a negative is kept is a hash of seed, request and item: it depends neither on order, nor
    on the batch, nor on who asks. Where none would be left the first stays, and counts 0.
    """
    positive_C = sample.labels_CL.max(axis=1) > 0
    request_id = np.int64(sample.request.request_id).astype(np.uint64)
    key = mixed(mixed(np.array([seed], np.uint64)) ^ request_id)
    hashes_C = mixed(key ^ sample.request.candidates_C.astype(np.uint64))
    uniform_C = (hashes_C >> np.uint64(11)).astype(np.float64) * 2.0**-53
    places = np.flatnonzero(positive_C | (uniform_C < rate))
    if len(places) == 0:
        return np.zeros(1, np.int64), np.zeros(1, np.float32)
    return places, np.where(positive_C[places], 1.0, 1.0 / rate).astype(np.float32)


class NegativeSampler:
    """Keeps all positives and some negatives of each request, with their importance.

    A candidate of which nothing happened is kept with probability `rate` and then counts 1 / rate;
    all others are kept and count 1. Sums over the kept are, on average over seeds, sums over all
    (Horvitz and Thompson, 1952); so are their gradients. That holds where a candidate's score does
    not depend on which others are there, and nowhere else.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._rate, self._seed = rate, seed

    def __call__(
        self, samples: Sequence[TrainingSample]
    ) -> tuple[list[TrainingSample], Importance]:
        """The samples with the kept candidates alone, and what each of those counts."""
        kept, weights = [], []
        for sample in samples:
            places, weights_C = kept_places(sample, self._rate, self._seed)
            candidates_C = sample.request.candidates_C[places]
            channels_C = sample.request.channels_C
            request = dataclasses.replace(
                sample.request,
                candidates_C=candidates_C,
                channels_C=None if channels_C is None else channels_C[places],
                k=min(sample.request.k, len(places)),
            )
            kept.append(TrainingSample(request=request, labels_CL=sample.labels_CL[places]))
            weights.append(torch.from_numpy(weights_C))
        weights_BC = torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)
        return kept, Importance(weights_BC, sum(len(sample.labels_CL) for sample in samples))


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's step and finaliser (Steele, Lea and Flood, OOPSLA 2014), of each value."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

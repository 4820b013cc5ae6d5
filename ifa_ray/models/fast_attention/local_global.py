"""Sampling by place: Longformer (Beltagy et al., 2020) and BigBird (Zaheer et al., NeurIPS 2020).

Their query reads its neighbours, some global tokens that read everything, and some tokens at
random. A candidate has no place in the history; it stands at its end, so its neighbours are the
latest behaviours. Of the budget top_k half goes to them, a quarter to global tokens, a quarter to
random behaviours, which are the same ones for all candidates: a request's random places are those
of the history's length, spread evenly, each at a fixed random point of its stretch. A history
that fits into local and random together is read whole.

A candidate set has no order and so no neighbours: for equation 3 this is no choice.

Letters as in `fast_attention.base`.
"""

from __future__ import annotations

import math

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.models.fast_attention.base import FastAttention, multi_head
from ifa_ray.models.fast_attention.inducing import Summaries
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection, RandomPlanes

__all__ = ["LocalGlobalAttention"]


class LocalGlobalAttention(FastAttention):
    """Queries read the latest behaviours, random ones and global tokens, O(C top_k D + T g D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        quarter = math.ceil(config.top_k / 4)
        self._local = max(1, config.top_k - 2 * quarter)
        self.tokens = Summaries(quarter, config)
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)
        self.random = RandomPlanes(quarter, 1)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; keys are oldest first."""
        read = self._read(len(keys_TD))
        summary_RD = self.tokens(keys_TD, values_TD)
        key_RD = self.key(torch.cat([keys_TD[read], summary_RD]))
        value_RD = self.value(torch.cat([values_TD[read], summary_RD]))
        return self.output(multi_head(self.query(queries_CD), key_RD, value_RD, self._heads))

    def _read(self, n: int) -> torch.Tensor:
        """Places of the behaviours that are read, int64, each once, in order of time."""
        device = self.random.weight.device
        older, num_random = n - self._local, len(self.random.weight)
        if older <= num_random:
            return torch.arange(n, device=device)
        # A normal draw through its distribution function is uniform.
        within = torch.special.ndtr(self.random.weight[:, 0].double()).clamp(max=1.0 - 1e-9)
        edges = torch.arange(num_random + 1, device=device) * older // num_random
        random = edges[:-1] + (within * edges.diff()).long()
        return torch.cat([random, torch.arange(older, n, device=device)])

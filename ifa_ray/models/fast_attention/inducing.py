"""Coarse interactions through learned points: the Set Transformer's ISAB (Lee et al., ICML 2019).

R = top_k inducing points attend to the sequence, queries attend to what they found. ISAB without
its feed-forward, residual and norm, which here are what the towers and the optional modules do.

Letters as in `fast_attention.base`; R inducing points.
"""

from __future__ import annotations

import torch
from torch import nn

from ifa_ray.config import ModelConfig
from ifa_ray.models.fast_attention.base import FastAttention, multi_head
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection, Table

__all__ = ["InducingAttention", "Summaries"]

# Points that are as far apart as items are see different parts of the history from the start.
_POINT_STD = 0.5


class Summaries(nn.Module):
    """Learned points that attend to a sequence and stand for it: Longformer's global tokens too."""

    def __init__(self, points: int, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        self.points = Table(points, config.width, std=_POINT_STD)
        # The points need no projection: they are learned.
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE**2)

    def forward(self, keys_TD: torch.Tensor, values_TD: torch.Tensor) -> torch.Tensor:
        """Summarises, [R, D], O(R T D)."""
        return multi_head(self.points.weight, self.key(keys_TD), values_TD, self._heads)


class InducingAttention(FastAttention):
    """Queries read R summaries of the sequence, O((C + T) R D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        self.summaries = Summaries(config.top_k, config)
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; the order of keys does not matter."""
        summary_RD = self.summaries(keys_TD, values_TD)
        query_CD, key_RD = self.query(queries_CD), self.key(summary_RD)
        return self.output(multi_head(query_CD, key_RD, self.value(summary_RD), self._heads))

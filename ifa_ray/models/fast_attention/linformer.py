"""Coarse interactions by a projection of the length: Linformer (Wang et al., 2020).

Linformer multiplies keys and values, [n, D], by learned E and F, [r, n], for one fixed n. Here n
differs from request to request, so the projection has two factors: a fixed one, the mean of the
behaviours in each of r buckets of places (Linformer's section on general projections allows
pooling), and a learned one among the buckets, [r, r], for keys and values each. Places are counted
from the end, so that the latest behaviour is always in bucket 0, and buckets widen with age: the
first ones hold one behaviour each, the last ones reach max_history. Buckets that lie beyond a
history are not read.

A candidate set has no order, so nothing could be in a bucket: for equation 3 this is no choice.

Letters as in `fast_attention.base`; R = top_k buckets, J of them not empty.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.models.fast_attention.base import FastAttention, multi_head
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection

__all__ = ["LinformerAttention", "bucket_edges"]


class LinformerAttention(FastAttention):
    """Queries read mixtures of means over stretches of time, O(C R D + T D)."""

    _bucket_T: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        edges = bucket_edges(config.top_k, config.max_history)
        places = torch.arange(config.max_history)
        bucket_T = torch.searchsorted(torch.tensor(edges[1:]), places, right=True)
        self.register_buffer("_bucket_T", bucket_T, persistent=False)
        rows = len(edges) - 1
        self.mix_keys = Projection(rows, rows)  # E
        self.mix_values = Projection(rows, rows)  # F
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; keys are oldest first, at most max_history of them."""
        bucket_T = self._bucket_T[: len(keys_TD)].flip(0)
        count_J1 = bucket_T.bincount()[:, None]
        J = len(count_J1)
        key_JD, value_JD = (
            mix.weight[:J, :J] @ (x.new_zeros(J, x.shape[1]).index_add(0, bucket_T, x) / count_J1)
            for mix, x in ((self.mix_keys, keys_TD), (self.mix_values, values_TD))
        )
        query_CD = self.query(queries_CD)
        return self.output(
            multi_head(query_CD, self.key(key_JD), self.value(value_JD), self._heads)
        )


def bucket_edges(buckets: int, length: int) -> list[int]:
    """Edges of at most `buckets` buckets that cover places 0 to length - 1, none of them empty.

    As fine as a geometric row that reaches the length, but never finer than one place.
    """
    buckets = min(buckets, length)
    edges = [max(j, round(length ** (j / buckets))) for j in range(buckets + 1)]
    edges[0] = 0
    return edges

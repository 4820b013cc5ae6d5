"""Coarse interactions by clusters of queries: clustered attention (Vyas et al., NeurIPS 2020).

Queries are hashed to 63 bits, their codes clustered by k-means in Hamming space, and the mean of
each cluster's queries attends to all keys for all of them. Theirs starts from random codes; here
the first centres are spread evenly over the distinct codes in order of their bits, which depends
on the queries and not on their order. Without the improved variant's second attention to the
cluster's best keys.

Letters as in `fast_attention.base`; P bits, K clusters.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.models.fast_attention.base import FastAttention, multi_head
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection, RandomPlanes

__all__ = ["ClusteredAttention", "hamming_k_means"]

_BITS = 63
_ITERATIONS = 10


class ClusteredAttention(FastAttention):
    """Each query reads what its cluster's centre reads, O(K T D + C K P) with K = top_k."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        self._clusters = config.top_k
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)
        self.planes = RandomPlanes(_BITS, config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; the order of keys does not matter."""
        query_CD = self.query(queries_CD)
        with torch.no_grad():
            cluster_C = hamming_k_means(self.planes(query_CD) >= 0, self._clusters)
        count_K = cluster_C.bincount()
        total_KD = query_CD.new_zeros(len(count_K), query_CD.shape[1])
        total_KD = total_KD.index_add(0, cluster_C, query_CD)
        mean_KD = total_KD / count_K.clamp(min=1)[:, None]
        out_KD = multi_head(mean_KD, self.key(keys_TD), self.value(values_TD), self._heads)
        return torch.nn.functional.embedding(cluster_C, self.output(out_KD))


def hamming_k_means(bits_CP: torch.Tensor, clusters: int) -> torch.Tensor:
    """Lloyd's algorithm on codes, at most ten iterations, O(C K P) each.

    Args:
        bits_CP: boolean, P <= 63.
        clusters: at most so many; no more than distinct codes.

    Returns:
        int64 [C], the cluster of each code. Equal codes are in one cluster, and the order of the
        codes does not matter.
    """
    powers_P = 1 << torch.arange(bits_CP.shape[1], device=bits_CP.device)
    distinct_U = (bits_CP * powers_P).sum(dim=1).unique()
    K = min(clusters, len(distinct_U))
    picked_K = distinct_U[torch.arange(K, device=bits_CP.device) * len(distinct_U) // K]
    # As -1 and 1, whose product counts equal bits less differing ones; exact in float32.
    sign_CP = bits_CP.float() * 2 - 1
    centre_KP = ((picked_K[:, None] & powers_P) != 0).float() * 2 - 1
    cluster_C = (sign_CP @ centre_KP.T).argmax(dim=1)
    for _ in range(_ITERATIONS - 1):
        vote_KP = torch.zeros_like(centre_KP).index_add_(0, cluster_C, sign_CP)
        # Where half of a cluster's codes have the bit, or none are left, it stays.
        centre_KP = torch.where(vote_KP == 0, centre_KP, vote_KP.sign())
        previous_C, cluster_C = cluster_C, (sign_CP @ centre_KP.T).argmax(dim=1)
        if torch.equal(previous_C, cluster_C):
            break
    return cluster_C

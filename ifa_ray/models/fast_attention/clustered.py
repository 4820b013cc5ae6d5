"""Coarse interactions by clusters of queries: clustered attention (Vyas et al., NeurIPS 2020).

Queries are hashed to 63 bits, their codes clustered by k-means in Hamming space, and the mean of
each cluster's queries attends to all keys. The improved variant, which this is: of the keys that a
cluster weighs most each query takes its own softmax, with the mass that the cluster gives them; the
rest it reads as its cluster does.

Theirs starts k-means from random codes; here the first centres are spread evenly over the distinct
codes in order of their bits, which depends on the queries and not on their order. Heads share the
clusters and their best keys.

Letters as in `fast_attention.base`; P bits, K clusters, J best keys of a cluster.
"""

from __future__ import annotations

import math

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.models.chosen_attention import chosen_attention
from ifa_ray.models.fast_attention.base import FastAttention
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection, RandomPlanes

__all__ = ["ClusteredAttention", "hamming_k_means"]

_BITS = 63
_ITERATIONS = 10


class ClusteredAttention(FastAttention):
    """Queries read with their cluster, and by themselves its best keys.

    O(K T D + C (K P + J D)) with K = top_k clusters and J a quarter of it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_heads
        self._clusters = config.top_k
        self._best_keys = math.ceil(config.top_k / 4)
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)
        self.planes = RandomPlanes(_BITS, config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; the order of keys does not matter."""
        H, (C, D) = self._heads, queries_CD.shape
        query_CD, key_TD = self.query(queries_CD) / (D // H) ** 0.5, self.key(keys_TD)
        value_TD = self.value(values_TD)
        with torch.no_grad():
            cluster_C = hamming_k_means(self.planes(query_CD) >= 0, self._clusters)
        weight_HKT = (self._centres(query_CD, cluster_C) @ self._split(key_TD).mT).softmax(dim=-1)
        J = min(self._best_keys, len(key_TD))
        best_KJ = weight_HKT.detach().sum(dim=0).topk(J).indices
        is_best_KT = torch.zeros_like(weight_HKT[0], dtype=torch.bool).scatter_(1, best_KJ, True)
        mass_HK = weight_HKT.masked_fill(~is_best_KT, 0.0).sum(dim=-1)
        rest_HKd = weight_HKT.masked_fill(is_best_KT, 0.0) @ self._split(value_TD)
        no_bias_TH = query_CD.new_zeros(len(key_TD), H)
        own_CD = chosen_attention(query_CD, key_TD, no_bias_TH, value_TD, best_KJ[cluster_C])
        shared_KX = torch.cat([mass_HK.T, rest_HKd.transpose(0, 1).flatten(1)], dim=1)
        shared_CX = torch.nn.functional.embedding(cluster_C, shared_KX)
        own_CHd = own_CD.view(C, H, -1) * shared_CX[:, :H, None]
        return self.output(own_CHd.flatten(1) + shared_CX[:, H:])

    def _centres(self, query_CD: torch.Tensor, cluster_C: torch.Tensor) -> torch.Tensor:
        """The mean query of each cluster, [H, K, d]; that of a cluster left empty is never read."""
        count_K = cluster_C.bincount()
        total_KD = query_CD.new_zeros(len(count_K), query_CD.shape[1])
        total_KD = total_KD.index_add(0, cluster_C, query_CD)
        return self._split(total_KD / count_K.clamp(min=1)[:, None])

    def _split(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Heads apart, [H, N, d]."""
        return x_ND.view(len(x_ND), self._heads, -1).transpose(0, 1)


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

"""fastAtten(query, key, value) of equations 2 and 3 as a choice, and what the choices share.

The alternatives that section 4.4 argues against without measuring: sampling interactions (`lsh`,
`local_global`, `eta`, `sdim`) and building coarse ones (`clustered`, `inducing`, `linformer`). Each
lets a candidate read about `top_k` rows, whatever the rows are: behaviours, means of behaviours
or summaries that were learned. Knows tensors only.

Letters of this package: B requests, C queries, T keys, D width, H heads, d their width; R rows that
stand for the keys.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ifa_ray.config import ModelConfig
from ifa_ray.models.embedding import QUERY_KEY_SCALE, Projection, RandomPlanes, Table
from ifa_ray.models.target_attention import chosen_attention


class FastAttention(nn.Module, ABC):
    """Attention of a set of queries to a sequence, one request at a time.

    What was chosen, sorted or clustered for one request must not depend on what else is in the
    batch, so padding is cut off before `attend_one` and the two see real rows only.
    """

    def forward(
        self,
        queries_BCD: torch.Tensor,
        keys_BTD: torch.Tensor,
        values_BTD: torch.Tensor,
        query_mask_BC: torch.Tensor,
        mask_BT: torch.Tensor,
    ) -> torch.Tensor:
        """Attends.

        Args:
            queries_BCD: features, not yet projected, as are keys and values.
            keys_BTD: by which behaviours are found.
            values_BTD: what is read of them.
            query_mask_BC: boolean, True = real; the real ones stand side by side.
            mask_BT: as `query_mask_BC`, of keys and values.

        Returns:
            [B, C, D]; 0 for padded queries and for an empty sequence.
        """
        found = []
        spans = zip(_spans(query_mask_BC), _spans(mask_BT), strict=True)
        for b, (asking, read) in enumerate(spans):
            if asking.start == asking.stop or read.start == read.stop:
                found.append(torch.zeros_like(queries_BCD[b]))
                continue
            out_CD = self.attend_one(queries_BCD[b, asking], keys_BTD[b, read], values_BTD[b, read])
            around = (asking.start, queries_BCD.shape[1] - asking.stop)
            found.append(pad(out_CD, (0, 0, *around)) if any(around) else out_CD)
        return torch.stack(found)

    @abstractmethod
    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """Attends within one request, C >= 1 and T >= 1, all of them real; returns [C, D].

        The order of the queries must not matter; that of keys, oldest first, may.
        """


def multi_head(
    query_CD: torch.Tensor, key_RD: torch.Tensor, value_RD: torch.Tensor, num_heads: int
) -> torch.Tensor:
    """Exact softmax attention, heads side by side in D, O(C R D); returns [C, D]."""
    query_HCd, key_HRd, value_HRd = (
        x.view(len(x), num_heads, -1).transpose(0, 1)[None] for x in (query_CD, key_RD, value_RD)
    )
    out_HCd = scaled_dot_product_attention(query_HCd, key_HRd, value_HRd)[0]
    return out_HCd.transpose(0, 1).reshape(len(query_CD), -1)


def _spans(mask_BN: torch.Tensor) -> Iterator[slice]:
    """Of each row the columns that are real."""
    starts = mask_BN.int().argmax(dim=1).tolist()
    counts = mask_BN.sum(dim=1).tolist()
    return (slice(start, start + n) for start, n in zip(starts, counts, strict=True))


_BITS = 63
_ITERATIONS = 10


# Coarse interactions by clusters of queries: clustered attention (Vyas et al., NeurIPS 2020).
#
# Queries are hashed to 63 bits, their codes clustered by k-means in Hamming space, and the mean of
# each cluster's queries attends to all keys. The improved variant, which this is: of the keys that
# a cluster weighs most each query takes its own softmax, with the mass that the cluster gives them;
# the rest it reads as its cluster does.
#
# Theirs starts k-means from random codes; here the first centres are spread evenly over the
# distinct codes in order of their bits, which depends on the queries and not on their order. Heads
# share the clusters and their best keys.


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


# Points that are as far apart as items are see different parts of the history from the start.
_POINT_STD = 0.5


# Coarse interactions through learned points: the Set Transformer's ISAB (Lee et al., ICML 2019).
#
# R = top_k inducing points attend to the sequence, queries attend to what they found. ISAB without
# its feed-forward, residual and norm, which here are what the towers and the optional modules do.


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


# Coarse interactions by a projection of the length: Linformer (Wang et al., 2020).
#
# Linformer multiplies keys and values, [n, D], by learned E and F, [r, n], for one fixed n. Here n
# differs from request to request, so the projection has two factors: a fixed one, the mean of the
# behaviours in each of r buckets of places (Linformer's section on general projections allows
# pooling), and a learned one among the buckets, [r, r], for keys and values each. Places are
# counted from the end, so that the latest behaviour is always in bucket 0, and buckets widen with
# age: the first ones hold one behaviour each, the last ones reach max_history. Buckets that lie
# beyond a history are not read.
#
# A candidate set has no order, so nothing could be in a bucket: for equation 3 this is no choice.


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


# Sampling by place: Longformer (Beltagy et al., 2020) and BigBird (Zaheer et al., NeurIPS 2020).
#
# Their query reads its neighbours, some global tokens that read everything, and some tokens at
# random. A candidate has no place in the history; it stands at its end, so its neighbours are the
# latest behaviours. Of the budget top_k half goes to them, a quarter to global tokens, a quarter to
# random behaviours, which are the same ones for all candidates: a request's random places are those
# of the history's length, spread evenly, each at a fixed random point of its stretch. A history
# that fits into local and random together is read whole.
#
# A candidate set has no order and so no neighbours: for equation 3 this is no choice.


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

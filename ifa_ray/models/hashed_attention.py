"""Fast attentions by hashing: Reformer's LSH, ETA and SDIM, in the form of `FastAttention`.

Letters as there; P bits, K chosen of the T, N queries of one chunk, S buckets of all rounds.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import embedding_bag, normalize, pad

from ifa_ray.config import ModelConfig, require
from ifa_ray.models.coarse_attention import FastAttention
from ifa_ray.models.embedding import QUERY_KEY_SCALE, Projection, RandomPlanes
from ifa_ray.models.target_attention import chosen_attention, walk_heads

_ROUNDS = 4
_TILE = 16

# Reformer's: less than any score, and still a number, so that a query that is alone reads itself.
_SELF_SCORE = -1e5


# Sampling by locality-sensitive hashing: Reformer's attention (Kitaev et al., ICLR 2020).
#
# In a round, vectors fall into buckets, argmax of [x R; -x R] for random R; keys are sorted by
# bucket and cut into chunks of equal length, and a query attends to its own chunk and the two
# neighbouring ones. Rounds are combined by their log-sum-exps. As in Reformer queries and keys
# share a projection, and where queries are the keys one attends to itself only if nothing else is
# near.
#
# What a cross attention changes: queries are not in the sorted sequence, so a query's chunk is that
# where its own bucket begins among the keys. And: keys are not scaled to length 1, so that with all
# keys in one chunk this is softmax attention; heads share the buckets; neighbours are on both sides
# and the ends do not meet; within a bucket keys are sorted along one more random direction, by
# content and not by place; the number of buckets is a product of two small hashes (as for
# Reformer's long sequences), about one per chunk of the longest history.


class LshAttention(FastAttention):
    """A query reads three chunks of keys per round, top_k in all; O((C + T) (log T + top_k D))."""

    def __init__(self, config: ModelConfig, *, keys_are_queries: bool = False) -> None:
        """Builds the attention.

        Args:
            config: gives widths, and by `top_k` and `max_history` chunks and buckets.
            keys_are_queries: whether key t is query t, which then hardly reads itself.
        """
        super().__init__()
        self._heads = config.num_heads
        self._keys_are_queries = keys_are_queries
        self._chunk = math.ceil(config.top_k / (3 * _ROUNDS))
        chunks = config.max_history / self._chunk
        self._half = max(1, round(math.sqrt(chunks) / 2))  # of one hash's buckets
        self.query_key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)
        self.planes = RandomPlanes(_ROUNDS * (2 * self._half + 1), config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; the order of keys does not matter."""
        query_CD, key_TD = self.query_key(queries_CD), self.query_key(keys_TD)
        place_RC, place_RT = self._places(query_CD), self._places(key_TD)
        query_HCd, key_HTd, value_HTd = (
            x_ND.unflatten(1, (self._heads, -1)).transpose(0, 1)
            for x_ND in (query_CD, key_TD, self.value(values_TD))
        )
        query_HCd = query_HCd / query_HCd.shape[-1] ** 0.5
        # A value of 1 beside the others sums the weights.
        rows_HTX = torch.cat([key_HTd, value_HTd, torch.ones_like(value_HTd[..., :1])], dim=-1)
        rounds = [
            self._read_round(query_HCd, rows_HTX, *places)
            for places in zip(place_RC, place_RT, strict=True)
        ]
        sums_RHCe, most_RHC1 = (torch.stack(parts) for parts in zip(*rounds, strict=True))
        sums_HCe = ((most_RHC1 - most_RHC1.amax(dim=0)).exp() * sums_RHCe).sum(dim=0)
        out_HCd = sums_HCe[..., :-1] / sums_HCe[..., -1:]
        return self.output(out_HCd.transpose(0, 1).flatten(1))

    @torch.no_grad()
    def _places(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Where vectors belong in each round: bucket + a place within it in (0, 1), float64."""
        along_NRP = self.planes(normalize(x_ND, dim=-1))
        along_NRP = along_NRP.unflatten(1, (_ROUNDS, -1))
        first, second = (
            _nearest_direction(along_NRP[..., part])
            for part in (slice(self._half), slice(self._half, 2 * self._half))
        )
        within = torch.sigmoid(2.0 * along_NRP[..., -1].double())
        return ((2 * self._half * first + second) + within).T.contiguous()

    def _read_round(
        self,
        query_HCd: torch.Tensor,
        rows_HTX: torch.Tensor,
        place_C: torch.Tensor,
        place_T: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One round.

        Returns:
            For each head and query the sum of exp(score - most) [value, 1], [H, C, d + 1], and
            its largest score, `most`, [H, C, 1].
        """
        (H, C, d), last = query_HCd.shape, len(place_T) - 1
        sorted_T, order_T = place_T.sort(stable=True)
        window_HSWX, index_SW = self._windows(rows_HTX.index_select(1, order_T), order_T)
        chunk_C = torch.searchsorted(sorted_T, place_C).clamp(max=last) // self._chunk
        slot_C, chunk_M = _tiles(chunk_C, len(index_SW))
        asked_HId = query_HCd.new_zeros(H, len(chunk_M) * _TILE, d).index_copy(1, slot_C, query_HCd)
        window_YWX = window_HSWX.index_select(1, chunk_M).flatten(0, 1)
        key_YWd, value_YWe = window_YWX.split([d, d + 1], dim=-1)
        index_M1W = index_SW[chunk_M][:, None]
        beyond_M1W = torch.where(index_M1W < 0, float("-inf"), 0.0).to(query_HCd.dtype)
        score_YQW = torch.baddbmm(
            beyond_M1W.repeat(H, 1, 1), asked_HId.view(-1, _TILE, d), key_YWd.transpose(1, 2)
        )
        if self._keys_are_queries:
            own_I = torch.full((len(chunk_M) * _TILE,), -2, device=slot_C.device)
            own_I[slot_C] = torch.arange(C, device=slot_C.device)
            itself_MQW = own_I.view(-1, _TILE, 1) == index_M1W
            score_YQW = score_YQW.masked_fill(itself_MQW.repeat(H, 1, 1), _SELF_SCORE)
        most_YQ1 = score_YQW.detach().amax(dim=-1, keepdim=True)
        sums_YQe = (score_YQW - most_YQ1).exp() @ value_YWe
        sums_HIe, most_HI1 = sums_YQe.view(H, -1, d + 1), most_YQ1.view(H, -1, 1)
        return sums_HIe.index_select(1, slot_C), most_HI1.index_select(1, slot_C)

    def _windows(
        self, sorted_HTX: torch.Tensor, order_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of each chunk and its neighbours, [H, S, W, X], and their keys' indices, [S, W].

        Beyond the ends there is nothing: index -1.
        """
        L = self._chunk
        ends = (L, L + -len(order_T) % L)
        rows_HSLX = pad(sorted_HTX, (0, 0, *ends)).unflatten(1, (-1, L))
        index_SL = pad(order_T, ends, value=-1).unflatten(0, (-1, L))
        window_HSWX = torch.cat([rows_HSLX[:, :-2], rows_HSLX[:, 1:-1], rows_HSLX[:, 2:]], dim=2)
        return window_HSWX, torch.cat([index_SL[:-2], index_SL[1:-1], index_SL[2:]], dim=1)


def _nearest_direction(along_NRP: torch.Tensor) -> torch.Tensor:
    """The place of the largest of [x R; -x R], [N, R]."""
    best_NR = along_NRP.abs().argmax(dim=-1)
    is_opposite_NR = along_NRP.gather(-1, best_NR[..., None])[..., 0] < 0
    return best_NR + along_NRP.shape[-1] * is_opposite_NR


def _tiles(chunk_C: torch.Tensor, num_chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Puts queries of one chunk into tiles of their own: at most C / Q + S of them.

    Returns:
        the slot of each query among M Q, and the chunk that each tile reads.
    """
    count_S = chunk_C.bincount(minlength=num_chunks)
    tiles_S = (count_S + _TILE - 1) // _TILE
    # The r-th query of a chunk, in whatever order, gets the r-th slot of the chunk's tiles.
    order_C = chunk_C.argsort(stable=True)
    sorted_C = chunk_C[order_C]
    first_S, first_slot_S = count_S.cumsum(0) - count_S, (tiles_S.cumsum(0) - tiles_S) * _TILE
    rank_C = torch.arange(len(chunk_C), device=chunk_C.device) - first_S[sorted_C]
    slot_C = torch.empty_like(chunk_C)
    slot_C[order_C] = first_slot_S[sorted_C] + rank_C
    chunk_M = torch.arange(num_chunks, device=chunk_C.device).repeat_interleave(tiles_S)
    return slot_C, chunk_M


_ETA_BITS = 64

# Distances searched at once: 2 MiB of them, so that they are read from a cache.
_CHUNK_SCORES = 1 << 19

# Integers up to 2**24 are exact in float32.
_LONGEST = (1 << 24) // (_ETA_BITS + 1)


# Sampling by Hamming distance: ETA (Chen et al., 2021).
#
# Items are hashed to 64 bits, signs of fixed random projections (SimHash). The general search takes
# the top_k behaviours whose bits differ least from the candidate's, of equally near ones the
# latest; the exact search is multi-head target attention to them. Only the exact search learns.


class EtaAttention(FastAttention):
    """Queries read the top_k behaviours that are nearest by bits: O(C T P) in the search."""

    def __init__(self, config: ModelConfig) -> None:
        """Builds the attention.

        Raises:
            ConfigError: if max_history is longer than distances can be told apart exactly.
        """
        super().__init__()
        require(
            config.max_history <= _LONGEST,
            "max_history",
            config.max_history,
            f"<= {_LONGEST} for the search by Hamming distance",
        )
        self._heads, self._top_k = config.num_heads, config.top_k
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)
        self.planes = RandomPlanes(_ETA_BITS, config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; keys are oldest first."""
        k = min(self._top_k, len(keys_TD))
        with torch.no_grad():
            bits_CP, bits_TP = self.planes(queries_CD) >= 0, self.planes(keys_TD) >= 0
            chosen_CK = nearest_codes(bits_CP, bits_TP, k)
        query_CD = self.query(queries_CD) / (queries_CD.shape[1] // self._heads) ** 0.5
        no_bias_TH = query_CD.new_zeros(len(keys_TD), self._heads)
        key_TD, value_TD = self.key(keys_TD), self.value(values_TD)
        return self.output(chosen_attention(query_CD, key_TD, no_bias_TH, value_TD, chosen_CK))


def nearest_codes(bits_CP: torch.Tensor, bits_TP: torch.Tensor, k: int) -> torch.Tensor:
    """Of each query the k keys of least Hamming distance, int64 [C, k], oldest first; P <= 64.

    Of equally near ones the latest. A product of -1 and 1 counts equal bits less differing ones;
    times T plus the place, no two of a row's are equal, and all are exact in float32.
    """
    (C, P), T = bits_CP.shape, len(bits_TP)
    assert P <= _ETA_BITS, P
    assert T <= _LONGEST, T
    if k == T:
        return torch.arange(T, device=bits_CP.device).expand(C, T)
    sign_CP = (bits_CP.float() * 2 - 1) * T
    sign_PT = (bits_TP.float() * 2 - 1).T.contiguous()
    place_1T = torch.arange(T, device=bits_CP.device, dtype=torch.float32)[None]
    step = min(C, max(1, _CHUNK_SCORES // T))
    # One buffer for all chunks: fresh memory would cost more than the product.
    buffer = sign_CP.new_empty(step, T)
    chosen = []
    for sign_NP in sign_CP.split(step):
        score_NT = torch.addmm(place_1T, sign_NP, sign_PT, out=buffer[: len(sign_NP)])
        chosen.append(walk_heads(score_NT[None], k))
    return torch.cat(chosen)


_SDIM_BITS = 48
_BITS_PER_ROUND = 3
_SDIM_ROUNDS = _SDIM_BITS // _BITS_PER_ROUND
_BUCKETS = 1 << _BITS_PER_ROUND

# Sums shorter than this are not blown up to length 1: they are of nothing.
_EPS = 1e-6


# Sampling by collisions: SDIM (Cao et al., CIKM 2022).
#
# Items are hashed to 48 bits, signs of fixed random projections, read three at a time: 16 rounds of
# 8 buckets. In a round a candidate reads the sum of the behaviours in its own bucket, scaled to
# length 1; rounds are averaged. Nothing is learned of whom to read, and there are no heads. Sums by
# bucket are additive over the history: what SDIM's own server of behaviour sequences keeps.


class SdimAttention(FastAttention):
    """Queries read the behaviours that collide with them, O((C + T) R D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.value = Projection(config.width, config.width)
        # What is read has length 1, F_can about one per feature: it starts as long as that.
        self.output = Projection(config.width, config.width, scale=math.sqrt(config.width))
        self.planes = RandomPlanes(_SDIM_BITS, config.width)

    def attend_one(
        self, queries_CD: torch.Tensor, keys_TD: torch.Tensor, values_TD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastAttention.attend_one`; the order of keys does not matter."""
        bucket_TR = self.buckets(keys_TD)
        # A product with zeros and ones: a tenth of a scatter-add's time for T R rows [measured].
        is_in_TS = values_TD.new_zeros(len(keys_TD), _SDIM_ROUNDS * _BUCKETS).scatter_(
            1, bucket_TR, 1.0
        )
        sum_SD = normalize(is_in_TS.T @ self.value(values_TD), dim=1, eps=_EPS)
        # Projected by bucket: means of products are products of means.
        out_SD = self.output(sum_SD)
        read_CD: torch.Tensor = embedding_bag(self.buckets(queries_CD), out_SD, mode="mean")
        return read_CD

    @torch.no_grad()
    def buckets(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The bucket of each vector in each round, int64 [N, R], numbered through all rounds."""
        bits_NRP = (self.planes(x_ND) >= 0).unflatten(1, (_SDIM_ROUNDS, _BITS_PER_ROUND))
        powers_P = 1 << torch.arange(_BITS_PER_ROUND, device=x_ND.device)
        first_R = _BUCKETS * torch.arange(_SDIM_ROUNDS, device=x_ND.device)
        return (bits_NRP * powers_P).sum(dim=-1) + first_R

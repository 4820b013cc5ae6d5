"""Sampling by locality-sensitive hashing: Reformer's attention (Kitaev et al., ICLR 2020).

In a round, vectors fall into buckets, argmax of [x R; -x R] for random R; keys are sorted by bucket
and cut into chunks of equal length, and a query attends to its own chunk and the two neighbouring
ones. Rounds are combined by their log-sum-exps. As in Reformer queries and keys share a projection,
and where queries are the keys one attends to itself only if nothing else is near.

What a cross attention changes: queries are not in the sorted sequence, so a query's chunk is that
where its own bucket begins among the keys. And: keys are not scaled to length 1, so that with all
keys in one chunk this is softmax attention; heads share the buckets; neighbours are on both sides
and the ends do not meet; within a bucket keys are sorted along one more random direction, by
content and not by place; the number of buckets is a product of two small hashes (as for Reformer's
long sequences), about one per chunk of the longest history.

Letters as in `fast_attention.base`; L keys of a chunk, W = 3 L of a window, Q queries of a tile,
S chunks, M tiles, I = M Q slots in them, Y = H M tiles of all heads, e = d + 1.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import normalize, pad

from ifa_ray.config import ModelConfig
from ifa_ray.models.fast_attention.base import FastAttention
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection, RandomPlanes

__all__ = ["LshAttention"]

_ROUNDS = 4
_TILE = 16

# Reformer's: less than any score, and still a number, so that a query that is alone reads itself.
_SELF_SCORE = -1e5


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

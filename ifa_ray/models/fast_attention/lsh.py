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
M tiles, S chunks.
"""

from __future__ import annotations

import math

import torch

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
        value_TD = self.value(values_TD)
        place_RC, place_RT = self._places(query_CD), self._places(key_TD)
        rounds = [
            self._read_round(query_CD, key_TD, value_TD, *places)
            for places in zip(place_RC, place_RT, strict=True)
        ]
        out_RCHd, log_sum_RCH = (torch.stack(parts) for parts in zip(*rounds, strict=True))
        out_CHd = (log_sum_RCH.softmax(dim=0)[..., None] * out_RCHd).sum(dim=0)
        return self.output(out_CHd.flatten(1))

    @torch.no_grad()
    def _places(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Where vectors belong in each round: bucket + a place within it in (0, 1), float64."""
        h = self._half
        along_NRP = self.planes(torch.nn.functional.normalize(x_ND, dim=-1))
        along_NRP = along_NRP.unflatten(1, (_ROUNDS, -1))
        first, second = (
            torch.cat([part, -part], dim=-1).argmax(dim=-1)
            for part in (along_NRP[..., :h], along_NRP[..., h : 2 * h])
        )
        within = torch.sigmoid(2.0 * along_NRP[..., -1].double())
        return ((2 * h * first + second) + within).T.contiguous()

    def _read_round(
        self,
        query_CD: torch.Tensor,
        key_TD: torch.Tensor,
        value_TD: torch.Tensor,
        place_C: torch.Tensor,
        place_T: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One round: what each head of each query reads, [C, H, d], and its log-sum-exp [C, H]."""
        H = self._heads
        sorted_T, order_T = place_T.sort(stable=True)
        window_SWX, index_SW = self._windows(torch.cat([key_TD, value_TD], dim=1)[order_T], order_T)
        last = len(key_TD) - 1
        chunk_C = torch.searchsorted(sorted_T, place_C).clamp(max=last) // self._chunk
        slot_C, chunk_M = _tiles(chunk_C, len(index_SW))
        asked = query_CD.new_zeros(len(chunk_M) * _TILE, query_CD.shape[1])
        query_MHQd = _heads(asked.index_copy(0, slot_C, query_CD).unflatten(0, (-1, _TILE)), H)
        key_MWD, value_MWD = window_SWX.index_select(0, chunk_M).chunk(2, dim=-1)
        index_M1W = index_SW[chunk_M][:, None]
        score_MHQW = query_MHQd @ _heads(key_MWD, H).transpose(2, 3) / query_MHQd.shape[-1] ** 0.5
        score_MHQW = score_MHQW.masked_fill((index_M1W < 0)[:, None], float("-inf"))
        if self._keys_are_queries:
            own = torch.full((len(asked),), -2, device=slot_C.device)
            own[slot_C] = torch.arange(len(slot_C), device=slot_C.device)
            itself_MQW = own.view(-1, _TILE, 1) == index_M1W
            score_MHQW = score_MHQW.masked_fill(itself_MQW[:, None], _SELF_SCORE)
        log_sum_MHQ1 = score_MHQW.logsumexp(dim=-1, keepdim=True)
        out_MHQd = (score_MHQW - log_sum_MHQ1).exp() @ _heads(value_MWD, H)
        out, log_sum = (x.transpose(1, 2).flatten(0, 1)[slot_C] for x in (out_MHQd, log_sum_MHQ1))
        return out, log_sum[..., 0]

    def _windows(
        self, sorted_TX: torch.Tensor, order_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For each chunk, its rows and its neighbours', [S, W, X], and their keys' indices [S, W].

        Beyond the ends there is nothing: index -1.
        """
        T, L = len(order_T), self._chunk
        ends = (L, L + -T % L)
        rows = torch.nn.functional.pad(sorted_TX, (0, 0, *ends)).unflatten(0, (-1, L))
        indices = torch.nn.functional.pad(order_T, ends, value=-1).unflatten(0, (-1, L))
        window_SWX, index_SW = (torch.cat([x[:-2], x[1:-1], x[2:]], dim=1) for x in (rows, indices))
        return window_SWX, index_SW


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


def _heads(x_MND: torch.Tensor, H: int) -> torch.Tensor:
    return x_MND.unflatten(-1, (H, -1)).transpose(1, 2)

"""Sampling by Hamming distance: ETA (Chen et al., 2021).

Items are hashed to 64 bits, signs of fixed random projections (SimHash). The general search takes
the top_k behaviours whose bits differ least from the candidate's, of equally near ones the latest;
the exact search is multi-head target attention to them. Only the exact search learns.

Letters as in `fast_attention.base`; P bits, K chosen of the T, N queries of one chunk.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig, require
from ifa_ray.models.chosen_attention import chosen_attention
from ifa_ray.models.fast_attention.base import FastAttention
from ifa_ray.models.head_walk import walk_heads
from ifa_ray.models.layers import QUERY_KEY_SCALE, Projection, RandomPlanes

__all__ = ["EtaAttention", "nearest_codes"]

_BITS = 64

# Distances searched at once: 2 MiB of them, so that they are read from a cache.
_CHUNK_SCORES = 1 << 19

# Integers up to 2**24 are exact in float32.
_LONGEST = (1 << 24) // (_BITS + 1)


class EtaAttention(FastAttention):
    """Queries read the top_k behaviours that are nearest by bits: O(C T P) in the search."""

    def __init__(self, config: ModelConfig) -> None:
        """Builds the attention.

        Raises:
            ConfigError: if max_history is longer than distances can be told apart exactly.
        """
        super().__init__()
        require(config.max_history <= _LONGEST, "max_history", config.max_history,
                f"<= {_LONGEST} for the search by Hamming distance")  # fmt: skip
        self._heads, self._top_k = config.num_heads, config.top_k
        self.query = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.key = Projection(config.width, config.width, scale=QUERY_KEY_SCALE)
        self.value = Projection(config.width, config.width)
        self.output = Projection(config.width, config.width)
        self.planes = RandomPlanes(_BITS, config.width)

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
    assert P <= _BITS, P
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

"""fastAtten(query, key, value) of equations 2 and 3 as a choice, and what the choices share.

The alternatives that section 4.4 argues against without measuring: sampling interactions (`lsh`,
`local_global`, `eta`, `sdim`) and building coarse ones (`clustered`, `inducing`, `linformer`). Each
lets a candidate read about `top_k` rows, whatever the rows are: behaviours, means of behaviours
or summaries that were learned. Knows tensors only.

Letters of this package: B requests, C queries, T keys, D width, H heads, d their width; R rows that
stand for the keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention

__all__ = ["FastAttention", "multi_head"]


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

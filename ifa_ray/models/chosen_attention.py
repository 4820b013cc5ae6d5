"""Multi-head target attention of each candidate to the few behaviours chosen for it.

The exact search unit of two-stage models. Forward and backward go through the candidates in
chunks and keep nothing of size C x K x D, so 10,000 candidates with 100 behaviours each stay small.
Knows tensors only.

Letters: C candidates, T behaviours, K chosen per candidate, H heads, D width (H heads of D / H),
N candidates of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["chosen_attention", "naive_chosen_attention"]

# Rows gathered at once: about what stays in a core's second-level cache.
_CHUNK_ROWS = 4096


def naive_chosen_attention(
    query_CD: torch.Tensor,
    key_TD: torch.Tensor,
    bias_TH: torch.Tensor,
    value_TD: torch.Tensor,
    chosen_CK: torch.Tensor,
) -> torch.Tensor:
    """Softmax attention as it is read; kept to say what the fast form must give."""
    (C, K), H = chosen_CK.shape, bias_TH.shape[1]
    key_CKHd = key_TD[chosen_CK].view(C, K, H, -1)
    value_CKHd = value_TD[chosen_CK].view(C, K, H, -1)
    score_CKH = (query_CD.view(C, 1, H, -1) * key_CKHd).sum(dim=-1) + bias_TH[chosen_CK]
    return (score_CKH.softmax(dim=1)[..., None] * value_CKHd).sum(dim=1).flatten(1)


def chosen_attention(
    query_CD: torch.Tensor,
    key_TD: torch.Tensor,
    bias_TH: torch.Tensor,
    value_TD: torch.Tensor,
    chosen_CK: torch.Tensor,
) -> torch.Tensor:
    """As `naive_chosen_attention`: scores are q.k + bias, so queries come already scaled.

    Args:
        query_CD: heads side by side, as in keys and values.
        key_TD: of all behaviours.
        bias_TH: added to a behaviour's score in each head.
        value_TD: of all behaviours.
        chosen_CK: int64, the behaviours of each candidate; no two alike in a row.

    Returns:
        [C, D].
    """
    out_CD: torch.Tensor = _ChosenAttention.apply(query_CD, key_TD, bias_TH, value_TD, chosen_CK)
    return out_CD


class _ChosenAttention(torch.autograd.Function):
    """Small batched products, one per candidate, over rows that are gathered chunk by chunk.

    A head's query is put into its own columns of a [D, H] block, zeros elsewhere, so one product
    serves all heads; the zeros cost less than a separate product per head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_CD: torch.Tensor,
        key_TD: torch.Tensor,
        bias_TH: torch.Tensor,
        value_TD: torch.Tensor,
        chosen_CK: torch.Tensor,
    ) -> torch.Tensor:
        H = bias_TH.shape[1]
        rows_TX = torch.cat([key_TD, bias_TH, value_TD], dim=1)
        out_CD = torch.empty_like(query_CD)
        weight_CHK = query_CD.new_empty(len(query_CD), H, chosen_CK.shape[1])
        for part in _chunks(chosen_CK):
            key_NKD, bias_NKH, value_NKD = _gather(rows_TX, chosen_CK[part], H)
            score_NHK = torch.baddbmm(
                bias_NKH.mT, _blocks(query_CD[part], H), key_NKD.transpose(1, 2)
            )
            torch.softmax(score_NHK, dim=2, out=weight_CHK[part])
            out_CD[part] = _own_columns(weight_CHK[part] @ value_NKD)
        ctx.save_for_backward(query_CD, rows_TX, chosen_CK, weight_CHK)
        return out_CD

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_out_CD,) = grads
        query_CD, rows_TX, chosen_CK, weight_CHK = ctx.saved_tensors
        D, H = query_CD.shape[1], weight_CHK.shape[1]
        grad_query_CD = torch.empty_like(query_CD)
        grad_rows_TX = torch.zeros_like(rows_TX)
        for part in _chunks(chosen_CK):
            key_NKD, _, value_NKD = _gather(rows_TX, chosen_CK[part], H)
            weight_NHK, out_NHD = weight_CHK[part], _blocks(grad_out_CD[part], H)
            grad_weight_NHK = out_NHD @ value_NKD.transpose(1, 2)
            mean_NH1 = (weight_NHK * grad_weight_NHK).sum(dim=2, keepdim=True)
            grad_score_NHK = weight_NHK * (grad_weight_NHK - mean_NH1)
            grad_query_CD[part] = _own_columns(grad_score_NHK @ key_NKD)
            grad_score_NKH = grad_score_NHK.transpose(1, 2)
            grad_rows_NKX = torch.cat(
                [
                    grad_score_NKH @ _blocks(query_CD[part], H),
                    grad_score_NKH,
                    weight_NHK.transpose(1, 2) @ out_NHD,
                ],
                dim=2,
            )
            grad_rows_TX.index_add_(0, chosen_CK[part].flatten(), grad_rows_NKX.flatten(0, 1))
        grad_key_TD, grad_bias_TH, grad_value_TD = grad_rows_TX.split([D, H, D], dim=1)
        return grad_query_CD, grad_key_TD, grad_bias_TH, grad_value_TD, None


def _chunks(chosen_CK: torch.Tensor) -> Iterator[slice]:
    C, K = chosen_CK.shape
    step = max(1, _CHUNK_ROWS // K)
    return (slice(start, start + step) for start in range(0, C, step))


def _gather(
    rows_TX: torch.Tensor, chosen_NK: torch.Tensor, H: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys [N, K, D], biases [N, K, H] and values [N, K, D] of the chosen behaviours."""
    D = (rows_TX.shape[1] - H) // 2
    key, bias, value = torch.nn.functional.embedding(chosen_NK, rows_TX).split([D, H, D], dim=2)
    return key, bias, value


def _blocks(x_ND: torch.Tensor, H: int) -> torch.Tensor:
    """Each head's part in a row of its own: [N, H, D], zeros outside a row's own columns."""
    N, D = x_ND.shape
    blocks_NHHd = x_ND.new_zeros(N, H, H, D // H)
    blocks_NHHd.diagonal(dim1=1, dim2=2).copy_(x_ND.view(N, H, D // H).mT)
    return blocks_NHHd.view(N, H, D)


def _own_columns(x_NHD: torch.Tensor) -> torch.Tensor:
    """The inverse of `_blocks`: of each head's row its own columns, [N, D]."""
    N, H, D = x_NHD.shape
    return x_NHD.view(N, H, H, D // H).diagonal(dim1=1, dim2=2).mT.reshape(N, D)

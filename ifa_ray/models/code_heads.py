"""Attention by exact match, inside linear attention: phi's features are one-hot codes.

With phi(k) = one-hot(code of k), phi(K)^T [V, 1] is a table with a row per code, built by a
scatter-add, and phi(Q) a row look-up: what SIM's hard search reads, over the whole history and with
counts, in O(C + T). The table is additive over the history, as every `SequenceState` is. Knows
codes, not what they stand for.

Letters: B requests, C candidates, T history length, S codes, E width of summed values.
"""

from __future__ import annotations

import torch

__all__ = ["code_sums", "read_codes"]


def code_sums(
    values_BTE: torch.Tensor, code_BT: torch.Tensor, mask_BT: torch.Tensor, num_codes: int
) -> torch.Tensor:
    """Sums values and ones by code, [B, S, E + 1] float32; the last column is the count."""
    B, T, E = values_BTE.shape
    mask_BT1 = mask_BT[..., None]
    # A padded behaviour adds zeros to whichever row its code names.
    summed_BTX = torch.cat([torch.where(mask_BT1, values_BTE.float(), 0.0), mask_BT1], dim=-1)
    offset_B1 = num_codes * torch.arange(B, device=code_BT.device)[:, None]
    table = summed_BTX.new_zeros(B * num_codes, E + 1)
    table = table.index_add(0, (code_BT + offset_B1).flatten(), summed_BTX.view(B * T, E + 1))
    return table.view(B, num_codes, E + 1)


def read_codes(sums_BSX: torch.Tensor, code_BC: torch.Tensor) -> torch.Tensor:
    """Looks codes up: the mean value of each and log1p of its count, [B, C, E + 1].

    Both are 0 where the code never occurred.
    """
    B, S, X = sums_BSX.shape
    count_BS1 = sums_BSX[..., -1:]
    features_BSX = torch.cat(
        [sums_BSX[..., :-1] / count_BS1.clamp(min=1.0), torch.log1p(count_BS1)], dim=-1
    )
    offset_B1 = S * torch.arange(B, device=code_BC.device)[:, None]
    return torch.nn.functional.embedding(code_BC + offset_B1, features_BSX.view(B * S, X))

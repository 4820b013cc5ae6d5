"""Attention of each candidate to the latest behaviours of its category, a category at a time.

SIM's hard search with its exact search unit. Candidates of a category share the behaviours found,
so these are gathered once for a tile of such candidates and attended to by dense products; nothing
is searched for a candidate, and nothing of size C x K x D or C x T is formed. Knows codes, not what
they stand for.

Letters: B requests, C candidates, T behaviours, D width, H heads, S categories of all requests,
X candidates that find something, I tiles, J candidates of a tile, K behaviours of a tile.
"""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention

__all__ = ["Tiles", "same_category_attention", "tiles_of_same_category"]

# As few rows as keep the products dense where many categories have few candidates each.
_TILE = 32


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Who attends to what; places are in the flattened [B * C] and [B * T].

    Attributes:
        candidates_IJ: int64, places of the tile's candidates; a place that exists where `real_IJ`
            is False.
        real_IJ: boolean, every candidate with a behaviour of its category exactly once.
        behaviours_IK: int64, places of the latest behaviours of the tile's category, oldest first;
            a place that exists where `found_IK` is False.
        found_IK: boolean, at least one True in a row.
    """

    candidates_IJ: torch.Tensor
    real_IJ: torch.Tensor
    behaviours_IK: torch.Tensor
    found_IK: torch.Tensor


def tiles_of_same_category(
    candidate_code_BC: torch.Tensor,
    candidate_mask_BC: torch.Tensor,
    history_code_BT: torch.Tensor,
    history_mask_BT: torch.Tensor,
    num_codes: int,
    top_k: int,
) -> Tiles:
    """Finds the latest behaviours of each candidate's category, O(C + T log T + I K + B S).

    Args:
        candidate_code_BC: int64 in [0, num_codes).
        candidate_mask_BC: True = a real candidate.
        history_code_BT: int64 in [0, num_codes).
        history_mask_BT: True = a real behaviour.
        num_codes: S / B.
        top_k: at most so many are found for a candidate.
    """
    B = len(history_code_BT)
    behaviours, history_code = _sorted_by_code(history_code_BT, history_mask_BT, num_codes)
    count_S = torch.bincount(history_code, minlength=B * num_codes)
    end_S = count_S.cumsum(dim=0)
    finds_BC = candidate_mask_BC & (count_S.view(B, -1).gather(1, candidate_code_BC) > 0)
    candidates, candidate_code = _sorted_by_code(candidate_code_BC, finds_BC, num_codes)
    X = len(candidates)
    # Consecutive candidates are one tile, up to _TILE of them, while their code is the same.
    wanted_S = torch.bincount(candidate_code, minlength=B * num_codes)
    tiles_S = (wanted_S + _TILE - 1) // _TILE
    code_I = torch.repeat_interleave(tiles_S)
    nth_I = torch.arange(len(code_I), device=code_I.device) - (tiles_S.cumsum(0) - tiles_S)[code_I]
    slot_J = torch.arange(min(_TILE, max(X, 1)), device=code_I.device)
    offset_IJ = nth_I[:, None] * _TILE + slot_J
    real_IJ = offset_IJ < wanted_S[code_I, None]
    first_I = (wanted_S.cumsum(0) - wanted_S)[code_I]
    candidates_IJ = candidates[torch.where(real_IJ, first_I[:, None] + offset_IJ, 0)]
    found_I = count_S[code_I].clamp(max=top_k)
    K = int(found_I.max()) if X else 1
    back_K = torch.arange(K, 0, -1, device=code_I.device)
    found_IK = back_K <= found_I[:, None]
    behaviours_IK = behaviours[torch.where(found_IK, end_S[code_I, None] - back_K, 0)]
    return Tiles(
        candidates_IJ=candidates_IJ,
        real_IJ=real_IJ,
        behaviours_IK=behaviours_IK,
        found_IK=found_IK,
    )


def same_category_attention(
    query_BCD: torch.Tensor,
    key_BTD: torch.Tensor,
    value_BTD: torch.Tensor,
    tiles: Tiles,
    num_heads: int,
) -> torch.Tensor:
    """Multi-head attention of candidates to what their tile found, O(C K D).

    Args:
        query_BCD: heads side by side, already scaled.
        key_BTD: of all behaviours.
        value_BTD: of all behaviours.
        tiles: who attends to what.
        num_heads: H.

    Returns:
        [B, C, D], 0 for candidates in no tile.
    """
    B, C, D = query_BCD.shape

    def heads(rows_BXD: torch.Tensor, places_IX: torch.Tensor) -> torch.Tensor:
        gathered = embedding(places_IX, rows_BXD.flatten(0, 1))
        return gathered.unflatten(2, (num_heads, -1)).transpose(1, 2)

    attended_IHJd = scaled_dot_product_attention(
        heads(query_BCD, tiles.candidates_IJ),
        heads(key_BTD, tiles.behaviours_IK),
        heads(value_BTD, tiles.behaviours_IK),
        attn_mask=tiles.found_IK[:, None, None],
        scale=1.0,
    )
    rows_XD = attended_IHJd.transpose(1, 2).flatten(2)[tiles.real_IJ]
    out_ZD = query_BCD.new_zeros(B * C, D)
    return out_ZD.index_copy(0, tiles.candidates_IJ[tiles.real_IJ], rows_XD).view(B, C, D)


def _sorted_by_code(
    code_BX: torch.Tensor, mask_BX: torch.Tensor, num_codes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places where the mask is True, by request and code, in order within one; and their codes."""
    B = len(code_BX)
    offset_B1 = num_codes * torch.arange(B, device=code_BX.device)[:, None]
    places = mask_BX.flatten().nonzero()[:, 0]
    code, order = (code_BX + offset_B1).flatten()[places].sort(stable=True)
    return places[order], code

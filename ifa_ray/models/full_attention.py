"""Target attention to everything: exact softmax over all n behaviours, the ceiling of two stages.

And DIN, which is the same over the latest `top_k` alone. No C x n tensor is ever formed: torch's
fused kernel computes scores tile by tile, and again in the backward pass.

Letters as in `ifa_ray.models.base`; H heads, d their width, N candidates of a chunk, n behaviours.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates
from ifa_ray.models.kept import Kept, Recalled
from ifa_ray.models.target_attention import TargetAttention

__all__ = ["DIN", "FullAttention", "full_attention", "naive_full_attention"]

# Should a device have no fused kernel for these shapes, it gets N x n scores at a time.
_CHUNK_CANDIDATES = 1024


class FullAttention(TargetAttention):
    """Candidates attend to the whole history; TWIN with top_k = n, in O(C n) without a search."""

    def read(
        self,
        query_CD: torch.Tensor,
        key_nD: torch.Tensor,
        bias_nH: torch.Tensor,
        value_nD: torch.Tensor,
    ) -> torch.Tensor:
        """As `TargetAttention.read`."""
        return full_attention(query_CD, key_nD, bias_nH, value_nD)


class DIN(FullAttention):
    """Candidates attend to the latest `top_k` behaviours (Zhou et al., KDD 2018).

    It differs from the original where that would only weaken it beside TWIN: weights are a softmax
    of scaled products in several heads in place of one small MLP's outputs, unnormalised, and the
    scores know what the user did and when.
    """

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, history_reads=config.top_k)

    def kept(self) -> Kept:
        """The behaviours that are attended to."""
        return Kept(latest=self.config.top_k)

    def attend_kept(
        self,
        candidates: Candidates,
        latest: Behaviours,
        recalled: Recalled,  # noqa: ARG002
    ) -> Attended:
        """As `RankModel.attend_kept`."""
        return self.attend(candidates, latest)


def naive_full_attention(
    query_CD: torch.Tensor, key_nD: torch.Tensor, bias_nH: torch.Tensor, value_nD: torch.Tensor
) -> torch.Tensor:
    """Softmax attention as it is read, O(C n) memory; kept to say what the fused form must give."""
    (C, _), (n, H) = query_CD.shape, bias_nH.shape
    score_CnH = torch.einsum("chd,nhd->cnh", query_CD.view(C, H, -1), key_nD.view(n, H, -1))
    weight_CnH = (score_CnH + bias_nH).softmax(dim=1)
    return torch.einsum("cnh,nhd->chd", weight_CnH, value_nD.view(n, H, -1)).flatten(1)


def full_attention(
    query_CD: torch.Tensor, key_nD: torch.Tensor, bias_nH: torch.Tensor, value_nD: torch.Tensor
) -> torch.Tensor:
    """As `naive_full_attention`, O(C + n) memory, forward and backward.

    Args:
        query_CD: heads side by side, already scaled.
        key_nD: of n >= 1 behaviours.
        bias_nH: added to a behaviour's scores.
        value_nD: of the behaviours.

    Returns:
        [C, D].
    """
    (C, D), (n, H) = query_CD.shape, bias_nH.shape
    query_HCd = query_CD.view(C, H, -1).transpose(0, 1)
    key_Hnd, value_Hnd = (x.view(n, H, -1).transpose(0, 1) for x in (key_nD, value_nD))
    bias_H1n = bias_nH.T.contiguous()[:, None]
    # As a mask the bias is cheapest, but a mask has no gradient in the fused kernels, and on some
    # devices a broadcast one is copied whole.
    as_mask = query_CD.device.type == "cpu" and not torch.is_grad_enabled()
    if not as_mask:
        key_Hnd, value_Hnd = torch.cat([key_Hnd, bias_H1n.mT], dim=2), pad(value_Hnd, (0, 1))
        query_HCd = pad(query_HCd, (0, 1), value=1.0)
    attended = [
        scaled_dot_product_attention(
            part_HNd[None],
            key_Hnd[None],
            value_Hnd[None],
            attn_mask=bias_H1n.expand(H, part_HNd.shape[1], n)[None] if as_mask else None,
            scale=1.0,
        )[0, ..., : D // H]
        for part_HNd in query_HCd.split(_CHUNK_CANDIDATES, dim=1)
    ]
    return torch.cat(attended, dim=1).transpose(0, 1).reshape(C, D)

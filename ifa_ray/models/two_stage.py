"""The first of two stages: the behaviours that a search chooses for each candidate.

TWIN searches with the heads and scores of its attention, SIM-soft with one head of its own. All C x
n scores are computed, exactly, but never kept: a chunk of them lives in a core's cache. Knows
tensors only; nothing here has a gradient.

Letters: H heads, C candidates, N of one chunk, n behaviours, D width (H heads side by side), K
chosen.
"""

from __future__ import annotations

import torch

from ifa_ray.models.head_walk import HeadWalk

__all__ = ["search"]

# Scores searched at once: 4 MiB of them, so that they are read from a cache and not from memory.
_CHUNK_SCORES = 1 << 20


@torch.no_grad()
def search(
    query_CD: torch.Tensor, key_nD: torch.Tensor, bias_nH: torch.Tensor, top_k: int
) -> torch.Tensor:
    """Chooses the behaviours that score best, O(C n D); see `ifa_ray.models.head_walk` for several.

    Args:
        query_CD: scaled, so that a score is q.k + bias.
        key_nD: of n >= 1 behaviours.
        bias_nH: of each behaviour in each head.
        top_k: K, if there are so many behaviours.

    Returns:
        int64 [C, min(top_k, n)], oldest first.
    """
    C, (n, H) = len(query_CD), bias_nH.shape
    k = min(top_k, n)
    if k == n:
        return torch.arange(n, device=query_CD.device).expand(C, n)
    query_HCd = query_CD.view(C, H, -1).transpose(0, 1)
    key_Hdn = key_nD.view(n, H, -1).permute(1, 2, 0).contiguous()
    bias_H1n = bias_nH.T.contiguous()[:, None]  # read once a chunk: strided, it halves the speed
    step = min(C, max(1, _CHUNK_SCORES // (H * n)))
    # One buffer for all chunks: fresh memory would cost more than the product.
    buffer = query_CD.new_empty(H * step * n)
    chosen, heads = [], HeadWalk(H, k)
    for part_HNd in query_HCd.split(step, dim=1):
        N = part_HNd.shape[1]
        scores_HNn = buffer[: H * N * n].view(H, N, n)
        torch.baddbmm(bias_H1n, part_HNd, key_Hdn, out=scores_HNn)
        chosen.append(heads.walk(scores_HNn))
    return torch.cat(chosen)

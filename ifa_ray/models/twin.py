"""TWIN: two stages that share one attention (Chang et al., KDD 2023; the paper's best baseline).

The score of behaviour t for a candidate q is, in each head,

    (K_h W^h)_t . (q W^q) / sqrt(d) + (K_c W^c)_t . beta

with K split in inherent features K_h (the item) and cross features K_c (what this user did with it,
and how long ago): each cross feature has an embedding of width 8 and its own w_j that makes one
number of it. The general search chooses `top_k` behaviours by it and the exact search attends to
them by it: W^q, W^h, W^c, beta and the embeddings are shared, and the gradient goes through the
exact search. Values are made from the unsplit K.

Letters as in `ifa_ray.models.base`; H heads, d their width, J cross features, n real behaviours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import NUM_GAPS
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.chosen_attention import chosen_attention
from ifa_ray.models.head_walk import walk_heads
from ifa_ray.models.layers import Dense, Projection, Table
from ifa_ray.schema import ACTIONS

__all__ = ["Twin"]

_CROSS_WIDTH = 8
_QUERY_KEY_SCALE = 2.0

# Scores searched at once: 2 MiB of them, so that they are read from a cache and not from memory.
_CHUNK_SCORES = 1 << 19

_GROUPS = (("is_click",), ("long_view",), ("is_like", "is_comment", "is_follow", "is_forward"),
           ("is_hate",))  # fmt: skip


class Twin(RankModel):
    """Candidates attend to the `top_k` behaviours that a search with the same attention finds."""

    _group_P: torch.Tensor

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items)
        width, cross_features = config.width, 2
        self.query = Projection(width, width, scale=_QUERY_KEY_SCALE)  # W^q
        self.key = Projection(width, width, scale=_QUERY_KEY_SCALE)  # W^h
        self.value = Projection(width + cross_features * _CROSS_WIDTH, width)
        self.output = Projection(width, width)
        self.action_group = Table(len(_GROUPS) + 1, _CROSS_WIDTH, std=0.2)
        self.gap = Table(NUM_GAPS, _CROSS_WIDTH, std=0.2)
        self.cross_weights = nn.ModuleList(  # W^c: w_j of each cross feature
            Dense(_CROSS_WIDTH, 1, bias=False) for _ in range(cross_features)
        )
        self.beta = Dense(cross_features, config.num_heads, bias=False)
        self.register_buffer("_group_P", torch.from_numpy(_action_groups()), persistent=False)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs by two-stage attention, O(C T) in the search."""
        head_width = self.config.width // self.config.num_heads
        query_BCD = self.query(candidates.features_BCD) / head_width**0.5
        key_BTD = self.key(behaviours.items_BTD)
        group_BT = self._group_P[behaviours.actions_BT]
        # w_j is applied to a table's rows, not to every behaviour.
        cross = [
            embedding(group_BT, self.cross_weights[0](self.action_group.weight)),
            embedding(behaviours.gap_BT, self.cross_weights[1](self.gap.weight)),
        ]
        bias_BTH = self.beta(torch.cat(cross, dim=-1))
        unsplit = [
            behaviours.features_BTD,
            self.action_group(group_BT),
            self.gap(behaviours.gap_BT),
        ]
        value_BTD = self.value(torch.cat(unsplit, dim=-1))
        attended = []
        for b, n in enumerate(behaviours.mask_BT.sum(dim=1).tolist()):
            if n == 0:
                attended.append(torch.zeros_like(query_BCD[b]))
                continue
            key, bias, value = (x[b, -n:] for x in (key_BTD, bias_BTH, value_BTD))
            chosen_CK = self._search(query_BCD[b], key, bias)
            attended.append(chosen_attention(query_BCD[b], key, bias, value, chosen_CK))
        return Attended(self.output(torch.stack(attended)))

    @torch.no_grad()
    def _search(
        self, query_CD: torch.Tensor, key_nD: torch.Tensor, bias_nH: torch.Tensor
    ) -> torch.Tensor:
        """The general search: behaviours chosen for each candidate, int64 [C, min(top_k, n)]."""
        (C, H), n = (len(query_CD), self.config.num_heads), len(key_nD)
        k = min(self.config.top_k, n)
        if k == n:
            return torch.arange(n, device=query_CD.device).expand(C, n)
        query_HCd = query_CD.view(C, H, -1).transpose(0, 1)
        key_Hdn = key_nD.view(n, H, -1).permute(1, 2, 0).contiguous()
        bias_H1n = bias_nH.T[:, None]
        step = min(C, max(1, _CHUNK_SCORES // (H * n)))
        # One buffer for all chunks: fresh memory would cost more than the product.
        buffer = query_CD.new_empty(H * step * n)
        chosen = []
        for part_HNd in query_HCd.split(step, dim=1):
            N = part_HNd.shape[1]
            scores_HNn = buffer[: H * N * n].view(H, N, n)
            torch.baddbmm(bias_H1n, part_HNd, key_Hdn, out=scores_HNn)
            chosen.append(walk_heads(scores_HNn, k))
        return torch.cat(chosen)


def _action_groups() -> np.ndarray:
    """The group of each action byte, int64 [128]: that of the strongest action, 0 for none."""
    byte = np.arange(1 << len(ACTIONS))
    group = np.zeros(len(byte), np.int64)
    for place, names in enumerate(_GROUPS, start=1):
        bits = sum(1 << ACTIONS.index(name) for name in names)
        group[(byte & bits) != 0] = place
    return group

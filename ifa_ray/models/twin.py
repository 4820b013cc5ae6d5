"""TWIN: two stages that share one attention (Chang et al., KDD 2023; the paper's best baseline).

The general search chooses `top_k` behaviours by the scores of `ifa_ray.models.target_attention` and
the exact search attends to them by the same scores: W^q, W^h, W^c, beta and the embeddings are
shared, and the gradient goes through the exact search.

Letters as in `ifa_ray.models.base`; n real behaviours, H heads.
"""

from __future__ import annotations

import torch

from ifa_ray.models.chosen_attention import chosen_attention
from ifa_ray.models.target_attention import TargetAttention
from ifa_ray.models.two_stage import search

__all__ = ["Twin"]


class Twin(TargetAttention):
    """Candidates attend to the `top_k` behaviours that a search with the same attention finds."""

    def read(
        self,
        query_CD: torch.Tensor,
        key_nD: torch.Tensor,
        bias_nH: torch.Tensor,
        value_nD: torch.Tensor,
    ) -> torch.Tensor:
        """As `TargetAttention.read`, O(C n) in the search."""
        chosen_CK = search(query_CD, key_nD, bias_nH, self.config.top_k)
        return chosen_attention(query_CD, key_nD, bias_nH, value_nD, chosen_CK)

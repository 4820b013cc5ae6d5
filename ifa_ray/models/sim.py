"""SIM: search a long history, then attend to what was found (Pi et al., CIKM 2020).

Both searches share the exact search unit (section 3.3): multi-head target attention to z = [e;
e_time], a behaviour's embedding beside that of the time between it and the request. The hard search
finds behaviours of the candidate's category, the latest first; the soft one those with the largest
r = (W_b e) . (W_a e_a), with e_a the candidate's embedding.

Letters as in `ifa_ray.models.base`; H heads, n real behaviours.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import NUM_GAPS
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.chosen_attention import chosen_attention
from ifa_ray.models.layers import Dense, Projection, Table
from ifa_ray.models.same_category import same_category_attention, tiles_of_same_category
from ifa_ray.models.target_attention import CROSS_WIDTH, QUERY_KEY_SCALE
from ifa_ray.models.two_stage import search

__all__ = ["SIMHard", "SIMSoft", "naive_relevance_pooling", "relevance_pooling"]

# The logit of p(click|can) where the towers start: p(imp|can) at -3, p(click|imp) at 0.
_CLICK_PRIOR = -3.7


class _ExactSearch(RankModel):
    """The part that SIM's two kinds share."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items)
        width = config.width
        self.query = Projection(width, width, scale=QUERY_KEY_SCALE)
        self.key = Projection(width, width, scale=QUERY_KEY_SCALE)
        self.value = Projection(width, width)
        self.output = Projection(width, width)
        self.gap = Table(NUM_GAPS, CROSS_WIDTH, std=0.2)
        # W z = W_e e + W_time e_time: one weight, in two parts that start differently.
        self.key_time = Dense(CROSS_WIDTH, width, bias=False)
        self.value_time = Dense(CROSS_WIDTH, width, bias=False)

    def _projected(
        self, candidates: Candidates, behaviours: Behaviours
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, divided by the root of a head's width, keys and values of all behaviours."""
        head_width = self.config.width // self.config.num_heads
        # The time's part is computed for a table's rows, not for every behaviour.
        key_time, value_time = (
            embedding(behaviours.gap_BT, part(self.gap.weight))
            for part in (self.key_time, self.value_time)
        )
        return (
            self.query(candidates.features_BCD) / head_width**0.5,
            self.key(behaviours.features_BTD) + key_time,
            self.value(behaviours.features_BTD) + value_time,
        )


class SIMHard(_ExactSearch):
    """Candidates attend to the latest `top_k` behaviours of their category, in all the history."""

    _category_R: torch.Tensor

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items)
        # Exact, where the embedding's table is hashed. The unknown item has a category of its own.
        category_R = torch.from_numpy(items.category_index_R)
        self.register_buffer("_category_R", category_R, persistent=False)
        self._num_categories = int(items.category_index_R[0]) + 1

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs, O(C + T) in the search; 0 where no behaviour has the candidate's category."""
        query_BCD, key_BTD, value_BTD = self._projected(candidates, behaviours)
        tiles = tiles_of_same_category(
            self._category_R[candidates.rows_BC],
            candidates.mask_BC,
            self._category_R[behaviours.rows_BT],
            behaviours.mask_BT,
            self._num_categories,
            self.config.top_k,
        )
        attended_BCD = same_category_attention(
            query_BCD, key_BTD, value_BTD, tiles, self.config.num_heads
        )
        return Attended(self.output(attended_BCD))


class SIMSoft(_ExactSearch):
    """Candidates attend to the `top_k` behaviours of largest relevance, in all the history.

    No gradient goes through the choice. W_a and W_b learn from clicks, predicted from the history
    pooled by relevance (section 3.2), a loss of weight 1 beside the towers'.
    """

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items)
        width = config.width
        self.search_query = Projection(width, width, scale=QUERY_KEY_SCALE)  # W_a
        self.search_key = Projection(width, width, scale=QUERY_KEY_SCALE)  # W_b
        self.search_hidden = Dense(2 * width, width, gain=2**0.5)
        self.search_click = Dense(width, 1, gain=0.1)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs, O(C T) in the search, and in training the search's own logits."""
        query_BCD, key_BTD, value_BTD = self._projected(candidates, behaviours)
        relevance_query_BCD = self.search_query(candidates.features_BCD)
        relevance_key_BTD = self.search_key(behaviours.features_BTD)
        attended = []
        for b, n in enumerate(behaviours.mask_BT.sum(dim=1).tolist()):
            if n == 0:
                attended.append(torch.zeros_like(query_BCD[b]))
                continue
            # Padding is cut off: as a score of -inf, it is found by no search.
            chosen_CK = search(
                relevance_query_BCD[b],
                relevance_key_BTD[b, -n:],
                relevance_key_BTD.new_zeros(n, 1),
                self.config.top_k,
            )
            key_nD, value_nD = key_BTD[b, -n:], value_BTD[b, -n:]
            no_bias_nH = key_nD.new_zeros(n, self.config.num_heads)
            attended.append(chosen_attention(query_BCD[b], key_nD, no_bias_nH, value_nD, chosen_CK))
        auxiliary_BC = None
        if self.training:
            pooled_BCD = relevance_pooling(
                relevance_query_BCD,
                relevance_key_BTD,
                behaviours.features_BTD,
                behaviours.mask_BT,
            )
            auxiliary_BC = self._click_logits(pooled_BCD, candidates.features_BCD)
        return Attended(self.output(torch.stack(attended)), auxiliary_BC=auxiliary_BC)

    def _click_logits(self, pooled_BCD: torch.Tensor, can_BCD: torch.Tensor) -> torch.Tensor:
        """The search's own p(click|can) from (U_r, e_a), [B, C]."""
        hidden = torch.relu(self.search_hidden(torch.cat([pooled_BCD, can_BCD], dim=-1)))
        logits_BC: torch.Tensor = self.search_click(hidden)[..., 0] + _CLICK_PRIOR
        return logits_BC


def naive_relevance_pooling(
    query_BCD: torch.Tensor, key_BTD: torch.Tensor, e_BTD: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """U_r = sum over t of r_t e_t, divided by n, through the C x T matrix r: O(C T D)."""
    r_BCT = (query_BCD @ key_BTD.mT).masked_fill(~mask_BT[:, None], 0.0)
    count_B11 = mask_BT.sum(dim=1).clamp(min=1)[:, None, None]
    return r_BCT @ torch.where(mask_BT[..., None], e_BTD, 0.0) / count_B11


def relevance_pooling(
    query_BCD: torch.Tensor, key_BTD: torch.Tensor, e_BTD: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """As `naive_relevance_pooling`, O((C + T) D^2).

    r is linear in the query, so sum_t (q.k_t) e_t = q (sum_t k_t e_t^T). Divided by n, which the
    layer that reads it would have to undo for histories of every length.

    Args:
        query_BCD: W_a e_a.
        key_BTD: W_b e_t.
        e_BTD: what is pooled.
        mask_BT: True = a real behaviour.

    Returns:
        [B, C, D]; 0 for an empty history.
    """
    # A padded behaviour's product is 0 if either factor is; both, so that no NaN survives.
    key_BTD, e_BTD = (torch.where(mask_BT[..., None], x, 0.0) for x in (key_BTD, e_BTD))
    count_B11 = mask_BT.sum(dim=1).clamp(min=1)[:, None, None]
    return query_BCD @ (key_BTD.mT @ e_BTD / count_B11)

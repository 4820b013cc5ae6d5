"""The baselines: average pooling, DIN, exact full attention, SIM (hard and soft), TWIN.

Each differs from the others in `attend` alone. Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import NUM_GAPS
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import RankModel
from ifa_ray.models.code_heads import Cached, CacheSpec
from ifa_ray.models.embedding import Dense, Projection, Table
from ifa_ray.models.inputs import Attended, Candidates, HistoryFeatures
from ifa_ray.models.target_attention import (
    CROSS_WIDTH,
    QUERY_KEY_SCALE,
    TargetAttention,
    chosen_attention,
    search,
)

# The baseline that does not look at the candidate: the mean of the latest behaviours.


class AvgPooling(RankModel):
    """F_cs is the mean of the latest `top_k` behaviours (the paper's AvgPooling, section 5.1)."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, history_reads=config.top_k)

    def attend(
        self,
        candidates: Candidates,  # noqa: ARG002  (what this baseline does not look at)
        behaviours: HistoryFeatures,
    ) -> Attended:
        """As `RankModel.attend`; the same for every candidate."""
        mask_BT1 = behaviours.mask_BT[..., None]
        total_BD = torch.where(mask_BT1, behaviours.features_BTD, 0.0).sum(dim=1)
        count_B1 = mask_BT1.sum(dim=1).clamp(min=1)
        return Attended((total_BD / count_B1)[:, None])

    def cache_spec(self) -> CacheSpec:
        """The behaviours that are averaged."""
        return CacheSpec(latest=self.config.top_k)

    def attend_cached(
        self,
        candidates: Candidates,
        latest: HistoryFeatures,
        cached: Cached,  # noqa: ARG002
    ) -> Attended:
        """As `RankModel.attend_cached`."""
        return self.attend(candidates, latest)


# As few rows as keep the products dense where many categories have few candidates each.
_TILE = 32


# Attention of each candidate to the latest behaviours of its category, a category at a time.
#
# SIM's hard search with its exact search unit. Candidates of a category share the behaviours found,
# so these are gathered once for a tile of such candidates and attended to by dense products;
# nothing is searched for a candidate, and nothing of size C x K x D or C x T is formed. Knows
# codes, not what they stand for.


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


# Should a device have no fused kernel for these shapes, it gets N x n scores at a time.
_CHUNK_CANDIDATES = 1024


# Target attention to everything: exact softmax over all n behaviours, the ceiling of two stages.
#
# And DIN, which is the same over the latest `top_k` alone. No C x n tensor is ever formed: torch's
# fused kernel computes scores tile by tile, and again in the backward pass.


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

    def cache_spec(self) -> CacheSpec:
        """The behaviours that are attended to."""
        return CacheSpec(latest=self.config.top_k)

    def attend_cached(
        self,
        candidates: Candidates,
        latest: HistoryFeatures,
        cached: Cached,  # noqa: ARG002
    ) -> Attended:
        """As `RankModel.attend_cached`."""
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


# The logit of p(click|can) where the towers start: p(imp|can) at -3, p(click|imp) at 0.
_CLICK_PRIOR = -3.7


# SIM: search a long history, then attend to what was found (Pi et al., CIKM 2020).
#
# Both searches share the exact search unit (section 3.3): multi-head target attention to z = [e;
# e_time], a behaviour's embedding beside that of the time between it and the request. The hard
# search finds behaviours of the candidate's category, the latest first; the soft one those with the
# largest r = (W_b e) . (W_a e_a), with e_a the candidate's embedding.


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
        self, candidates: Candidates, behaviours: HistoryFeatures
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

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
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

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
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


# TWIN: two stages that share one attention (Chang et al., KDD 2023; the paper's best baseline).
#
# The general search chooses `top_k` behaviours by the scores of `ifa_ray.models.target_attention`
# and the exact search attends to them by the same scores: W^q, W^h, W^c, beta and the embeddings
# are shared, and the gradient goes through the exact search.


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

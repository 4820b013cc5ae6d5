"""Multi-head target attention with TWIN's scores, whatever part of the history is then looked at.

The score of behaviour t for a candidate q is, in each head,

    (K_h W^h)_t . (q W^q) / sqrt(d) + (K_c W^c)_t . beta

with K split in inherent features K_h (the item) and cross features K_c (what this user did with it,
and how long ago): each cross feature has an embedding of width 8 and its own w_j that makes one
number of it (Chang et al., KDD 2023, section 4.2). Values are made from the unsplit K. DIN, TWIN
and full attention share all of this under the same names, so that they differ by nothing but the
behaviours they look at. Knows not which those are.

Letters as in `ifa_ray.models.base`; H heads, d their width, n real behaviours, R catalogue rows.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import embedding

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import NUM_GAPS
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import RankModel
from ifa_ray.models.embedding import Dense, PerItem, Projection, Table
from ifa_ray.models.inputs import Attended, Candidates, HistoryFeatures
from ifa_ray.schema import ACTIONS

# The search stage of two-stage models: the impressions chosen for each candidate; no gradients.
#
# TWIN searches with the heads and scores of its attention, SIM-soft with one head of its own. All
# C x n scores are computed, exactly, but never kept: a chunk of them lives in a core's cache. Round
# by round each head offers its next best impression; what another offered before is passed over
# (TWIN, section 4.3). `walk_heads_naive` is the reference implementation.
#
# Letters: H heads, C candidates, N of one chunk, n impressions, T of a row, D width, K chosen,
# P = H K places in the walk, R rows (a candidate in a head), W blocks of a row, L layers (places
# in a block), X pairs of row and block.

# Rows are cut into blocks, at least 5 for each score that is looked for. The K-th largest of the
# blocks' maxima is at most the K-th largest score, so only blocks that reach it are looked into: a
# tenth more than K of them on random rows. Fewer than 500 blocks would be large ones.
_BLOCKS_PER_CHOSEN = 5
_MIN_BLOCKS = 500


def walk_heads_naive(scores_HCT: torch.Tensor, k: int) -> torch.Tensor:
    """The walk, step by step, O(C H T log T). Of equal scores the latest behaviour is first.

    Returns:
        int64 [C, k], in the order found.
    """
    found = []
    for scores_HT in scores_HCT.transpose(0, 1).tolist():
        rankings = [sorted(range(len(s)), key=lambda t: (s[t], t), reverse=True) for s in scores_HT]
        chosen: list[int] = []
        for offers in zip(*rankings, strict=True):
            chosen.extend(t for t in dict.fromkeys(offers) if t not in chosen)
        found.append(chosen[:k])
    return torch.tensor(found, dtype=torch.int64)


def walk_heads(scores_HCT: torch.Tensor, k: int) -> torch.Tensor:
    """As `walk_heads_naive` for k <= T, the chosen of each candidate in order of time."""
    return HeadWalk(len(scores_HCT), k).walk(scores_HCT)


class HeadWalk:
    """`walk_heads` for one chunk of candidates after another.

    Where heads disagree, the walk ends long before the k-th place of any, so twice the least
    possible depth is tried first, and all k places for the candidates that it leaves with too few.
    Once these are many, as where heads agree, later chunks start with all k. What is found does not
    depend on it.
    """

    def __init__(self, num_heads: int, k: int) -> None:
        self._k = k
        self._depth = min(k, -(-2 * k // num_heads))

    def walk(self, scores_HCT: torch.Tensor) -> torch.Tensor:
        """The chosen of each candidate in order of time, int64 [C, k]."""
        (H, C, T), k, depth = scores_HCT.shape, self._k, self._depth
        assert 1 <= k <= T, (k, T)
        if scores_HCT.device.type != "cpu":
            return _walk_on_device(torch.topk(scores_HCT, k, dim=-1).indices)
        best_RK = _best_of_rows(scores_HCT.reshape(H * C, T), depth)
        chosen_CK, enough_C = _walk(best_RK.reshape(H, C, depth), k)
        if not enough_C.all():
            rest_HNT = scores_HCT[:, torch.from_numpy(np.flatnonzero(~enough_C))]
            N = rest_HNT.shape[1]
            best_RK = _best_of_rows(rest_HNT.reshape(H * N, T), k)
            chosen_CK[~enough_C], _ = _walk(best_RK.reshape(H, N, k), k)
            if 4 * N > C:
                self._depth = k
        return torch.from_numpy(chosen_CK)


def _best_of_rows(scores_RT: torch.Tensor, k: int) -> npt.NDArray[np.int64]:
    """The columns of each row's k largest scores, best first; of equal ones the last is first.

    Block j holds the columns j, j + W, j + 2 W, ...: neighbours in time, whose scores are alike,
    lie in different blocks, and maxima are taken of whole rows of W.
    """
    R, T = scores_RT.shape
    W = T // max(1, T // max(_BLOCKS_PER_CHOSEN * k, _MIN_BLOCKS))
    whole, tail = divmod(T, W)
    maxima_RW = scores_RT[:, : whole * W].unflatten(1, (whole, W)).amax(dim=1)
    last = maxima_RW[:, :tail]
    torch.maximum(last, scores_RT[:, whole * W :], out=last)
    bounds_R = _kth_largest(maxima_RW, k)
    if not np.isfinite(bounds_R).all():  # a diverged model: its scores are refused later, by name
        return _best_of_rows(torch.zeros_like(scores_RT), k)
    # torch compares, numpy collects: each is twice as fast as the other at that.
    reaching = np.flatnonzero((maxima_RW >= torch.from_numpy(bounds_R)[:, None]).numpy())
    row_X, block_X = np.divmod(reaching, W)
    layers = whole + (tail > 0)
    scores, start_X = scores_RT.numpy().reshape(-1), row_X * T + block_X
    values_LX = np.empty((layers, len(reaching)), np.float32)
    for layer in range(layers):
        # Of the last row's last block the last layer may lie outside; `clip` reads something else.
        scores[layer * W :].take(start_X, out=values_LX[layer], mode="clip")
    if tail:
        values_LX[-1, block_X >= tail] = -np.inf
    found = np.flatnonzero(np.ascontiguousarray((values_LX >= bounds_R[row_X]).T))
    pair, place = np.divmod(found, layers)
    columns = block_X[pair] + place * W
    return _ranked(values_LX[place, pair], row_X[pair], columns, R)[:, : -k - 1 : -1]


def _kth_largest(maxima_RW: torch.Tensor, k: int) -> npt.NDArray[np.float32]:
    """The k-th largest of each row, float32 [R]; NaN if the row holds one."""
    W = maxima_RW.shape[1]
    partitioned_RW = np.partition(maxima_RW.numpy(), W - k, axis=1)
    # NaN sorts last, so a row that holds one has it on the far side.
    worst_R = partitioned_RW[:, W - k :].max(axis=1)
    return np.where(np.isnan(worst_R), worst_R, partitioned_RW[:, W - k])


def _ranked(
    values: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    num_rows: int,
) -> npt.NDArray[np.int64]:
    """The columns of each row by value, then by column, largest last; rows must be sorted.

    Shorter rows begin with what is no column.
    """
    # Score and column in one integer: sorting values is vectorised, and no two are equal.
    bits = (values + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    count_R = np.bincount(rows, minlength=num_rows)
    place = np.arange(len(rows)) - (count_R.cumsum() - count_R)[rows]
    keys = np.full((num_rows, int(count_R.max())), np.iinfo(np.int64).min)
    keys[rows, place] = (ordered << 32) | columns
    keys.sort(axis=1)
    return keys & 0xFFFFFFFF


def _walk(
    best_HCK: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The first k unique behaviours when heads take turns, as deep as K.

    Returns:
        int64 [C, k], oldest first; and where there are k of them, elsewhere they mean nothing.
    """
    H, C, K = best_HCK.shape
    P = H * K
    # Sorted by behaviour, then by place: the first of equal ones is where it was first offered.
    keys_CP = best_HCK.transpose(1, 2, 0).reshape(C, P) * P + np.arange(P)
    keys_CP.sort(axis=1)
    offer_CP, place_CP = np.divmod(keys_CP, P)
    place_CP[:, 1:][offer_CP[:, 1:] == offer_CP[:, :-1]] = P
    last_C1 = np.partition(place_CP, k - 1, axis=1)[:, k - 1 : k]
    enough_C = last_C1[:, 0] < P
    chosen_CK = np.zeros((C, k), np.int64)
    chosen_CK[enough_C] = offer_CP[(place_CP <= last_C1) & enough_C[:, None]].reshape(-1, k)
    return chosen_CK, enough_C


def _walk_on_device(best_HCK: torch.Tensor) -> torch.Tensor:
    """As `_walk`."""
    H, C, K = best_HCK.shape
    P = H * K
    places_P = torch.arange(P, device=best_HCK.device)
    keys_CP = (best_HCK.permute(1, 2, 0).reshape(C, P) * P + places_P).sort(dim=1).values
    offer_CP, place_CP = keys_CP // P, keys_CP % P
    place_CP[:, 1:][offer_CP[:, 1:] == offer_CP[:, :-1]] = P
    last_C1 = place_CP.kthvalue(K, dim=1, keepdim=True).values
    return offer_CP[place_CP <= last_C1].view(C, K)


# Scores searched at once: 4 MiB of them, so that they are read from a cache and not from memory.
_CHUNK_SCORES = 1 << 20


@torch.no_grad()
def search(
    query_CD: torch.Tensor, key_nD: torch.Tensor, bias_nH: torch.Tensor, top_k: int
) -> torch.Tensor:
    """Chooses the behaviours that score best, O(C n D); `HeadWalk` is for several heads.

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


CROSS_WIDTH = 8
"""Width of the embedding of a cross feature, and of a time interval."""

QUERY_KEY_SCALE = 2.0
"""Queries and keys start at this multiple of what they are made from."""

_GROUPS = (
    ("is_click",),
    ("long_view",),
    ("is_like", "is_comment", "is_follow", "is_forward"),
    ("is_hate",),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Projected:
    """The input of attention: a score is q.k + bias in each head, heads side by side in D.

    Attributes:
        query_BCD: already divided by sqrt(d).
        key_BTD, bias_BTH, value_BTD: of every behaviour; what they hold of padding means nothing.
    """

    query_BCD: torch.Tensor
    key_BTD: torch.Tensor
    bias_BTH: torch.Tensor
    value_BTD: torch.Tensor


class TargetAttention(RankModel):
    """Candidates attend to behaviours of the history by TWIN's scores."""

    _group_P: torch.Tensor

    def __init__(
        self,
        config: ModelConfig,
        items: ItemTable,
        *,
        extra_width: int = 0,
        history_reads: int | None = None,
    ) -> None:
        super().__init__(config, items, extra_width=extra_width, history_reads=history_reads)
        width, cross_features = config.width, 2
        self.query = Projection(width, width, scale=QUERY_KEY_SCALE)  # W^q
        self.key = Projection(width, width, scale=QUERY_KEY_SCALE)  # W^h
        self.value = Projection(width + cross_features * CROSS_WIDTH, width)
        self.output = Projection(width, width)
        self.action_group = Table(len(_GROUPS) + 1, CROSS_WIDTH, std=0.2)
        self.gap = Table(NUM_GAPS, CROSS_WIDTH, std=0.2)
        self.cross_weights = nn.ModuleList(  # W^c: w_j of each cross feature
            Dense(CROSS_WIDTH, 1, bias=False) for _ in range(cross_features)
        )
        self.beta = Dense(cross_features, config.num_heads, bias=False)
        self.register_buffer("_group_P", torch.from_numpy(action_groups()), persistent=False)
        # Of an item alone, so that a frozen model looks them up.
        self.item_queries = PerItem(self.query.forward)
        self.item_keys = PerItem(self.key.forward)

    @abstractmethod
    def read(
        self,
        query_CD: torch.Tensor,
        key_nD: torch.Tensor,
        bias_nH: torch.Tensor,
        value_nD: torch.Tensor,
    ) -> torch.Tensor:
        """Lets one request's candidates attend to its n >= 1 real behaviours.

        Returns:
            [C, D], heads side by side.
        """

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
        """F_cs: what `read` finds, request by request; 0 for an empty history.

        Padding is cut off, so it has a weight of exactly 0, as a score of -inf would give it.
        """
        projected = self.project(candidates, behaviours)
        attended = []
        for b, n in enumerate(behaviours.mask_BT.sum(dim=1).tolist()):
            query_CD = projected.query_BCD[b]
            if n == 0:
                attended.append(torch.zeros_like(query_CD))
                continue
            of_behaviours = (projected.key_BTD, projected.bias_BTH, projected.value_BTD)
            attended.append(self.read(query_CD, *(x[b, -n:] for x in of_behaviours)))
        return Attended(self.output(torch.stack(attended)))

    def project(self, candidates: Candidates, behaviours: HistoryFeatures) -> Projected:
        """Queries, keys, biases and values, O(C + T)."""
        head_width = self.config.width // self.config.num_heads
        group_BT = self._group_P[behaviours.actions_BT]
        # w_j is applied to a table's rows, not to every behaviour.
        cross = [
            embedding(group_BT, self.cross_weights[0](self.action_group.weight)),
            embedding(behaviours.gap_BT, self.cross_weights[1](self.gap.weight)),
        ]
        unsplit = [
            behaviours.features_BTD,
            self.action_group(group_BT),
            self.gap(behaviours.gap_BT),
        ]
        query_BCD = self.item_queries(candidates.features_BCD, candidates.rows_BC)
        return Projected(
            query_BCD=query_BCD / head_width**0.5,
            key_BTD=self.item_keys(behaviours.items_BTD, behaviours.rows_BT),
            bias_BTH=self.beta(torch.cat(cross, dim=-1)),
            value_BTD=self.value(torch.cat(unsplit, dim=-1)),
        )


def action_groups() -> np.ndarray:
    """The group of each action byte, int64 [128]: that of the strongest action, 0 for none."""
    byte = np.arange(1 << len(ACTIONS))
    group = np.zeros(len(byte), np.int64)
    for place, names in enumerate(_GROUPS, start=1):
        bits = sum(1 << ACTIONS.index(name) for name in names)
        group[(byte & bits) != 0] = place
    return group


# Rows gathered at once: about what stays in a core's second-level cache.
_CHUNK_ROWS = 4096


# Multi-head target attention of each candidate to the few behaviours chosen for it.
#
# The exact search unit of two-stage models. Forward and backward go through the candidates in
# chunks and keep nothing of size C x K x D, so 10,000 candidates with 100 behaviours each stay
# small. Knows tensors only.


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

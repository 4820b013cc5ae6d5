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

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import NUM_GAPS
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.embedding import PerItem
from ifa_ray.models.layers import Dense, Projection, Table
from ifa_ray.schema import ACTIONS

__all__ = ["CROSS_WIDTH", "QUERY_KEY_SCALE", "Projected", "TargetAttention", "action_groups"]

CROSS_WIDTH = 8
"""Width of the embedding of a cross feature, and of a time interval."""

QUERY_KEY_SCALE = 2.0
"""Queries and keys start at this multiple of what they are made from."""

_GROUPS = (("is_click",), ("long_view",), ("is_like", "is_comment", "is_follow", "is_forward"),
           ("is_hate",))  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Projected:
    """What attention reads: a score is q.k + bias in each head, heads side by side in D.

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

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
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

    def project(self, candidates: Candidates, behaviours: Behaviours) -> Projected:
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

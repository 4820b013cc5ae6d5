"""Interaction Fidelity Attention as printed: equations 2 and 3, O(m + n).

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import Batch
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.embedding import PerItem
from ifa_ray.models.ifa_fused import fused_logits
from ifa_ray.models.kept import Kept, Recalled
from ifa_ray.models.linear_attention import LinearAttention, SequenceState

__all__ = ["IFA", "SetAttention"]


class IFA(RankModel):
    """Candidates read the whole history, and each other, by linear attention."""

    reads_candidates_together = True
    recordable = True

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, extra_width=config.width)
        self.candidates_to_sequence = LinearAttention(config.width, config.phi)
        self.candidates_to_candidates = SetAttention(config.width, config.phi)
        self.item_queries = PerItem(self.candidates_to_sequence.queries)
        self.item_keys_values = PerItem(self.keys_values, for_kernels=True)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs of equation 2 and F_cc of equation 3."""
        state = self.candidates_to_sequence.state(behaviours.features_BTD, behaviours.mask_BT)
        return self._attend(candidates, state)

    def kept(self) -> Kept:
        """The sums of equation 2."""
        return Kept(dense=self.candidates_to_sequence)

    def attend_kept(
        self,
        candidates: Candidates,
        latest: Behaviours,  # noqa: ARG002  (the sums hold them)
        recalled: Recalled,
    ) -> Attended:
        """As `RankModel.attend_kept`."""
        assert recalled.dense is not None
        return self._attend(candidates, recalled.dense)

    def fused_logits(self, batch: Batch, recalled: Recalled | None = None) -> torch.Tensor | None:
        """As `RankModel.fused_logits`."""
        return fused_logits(self, batch, recalled)

    def keys_values(self, features: torch.Tensor) -> torch.Tensor:
        """K before phi and V of equation 2 side by side, [..., 2 D]; linear, so they add up."""
        attention = self.candidates_to_sequence
        return torch.cat([attention.key(features), attention.value(features)], dim=-1)

    def _attend(self, candidates: Candidates, state: SequenceState) -> Attended:
        cs_BCD, _ = state.read(self.item_queries(candidates.features_BCD, candidates.rows_BC))
        return Attended(cs_BCD, (self.candidates_to_candidates.read(candidates),))


class SetAttention(LinearAttention):
    """F_cc: candidates read each other. All of it depends on an item and the weights alone."""

    def __init__(self, width: int, phi: str) -> None:
        super().__init__(width, phi)
        self.per_item = PerItem(self._project)

    def read(self, candidates: Candidates) -> torch.Tensor:
        """Equation 3, [B, C, D]."""
        projected = self.per_item(candidates.features_BCD, candidates.rows_BC)
        phi_q_BCF, phi_k_BCF, v_BCD = projected.chunk(3, dim=-1)
        cc_BCD, _ = SequenceState.of(phi_k_BCF, v_BCD, candidates.mask_BC).read(phi_q_BCF)
        return cc_BCD

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        """phi(Q), phi(K) and V of items side by side, [..., 3 D]."""
        parts = (self.queries(features), self.keys(features), self.value(features))
        return torch.cat(parts, dim=-1)

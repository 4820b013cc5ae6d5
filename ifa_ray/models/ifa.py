"""Interaction Fidelity Attention as printed: equations 2 and 3, O(m + n).

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.linear_attention import LinearAttention

__all__ = ["IFA"]


class IFA(RankModel):
    """Candidates read the whole history, and each other, by linear attention."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, extra_width=config.width)
        self.candidates_to_sequence = LinearAttention(config.width, config.phi)
        self.candidates_to_candidates = LinearAttention(config.width, config.phi)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs of equation 2 and F_cc of equation 3."""
        can_BCD = candidates.features_BCD
        cs_BCD, _ = self.candidates_to_sequence(
            can_BCD, behaviours.features_BTD, behaviours.mask_BT
        )
        cc_BCD, _ = self.candidates_to_candidates(can_BCD, can_BCD, candidates.mask_BC)
        return Attended(cs_BCD, (cc_BCD,))

"""The baseline that does not look at the candidate: the mean of the latest behaviours.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.kept import Kept, Recalled

__all__ = ["AvgPooling"]


class AvgPooling(RankModel):
    """F_cs is the mean of the latest `top_k` behaviours (the paper's AvgPooling, section 5.1)."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, history_reads=config.top_k)

    def attend(
        self,
        candidates: Candidates,  # noqa: ARG002  (what this baseline does not look at)
        behaviours: Behaviours,
    ) -> Attended:
        """As `RankModel.attend`; the same for every candidate."""
        mask_BT1 = behaviours.mask_BT[..., None]
        total_BD = torch.where(mask_BT1, behaviours.features_BTD, 0.0).sum(dim=1)
        count_B1 = mask_BT1.sum(dim=1).clamp(min=1)
        return Attended((total_BD / count_B1)[:, None])

    def kept(self) -> Kept:
        """The behaviours that are averaged."""
        return Kept(latest=self.config.top_k)

    def attend_kept(
        self,
        candidates: Candidates,
        latest: Behaviours,
        recalled: Recalled,  # noqa: ARG002
    ) -> Attended:
        """As `RankModel.attend_kept`."""
        return self.attend(candidates, latest)

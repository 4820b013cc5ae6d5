"""IFA with eyes for exact matches and for how much there is: still O(m + n), still additive.

Normalised linear attention blurs: it says what the history is like on average as seen from a
candidate, not how often this author was watched. Here the same kernel gets sparse features
(`ifa_ray.models.code_heads`) beside the dense ones, values typed by action, and the mass that the
normalisation divides away. This is ours; `ifa` stays the paper's.

Letters as in `ifa_ray.models.base`; A actions, P width of a code's projected values.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.code_heads import code_sums, read_codes
from ifa_ray.models.embedding import NUM_CATEGORIES
from ifa_ray.models.layers import Dense
from ifa_ray.models.linear_attention import LinearAttention
from ifa_ray.schema import ACTIONS

__all__ = ["PARTS", "IFAPlus"]

PARTS: tuple[str, ...] = ()
"""What `ModelConfig.ifa_plus_without` may name."""

_VALUE_WIDTH = 8
_CODE_WIDTH = len(ACTIONS) + _VALUE_WIDTH + 1

# The mass of a candidate that nothing in the history resembles.
_LOG_FLOOR = 1e-2


class IFAPlus(RankModel):
    """Dense heads with ReLU² features, code heads for category and author, log-mass."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, extra_width=config.width + 1 + 2 * _CODE_WIDTH)
        self.candidates_to_sequence = LinearAttention(config.width, "relu2")
        self.candidates_to_candidates = LinearAttention(config.width, config.phi)
        self.code_value = Dense(config.width, _VALUE_WIDTH, bias=False)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs of the dense head; F_cc, log-mass, and what each code of the candidate recalls."""
        can_BCD = candidates.features_BCD
        cs_BCD, mass_BC = self.candidates_to_sequence(
            can_BCD, behaviours.features_BTD, behaviours.mask_BT
        )
        cc_BCD, _ = self.candidates_to_candidates(can_BCD, can_BCD, candidates.mask_BC)
        log_mass_BC1 = torch.log(mass_BC + _LOG_FLOOR)[..., None]
        return Attended(cs_BCD, (cc_BCD, log_mass_BC1, *self._recall(candidates, behaviours)))

    def _recall(self, candidates: Candidates, behaviours: Behaviours) -> list[torch.Tensor]:
        """Action rates, mean value and log count of the candidate's category and author."""
        values_BTE = torch.cat(
            [
                self.actions.bits(behaviours.actions_BT),
                self.code_value(behaviours.features_BTD),
            ],
            dim=-1,
        )
        category_R = self.items.category_R
        T = behaviours.mask_BT.shape[1]
        recalled = []
        for history_code_BT, candidate_code_BC, num_codes in (
            (category_R[behaviours.rows_BT], category_R[candidates.rows_BC], NUM_CATEGORIES),
            (behaviours.code_BT, candidates.code_BC, T + 1),
        ):
            sums = code_sums(values_BTE, history_code_BT, behaviours.mask_BT, num_codes)
            recalled.append(read_codes(sums, candidate_code_BC))
        return recalled

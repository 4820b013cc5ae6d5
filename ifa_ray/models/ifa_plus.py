"""IFA with eyes for exact matches and for how much there is: still O(m + n), still additive.

Normalised linear attention blurs: it says what the history is like on average as seen from a
candidate, not how often this author was watched, nor how that went. Here the same kernel gets
sparse features (`ifa_ray.models.code_heads`) beside the dense ones, with values typed by action and
sums that forget, and the mass that the normalisation divides away. This is ours; `ifa` stays the
paper's.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.code_heads import FAMILIES, CodeHeads
from ifa_ray.models.linear_attention import LinearAttention

__all__ = ["PARTS", "IFAPlus"]

PARTS = ("dense", "relu2", "log_mass", "set", *FAMILIES, "rates", "decay")
"""What `ModelConfig.ifa_plus_without` may switch off, one ablation each.

`dense`: the dense head, F_cs; `relu2`: its sharper feature map, instead of the config's phi;
`log_mass`: its normaliser; `set`: F_cc; the families of codes; `rates`: values typed by action in
the code heads, so that only counts are left; `decay`: the code heads' sums that forget.
"""

# The mass of a candidate that nothing in the history resembles.
_LOG_FLOOR = 1e-2


class IFAPlus(RankModel):
    """A dense head with ReLU² features and log-mass, code heads, F_cc."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        on = _parts_on(config)
        families = tuple(family for family in FAMILIES if family in on)
        codes = CodeHeads(items, families=families, rates="rates" in on, decay="decay" in on)
        width = codes.width + ("log_mass" in on) + config.width * ("set" in on)
        super().__init__(config, items, extra_width=width)
        self.codes = codes
        self._log_mass = "log_mass" in on
        self.candidates_to_sequence = self.candidates_to_candidates = None
        if "dense" in on:
            phi = "relu2" if "relu2" in on else config.phi
            self.candidates_to_sequence = LinearAttention(config.width, phi)
        if "set" in on:
            self.candidates_to_candidates = LinearAttention(config.width, config.phi)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs of the dense head; its log-mass, F_cc, and what the codes recall."""
        can_BCD = candidates.features_BCD
        blocks = []
        cs_BCD = torch.zeros_like(can_BCD[:, :1])
        if self.candidates_to_sequence is not None:
            cs_BCD, mass_BC = self.candidates_to_sequence(
                can_BCD, behaviours.features_BTD, behaviours.mask_BT
            )
            if self._log_mass:
                blocks.append(torch.log(mass_BC + _LOG_FLOOR)[..., None])
        if self.candidates_to_candidates is not None:
            cc_BCD, _ = self.candidates_to_candidates(can_BCD, can_BCD, candidates.mask_BC)
            blocks.append(cc_BCD)
        bits_BTA = self.actions.bits(behaviours.actions_BT)
        blocks += self.codes(candidates, behaviours, bits_BTA, self.items.category_R)
        return Attended(cs_BCD, tuple(blocks))


def _parts_on(config: ModelConfig) -> set[str]:
    """The parts that are not switched off; those of the dense head go with it.

    Raises:
        ConfigError: on an unknown part, with the near miss.
    """
    without = set(config.ifa_plus_without)
    for part in config.ifa_plus_without:
        if part not in PARTS:
            raise unknown_name("ifa_plus_without", part, PARTS)
    if "dense" in without:
        without |= {"relu2", "log_mass"}
    on = set(PARTS) - without
    require(bool(on & {"dense", *FAMILIES}), "ifa_plus_without", config.ifa_plus_without,
            "short enough to leave a part that reads the history")  # fmt: skip
    return on

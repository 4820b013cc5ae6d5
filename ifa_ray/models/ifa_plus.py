"""IFA with eyes for exact matches, for how much there is and for what was just seen, O(m + n).

Normalised linear attention blurs: it says what the history is like on average as seen from a
candidate, not how often this author was watched, nor how that went. Here the same kernel gets
sparse features (`ifa_ray.models.code_heads`) beside the dense ones, with values typed by action and
sums that forget, and the mass that the normalisation divides away. All of these are sums over the
history, so a state kept from request to request stays exact. The latest `top_k` behaviours, as many
as a two-stage model looks at, are also attended to by softmax; what is kept of them is themselves.
This is ours; `ifa` stays the paper's.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig, require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models.base import Attended, Behaviours, Candidates
from ifa_ray.models.code_heads import FAMILIES, CodeHeads
from ifa_ray.models.embedding import PerItem
from ifa_ray.models.full_attention import FullAttention
from ifa_ray.models.ifa import SetAttention
from ifa_ray.models.linear_attention import LinearAttention

__all__ = ["PARTS", "IFAPlus"]

PARTS = ("dense", "relu2", "log_mass", "recent", "set", *FAMILIES, "rates", "decay")
"""What `ModelConfig.ifa_plus_without` may switch off, one ablation each.

`dense`: linear attention to the whole history; `relu2`: its sharper feature map, instead of the
config's phi; `log_mass`: its normaliser; `recent`: softmax attention to the latest behaviours;
`set`: F_cc; the families of codes; `rates`: values typed by action in the code heads, so that only
counts are left; `decay`: the code heads' sums that forget.
"""

# The mass of a candidate that nothing in the history resembles.
_LOG_FLOOR = 1e-2


class IFAPlus(FullAttention):
    """F_cs is linear attention to all plus softmax attention to the latest; beside it code heads.

    The softmax is that of `FullAttention`, with all that its scores know.
    """

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        on = _parts_on(config)
        families = tuple(family for family in FAMILIES if family in on)
        codes = CodeHeads(items, families=families, rates="rates" in on, decay="decay" in on)
        width = codes.width + ("log_mass" in on) + config.width * ("set" in on)
        super().__init__(config, items, extra_width=width)
        self._on = on
        self.codes = codes
        if "dense" in on:
            phi = "relu2" if "relu2" in on else config.phi
            self.candidates_to_sequence = LinearAttention(config.width, phi)
            self.dense_queries = PerItem(self.candidates_to_sequence.queries)
        if "set" in on:
            self.candidates_to_candidates = SetAttention(config.width, config.phi)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs; the dense head's log-mass, F_cc, and what the codes recall."""
        can_BCD = candidates.features_BCD
        cs_BCD, blocks = torch.zeros_like(can_BCD), []
        if "recent" in self._on:
            cs_BCD = super().attend(candidates, behaviours.latest(self.config.top_k)).cs_BCD
        if "dense" in self._on:
            state = self.candidates_to_sequence.state(behaviours.features_BTD, behaviours.mask_BT)
            dense_BCD, mass_BC = state.read(self.dense_queries(can_BCD, candidates.rows_BC))
            cs_BCD = cs_BCD + dense_BCD
            if "log_mass" in self._on:
                blocks.append(torch.log(mass_BC + _LOG_FLOOR)[..., None])
        if "set" in self._on:
            blocks.append(self.candidates_to_candidates.read(candidates))
        bits_BTA = self.actions.bits(behaviours.actions_BT)
        blocks += self.codes(candidates, behaviours, bits_BTA, self.items.category_R)
        return Attended(cs_BCD, tuple(blocks))


def _parts_on(config: ModelConfig) -> frozenset[str]:
    """The parts that are not switched off; those of the dense head go with it.

    Raises:
        ConfigError: on an unknown part, with the near miss, or if nothing reads the history.
    """
    without = set(config.ifa_plus_without)
    for part in config.ifa_plus_without:
        if part not in PARTS:
            raise unknown_name("ifa_plus_without", part, PARTS)
    if "dense" in without:
        without |= {"relu2", "log_mass"}
    on = frozenset(PARTS) - without
    rule = "such that a part which reads the history is left"
    reads = bool(on & {"dense", "recent", *FAMILIES})
    require(reads, "ifa_plus_without", config.ifa_plus_without, rule)
    return on

"""Table 3: IFA without its full sequence modelling (FSM), then without the candidates' own (RAM).

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates
from ifa_ray.models.ifa import SetAttention
from ifa_ray.models.twin import Twin

__all__ = ["IFAWithoutFSM", "IFAWithoutFSMAndRAM"]


class IFAWithoutFSM(Twin):
    """IFA-FSM: F_cs of equation 2 replaced by TWIN's two-step attention, F_cc kept."""

    reads_candidates_together = True

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, extra_width=config.width)
        self.candidates_to_candidates = SetAttention(config.width, config.phi)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """TWIN's F_cs, and F_cc of equation 3."""
        cc_BCD = self.candidates_to_candidates.read(candidates)
        return Attended(super().attend(candidates, behaviours).cs_BCD, (cc_BCD,))


class IFAWithoutFSMAndRAM(Twin):
    """IFA-FSM-RAM: F_cc removed as well, which leaves TWIN (section 5.3 says so too)."""

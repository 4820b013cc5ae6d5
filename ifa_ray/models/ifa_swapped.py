"""IFA with another fast attention: the same F_can, F_seq, F_cs, F_cc and towers.

The alternatives of section 4.4, so that the paper's argument for linear attention can be measured.
`FastAttention` is put into equation 2 (F_cs) and, where a set without an order can be read by it,
into equation 3 (F_cc); elsewhere F_cc keeps IFA's linear attention, as it does for ETA and SDIM,
whose papers have nothing in its place.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel
from ifa_ray.models.fast_attention import (
    ClusteredAttention,
    EtaAttention,
    FastAttention,
    InducingAttention,
    LinformerAttention,
    LocalGlobalAttention,
    LshAttention,
    SdimAttention,
)
from ifa_ray.models.linear_attention import LinearAttention

__all__ = [
    "Eta",
    "IFAClustered",
    "IFAInducing",
    "IFALinformer",
    "IFALocalGlobal",
    "IFALsh",
    "IFASwapped",
    "Sdim",
]


class IFASwapped(RankModel):
    """Candidates read the history by the one attention and each other by the other."""

    reads_candidates_together = True

    def __init__(
        self,
        config: ModelConfig,
        items: ItemTable,
        *,
        to_sequence: FastAttention,
        to_candidates: FastAttention | None = None,
        finds_by_item: bool = False,
    ) -> None:
        """Builds the model around its attentions.

        Args:
            config: as for every model.
            items: the catalogue.
            to_sequence: of equation 2.
            to_candidates: of equation 3; IFA's linear attention by default.
            finds_by_item: keys are the items alone, not what the user did with them too.
        """
        super().__init__(config, items, extra_width=config.width)
        self._finds_by_item = finds_by_item
        self.candidates_to_sequence = to_sequence
        self.candidates_to_candidates = to_candidates or LinearAttention(config.width, config.phi)

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """F_cs of equation 2 and F_cc of equation 3."""
        can_BCD, mask_BC = candidates.features_BCD, candidates.mask_BC
        seq_BTD = behaviours.features_BTD
        key_BTD = behaviours.items_BTD if self._finds_by_item else seq_BTD
        cs_BCD = self.candidates_to_sequence(can_BCD, key_BTD, seq_BTD, mask_BC, behaviours.mask_BT)
        among = self.candidates_to_candidates
        if isinstance(among, LinearAttention):
            cc_BCD, _ = among(can_BCD, can_BCD, mask_BC)
        else:
            cc_BCD = among(can_BCD, can_BCD, can_BCD, mask_BC, mask_BC)
        return Attended(cs_BCD, (cc_BCD,))


class IFALsh(IFASwapped):
    """Reformer's attention in both places."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(
            config,
            items,
            to_sequence=LshAttention(config),
            to_candidates=LshAttention(config, keys_are_queries=True),
        )


class IFALocalGlobal(IFASwapped):
    """Longformer's and BigBird's attention for F_cs; candidates have no order to be local in."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, to_sequence=LocalGlobalAttention(config))


class IFAClustered(IFASwapped):
    """Clustered attention in both places."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(
            config,
            items,
            to_sequence=ClusteredAttention(config),
            to_candidates=ClusteredAttention(config),
        )


class IFAInducing(IFASwapped):
    """The Set Transformer's inducing points in both places."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(
            config,
            items,
            to_sequence=InducingAttention(config),
            to_candidates=InducingAttention(config),
        )


class IFALinformer(IFASwapped):
    """Linformer's attention for F_cs; candidates have no places to project."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, to_sequence=LinformerAttention(config))


class Eta(IFASwapped):
    """ETA's two stages for F_cs; its hashes are of items, so keys are."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, to_sequence=EtaAttention(config), finds_by_item=True)


class Sdim(IFASwapped):
    """SDIM's collisions for F_cs; its hashes are of items, so keys are."""

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, to_sequence=SdimAttention(config), finds_by_item=True)

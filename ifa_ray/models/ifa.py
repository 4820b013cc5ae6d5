"""IFA (section 4): candidates attend to the whole history, and to each other, in O(C + T).

Beside it the ablations of the paper's Table 3, and IFA with another fast attention in the place of
the linear one (Table 2). Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models.base import RankModel
from ifa_ray.models.baselines import Twin
from ifa_ray.models.coarse_attention import (
    ClusteredAttention,
    FastAttention,
    InducingAttention,
    LinformerAttention,
    LocalGlobalAttention,
)
from ifa_ray.models.code_heads import Cached, CacheSpec
from ifa_ray.models.embedding import PerItem
from ifa_ray.models.hashed_attention import EtaAttention, LshAttention, SdimAttention
from ifa_ray.models.inputs import Attended, Candidates, HistoryFeatures
from ifa_ray.models.linear_attention import LinearAttention, SequenceState


class IFA(RankModel):
    """Candidates read the whole history, and each other, by linear attention."""

    reads_candidates_together = True

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, extra_width=config.width)
        self.candidates_to_sequence = LinearAttention(config.width, config.phi)
        self.candidates_to_candidates = SetAttention(config.width, config.phi)
        self.item_queries = PerItem(self.candidates_to_sequence.queries)

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
        """F_cs of equation 2 and F_cc of equation 3."""
        state = self.candidates_to_sequence.state(behaviours.features_BTD, behaviours.mask_BT)
        return self._attend(candidates, state)

    def cache_spec(self) -> CacheSpec:
        """The sums of equation 2."""
        return CacheSpec(dense=self.candidates_to_sequence)

    def attend_cached(
        self,
        candidates: Candidates,
        latest: HistoryFeatures,  # noqa: ARG002  (the sums hold them)
        cached: Cached,
    ) -> Attended:
        """As `RankModel.attend_cached`."""
        assert cached.dense is not None
        return self._attend(candidates, cached.dense)

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


class IFAWithoutFSM(Twin):
    """IFA-FSM: F_cs of equation 2 replaced by TWIN's two-step attention, F_cc kept."""

    reads_candidates_together = True

    def __init__(self, config: ModelConfig, items: ItemTable) -> None:
        super().__init__(config, items, extra_width=config.width)
        self.candidates_to_candidates = SetAttention(config.width, config.phi)

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
        """TWIN's F_cs, and F_cc of equation 3."""
        cc_BCD = self.candidates_to_candidates.read(candidates)
        return Attended(super().attend(candidates, behaviours).cs_BCD, (cc_BCD,))


class IFAWithoutFSMAndRAM(Twin):
    """IFA-FSM-RAM: F_cc removed as well, which leaves TWIN (section 5.3 says so too)."""


# IFA with another fast attention: the same F_can, F_seq, F_cs, F_cc and towers.
#
# The alternatives of section 4.4, so that the paper's argument for linear attention can be
# measured. `FastAttention` is put into equation 2 (F_cs) and, where a set without an order can be
# read by it, into equation 3 (F_cc); elsewhere F_cc keeps IFA's linear attention, as it does for
# ETA and SDIM, whose papers have nothing in its place.


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

    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
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

"""A batch as models attend to it: candidates, history, and the towers' input; tensors only.

Letters: B requests, C candidates, T history length, D width, L objectives.
"""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The candidate set as a model reads it.

    Attributes:
        features_BCD: F_can.
        rows_BC, code_BC, mask_BC: as in `Batch`.
    """

    features_BCD: torch.Tensor
    rows_BC: torch.Tensor
    code_BC: torch.Tensor
    mask_BC: torch.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HistoryFeatures:
    """The history as a model reads it: its latest T behaviours, oldest first.

    Attributes:
        items_BTD: embeddings of the items alone (in TWIN's words, inherent features).
        features_BTD: F_seq, items and what the user did with them.
        actions_BT, gap_BT, age_days_BT, code_BT, rows_BT, mask_BT: as in `Batch`.
    """

    items_BTD: torch.Tensor
    features_BTD: torch.Tensor
    actions_BT: torch.Tensor
    gap_BT: torch.Tensor
    age_days_BT: torch.Tensor
    code_BT: torch.Tensor
    rows_BT: torch.Tensor
    mask_BT: torch.Tensor

    def latest(self, k: int) -> HistoryFeatures:
        """The latest k of them."""
        fields = dataclasses.fields(self)
        return HistoryFeatures(
            **{field.name: getattr(self, field.name)[:, -k:] for field in fields}
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Attended:
    """The findings of candidates in the history.

    Attributes:
        cs_BCD: F_cs; [B, 1, D] where it is the same for all candidates. 0 for an empty history.
        blocks: further blocks [B, C, *], which the towers get beside it.
        auxiliary_BC: logits of p(click|can) that a search stage learns by; None for most models.
    """

    cs_BCD: torch.Tensor
    blocks: tuple[torch.Tensor, ...] = ()
    auxiliary_BC: torch.Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TowerInputs:
    """All that the towers read, so that some candidates can be scored again without the rest.

    Attributes:
        blocks: per-candidate features, each [B, C, *]; expanded where alike for all candidates.
        user_BU: F_u.
        channel_BC: as in `Batch`.
        auxiliary_BC: as in `Attended`.
    """

    blocks: list[torch.Tensor]
    user_BU: torch.Tensor
    channel_BC: torch.Tensor
    auxiliary_BC: torch.Tensor | None

    def take(self, places_P: torch.Tensor) -> TowerInputs:
        """The inputs of some candidates, in their order."""
        P = len(places_P)
        return TowerInputs(
            blocks=[
                block[:, :1].expand(-1, P, -1)
                if block.stride(1) == 0
                else block.index_select(1, places_P)
                for block in self.blocks
            ],
            user_BU=self.user_BU,
            channel_BC=self.channel_BC.index_select(1, places_P),
            auxiliary_BC=None,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """The predictions for a batch; those of padded candidates mean nothing.

    Attributes:
        logits_BCL: of the towers, float32.
        auxiliary_BC: as in `Attended`.
    """

    logits_BCL: torch.Tensor
    auxiliary_BC: torch.Tensor | None

"""What all ranking models share: embeddings, the concatenation, towers, log-probabilities.

Knows batches and how they flow; the one thing that a model adds is how candidates read the
history (`attend`), so that a comparison of models is a comparison of that.

Letters: B requests, C candidates, T history length, D width, L objectives.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import Batch
from ifa_ray.data.items import ItemTable
from ifa_ray.models.embedding import (
    ActionEmbedding,
    CrossEmbedding,
    ItemEmbedding,
    PerItem,
    UserEmbedding,
)
from ifa_ray.models.kept import Kept, Recalled
from ifa_ray.models.layers import Table
from ifa_ray.models.modules import SequenceAttention
from ifa_ray.models.towers import Towers
from ifa_ray.schema import OBJECTIVES
from ifa_ray.set_step.response import SetResponse

__all__ = [
    "Attended",
    "Behaviours",
    "Candidates",
    "Outputs",
    "RankModel",
    "TowerInputs",
    "log_probabilities_from",
]


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
class Behaviours:
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

    def latest(self, k: int) -> Behaviours:
        """The latest k of them."""
        fields = dataclasses.fields(self)
        return Behaviours(**{field.name: getattr(self, field.name)[:, -k:] for field in fields})


@dataclasses.dataclass(frozen=True, eq=False)
class Attended:
    """What candidates found in the history.

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
    """What a model says of a batch; what it says of padded candidates means nothing.

    Attributes:
        logits_BCL: of the towers, float32.
        auxiliary_BC: as in `Attended`.
    """

    logits_BCL: torch.Tensor
    auxiliary_BC: torch.Tensor | None


class RankModel(nn.Module, ABC):
    """A ranking model: a batch of requests to logits of every candidate and objective.

    Attributes:
        reads_candidates_together: whether a candidate's logits depend on which others are there
            (F_cc of the paper); where not, a model may learn from some candidates of a request.
        recordable: whether what a batch makes it do depends on the batch's shapes alone, so that a
            device may record it once and replay it (`ifa_ray.models.graphs`).
    """

    reads_candidates_together: ClassVar[bool] = False
    recordable: ClassVar[bool] = False

    def __init__(
        self,
        config: ModelConfig,
        items: ItemTable,
        *,
        extra_width: int = 0,
        history_reads: int | None = None,
    ) -> None:
        """Builds the shared parts, without values; `build_model` gives them.

        Args:
            config: settings, equal for all models of a comparison.
            items: the catalogue.
            extra_width: of what `attend` returns beside F_cs, all blocks together.
            history_reads: how many of the latest behaviours the model looks at; all by default.
        """
        super().__init__()
        self.config = config
        self._history_reads = min(history_reads or config.max_history, config.max_history)
        self.items = ItemEmbedding(config, items)
        self.actions = ActionEmbedding(config.width)
        self.user = UserEmbedding(config)
        self.cross = CrossEmbedding(config)
        self.sequence_attention = (
            SequenceAttention(config.width, config.phi)
            if "sequence_attention" in config.modules
            else None
        )
        # Of no part of the ranking: it learns beside it, and holds buffers, not parameters.
        self.set_response = SetResponse() if config.set_step == "learned" else None
        shared_width = config.width * (1 if config.strict_paper_concat else 3)
        self.towers = Towers(
            block_width=shared_width + extra_width + self.cross.width,
            user_width=self.user.width,
            channel="channel" in config.cross_features,
            tower_widths=config.tower_widths,
            objectives=len(OBJECTIVES),
            modules=config.modules,
        )

    @abstractmethod
    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """Lets the candidates read the history.

        Args:
            candidates: the set to rank; some may be padding.
            behaviours: the history; T >= 1, but none of it need be real.
        """

    def kept(self) -> Kept | None:
        """What to keep of a history; None where the model must see it whole (most do)."""
        return None

    def attend_kept(
        self, candidates: Candidates, latest: Behaviours, recalled: Recalled
    ) -> Attended:
        """As `attend`, from the latest behaviours and from what was kept of all (`kept`)."""
        raise NotImplementedError(f"{type(self).__name__} keeps nothing of a history.")

    def forward(self, batch: Batch) -> torch.Tensor:
        """Computes logits [B, C, L] float32; those of padded candidates mean nothing."""
        return self.outputs(batch).logits_BCL

    def outputs(self, batch: Batch) -> Outputs:
        """Computes logits, and what else the model learns by."""
        logits_BCL = self.fused_logits(batch)
        if logits_BCL is not None:
            return Outputs(logits_BCL, None)
        inputs = self.tower_inputs(batch)
        logits_BCL = self.towers(inputs.blocks, inputs.user_BU, inputs.channel_BC)
        return Outputs(logits_BCL, inputs.auxiliary_BC)

    def fused_logits(
        self,
        batch: Batch,  # noqa: ARG002  (most models have no kernels)
        recalled: Recalled | None = None,  # noqa: ARG002
    ) -> torch.Tensor | None:
        """Logits [B, C, L] by kernels that never lay out what the towers read; None where not.

        Arguments as in `tower_inputs`.
        """
        return None

    def tower_inputs(self, batch: Batch, recalled: Recalled | None = None) -> TowerInputs:
        """Embeds, lets the candidates read the history, and lays out what the towers read.

        Args:
            batch: the requests.
            recalled: what was kept of their histories; the batch then holds the latest behaviours
                alone.
        """
        C = batch.candidate_rows_BC.shape[1]
        reads = slice(-self._history_reads, None)
        history_rows_BT = batch.history_rows_BT[:, reads]
        # One look-up for both, so that a sparse table gets one gradient.
        embedded = self.items(torch.cat([batch.candidate_rows_BC, history_rows_BT], dim=1))
        can_BCD, items_BTD = embedded[:, :C], embedded[:, C:]
        actions_BT, mask_BT = batch.history_actions_BT[:, reads], batch.mask_BT[:, reads]
        features_BTD = items_BTD + self.actions(actions_BT)
        if self.sequence_attention is not None:
            features_BTD = self.sequence_attention(features_BTD, mask_BT)
        behaviours = Behaviours(
            items_BTD=items_BTD,
            features_BTD=features_BTD,
            actions_BT=actions_BT,
            gap_BT=batch.history_gap_BT[:, reads],
            age_days_BT=batch.history_age_days_BT[:, reads],
            code_BT=batch.history_code_BT[:, reads],
            rows_BT=history_rows_BT,
            mask_BT=mask_BT,
        )
        candidates = Candidates(
            features_BCD=can_BCD,
            rows_BC=batch.candidate_rows_BC,
            code_BC=batch.candidate_code_BC,
            mask_BC=batch.mask_BC,
        )
        if recalled is None:
            found = self.attend(candidates, behaviours)
        else:
            found = self.attend_kept(candidates, behaviours, recalled)
        blocks = [found.cs_BCD.expand_as(can_BCD)]
        if not self.config.strict_paper_concat:
            blocks += [can_BCD, can_BCD * found.cs_BCD]
        blocks += [*found.blocks, *self.cross(batch)]
        return TowerInputs(
            blocks=blocks,
            user_BU=self.user(batch),
            channel_BC=batch.channel_BC,
            auxiliary_BC=found.auxiliary_BC,
        )

    def log_probabilities(self, batch: Batch, recalled: Recalled | None = None) -> torch.Tensor:
        """Computes log p(objective|can), [B, C, L] float32 (section 4.3); see `tower_inputs`."""
        logits_BCL = self.fused_logits(batch, recalled)
        if logits_BCL is not None:
            return log_probabilities_from(logits_BCL)
        return self.log_probabilities_of(self.tower_inputs(batch, recalled))

    def log_probabilities_of(self, inputs: TowerInputs) -> torch.Tensor:
        """Computes log p(objective|can), [B, C, L] float32, of what `tower_inputs` returned.

        Args:
            inputs: of a batch, or of some of its candidates.
        """
        return log_probabilities_from(self.logits_of(inputs))

    def logits_of(
        self,
        inputs: TowerInputs,
        dtype: torch.dtype = torch.float32,
        only: tuple[int, ...] | None = None,
    ) -> torch.Tensor:
        """Computes logits, [B, C, L] float32, of what `tower_inputs` returned.

        Args:
            inputs: of a batch, or of some of its candidates.
            dtype: of the towers' products, see `Towers.forward`.
            only: objectives, as in `Towers.forward`.
        """
        return self.towers(inputs.blocks, inputs.user_BU, inputs.channel_BC, dtype, only)

    @property
    def scores_apart(self) -> bool:
        """Whether `logits_of` some candidates or objectives costs less than of all."""
        return self.towers.plain

    @property
    def history_reads(self) -> int:
        """How many of the latest behaviours the model looks at, one by one or in sums."""
        return self._history_reads

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.user.user.weight.device

    def freeze(self) -> None:
        """Prepares a model whose weights will not change for fast inference."""
        self.eval()
        self.items.freeze()
        self.towers.freeze()
        for module in self.modules():
            if isinstance(module, PerItem):
                module.freeze(self.items)

    def sparse_parameters(self) -> Iterator[nn.Parameter]:
        """The hashed tables: their gradients are sparse, for an optimiser that can use them."""
        for module in self.modules():
            if isinstance(module, Table) and module.sparse:
                yield from module.parameters()

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """Every other parameter."""
        sparse = {id(parameter) for parameter in self.sparse_parameters()}
        for parameter in self.parameters():
            if id(parameter) not in sparse:
                yield parameter


def log_probabilities_from(logits_BCL: torch.Tensor) -> torch.Tensor:
    """Log p(objective|can) of logits [..., L], the impression's first (section 4.3).

    In log space, where a product of small probabilities keeps its precision: the impression's is
    log sigmoid(a), each other's log sigmoid(a) + log sigmoid(b).
    """
    log_sigmoid_BCL = logsigmoid(logits_BCL.float())
    impression_BC1 = log_sigmoid_BCL[..., :1]
    return torch.cat([impression_BC1, impression_BC1 + log_sigmoid_BCL[..., 1:]], dim=-1)

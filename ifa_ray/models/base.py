"""The base of all ranking models: embeddings, the concatenation, towers, log-probabilities.

Knows batches and how they flow; the one thing that a model adds is how candidates read the
history (`attend`), so that a comparison of models is a comparison of that.

Letters: B requests, C candidates, T history length, D width, L objectives.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from ifa_ray.config import ModelConfig
from ifa_ray.data.features import Batch
from ifa_ray.data.items import ItemTable
from ifa_ray.models.code_heads import Cached, CacheSpec
from ifa_ray.models.embedding import (
    ActionEmbedding,
    CrossEmbedding,
    ItemEmbedding,
    PerItem,
    Table,
    UserEmbedding,
    initialise,
)
from ifa_ray.models.inputs import Attended, Candidates, HistoryFeatures, Outputs, TowerInputs
from ifa_ray.models.towers import Towers
from ifa_ray.plugins import load_extension
from ifa_ray.reranking.response import SetResponse
from ifa_ray.schema import OBJECTIVES


class RankModel(nn.Module, ABC):
    """A ranking model: a batch of requests to logits of every candidate and objective.

    Attributes:
        reads_candidates_together: whether a candidate's logits depend on which others are there
            (F_cc of the paper); where not, a model may learn from some candidates of a request.
    """

    reads_candidates_together: ClassVar[bool] = False

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
        self.sequence_attention = None
        if "sequence_attention" in config.modules:
            self.sequence_attention = load_extension("sequence_attention")(config.width, config.phi)
        # Of no part of the ranking: it learns beside it, and holds buffers, not parameters.
        self.set_response = SetResponse() if config.set_step == "learned" else None
        shared_width = config.width * (1 if config.strict_paper_concat else 3)
        make_towers: Callable[..., Towers] = Towers
        if set(config.modules) - {"sequence_attention"}:
            make_towers = functools.partial(load_extension("modular_towers"), config.modules)
        self.towers = make_towers(
            block_width=shared_width + extra_width + self.cross.width,
            user_width=self.user.width,
            channel="channel" in config.cross_features,
            tower_widths=config.tower_widths,
            objectives=len(OBJECTIVES),
        )

    @abstractmethod
    def attend(self, candidates: Candidates, behaviours: HistoryFeatures) -> Attended:
        """Lets the candidates read the history.

        Args:
            candidates: the set to rank; some may be padding.
            behaviours: the history; T >= 1, but none of it need be real.
        """

    def cache_spec(self) -> CacheSpec | None:
        """The part of a history to cache; None where the model must see it whole (most do)."""
        return None

    def attend_cached(
        self, candidates: Candidates, latest: HistoryFeatures, cached: Cached
    ) -> Attended:
        """As `attend`, from the latest behaviours and from what was kept of all (`cache_spec`)."""
        raise NotImplementedError(f"{type(self).__name__} keeps nothing of a history.")

    def forward(self, batch: Batch, cached: Cached | None = None) -> Outputs:
        """Computes logits, and what else the model learns by; arguments as in `tower_inputs`."""
        inputs = self.tower_inputs(batch, cached)
        return Outputs(self.logits_of(inputs), inputs.auxiliary_BC)

    def tower_inputs(self, batch: Batch, cached: Cached | None = None) -> TowerInputs:
        """Embeds, lets the candidates read the history, and lays out what the towers read.

        Args:
            batch: the requests.
            cached: what was kept of their histories; the batch then holds the latest behaviours
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
        behaviours = HistoryFeatures(
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
        if cached is None:
            found = self.attend(candidates, behaviours)
        else:
            found = self.attend_cached(candidates, behaviours, cached)
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

    def log_probabilities(self, batch: Batch, cached: Cached | None = None) -> torch.Tensor:
        """Computes log p(objective|can), [B, C, L] float32 (section 4.3); see `tower_inputs`."""
        return log_probabilities_from(self(batch, cached).logits_BCL)

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

    def initialise(self, seed: int) -> None:
        """Draws every weight from the seed and its name alone."""
        initialise(self, seed)
        self.towers.start_at_prior()

    @property
    def scores_apart(self) -> bool:
        """True if `logits_of` some candidates or objectives costs less than of all."""
        return self.towers.plain

    @property
    def history_reads(self) -> int:
        """The number of latest impressions that the model looks at, one by one or in sums."""
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

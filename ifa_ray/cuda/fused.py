"""Models by Triton kernels: other classes of the same weights, chosen when a model is loaded.

`fuse` changes the classes of a model's modules to those here. The equations are those of
`ifa_ray.models`; scores differ from theirs by rounding. IFA goes from rows of tables to the towers'
first layer with nothing between them in memory: a frozen model reads projections of the catalogue,
made once per version; one that learns projects the request's own items and gets gradients through
the kernels. `ifa_ray.models` knows nothing of this.

Letters as in `ifa_ray.models.base`; F features of phi, R rows of a table, P action bytes,
H width of the first layer, X whatever is there.
"""

from __future__ import annotations

import dataclasses

import torch

from ifa_ray.cuda.codes import code_sums
from ifa_ray.cuda.dispatch import runs_triton
from ifa_ray.cuda.reads import Reading, read_and_project
from ifa_ray.cuda.sums import KeysValues, gathered_sums
from ifa_ray.data.features import Batch
from ifa_ray.models.base import RankModel
from ifa_ray.models.code_heads import BITS, Cached, CodeHeads, CodeState
from ifa_ray.models.embedding import PerItem
from ifa_ray.models.ifa import IFA
from ifa_ray.models.inputs import HistoryFeatures, Outputs
from ifa_ray.models.linear_attention import LinearAttention, SequenceState


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Sources:
    """Where the kernels find a request's items, and what is left to apply to them.

    Attributes:
        rows_BC: rows of all tables; None where the tables are the candidates themselves.
        items_RD: F_can.
        queries_RF, own_queries_RF: of equations 2 and 3.
        own: keys and values of equation 3.
        phi: to be applied to queries and to equation 3's keys.
    """

    rows_BC: torch.Tensor | None
    items_RD: torch.Tensor
    queries_RF: torch.Tensor
    own_queries_RF: torch.Tensor
    own: KeysValues
    phi: str


def fused_logits(
    model: FusedIFA, batch: Batch, cached: Cached | None = None
) -> torch.Tensor | None:
    """Logits [B, C, L] by kernels; None on a CPU, and where a module changes the towers' input."""
    if not (runs_triton(model.device) and model.towers.plain):
        return None
    rows_BC, mask_BC = batch.candidate_rows_BC, batch.mask_BC
    sources = _frozen(model, rows_BC)
    history_BFX, length_B = _history(model, batch, cached)
    if sources is None:
        sources = _projected(model, rows_BC)
    own_BFX = gathered_sums(sources.own, mask_BC, phi=sources.phi)
    towers, plain_concat = model.towers, model.config.strict_paper_concat
    width = model.config.width * (2 if plain_concat else 4)
    weight_XH = towers.from_blocks.weight.T
    hidden_BCH = read_and_project(
        Reading(q_RF=sources.queries_RF, sums_BFX=history_BFX, count_B=length_B, phi=sources.phi),
        weight_XH[:width],
        size_BC=(rows_BC.shape[0], rows_BC.shape[1]),
        rows_BC=sources.rows_BC,
        items_RD=None if plain_concat else sources.items_RD,
        candidates=Reading(
            q_RF=sources.own_queries_RF,
            sums_BFX=own_BFX,
            count_B=mask_BC.sum(dim=1).float(),
            phi=sources.phi,
        ),
        bias_BH=towers.from_blocks.bias + towers.from_user(model.user(batch)),
    )
    cross = model.cross(batch)
    if cross:
        hidden_BCH = hidden_BCH + torch.cat(cross, dim=-1) @ weight_XH[width:]
    return towers.forward_from(hidden_BCH, batch.channel_BC)


def _frozen(model: FusedIFA, rows_BC: torch.Tensor) -> _Sources | None:
    """The projections of `RankModel.freeze`; None where it has not, or something is learned."""
    items_RD, queries_RF = model.items.frozen_RD, model.item_queries.frozen_RX
    own_RX = model.candidates_to_candidates.per_item.frozen_RX
    if torch.is_grad_enabled() or items_RD is None or queries_RF is None or own_RX is None:
        return None
    phi_q_RF, phi_k_RF, v_RD = own_RX.chunk(3, dim=1)
    return _Sources(
        rows_BC=rows_BC,
        items_RD=items_RD,
        queries_RF=queries_RF,
        own_queries_RF=phi_q_RF,
        own=KeysValues(k_RF=phi_k_RF, v_RE=v_RD, rows_BT=rows_BC),
        phi="none",
    )


def _projected(model: FusedIFA, rows_BC: torch.Tensor) -> _Sources:
    """The candidates' own projections, made here; phi is left to the kernels."""
    can_BCD, own = model.items(rows_BC), model.candidates_to_candidates
    queries_BCF = model.candidates_to_sequence.query(can_BCD)
    return _Sources(
        rows_BC=None,
        items_RD=can_BCD.flatten(0, 1),
        queries_RF=queries_BCF.flatten(0, 1),
        own_queries_RF=own.query(can_BCD).flatten(0, 1),
        own=KeysValues.of(own.key(can_BCD), own.value(can_BCD)),
        phi=own.phi,
    )


def _history(
    model: FusedIFA, batch: Batch, cached: Cached | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of equation 2, [B, F, D + 1], and how many behaviours each is of."""
    if cached is not None:
        assert cached.dense is not None
        return _side_by_side(cached.dense), cached.dense.count_B
    reads = slice(-model.history_reads, None)
    rows_BT, mask_BT = batch.history_rows_BT[:, reads], batch.mask_BT[:, reads]
    actions_BT, attention = batch.history_actions_BT[:, reads], model.candidates_to_sequence
    length_B = mask_BT.sum(dim=1).float()
    projected_RX = model.item_keys_values.frozen_RX
    if torch.is_grad_enabled() or projected_RX is None or model.sequence_attention is not None:
        features_BTD = model.items(rows_BT) + model.actions(actions_BT)
        if model.sequence_attention is not None:
            features_BTD = model.sequence_attention(features_BTD, mask_BT)
        return _side_by_side(attention.state(features_BTD, mask_BT)), length_B
    tables = (projected_RX, model.keys_values(model.actions.all_bytes()))
    (k_RF, v_RD), (k_PF, v_PD) = (table.chunk(2, dim=1) for table in tables)
    sums_BFX = gathered_sums(
        KeysValues(k_RF=k_RF, v_RE=v_RD, rows_BT=rows_BT),
        mask_BT,
        phi=attention.phi,
        plus=KeysValues(k_RF=k_PF, v_RE=v_PD, rows_BT=actions_BT),
    )
    return sums_BFX, length_B


def _side_by_side(state: SequenceState) -> torch.Tensor:
    """Values and mass of a state as the kernels read them, [B, F, E + 1]."""
    return torch.cat([state.values_BFE, state.mass_BF[..., None]], dim=2)


class FusedLinearAttention(LinearAttention):
    """Linear attention whose sums over a sequence are one kernel's."""

    def state(self, features_BTD: torch.Tensor, mask_BT: torch.Tensor) -> SequenceState:
        """As `LinearAttention.state`."""
        if not runs_triton(mask_BT.device):
            return super().state(features_BTD, mask_BT)
        sequence = KeysValues.of(self.key(features_BTD), self.value(features_BTD))
        sums_BFX = gathered_sums(sequence, mask_BT, phi=self.phi)
        return SequenceState(
            values_BFE=sums_BFX[..., :-1],
            mass_BF=sums_BFX[..., -1],
            count_B=mask_BT.sum(dim=1).float(),
        )


class FusedCodeHeads(CodeHeads):
    """Code heads whose sums of all families are one kernel's."""

    def _states(
        self,
        behaviours: HistoryFeatures,
        bits_BTA: torch.Tensor,
        code_BT: dict[str, torch.Tensor],
        sizes: dict[str, int],
    ) -> dict[str, CodeState]:
        if not code_BT or not runs_triton(behaviours.mask_BT.device):
            return super()._states(behaviours, bits_BTA, code_BT, sizes)
        sums_BSX = code_sums(
            behaviours.actions_BT,
            behaviours.age_days_BT,
            behaviours.mask_BT,
            torch.stack(list(code_BT.values())),
            tuple(sizes.values()),
            BITS,
            self.decay_days,
        )
        parts = sums_BSX.split(list(sizes.values()), dim=1)
        return {
            family: CodeState(sums_BSX=part, decay_days=self.decay_days)
            for family, part in zip(code_BT, parts, strict=True)
        }


class FusedIFA(IFA):
    """IFA whose way from rows of tables to the first layer is three kernels."""

    item_keys_values: PerItem

    def forward(self, batch: Batch, cached: Cached | None = None) -> Outputs:
        """As `RankModel.forward`."""
        logits_BCL = fused_logits(self, batch, cached)
        if logits_BCL is None:
            return super().forward(batch, cached)
        return Outputs(logits_BCL, None)

    def keys_values(self, features: torch.Tensor) -> torch.Tensor:
        """K before phi and V of equation 2 side by side, [..., 2 D]; linear, so they add up."""
        attention = self.candidates_to_sequence
        return torch.cat([attention.key(features), attention.value(features)], dim=-1)


_FUSED: dict[type, type] = {
    LinearAttention: FusedLinearAttention,
    CodeHeads: FusedCodeHeads,
    IFA: FusedIFA,
}


def fuse(model: RankModel) -> RankModel:
    """Gives a model's modules their fused classes; weights, names and results stay the same.

    On devices without Triton they compute as before.

    Args:
        model: changed in place; before `RankModel.freeze`.
    """
    for module in list(model.modules()):
        module.__class__ = _FUSED.get(type(module), type(module))
    if isinstance(model, FusedIFA):
        model.item_keys_values = PerItem(model.keys_values)
    return model

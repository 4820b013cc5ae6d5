"""IFA and IFA+ as they are read, with a fast model's weights: what "before" means in a benchmark.

The same ranker without what makes it fast. `plain` reads the history by sums, as the form that
learns does, but nothing of the catalogue is prepared, the towers' concatenation is formed whole,
and each tower is an MLP of its own. `naive` goes through the m x n weights of equations 6 and 7
besides. Scores are those of the fast form up to the order of float32 sums. Knows models; no
requests, no world.

Letters as in `ifa_ray.models.base`; N = B C.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear, logsigmoid

from ifa_ray.data.features import Batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models.base import Attended, Behaviours, Candidates, RankModel, TowerInputs
from ifa_ray.models.full_attention import naive_full_attention
from ifa_ray.models.ifa import IFA
from ifa_ray.models.ifa_plus import IFAPlus
from ifa_ray.models.kept import Recalled
from ifa_ray.models.layers import TowerLayer
from ifa_ray.models.linear_attention import LinearAttention, naive_linear_attention
from ifa_ray.schema import OBJECTIVES

__all__ = ["FORMS", "in_form"]


class _Unprepared(RankModel):
    """A model that computes all of a request anew."""

    def freeze(self) -> None:
        """Prepares nothing: a request embeds and projects its own items."""
        self.eval()

    @property
    def scores_apart(self) -> bool:
        """False: all that the model says of every candidate is computed."""
        return False

    def log_probabilities(self, batch: Batch, recalled: Recalled | None = None) -> torch.Tensor:
        """As `RankModel.log_probabilities`."""
        lp_BCL = logsigmoid(self._logits(self.tower_inputs(batch, recalled)))
        impression_BC1 = lp_BCL[..., :1]
        return torch.cat([impression_BC1, impression_BC1 + lp_BCL[..., 1:]], dim=-1)

    def _logits(self, inputs: TowerInputs) -> torch.Tensor:
        """Equation 4, [B, C, L]: one MLP per objective on [candidate blocks, F_u, F_cro]."""
        towers = self.towers
        assert towers.plain
        assert towers.channel is not None
        assert towers.from_channel is not None
        (B, C), user_BU = inputs.channel_BC.shape, inputs.user_BU
        x_NX = torch.cat(
            [*inputs.blocks, user_BU[:, None].expand(-1, C, -1), towers.channel(inputs.channel_BC)],
            dim=-1,
        ).flatten(0, 1)
        firsts = (towers.from_blocks, towers.from_user, towers.from_channel)
        weight_HX = torch.cat([first.weight for first in firsts], dim=1)
        objectives = len(OBJECTIVES)
        logits = []
        for tower, (weight, bias) in enumerate(
            zip(weight_HX.chunk(objectives), towers.from_blocks.bias.chunk(objectives), strict=True)
        ):
            hidden_NH = linear(x_NX, weight, bias)
            for layer in towers.layers:
                assert isinstance(layer, TowerLayer)
                assert layer.bias is not None
                hidden_NH = torch.relu(hidden_NH) @ layer.weight[tower] + layer.bias[tower]
            logits.append(hidden_NH)
        return torch.cat(logits, dim=1).view(B, C, objectives)


class _PlainIFA(_Unprepared, IFA):
    """IFA in the form that learns."""


class _PlainIFAPlus(_Unprepared, IFAPlus):
    """IFA+ in the form that learns."""


class _NaiveIFA(_PlainIFA):
    """IFA through all pairs of a candidate and a behaviour, and of two candidates."""

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """As `IFA.attend`, O(m n + m^2)."""
        F_can, mask_BC = candidates.features_BCD, candidates.mask_BC
        cs_BCD = _naive(
            self.candidates_to_sequence, F_can, behaviours.features_BTD, behaviours.mask_BT
        )
        return Attended(cs_BCD, (_naive(self.candidates_to_candidates, F_can, F_can, mask_BC),))


class _NaiveIFAPlus(_PlainIFAPlus):
    """IFA+ with its dense parts through all pairs; its code heads are sums in any form."""

    def attend(self, candidates: Candidates, behaviours: Behaviours) -> Attended:
        """As `IFAPlus.attend`, O(m n)."""
        cs_BCD = self._recent(candidates, behaviours) + _naive(
            self.candidates_to_sequence,
            candidates.features_BCD,
            behaviours.features_BTD,
            behaviours.mask_BT,
        )
        bits_BTA = self.actions.bits(behaviours.actions_BT)
        blocks = self.codes(candidates, behaviours, bits_BTA, self.items.category_R)
        return Attended(cs_BCD, tuple(blocks))

    def read(
        self,
        query_CD: torch.Tensor,
        key_nD: torch.Tensor,
        bias_nH: torch.Tensor,
        value_nD: torch.Tensor,
    ) -> torch.Tensor:
        """As `TargetAttention.read`."""
        return naive_full_attention(query_CD, key_nD, bias_nH, value_nD)


FORMS: dict[str, dict[str, type[RankModel]]] = {
    "naive": {"ifa": _NaiveIFA, "ifa_plus": _NaiveIFAPlus},
    "plain": {"ifa": _PlainIFA, "ifa_plus": _PlainIFAPlus},
}
"""For each form, the class that a model of this name becomes."""


def in_form(form: str, model: RankModel, items: ItemTable) -> RankModel:
    """The same model, weights included, in one of `FORMS`.

    Raises:
        ConfigError: on a model that has no such form, with the near miss.
    """
    if model.config.name not in FORMS[form]:
        raise unknown_name("model", model.config.name, FORMS[form])
    of_form = FORMS[form][model.config.name](model.config, items)
    of_form.load_state_dict(model.state_dict())
    of_form.eval()
    return of_form


def _naive(
    attention: LinearAttention, to_BCD: torch.Tensor, of_BTD: torch.Tensor, mask_BT: torch.Tensor
) -> torch.Tensor:
    """What candidates read of a sequence, by equations 6 and 7 as they are read."""
    phi_q_BCF, phi_k_BTF = attention.queries(to_BCD), attention.keys(of_BTD)
    return naive_linear_attention(phi_q_BCF, phi_k_BTF, attention.value(of_BTD), mask_BT)

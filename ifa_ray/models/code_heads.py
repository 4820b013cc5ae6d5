"""What a user's whole life says of a candidate's category, author and kind of content, exactly.

The sparse half of IFA+'s kernel: a head for each family of codes reads from a `CodeState` how often
and with what success the user met the candidate's code, over all time and lately. Knows families
and their codes; the sums themselves are `ifa_ray.models.code_state`'s.

Letters as in `ifa_ray.models.base`; E counted actions, D decays, X = D (1 + E).
"""

from __future__ import annotations

import torch
from torch import nn

from ifa_ray.data.features import COUNTS
from ifa_ray.data.items import ItemTable
from ifa_ray.kernels.codes import code_sums
from ifa_ray.kernels.dispatch import runs_triton
from ifa_ray.models.base import Behaviours, Candidates
from ifa_ray.models.code_state import NO_DECAY, CodeState, weighted
from ifa_ray.models.codebook import Codebook
from ifa_ray.models.embedding import NUM_CATEGORIES
from ifa_ray.schema import ACTIONS

__all__ = ["BITS", "FAMILIES", "CodeHeads"]

FAMILIES = ("user", "category", "author", "coarse", "fine")
"""`user` has one code, which all items share; `coarse` and `fine` are those of a `Codebook`."""

_DECAY_DAYS = (NO_DECAY, 7.0, 0.2)  # the whole life, a week, some hours
_NUM_COARSE, _NUM_FINE = 64, 8

BITS = tuple(ACTIONS.index(name) for name in COUNTS[1:])
"""Of a behaviour's action byte, those that are summed beside its weight."""


class CodeHeads(nn.Module):
    """Reads every family that is on; O(C + T), and additive over the history.

    Args:
        items: the catalogue, whose content the code book is fitted to.
        families: of `FAMILIES`.
        rates: False leaves log-counts alone.
        decay: False sums plainly alone.
    """

    def __init__(
        self, items: ItemTable, *, families: tuple[str, ...], rates: bool, decay: bool
    ) -> None:
        super().__init__()
        self.families = families
        self._rates = rates
        self.decay_days = _DECAY_DAYS if decay else _DECAY_DAYS[:1]
        self.book = Codebook(items, num_coarse=_NUM_COARSE, num_fine=_NUM_FINE)
        per_family = len(self.decay_days) * (1 + len(BITS) * rates)
        self.width = per_family * len(families)

    def forward(
        self,
        candidates: Candidates,
        behaviours: Behaviours,
        bits_BTA: torch.Tensor,
        category_R: torch.Tensor,
    ) -> list[torch.Tensor]:
        """A block [B, C, X] for each family.

        Args:
            candidates: as in `RankModel.attend`.
            behaviours: as in `RankModel.attend`.
            bits_BTA: `ACTIONS` of the behaviours as 0 and 1.
            category_R: the category of each row of the catalogue.
        """
        T = behaviours.mask_BT.shape[1]
        code_BT, code_BC, sizes = {}, {}, {}
        for family in self.families:
            if family == "user":
                code_BT[family], sizes[family] = torch.zeros_like(behaviours.code_BT), 1
            elif family == "author":  # numbered anew in every request, T where padded or unmet
                code_BT[family], sizes[family] = behaviours.code_BT, T + 1
                code_BC[family] = candidates.code_BC
            else:
                code_R, sizes[family] = self.codes_of_rows(family, category_R)
                code_BT[family] = code_R[behaviours.rows_BT]
                code_BC[family] = code_R[candidates.rows_BC]
        blocks = []
        for family, state in self._states(behaviours, bits_BTA, code_BT, sizes).items():
            if family == "user":
                blocks.append(self.of_all(state, candidates.rows_BC.shape[1]))
            else:
                blocks.append(state.read(code_BC[family], rates=self._rates))
        return blocks

    def _states(
        self,
        behaviours: Behaviours,
        bits_BTA: torch.Tensor,
        code_BT: dict[str, torch.Tensor],
        sizes: dict[str, int],
    ) -> dict[str, CodeState]:
        """The sums of each family, given its codes."""
        mask_BT, age_days_BT = behaviours.mask_BT, behaviours.age_days_BT
        if code_BT and runs_triton(mask_BT.device):
            codes_GBT = torch.stack(list(code_BT.values()))
            sums_BSX = code_sums(
                behaviours.actions_BT, age_days_BT, mask_BT, codes_GBT, tuple(sizes.values()),
                BITS, self.decay_days,
            )  # fmt: skip
            parts = sums_BSX.split(list(sizes.values()), dim=1)
            return {
                family: CodeState(sums_BSX=part, decay_days=self.decay_days)
                for family, part in zip(code_BT, parts, strict=True)
            }
        weighted_BTX = weighted(bits_BTA[..., BITS], age_days_BT, mask_BT, self.decay_days)
        return {
            family: CodeState.of_weighted(weighted_BTX, codes, sizes[family], self.decay_days)
            for family, codes in code_BT.items()
        }

    def codes_of_rows(self, family: str, category_R: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The code of each row of the catalogue, and how many there are; not of `author`."""
        return {
            "category": (category_R, NUM_CATEGORIES),
            "coarse": (self.book.coarse_R, self.book.num_coarse),
            "fine": (self.book.fine_R, self.book.num_fine),
        }[family]

    def of_all(self, whole: CodeState, num_candidates: int) -> torch.Tensor:
        """The block of the family `user`: the same for every candidate."""
        return whole.read_all(rates=self._rates).expand(-1, num_candidates, -1)

    def of_some(self, state: CodeState, code_BC: torch.Tensor, whole: CodeState) -> torch.Tensor:
        """The block of another family, from sums of some of its codes and from those of all."""
        return state.read(code_BC, rates=self._rates, whole=whole)

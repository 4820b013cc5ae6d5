"""What a model keeps of a history so that it need not see it again, and what was kept, read.

Only models whose reading of the whole history is a sum over it keep anything: see
`RankModel.kept`. Knows names and tensors; the sums are `ifa_ray.models.linear_attention`'s and
`ifa_ray.models.code_table`'s.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from ifa_ray.models.linear_attention import LinearAttention, SequenceState

if TYPE_CHECKING:  # it reads candidates, as the models do that keep this
    from ifa_ray.models.code_heads import CodeHeads

__all__ = ["Kept", "Recalled"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What must be kept of a history.

    Attributes:
        latest: how many of the latest behaviours the model looks at one by one.
        dense: whose sums over all behaviours it reads; None if none.
        codes: whose sums by code it reads; None if none.
    """

    latest: int = 0
    dense: LinearAttention | None = None
    codes: CodeHeads | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recalled:
    """What was kept of histories, as of their requests.

    Attributes:
        dense: what `Kept.dense` makes of the whole history; None if none.
        code_blocks: what `Kept.codes` says of each candidate, [B, C, *] each.
    """

    dense: SequenceState | None
    code_blocks: tuple[torch.Tensor, ...] = ()

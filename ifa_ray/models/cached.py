"""The attention state that a model may cache of a history, so that it need not see it again.

Only models whose attention to the whole history is a sum over it cache anything: see
`RankModel.cache_spec`.
"""

from __future__ import annotations

import dataclasses

import torch

from ifa_ray.models.code_heads import CodeHeads
from ifa_ray.models.linear_attention import LinearAttention, SequenceState


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CacheSpec:
    """The part of a history that must be kept.

    Attributes:
        latest: how many of the latest behaviours the model looks at one by one.
        dense: whose sums over all behaviours it reads; None if none.
        codes: whose sums by code it reads; None if none.
    """

    latest: int = 0
    dense: LinearAttention | None = None
    codes: CodeHeads | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cached:
    """The cached parts of histories, as of their requests.

    Attributes:
        dense: what `CacheSpec.dense` makes of the whole history; None if none.
        code_blocks: what `CacheSpec.codes` says of each candidate, [B, C, *] each.
    """

    dense: SequenceState | None
    code_blocks: tuple[torch.Tensor, ...] = ()

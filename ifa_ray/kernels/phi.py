"""The feature map of linear attention, and the constant that keeps its division defined.

Knows tensors only.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

__all__ = ["EPS", "feature_map"]

EPS = 1e-6
"""Added to a degree that was divided by n, so it is relative to n. It is what makes the empty
history, and a query whose ReLU features are all zero, give 0 instead of NaN."""


def feature_map(x: torch.Tensor, phi: str) -> torch.Tensor:
    """phi: `softplus` (the paper's default) or `relu`, never < 0; `none` where it was applied."""
    if phi == "none":
        return x
    if phi == "softplus":
        return softplus(x)
    assert phi == "relu", phi
    return torch.relu(x)

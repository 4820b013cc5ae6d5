"""Layers that start from an explicit seed: no layer here ever touches the global generator.

Knows shapes and how wide a start to give; knows no features.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

__all__ = ["Dense", "Table", "TowerLayer", "initialise"]


class Dense(nn.Linear):
    """A linear layer whose weights start at N(0, gain² / fan-in), biases at 0."""

    def __init__(
        self, in_width: int, out_width: int, *, bias: bool = True, gain: float = 1.0
    ) -> None:
        super().__init__(in_width, out_width, bias=bias)
        self.std = gain / math.sqrt(max(1, in_width))

    def reset_parameters(self) -> None:
        """Does nothing: `initialise` does, from a seed."""


class Table(nn.Embedding):
    """An embedding table whose rows start at N(0, std²).

    A sparse one hands the optimiser the gradient of visited rows alone.
    """

    def __init__(self, rows: int, width: int, *, std: float, sparse: bool = False) -> None:
        super().__init__(rows, width, sparse=sparse)
        self.std = std

    def reset_parameters(self) -> None:
        """Does nothing: `initialise` does, from a seed."""


class TowerLayer(nn.Module):
    """One layer of L towers side by side, each with its own weights."""

    def __init__(self, towers: int, in_width: int, out_width: int, *, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(towers, in_width, out_width))
        self.bias = nn.Parameter(torch.empty(towers, 1, out_width))
        self.std = gain / math.sqrt(in_width)

    def forward(self, x_LNI: torch.Tensor) -> torch.Tensor:
        """Maps [L, N, in] to [L, N, out]."""
        return torch.baddbmm(self.bias, x_LNI, self.weight)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draws every weight of the model's layers from (seed, its name) alone.

    So what two models share by name and shape starts equal in both, and adding a layer to one
    changes nothing else: arms of a comparison differ by what they are, not by luck.
    """
    for name, layer in sorted(model.named_modules()):
        if not isinstance(layer, Dense | Table | TowerLayer):
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        layer.weight.normal_(0.0, layer.std, generator=generator)
        bias = getattr(layer, "bias", None)
        if bias is not None:
            bias.zero_()

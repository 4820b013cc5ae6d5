"""The weights of some towers, laid out for scoring many candidates where nothing is learned.

Knows layers; knows not what the towers are for.

Letters: L towers, H first hidden width of all of them together, U width of user features, X width
of all blocks together, Y channels, I and O widths of a layer's input and output, N candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from ifa_ray.models.layers import TowerLayer

__all__ = ["TowerWeights"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TowerWeights:
    """Weights of L towers; products with candidates are computed in `blocks_XH`'s type.

    Attributes:
        exact_HX, blocks_XH: the first layer's, of candidate blocks; float32, and in the type.
        user_HU, bias_H: the first layer's, of user features, and its biases; float32.
        channel_YH: what each channel adds to the first layer, in the type; None without channels.
        layers: weights [L, I, O] and biases [L, 1, O] of each later layer, in the type, but of one
            output: weights [L, 1, I], and float32.
    """

    exact_HX: torch.Tensor
    blocks_XH: torch.Tensor
    user_HU: torch.Tensor
    bias_H: torch.Tensor
    channel_YH: torch.Tensor | None
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def of(
        cls,
        *,
        first: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None],
        layers: Sequence[TowerLayer],
        towers: int,
        only: tuple[int, ...],
        dtype: torch.dtype,
    ) -> TowerWeights:
        """Takes some of all towers' weights.

        Args:
            first: the first layer's of blocks [H, X], of user features [H, U], biases [H] and
                channels [Y, H], H of all towers.
            layers: the later ones.
            towers: how many there are.
            only: which of them, in the order wanted.
            dtype: of the products.
        """

        def taken(first_HX: torch.Tensor) -> torch.Tensor:
            return first_HX.unflatten(0, (towers, -1))[list(only)].flatten(0, 1)

        blocks_HX, user_HU, bias_H, channel_YH = first
        exact_HX = taken(blocks_HX)
        later = []
        for layer in layers:
            assert layer.bias is not None
            weight_LIO, bias_L1O = layer.weight[list(only)], layer.bias[list(only)]
            if weight_LIO.shape[2] > 1:
                later.append((weight_LIO.to(dtype), bias_L1O.to(dtype)))
            else:
                later.append((weight_LIO.mT.contiguous(), bias_L1O))
        return cls(
            exact_HX=exact_HX,
            blocks_XH=exact_HX.T.contiguous().to(dtype),
            user_HU=taken(user_HU),
            bias_H=taken(bias_H),
            channel_YH=None if channel_YH is None else taken(channel_YH.T).T.contiguous().to(dtype),
            layers=tuple(later),
        )

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """From the first layer's products, which it changes, to logits [L, N] float32.

        A layer of one output is no product of matrices, and four times faster.
        """
        x_LNI = hidden_NH.view(len(hidden_NH), self.towers, -1).transpose(0, 1)
        for weight_LIO, bias_L1O in self.layers:
            active_LNI = x_LNI.relu_()
            if weight_LIO.shape[1] > 1:
                x_LNI = torch.baddbmm(bias_L1O, active_LNI, weight_LIO)
            else:
                x_LNI = (active_LNI.float() * weight_LIO).sum(dim=2, keepdim=True) + bias_L1O
        return x_LNI[..., 0].float()

    @property
    def towers(self) -> int:
        """L."""
        return len(self.layers[0][0]) if self.layers else len(self.bias_H)

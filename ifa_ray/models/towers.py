"""From the features of every candidate to its logits: one MLP per objective (section 4.2, eq. 4).

Knows blocks of features by their widths; knows not what they mean.

Letters: B requests, C candidates, L objectives, H hidden width, U width of user features.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from ifa_ray.data.features import NUM_CHANNELS
from ifa_ray.models.layers import Dense, Table, TowerLayer

__all__ = ["Towers"]

_CHANNEL_WIDTH = 8
_RELU_GAIN = math.sqrt(2.0)

# Few candidates are shown; starting there saves every model the same first steps.
_IMPRESSION_BIAS = -3.0


class Towers(nn.Module):
    """L MLPs on the concatenation [candidate blocks, F_u, F_cro].

    The first layers of all towers are one product. The part of F_u in it is one row per request
    and that of F_cro one row per channel, so the concatenation is never formed; the sum is the
    same.
    """

    def __init__(
        self,
        *,
        block_width: int,
        user_width: int,
        tower_widths: tuple[int, ...],
        objectives: int,
        channel: bool = True,
    ) -> None:
        """Builds the towers.

        Args:
            block_width: of all per-candidate blocks together.
            user_width: U.
            tower_widths: hidden widths of each tower.
            objectives: L.
            channel: whether the retrieval channel is a feature.
        """
        super().__init__()
        self._objectives = objectives
        widths = (*tower_widths, 1)
        first = objectives * widths[0]
        fan_in = block_width + user_width + _CHANNEL_WIDTH * channel
        gain = _RELU_GAIN if tower_widths else 1.0
        self.from_blocks = Dense(block_width, first, gain=gain * math.sqrt(block_width / fan_in))
        self.from_user = Dense(
            user_width, first, bias=False, gain=gain * math.sqrt(user_width / fan_in)
        )
        self.channel, self.from_channel = None, None
        if channel:
            self.channel = Table(NUM_CHANNELS, _CHANNEL_WIDTH, std=0.2)
            self.from_channel = Dense(
                _CHANNEL_WIDTH, first, bias=False, gain=gain * math.sqrt(_CHANNEL_WIDTH / fan_in)
            )
        self.layers = nn.ModuleList(
            TowerLayer(objectives, i, o, gain=_RELU_GAIN if o > 1 else 0.1)
            for i, o in itertools.pairwise(widths)
        )

    @torch.no_grad()
    def start_at_prior(self) -> None:
        """Starts the impression's logit near its usual size instead of at 0."""
        last = self.layers[-1] if len(self.layers) else self.from_blocks
        assert isinstance(last.bias, torch.Tensor)
        last.bias.flatten()[0] += _IMPRESSION_BIAS

    def forward(
        self, blocks: list[torch.Tensor], user_BU: torch.Tensor, channel_BC: torch.Tensor
    ) -> torch.Tensor:
        """Computes logits.

        Args:
            blocks: per-candidate features, each [B, C, *].
            user_BU: F_u.
            channel_BC: channels as in `Batch`.

        Returns:
            [B, C, L] float32.
        """
        B, C = channel_BC.shape
        L = self._objectives
        hidden = self.from_blocks(torch.cat(blocks, dim=-1))
        hidden = hidden + self.from_user(user_BU)[:, None]
        if self.channel is not None and self.from_channel is not None:
            channel_rows = self.from_channel(self.channel.weight)
            hidden = hidden + nn.functional.embedding(channel_BC, channel_rows)
        x_LNH = hidden.view(B * C, L, -1).transpose(0, 1)
        for layer in self.layers:
            x_LNH = layer(torch.relu(x_LNH))
        return x_LNH[..., 0].T.reshape(B, C, L)

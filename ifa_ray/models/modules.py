"""The optional modules that the paper names (section 4.2): any model can take them, or none.

`sequence_attention`, `mmoe`, `pepnet`, `layer_norm` and `residual` of `ifa_ray.config.MODULES`;
`RankModel` and `Towers` put them in place. Knows tensors only.

Letters: B requests, C candidates, T history length, D width, U width of user features, X width of
whatever is gated, G outputs of a gate, L objectives, N candidates of all requests, E experts, H
hidden width.
"""

from __future__ import annotations

import torch
from torch import nn

from ifa_ray.models.layers import Dense
from ifa_ray.models.linear_attention import LinearAttention

__all__ = ["Gate", "SequenceAttention", "mix_experts"]

_GATE_WIDTH = 32

# Small, so that gates start near 1.
_GATE_GAIN = 0.1


class SequenceAttention(nn.Module):
    """Self-attention of the history, linear and so O(T), with a residual connection.

    A behaviour is then read in the light of all others, so the sums of linear attention over the
    history are no longer additive: one more behaviour changes the features of every earlier one,
    and there is no incremental sequence state.
    """

    def __init__(self, width: int, phi: str) -> None:
        super().__init__()
        self.attention = LinearAttention(width, phi)

    def forward(self, features_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Adds to each behaviour what it reads of the others, [B, T, D]."""
        read_BTD, _ = self.attention(features_BTD, features_BTD, mask_BT)
        return features_BTD + read_BTD


class Gate(nn.Module):
    """PEPNet's gate (Chang et al., KDD 2023): 2 sigmoid(W' relu(W [prior, x])) with x cut off.

    The prior is the user and, as the domain, the retrieval channel. No gradient reaches x through
    the gate, so what all users share is not pulled towards any; the prior learns through it.
    """

    def __init__(self, x_width: int, user_width: int, channel_width: int, out_width: int) -> None:
        """Builds the gate; a channel_width of 0 means that the channel is not a feature."""
        super().__init__()
        self.from_x = Dense(x_width, _GATE_WIDTH)
        self.from_user = Dense(user_width, _GATE_WIDTH, bias=False)
        self.from_channel = Dense(channel_width, _GATE_WIDTH, bias=False) if channel_width else None
        self.out = Dense(_GATE_WIDTH, out_width, gain=_GATE_GAIN)

    def forward(
        self, x_BCX: torch.Tensor, user_BU: torch.Tensor, channel_BCY: torch.Tensor | None
    ) -> torch.Tensor:
        """Factors in (0, 2), [B, C, G]."""
        hidden = self.from_x(x_BCX.detach()) + self.from_user(user_BU)[:, None]
        if self.from_channel is not None:
            hidden = hidden + self.from_channel(channel_BCY)
        return 2.0 * torch.sigmoid(self.out(torch.relu(hidden)))


def mix_experts(hidden_NEH: torch.Tensor, gate_NLE: torch.Tensor) -> torch.Tensor:
    """MMoE (Ma et al., KDD 2018): each objective's mixture of shared experts, [L, N, H].

    Args:
        hidden_NEH: what the experts say, before their ReLU.
        gate_NLE: logits of the objectives' gates.
    """
    return (gate_NLE.softmax(dim=-1) @ torch.relu(hidden_NEH)).transpose(0, 1)

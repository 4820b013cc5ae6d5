"""The optional modules that the paper names (section 4.2): any model can take them, or none.

`sequence_attention`, `mmoe`, `pepnet`, `layer_norm` and `residual` of `ifa_ray.config.MODULES`.
`ModularTowers` has those of the towers; a model with none of them has the plain `Towers`.

Letters: B requests, C candidates, T history length, D width, U width of user features, X width of
whatever is gated, G outputs of a gate, L objectives, N candidates of all requests, E experts, H
hidden width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from ifa_ray.models.embedding import Dense, TowerLayer
from ifa_ray.models.linear_attention import LinearAttention
from ifa_ray.models.towers import Towers

_GATE_WIDTH = 32

# Small, so that gates start near 1, and a tower with skips close to one without.
_GATE_GAIN = 0.1
_SKIP_GAIN = 0.3


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


class ModularTowers(Towers):
    """Towers with any of MMoE, PEPNet, layer norm and residual connections."""

    def __init__(
        self,
        modules: tuple[str, ...],
        *,
        block_width: int,
        user_width: int,
        tower_widths: tuple[int, ...],
        objectives: int,
        channel: bool = True,
    ) -> None:
        """As `Towers`, with those of `modules` that are of the towers."""
        # As many experts as there were towers, and beside them their gates.
        self._experts = objectives if "mmoe" in modules else 0
        super().__init__(
            block_width=block_width,
            user_width=user_width,
            tower_widths=tower_widths,
            objectives=objectives,
            channel=channel,
        )
        channel_width = 0 if self.channel is None else self.channel.embedding_dim
        self.norm = nn.LayerNorm(block_width) if "layer_norm" in modules else None
        # Pre-activation, S x + W relu(x): towers get narrower, so S is a product and no identity.
        # None around the layer that gives the logit.
        self.skips = nn.ModuleList(
            TowerLayer(objectives, i, o, gain=_SKIP_GAIN, bias=False)
            for i, o in itertools.pairwise(tower_widths if "residual" in modules else ())
        )
        self.input_gate, self.hidden_gate = None, None
        if "pepnet" in modules:
            prior = (user_width, channel_width)
            self.input_gate = Gate(block_width, *prior, block_width)  # EPNet
            if tower_widths:
                self.hidden_gate = Gate(block_width, *prior, objectives * sum(tower_widths))
        self._hidden_widths = tower_widths

    @property
    def plain(self) -> bool:
        """Never: all candidates and objectives are computed together."""
        return False

    def _first_width(self, objectives: int, width: int) -> int:
        return objectives * width + objectives * self._experts

    def _learning(
        self, blocks: list[torch.Tensor], user_BU: torch.Tensor, channel_BC: torch.Tensor
    ) -> torch.Tensor:
        """As `forward`, with every module that is on."""
        x_BCX = torch.cat(blocks, dim=-1)
        if self.norm is not None:
            x_BCX = self.norm(x_BCX)
        gates: list[torch.Tensor] = []
        if self.input_gate is not None:
            channel_BCY = None if self.channel is None else self.channel(channel_BC)
            x_BCX = x_BCX * self.input_gate(x_BCX, user_BU, channel_BCY)
            if self.hidden_gate is not None:
                gates = self._hidden_gates(self.hidden_gate(x_BCX, user_BU, channel_BCY))
        return self._from_first(self._first(x_BCX, user_BU), channel_BC, gates)

    def _through(self, x_LNH: torch.Tensor, gates: Sequence[torch.Tensor]) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            active_LNH = torch.relu(x_LNH)
            if gates:
                active_LNH = active_LNH * gates[i]
            out_LNH = layer(active_LNH)
            x_LNH = out_LNH + self.skips[i](x_LNH) if i < len(self.skips) else out_LNH
        return x_LNH

    def _towers_of(self, first_NX: torch.Tensor) -> torch.Tensor:
        """The mixture of experts of each tower, [L, N, H], where there are experts."""
        L, E = self._objectives, self._experts
        if not E:
            return super()._towers_of(first_NX)
        gate_NX, hidden_NX = first_NX.split([L * E, first_NX.shape[1] - L * E], dim=1)
        return mix_experts(hidden_NX.unflatten(1, (E, -1)), gate_NX.unflatten(1, (L, E)))

    def _hidden_gates(self, factors_BCG: torch.Tensor) -> list[torch.Tensor]:
        """PPNet's factors of each hidden layer's units, [L, N, H] each."""
        factors_LNX = factors_BCG.flatten(0, 1).unflatten(1, (self._objectives, -1)).transpose(0, 1)
        return list(factors_LNX.split(list(self._hidden_widths), dim=-1))

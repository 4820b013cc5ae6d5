"""From the features of every candidate to its logits: one MLP per objective (section 4.2, eq. 4).

Knows blocks of features by their widths; knows not what they mean, nor of the paper's optional
modules (`ifa_ray.models.modules.ModularTowers`). Weights are laid out for inference once a version.

Letters: B requests, C candidates, N = B C, L objectives, H hidden width, U width of user features,
X width of all blocks together, Y width of a channel.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from ifa_ray.data.features import NUM_CHANNELS
from ifa_ray.models.embedding import Dense, Table, TowerLayer


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


_CHANNEL_WIDTH = 8
_RELU_GAIN = math.sqrt(2.0)

# Candidates scored at once, by four towers: their first hidden layer is 2 MiB, where the products
# are fastest.
_CHUNK_CANDIDATES = 1024

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
        self._frozen: dict[tuple[tuple[int, ...], torch.dtype], TowerWeights] | None = None
        self._objectives = objectives
        widths = (*tower_widths, 1)
        first = self._first_width(objectives, widths[0])
        channel_width = _CHANNEL_WIDTH if channel else 0
        fan_in = block_width + user_width + channel_width
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

    def _first_width(self, objectives: int, width: int) -> int:
        """The width of the first layer of all towers together."""
        return objectives * width

    @torch.no_grad()
    def start_at_prior(self) -> None:
        """Starts the impression's logit near its usual size instead of at 0."""
        last = self.layers[-1] if len(self.layers) else self.from_blocks
        assert isinstance(last.bias, torch.Tensor)
        last.bias.flatten()[0] += _IMPRESSION_BIAS

    def freeze(self) -> None:
        """Lays weights out for inference once, when they are first needed.

        Until the module is put back into training mode its weights must not change.
        """
        self._frozen = {}

    def train(self, mode: bool = True) -> Towers:
        """Sets the mode; training forgets what was laid out."""
        if mode:
            self._frozen = None
        return super().train(mode)

    def forward(
        self,
        blocks: list[torch.Tensor],
        user_BU: torch.Tensor,
        channel_BC: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        only: tuple[int, ...] | None = None,
    ) -> torch.Tensor:
        """Computes logits.

        Args:
            blocks: per-candidate features, each [B, C, *].
            user_BU: F_u.
            channel_BC: channels as in `Batch`.
            dtype: of the products where nothing is learned; sums are float32. In bfloat16 a logit
                is off by some hundredths.
            only: the objectives wanted, by their places; all by default. The others cost nothing
                where nothing is learned.

        Returns:
            [B, C, L] float32, L of the objectives wanted, in their order.
        """
        if not torch.is_grad_enabled() and self.plain:
            return self._infer(blocks, user_BU, channel_BC, dtype, only)
        logits_BCL = self._learning(blocks, user_BU, channel_BC)
        return logits_BCL if only is None else logits_BCL[..., list(only)]

    def _learning(
        self, blocks: list[torch.Tensor], user_BU: torch.Tensor, channel_BC: torch.Tensor
    ) -> torch.Tensor:
        """As `forward`, with gradients."""
        return self._from_first(self._first(torch.cat(blocks, dim=-1), user_BU), channel_BC)

    def forward_from(self, hidden_BCH: torch.Tensor, channel_BC: torch.Tensor) -> torch.Tensor:
        """As `forward`, from the first layer's products with all but the channel; changes them."""
        return self._from_first(hidden_BCH, channel_BC)

    def _first(self, x_BCX: torch.Tensor, user_BU: torch.Tensor) -> torch.Tensor:
        """The first layer's products with all but the channel, [N, H] or [B, C, H].

        What is added to it later may be added in place: no gradient needs the old values, and these
        are the largest tensors of a step. But never to a view, as a product of three dimensions is
        one: its gradient would be cleared and copied whole for each addition.
        """
        first_NH = self.from_blocks(x_BCX.flatten(0, 1))
        user_BH = self.from_user(user_BU)
        if len(x_BCX) == 1:
            first_NH += user_BH
            return first_NH
        return first_NH.unflatten(0, x_BCX.shape[:2]) + user_BH[:, None]

    def _from_first(
        self, first: torch.Tensor, channel_BC: torch.Tensor, gates: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Adds the channel's part to the first layer's [N, H] or [B, C, H], and goes on from it."""
        B, C = channel_BC.shape
        if self.channel is not None and self.from_channel is not None:
            channel_rows = self.from_channel(self.channel.weight)
            channels = channel_BC.reshape(first.shape[:-1])
            first += nn.functional.embedding(channels, channel_rows)
        x_LNH = self._through(self._towers_of(first.flatten(0, -2)), gates)
        return x_LNH[..., 0].T.reshape(B, C, self._objectives)

    def _through(
        self,
        x_LNH: torch.Tensor,
        gates: Sequence[torch.Tensor],  # noqa: ARG002  (of modular towers)
    ) -> torch.Tensor:
        """From the first layer's products of each tower to its logit, [L, N, 1]."""
        for layer in self.layers:
            x_LNH = layer(torch.relu(x_LNH))
        return x_LNH

    @property
    def plain(self) -> bool:
        """True if some candidates or objectives cost less than all."""
        return True

    def _infer(
        self,
        blocks: list[torch.Tensor],
        user_BU: torch.Tensor,
        channel_BC: torch.Tensor,
        dtype: torch.dtype,
        only: tuple[int, ...] | None,
    ) -> torch.Tensor:
        """As `forward`, where nothing is kept for gradients.

        A few candidates at a time, so that what lies between their features and their logits is
        never written to memory: 20 MB for each layer at 10,000 candidates.
        """
        B, C = channel_BC.shape
        weights = self._weights(tuple(range(self._objectives)) if only is None else only, dtype)
        step = C
        if channel_BC.device.type == "cpu":
            step = _CHUNK_CANDIDATES * self._objectives // weights.towers
        bias_BH = weights.bias_H + nn.functional.linear(user_BU, weights.user_HU)
        weight_XH = weights.blocks_XH
        # Expanded: the same for all candidates, as F_u is. One block must stay.
        alike = [block.stride(1) == 0 for block in blocks]
        alike[-1] = alike[-1] and not all(alike)
        if any(alike):
            parts = weights.exact_HX.T.split([block.shape[2] for block in blocks])
            for block, part_XH in itertools.compress(zip(blocks, parts, strict=True), alike):
                bias_BH = bias_BH + block[:, 0] @ part_XH
            varying = [not expanded for expanded in alike]
            blocks = list(itertools.compress(blocks, varying))
            weight_XH = torch.cat(list(itertools.compress(parts, varying))).to(dtype)
        bias_BH = bias_BH.to(dtype)
        logits_BCL = user_BU.new_empty(B, C, weights.towers)
        for b in range(B):
            for start in range(0, C, step):
                part = slice(start, start + step)
                x_NX = torch.cat([block[b, part] for block in blocks], dim=-1).to(dtype)
                hidden_NH = torch.addmm(bias_BH[b], x_NX, weight_XH)
                if weights.channel_YH is not None:
                    hidden_NH += nn.functional.embedding(channel_BC[b, part], weights.channel_YH)
                logits_BCL[b, part] = weights.logits(hidden_NH).T
        return logits_BCL

    def _weights(self, only: tuple[int, ...], dtype: torch.dtype) -> TowerWeights:
        """Some towers' weights for inference: laid out anew, or once where they are frozen."""
        if self._frozen is not None and (only, dtype) in self._frozen:
            return self._frozen[only, dtype]
        channel_YH = None
        if self.channel is not None and self.from_channel is not None:
            channel_YH = self.from_channel(self.channel.weight)
        first = self.from_blocks.weight, self.from_user.weight, self.from_blocks.bias
        layers = [layer for layer in self.layers if isinstance(layer, TowerLayer)]
        weights = TowerWeights.of(
            first=(*first, channel_YH),
            layers=layers,
            towers=self._objectives,
            only=only,
            dtype=dtype,
        )
        if self._frozen is not None:
            self._frozen[only, dtype] = weights
        return weights

    def _towers_of(self, first_NX: torch.Tensor) -> torch.Tensor:
        """Each tower's own part of the first product, [L, N, H]."""
        return first_NX.view(len(first_NX), self._objectives, -1).transpose(0, 1)

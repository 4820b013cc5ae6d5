"""Which products of a training step are made in bfloat16, and which never are.

The towers' products are most of a step and their sums are short (hundreds of terms), so bfloat16
serves: weights, gradients of weights, optimiser state and loss stay float32. Attention sums ten
thousand terms and keeps float32 throughout. Knows models' towers; ranking does not come here.
"""

from __future__ import annotations

import torch

from ifa_ray.models import RankModel

__all__ = ["multiply_towers_in_bfloat16"]


def multiply_towers_in_bfloat16(model: RankModel) -> None:
    """From now on the model's towers learn with products in bfloat16; logits are float32.

    Worth it where the processor multiplies bfloat16 (AVX512-BF16, AMX); elsewhere it is slower.
    Without gradients, as in ranking, nothing changes.
    """
    exact = model.towers.forward

    def forward(
        blocks: list[torch.Tensor],
        user_BU: torch.Tensor,
        channel_BC: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        only: tuple[int, ...] | None = None,
    ) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return exact(blocks, user_BU, channel_BC, dtype, only)
        with torch.autocast(user_BU.device.type, dtype=torch.bfloat16):
            logits_BCL = exact(blocks, user_BU, channel_BC, only=only)
        return logits_BCL.float()

    model.towers.fusible = False  # its products would not come here
    # Of this instance alone; names of weights, and so checkpoints, stay as they are.
    model.towers.forward = forward  # type: ignore[method-assign]

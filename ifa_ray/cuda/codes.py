"""Sums by code over a history, for several families of codes at once.

What `ifa_ray.models.code_heads` sums, from action bytes and ages: a behaviour adds, for each decay
time, a weight exp(-age / tau) and that weight where an action happened. Nothing here is learned, so
nothing has a gradient. Knows numbers, not what codes stand for.

Letters: B requests, T history length, G families, S codes of all families together, D decays,
E counted actions, X = D (1 + E).
"""

from __future__ import annotations

import math

import torch

from ifa_ray.cuda.dispatch import runs_triton


def naive_code_sums(
    actions_BT: torch.Tensor,
    age_days_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    codes_GBT: torch.Tensor,
    sizes: tuple[int, ...],
    bits: tuple[int, ...],
    decay_days: tuple[float, ...],
) -> torch.Tensor:
    """Sums as they are read, O(G T X), with what each behaviour adds in memory.

    Args:
        actions_BT: int64, action bytes.
        age_days_BT: float32 >= 0, time since.
        mask_BT: True = a real behaviour; padding adds nothing.
        codes_GBT: int64, in [0, size) of each family; any where padded. A family of size 1 is all
            of the history.
        sizes: of the families.
        bits: which E bits of a byte are counted.
        decay_days: D decay times; infinity sums plainly.

    Returns:
        [B, S, X] float32, the families one after the other; X as in `CodeState.sums_BSX`.
    """
    bits_E = torch.tensor(bits, dtype=torch.int64, device=actions_BT.device)
    happened_BTE = ((actions_BT[..., None] >> bits_E) & 1).float()
    plain = torch.cat([torch.ones_like(age_days_BT)[..., None], happened_BTE], dim=-1)
    parts = [plain * torch.exp(-age_days_BT / days)[..., None] for days in decay_days]
    added_BTX = torch.where(mask_BT[..., None], torch.cat(parts, dim=-1), 0.0)
    families = []
    for code_BT, size in zip(codes_GBT, sizes, strict=True):
        sums_BSX = added_BTX.new_zeros(len(added_BTX), size, added_BTX.shape[-1])
        code_BT1 = torch.where(mask_BT, code_BT, 0)[..., None]
        families.append(sums_BSX.scatter_add(1, code_BT1.expand_as(added_BTX), added_BTX))
    return torch.cat(families, dim=1)


def code_sums(
    actions_BT: torch.Tensor,
    age_days_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    codes_GBT: torch.Tensor,
    sizes: tuple[int, ...],
    bits: tuple[int, ...],
    decay_days: tuple[float, ...],
) -> torch.Tensor:
    """As `naive_code_sums`, one launch for all families where Triton runs."""
    given = (actions_BT, age_days_BT, mask_BT, codes_GBT, sizes)
    if not runs_triton(mask_BT.device):
        return naive_code_sums(*given, bits, decay_days)
    from ifa_ray.cuda.codes_triton import sum_by_code

    # What column x of X adds: the bit it counts, -1 for the weight itself, and how fast it forgets.
    bit_X = [bit for _ in decay_days for bit in (-1, *bits)]
    rate_X = [0.0 if math.isinf(days) else -1.0 / days for days in decay_days]
    rate_X = [rate for rate in rate_X for _ in range(1 + len(bits))]
    return sum_by_code(*given, tuple(bit_X), tuple(rate_X))

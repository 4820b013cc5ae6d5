"""`ifa_ray.cuda.codes` in Triton: a scatter-add with atomics, for all families in one launch.

A tile of behaviours makes what it adds in registers and adds it to its rows. A family with one code
is summed in the tile first, as all would wait for one address. Atomics add in no fixed order, so
two runs may differ in the last bits, as torch's own scatter-add on a GPU does.

Letters as in `ifa_ray.cuda.codes`.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

_TILE_T = 64


@triton.jit
def add_tile(
    actions_ptr,
    age_ptr,
    mask_ptr,
    codes_ptr,
    size_ptr,
    start_ptr,
    bit_ptr,
    rate_ptr,
    out_ptr,
    B,
    T,
    S,
    X,
    BT: tl.constexpr,
    BX: tl.constexpr,
):
    """Adds a tile of request b's behaviours to the sums of family g."""
    b, g = tl.program_id(0), tl.program_id(2)
    t, x = tl.program_id(1) * BT + tl.arange(0, BT), tl.arange(0, BX)
    place = b.to(tl.int64) * T + t
    real = t < T
    real = real & (tl.load(mask_ptr + place, mask=real, other=0) != 0)
    action = tl.load(actions_ptr + place, mask=real, other=0).to(tl.int32)
    age = tl.load(age_ptr + place, mask=real, other=0.0)
    bit = tl.load(bit_ptr + x, mask=x < X, other=-1)
    rate = tl.load(rate_ptr + x, mask=x < X, other=0.0)
    happened = (action[:, None] >> tl.maximum(bit, 0)[None, :]) & 1
    counted = tl.where((bit < 0)[None, :], 1, happened).to(tl.float32)
    on = real[:, None] & (x < X)[None, :]
    added = tl.where(on, counted * tl.exp(age[:, None] * rate[None, :]), 0.0)
    size, start = tl.load(size_ptr + g), tl.load(start_ptr + g)
    rows_ptr = out_ptr + (b.to(tl.int64) * S + start) * X
    if size == 1:
        tl.atomic_add(rows_ptr + x, tl.sum(added, axis=0), mask=x < X)
    else:
        code = tl.load(codes_ptr + g.to(tl.int64) * B * T + place, mask=real, other=0)
        tl.atomic_add(rows_ptr + code[:, None] * X + x[None, :], added, mask=on)


def sum_by_code(
    actions_BT: torch.Tensor,
    age_days_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    codes_GBT: torch.Tensor,
    sizes: tuple[int, ...],
    bit_X: tuple[int, ...],
    rate_X: tuple[float, ...],
) -> torch.Tensor:
    """As `code_sums`, told of each column which bit it counts and how fast it forgets."""
    (B, T), S, X = mask_BT.shape, sum(sizes), len(bit_X)
    sums_BSX = age_days_BT.new_zeros(B, S, X)
    if B * T:
        starts = tuple(sum(sizes[:g]) for g in range(len(sizes)))
        columns = (_on_device(of, mask_BT.device) for of in (sizes, starts, bit_X, rate_X))
        tensors = (actions_BT, age_days_BT, mask_BT.contiguous().view(torch.uint8), codes_GBT)
        add_tile[B, triton.cdiv(T, _TILE_T), len(sizes)](
            *(tensor.contiguous() for tensor in tensors),
            *columns,
            sums_BSX,
            B,
            T,
            S,
            X,
            BT=_TILE_T,
            BX=triton.next_power_of_2(X),
        )
    return sums_BSX


@functools.lru_cache(maxsize=256)
def _on_device(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A few numbers that hardly ever change: copying them anew would wait for the device."""
    kind = torch.int32 if isinstance(values[0], int) else torch.float32
    return torch.tensor(values, dtype=kind, device=device)

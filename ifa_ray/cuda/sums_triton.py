"""`ifa_ray.cuda.sums` in Triton, with its gradient.

One program per sequence would leave all but a few processors of a GPU idle, so a sequence is split:
each program sums a stretch of it in registers, and a second kernel adds the stretches. No
atomics, so the sums are the same in every run. Products are float32 whatever the tables are (three
in TF32 each, with errors as of float32): 80 MFLOP at T = 10,000 and width 64, next to 5 MB that
must be read.

Letters as in `ifa_ray.cuda.sums`; S stretches.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_TILE_T = 32

# Programs in flight: two for each of the 132 processors of an H100.
_PROGRAMS = 264

# Of the second kernel. One stretch after another would wait for memory 150 times.
_STRETCHES_AT_ONCE, _TILE_REDUCED = 32, 64


@triton.jit
def _rows(rows_ptr, place, real, HAS_ROWS: tl.constexpr):
    row = place
    if HAS_ROWS:
        row = tl.load(rows_ptr + place, mask=real, other=0)
    return row


@triton.jit
def _behaviours(
    k_ptr, v_ptr, rows_ptr, more_k_ptr, more_v_ptr, more_rows_ptr, mask_ptr, b, t, T, F, E,
    k_stride, v_stride, more_k_stride, more_v_stride,
    HAS_ROWS: tl.constexpr, HAS_MORE: tl.constexpr, MORE_HAS_ROWS: tl.constexpr,
    BF: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Keys before phi, values, and which of the places t are real."""
    place = b.to(tl.int64) * T + t
    real = t < T
    real = real & (tl.load(mask_ptr + place, mask=real, other=0) != 0)
    f, e = tl.arange(0, BF), tl.arange(0, BE)
    on_k, on_v = real[:, None] & (f < F)[None, :], real[:, None] & (e < E)[None, :]
    row = _rows(rows_ptr, place, real, HAS_ROWS)[:, None]
    k = tl.load(k_ptr + row * k_stride + f[None, :], mask=on_k, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * v_stride + e[None, :], mask=on_v, other=0.0).to(tl.float32)
    if HAS_MORE:
        row = _rows(more_rows_ptr, place, real, MORE_HAS_ROWS)[:, None]
        more_k_at = more_k_ptr + row * more_k_stride + f[None, :]
        more_v_at = more_v_ptr + row * more_v_stride + e[None, :]
        k += tl.load(more_k_at, mask=on_k, other=0.0).to(tl.float32)
        v += tl.load(more_v_at, mask=on_v, other=0.0).to(tl.float32)
    return k, v, on_k, on_v, place


@triton.jit
def partial_sums(
    k_ptr, v_ptr, rows_ptr, more_k_ptr, more_v_ptr, more_rows_ptr, mask_ptr, out_ptr, T, F, E,
    k_stride, v_stride, more_k_stride, more_v_stride, steps,
    HAS_ROWS: tl.constexpr, HAS_MORE: tl.constexpr, MORE_HAS_ROWS: tl.constexpr,
    PHI: tl.constexpr, BT: tl.constexpr, BF: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Sums stretch s of sequence b into out[b, s], [F, E + 1]."""
    b, s = tl.program_id(0), tl.program_id(1)
    f, e = tl.arange(0, BF), tl.arange(0, BE)
    values = tl.zeros([BF, BE], tl.float32)
    mass = tl.zeros([BF], tl.float32)
    for i in range(steps):
        t = (s * steps + i) * BT + tl.arange(0, BT)
        k, v, on_k, _, _ = _behaviours(
            k_ptr, v_ptr, rows_ptr, more_k_ptr, more_v_ptr, more_rows_ptr, mask_ptr, b, t, T, F, E,
            k_stride, v_stride, more_k_stride, more_v_stride,
            HAS_ROWS, HAS_MORE, MORE_HAS_ROWS, BF, BE,
        )  # fmt: skip
        phi_k = tl.where(on_k, phi_of(k, PHI), 0.0)
        values += tl.dot(tl.trans(phi_k), v, input_precision="tf32x3")
        mass += tl.sum(phi_k, axis=0)
    stretch_ptr = out_ptr + (b.to(tl.int64) * tl.num_programs(1) + s) * F * (E + 1)
    at = stretch_ptr + f[:, None] * (E + 1) + e[None, :]
    tl.store(at, values, mask=(f < F)[:, None] & (e < E)[None, :])
    tl.store(stretch_ptr + f * (E + 1) + E, mass, mask=f < F)


@triton.jit
def _add_stretches(parts_ptr, out_ptr, S, size, BS: tl.constexpr, BLOCK: tl.constexpr):
    """Adds S parts of `size` numbers each, BS at a time, in an order that never changes."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, S, BS):
        s = start + tl.arange(0, BS)
        on = (s < S)[:, None] & (i < size)[None, :]
        part = tl.load(parts_ptr + (b * S + s)[:, None] * size + i[None, :], mask=on, other=0.0)
        total += tl.sum(part, axis=0)
    tl.store(out_ptr + b * size + i, total, mask=i < size)


@triton.jit
def _gradients(
    k_ptr, v_ptr, rows_ptr, more_k_ptr, more_v_ptr, more_rows_ptr, mask_ptr, grad_ptr,
    dk_ptr, dv_ptr, T, F, E, k_stride, v_stride, more_k_stride, more_v_stride,
    HAS_ROWS: tl.constexpr, HAS_MORE: tl.constexpr, MORE_HAS_ROWS: tl.constexpr,
    PHI: tl.constexpr, BT: tl.constexpr, BF: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Gradients of gathered keys and values, from that of their sums; 0 where padded."""
    b = tl.program_id(0)
    f, e = tl.arange(0, BF), tl.arange(0, BE)
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    k, v, on_k, on_v, place = _behaviours(
        k_ptr, v_ptr, rows_ptr, more_k_ptr, more_v_ptr, more_rows_ptr, mask_ptr, b, t, T, F, E,
        k_stride, v_stride, more_k_stride, more_v_stride,
        HAS_ROWS, HAS_MORE, MORE_HAS_ROWS, BF, BE,
    )  # fmt: skip
    grad_at = grad_ptr + b.to(tl.int64) * F * (E + 1) + f * (E + 1)
    on_grad = (f < F)[:, None] & (e < E)[None, :]
    grad = tl.load(grad_at[:, None] + e[None, :], mask=on_grad, other=0.0)
    mass_grad = tl.load(grad_at + E, mask=f < F, other=0.0)
    dphi = tl.dot(v, tl.trans(grad), input_precision="tf32x3") + mass_grad[None, :]
    dk = tl.where(on_k, dphi * slope_of(k, PHI), 0.0)
    phi_k = tl.where(on_k, phi_of(k, PHI), 0.0)
    dv = tl.dot(phi_k, grad, input_precision="tf32x3")
    inside = (t < T)[:, None]
    at_k, at_v = place[:, None] * F + f[None, :], place[:, None] * E + e[None, :]
    tl.store(dk_ptr + at_k, dk, mask=inside & (f < F)[None, :])
    tl.store(dv_ptr + at_v, tl.where(on_v, dv, 0.0), mask=inside & (e < E)[None, :])


class GatheredSums(torch.autograd.Function):
    """The sums, and gradients of both pairs of tables. Of a gathered table they are dense."""

    @staticmethod
    def forward(
        ctx: Any,
        mask_BT: torch.Tensor,
        phi: str,
        k_RF: torch.Tensor,
        v_RE: torch.Tensor,
        rows_BT: torch.Tensor | None,
        more_k_PF: torch.Tensor | None,
        more_v_PE: torch.Tensor | None,
        more_rows_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `naive_gathered_sums`."""
        given = (mask_BT, k_RF, v_RE, rows_BT, more_k_PF, more_v_PE, more_rows_BT)
        ctx.save_for_backward(*given)
        ctx.phi = phi
        (B, T), F, E = mask_BT.shape, k_RF.shape[1], v_RE.shape[1]
        pointers, strides, flags = _arguments(*given)
        tiles = triton.cdiv(T, _TILE_T)
        steps = max(1, triton.cdiv(tiles * B, _PROGRAMS))
        S = max(1, triton.cdiv(tiles, steps))
        parts = k_RF.new_empty(B, S, F, E + 1, dtype=torch.float32)
        partial_sums[B, S](
            *pointers, parts, T, F, E, *strides, steps, *flags,
            PHI=phi, BT=_TILE_T, BF=padded(F), BE=padded(E),
        )  # fmt: skip
        if S == 1:
            return parts[:, 0]
        sums_BFX = parts.new_empty(B, F, E + 1)
        grid = (B, triton.cdiv(F * (E + 1), _TILE_REDUCED))
        _add_stretches[grid](
            parts, sums_BFX, S, F * (E + 1), BS=_STRETCHES_AT_ONCE, BLOCK=_TILE_REDUCED
        )
        return sums_BFX

    @staticmethod
    def backward(ctx: Any, grad_BFX: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the tables; none of the rest."""
        mask_BT, k_RF, v_RE, rows_BT, more_k_PF, more_v_PE, more_rows_BT = ctx.saved_tensors
        (B, T), F, E = mask_BT.shape, k_RF.shape[1], v_RE.shape[1]
        pointers, strides, flags = _arguments(*ctx.saved_tensors)
        dk = k_RF.new_empty(B * T, F, dtype=torch.float32)
        dv = v_RE.new_empty(B * T, E, dtype=torch.float32)
        if B * T:
            _gradients[B, triton.cdiv(T, _TILE_T)](
                *pointers, grad_BFX.contiguous(), dk, dv, T, F, E, *strides, *flags,
                PHI=ctx.phi, BT=_TILE_T, BF=padded(F), BE=padded(E), num_warps=8,
            )  # fmt: skip
        return (
            None,
            None,
            _of_table(dk, k_RF, rows_BT),
            _of_table(dv, v_RE, rows_BT),
            None,
            _of_table(dk, more_k_PF, more_rows_BT),
            _of_table(dv, more_v_PE, more_rows_BT),
            None,
        )


def _arguments(
    mask_BT: torch.Tensor,
    k_RF: torch.Tensor,
    v_RE: torch.Tensor,
    rows_BT: torch.Tensor | None,
    more_k_PF: torch.Tensor | None,
    more_v_PE: torch.Tensor | None,
    more_rows_BT: torch.Tensor | None,
) -> tuple[list[torch.Tensor], list[int], list[bool]]:
    """Pointers, strides and flags as the kernels take them; what is not there is never read."""
    k_RF, v_RE = _by_rows(k_RF), _by_rows(v_RE)
    more_k = k_RF if more_k_PF is None else _by_rows(more_k_PF)
    more_v = v_RE if more_v_PE is None else _by_rows(more_v_PE)
    mask = mask_BT.contiguous().view(torch.uint8)
    rows = mask if rows_BT is None else rows_BT.contiguous()
    more_rows = mask if more_rows_BT is None else more_rows_BT.contiguous()
    return (
        [k_RF, v_RE, rows, more_k, more_v, more_rows, mask],
        [table.stride(0) for table in (k_RF, v_RE, more_k, more_v)],
        [rows_BT is not None, more_k_PF is not None, more_rows_BT is not None],
    )


def _by_rows(table: torch.Tensor) -> torch.Tensor:
    """The table; a copy only where a row does not lie in one piece."""
    return table if table.stride(1) == 1 else table.contiguous()


def _of_table(
    gathered: torch.Tensor, table: torch.Tensor | None, rows: torch.Tensor | None
) -> torch.Tensor | None:
    """The gradient of a table from that of its gathered rows."""
    if table is None:
        return None
    if rows is None:
        return gathered.to(table.dtype)
    whole = gathered.new_zeros(table.shape)
    return whole.index_add_(0, rows.flatten(), gathered).to(table.dtype)


def padded(size: int) -> int:
    """The side of a tile that holds so many columns: a power of two, and enough for a product."""
    return max(16, triton.next_power_of_2(size))


@triton.jit
def phi_of(x, PHI: tl.constexpr):
    """As `ifa_ray.models.linear_attention.feature_map`."""
    if PHI == "softplus":
        # max(x, 0) + log1p(exp(-|x|)). Near 0 log(1 + u) has no digits left, its series has all.
        u = tl.exp(-tl.abs(x))
        series = u * (
            1.0 - u * (1.0 / 2 - u * (1.0 / 3 - u * (1.0 / 4 - u * (1.0 / 5 - u * (1.0 / 6)))))
        )
        x = tl.maximum(x, 0.0) + tl.where(u < 0.0625, series, tl.log(1.0 + u))
    elif PHI == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def slope_of(x, PHI: tl.constexpr):
    """The derivative of `phi_of` at x."""
    if PHI == "softplus":
        slope = tl.sigmoid(x)
    elif PHI == "relu":
        slope = tl.where(x > 0.0, 1.0, 0.0)
    else:
        slope = tl.zeros_like(x) + 1.0
    return slope

"""`ifa_ray.cuda.reads` in Triton, with its gradient.

A program takes a tile of candidates through all of it: gathers their rows, multiplies by the
states, divides, and runs along the first layer's columns with the blocks in registers. So a
candidate costs its rows in and its hidden units out. In the backward pass the same tile gives the
gradients of what it gathered; those of weights and states are sums over all candidates, for which
the blocks are written once and left to the library's products.

float32 products are made of three in TF32 each, so that tensor cores serve them: relative errors
are about 1e-6, as of float32 itself.

Letters as in `ifa_ray.cuda.reads`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ifa_ray.cuda.sums_triton import padded, phi_of, slope_of
from ifa_ray.models.linear_attention import EPS

# Of candidates and of hidden units. Compiled for an H100, four blocks of 32 x 64 fit the registers
# of eight warps (56 bytes are spilled) and not those of four (1,036).
_TILE_C = 32
_TILE_H = 64
_WARPS = 8


@triton.jit
def _read(
    q_ptr, sums_ptr, row, b, real, q_stride, F, D, eps,
    PHI: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A tile's E, with what its gradient needs: q, phi(q), the degree and the state."""
    f, d = tl.arange(0, BF), tl.arange(0, BD)
    on_q = real[:, None] & (f < F)[None, :]
    q = tl.load(q_ptr + row[:, None] * q_stride + f[None, :], mask=on_q, other=0.0).to(tl.float32)
    phi_q = tl.where(on_q, phi_of(q, PHI), 0.0)
    sums_at = sums_ptr + b.to(tl.int64) * F * (D + 1) + f * (D + 1)
    on_sums = (f < F)[:, None] & (d < D)[None, :]
    values = tl.load(sums_at[:, None] + d[None, :], mask=on_sums, other=0.0)
    mass = tl.load(sums_at + D, mask=f < F, other=0.0)
    degree = tl.sum(phi_q * mass[None, :], axis=1) + eps
    read = tl.dot(phi_q, values, input_precision="tf32x3") / degree[:, None]
    return read, q, phi_q, degree, values, mass


@triton.jit
def _weights(weight_ptr, block, d, h, D, H, x_stride, h_stride):
    """The rows of one block in a tile of the first layer's columns."""
    at = weight_ptr + (block * D + d)[:, None] * x_stride + h[None, :] * h_stride
    return tl.load(at, mask=(d < D)[:, None] & (h < H)[None, :], other=0.0)


@triton.jit
def _product(block, weight, WIDE: tl.constexpr):
    """Sums are float32. The interpreter takes bfloat16 for integers, hence `WIDE` there."""
    if WIDE:
        block, weight = block.to(tl.float32), weight.to(tl.float32)
    return tl.dot(block, weight, input_precision="tf32x3")


@triton.jit
def read_tile(
    items_ptr, q_ptr, sums_ptr, second_q_ptr, second_sums_ptr, rows_ptr, weight_ptr, bias_ptr,
    out_ptr, C, F, D, H, items_stride, q_stride, second_q_stride, x_stride, h_stride, eps,
    HAS_ROWS: tl.constexpr, HAS_ITEMS: tl.constexpr, HAS_SECOND: tl.constexpr,
    HAS_BIAS: tl.constexpr, PHI: tl.constexpr, SECOND_PHI: tl.constexpr, WIDE: tl.constexpr,
    BC: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """First layer of a tile of candidates of request b."""
    b = tl.program_id(0)
    c, d = tl.program_id(1) * BC + tl.arange(0, BC), tl.arange(0, BD)
    real = c < C
    place = b.to(tl.int64) * C + c
    row = place
    if HAS_ROWS:
        row = tl.load(rows_ptr + place, mask=real, other=0)
    cs, _, _, _, _, _ = _read(q_ptr, sums_ptr, row, b, real, q_stride, F, D, eps, PHI, BF, BD)
    kind = weight_ptr.dtype.element_ty
    can = tl.zeros_like(cs)
    if HAS_ITEMS:
        at = items_ptr + row[:, None] * items_stride + d[None, :]
        on = real[:, None] & (d < D)[None, :]
        can = tl.load(at, mask=on, other=0.0).to(tl.float32)
    product = (can * cs).to(kind)
    cc = tl.zeros_like(cs)
    if HAS_SECOND:
        cc, _, _, _, _, _ = _read(
            second_q_ptr, second_sums_ptr, row, b, real, second_q_stride, F, D, eps,
            SECOND_PHI, BF, BD,
        )  # fmt: skip
    cs, can, cc = cs.to(kind), can.to(kind), cc.to(kind)
    for start in range(0, H, BH):
        h = start + tl.arange(0, BH)
        weight = _weights(weight_ptr, 0, d, h, D, H, x_stride, h_stride)
        hidden = _product(cs, weight, WIDE)
        if HAS_ITEMS:
            weight = _weights(weight_ptr, 1, d, h, D, H, x_stride, h_stride)
            hidden += _product(can, weight, WIDE)
            weight = _weights(weight_ptr, 2, d, h, D, H, x_stride, h_stride)
            hidden += _product(product, weight, WIDE)
        if HAS_SECOND:
            block = 3 if HAS_ITEMS else 1
            weight = _weights(weight_ptr, block, d, h, D, H, x_stride, h_stride)
            hidden += _product(cc, weight, WIDE)
        if HAS_BIAS:
            hidden += tl.load(bias_ptr + b * H + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
        on = real[:, None] & (h < H)[None, :]
        tl.store(out_ptr + place[:, None] * H + h[None, :], hidden, mask=on)


@triton.jit
def _back_through_read(
    dread, read, q, phi_q, degree, values, mass, place, real, dq_ptr, phi_ptr, dsums_ptr, F, D,
    PHI: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """From the gradient of E: that of q; and phi(q) and its product's gradient, to be summed."""
    f, d = tl.arange(0, BF), tl.arange(0, BD)
    dtotal = dread / degree[:, None]
    ddegree = -tl.sum(dread * read, axis=1) / degree
    dphi = tl.dot(dtotal, tl.trans(values), input_precision="tf32x3")
    dphi += ddegree[:, None] * mass[None, :]
    on_q, on_d = real[:, None] & (f < F)[None, :], real[:, None] & (d < D)[None, :]
    at_q = place[:, None] * F + f[None, :]
    tl.store(dq_ptr + at_q, dphi * slope_of(q, PHI), mask=on_q)
    tl.store(phi_ptr + at_q, phi_q, mask=on_q)
    tl.store(dsums_ptr + place[:, None] * (D + 1) + d[None, :], dtotal, mask=on_d)
    tl.store(dsums_ptr + place * (D + 1) + D, ddegree, mask=real)


@triton.jit
def _gradients(
    items_ptr, q_ptr, sums_ptr, second_q_ptr, second_sums_ptr, rows_ptr, weight_ptr, grad_ptr,
    blocks_ptr, ditems_ptr, dq_ptr, phi_ptr, dsums_ptr, second_dq_ptr, second_phi_ptr,
    second_dsums_ptr, C, F, D, H, X, items_stride, q_stride, second_q_stride, x_stride, h_stride,
    eps,
    HAS_ROWS: tl.constexpr, HAS_ITEMS: tl.constexpr, HAS_SECOND: tl.constexpr,
    PHI: tl.constexpr, SECOND_PHI: tl.constexpr,
    BC: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's gathered rows, and its blocks [C, X] once more."""
    b = tl.program_id(0)
    c, d = tl.program_id(1) * BC + tl.arange(0, BC), tl.arange(0, BD)
    real = c < C
    place = b.to(tl.int64) * C + c
    row = place
    if HAS_ROWS:
        row = tl.load(rows_ptr + place, mask=real, other=0)
    cs, q, phi_q, degree, values, mass = _read(
        q_ptr, sums_ptr, row, b, real, q_stride, F, D, eps, PHI, BF, BD
    )
    on_d = real[:, None] & (d < D)[None, :]
    can = tl.zeros_like(cs)
    if HAS_ITEMS:
        at = items_ptr + row[:, None] * items_stride + d[None, :]
        can = tl.load(at, mask=on_d, other=0.0).to(tl.float32)
    dcs, dcan = tl.zeros_like(cs), tl.zeros_like(cs)
    dproduct, dcc = tl.zeros_like(cs), tl.zeros_like(cs)
    for start in range(0, H, BH):
        h = start + tl.arange(0, BH)
        on = real[:, None] & (h < H)[None, :]
        grad = tl.load(grad_ptr + place[:, None] * H + h[None, :], mask=on, other=0.0)
        weight = _weights(weight_ptr, 0, d, h, D, H, x_stride, h_stride).to(tl.float32)
        dcs += tl.dot(grad, tl.trans(weight), input_precision="tf32x3")
        if HAS_ITEMS:
            weight = _weights(weight_ptr, 1, d, h, D, H, x_stride, h_stride).to(tl.float32)
            dcan += tl.dot(grad, tl.trans(weight), input_precision="tf32x3")
            weight = _weights(weight_ptr, 2, d, h, D, H, x_stride, h_stride).to(tl.float32)
            dproduct += tl.dot(grad, tl.trans(weight), input_precision="tf32x3")
        if HAS_SECOND:
            block = 3 if HAS_ITEMS else 1
            weight = _weights(weight_ptr, block, d, h, D, H, x_stride, h_stride).to(tl.float32)
            dcc += tl.dot(grad, tl.trans(weight), input_precision="tf32x3")
    at = blocks_ptr + place[:, None] * X + d[None, :]
    tl.store(at, cs, mask=on_d)
    if HAS_ITEMS:
        tl.store(at + D, can, mask=on_d)
        tl.store(at + 2 * D, can * cs, mask=on_d)
        dcan_at = ditems_ptr + place[:, None] * D + d[None, :]
        tl.store(dcan_at, dcan + cs * dproduct, mask=on_d)
        dcs += can * dproduct
    _back_through_read(
        dcs, cs, q, phi_q, degree, values, mass, place, real, dq_ptr, phi_ptr, dsums_ptr, F, D,
        PHI, BF, BD,
    )  # fmt: skip
    if HAS_SECOND:
        cc, q, phi_q, degree, values, mass = _read(
            second_q_ptr, second_sums_ptr, row, b, real, second_q_stride, F, D, eps,
            SECOND_PHI, BF, BD,
        )  # fmt: skip
        block = 3 if HAS_ITEMS else 1
        tl.store(at + block * D, cc, mask=on_d)
        _back_through_read(
            dcc, cc, q, phi_q, degree, values, mass, place, real, second_dq_ptr, second_phi_ptr,
            second_dsums_ptr, F, D, SECOND_PHI, BF, BD,
        )  # fmt: skip


class ReadAndProject(torch.autograd.Function):
    """The first layer, and gradients of tables, sums, weights and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        size_BC: tuple[int, int],
        phis: tuple[str, str],
        rows_BC: torch.Tensor | None,
        items_RD: torch.Tensor | None,
        q_RF: torch.Tensor,
        sums_BFX: torch.Tensor,
        second_q_RF: torch.Tensor | None,
        second_sums_BFX: torch.Tensor | None,
        weight_XH: torch.Tensor,
        bias_BH: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `naive_read_and_project`, the sums already per element."""
        given = (rows_BC, items_RD, q_RF, sums_BFX, second_q_RF, second_sums_BFX, weight_XH)
        ctx.save_for_backward(*given)
        ctx.size_BC, ctx.phis, ctx.has_bias = size_BC, phis, bias_BH is not None
        (B, C), H, F, D = size_BC, weight_XH.shape[1], q_RF.shape[1], sums_BFX.shape[2] - 1
        hidden_BCH = q_RF.new_empty(B, C, H, dtype=torch.float32)
        pointers, strides, flags = _arguments(*given)
        if B * C:
            bias = pointers[-1] if bias_BH is None else bias_BH.contiguous()
            read_tile[B, triton.cdiv(C, _TILE_C)](
                *pointers, bias, hidden_BCH, C, F, D, H, *strides, EPS, *flags,
                HAS_BIAS=ctx.has_bias, PHI=phis[0], SECOND_PHI=phis[1],
                WIDE=weight_XH.device.type == "cpu",
                BC=_TILE_C, BF=padded(F), BD=padded(D), BH=_TILE_H, num_warps=_WARPS,
                num_stages=2,
            )  # fmt: skip
        return hidden_BCH

    @staticmethod
    def backward(ctx: Any, grad_BCH: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of tables (dense), sums, weights and bias."""
        rows_BC, items_RD, q_RF, sums_BFX, second_q_RF, _, weight_XH = (given := ctx.saved_tensors)
        (B, C), (X, H) = ctx.size_BC, weight_XH.shape
        F, D = q_RF.shape[1], sums_BFX.shape[2] - 1
        pointers, strides, flags = _arguments(*given)
        grad_BCH = grad_BCH.contiguous()
        new = grad_BCH.new_empty
        blocks, ditems = new(B, C, X), new(B, C, D)
        firsts, seconds = ([new(B, C, F), new(B, C, F), new(B, C, D + 1)] for _ in range(2))
        if B * C:
            _gradients[B, triton.cdiv(C, _TILE_C)](
                *pointers, grad_BCH, blocks, ditems, *firsts, *seconds, C, F, D, H, X,
                *strides, EPS, *flags, PHI=ctx.phis[0], SECOND_PHI=ctx.phis[1],
                BC=_TILE_C, BF=padded(F), BD=padded(D), BH=_TILE_H, num_warps=_WARPS,
                num_stages=1,
            )  # fmt: skip
        dweight_XH = blocks.flatten(0, 1).T @ grad_BCH.flatten(0, 1)
        second = second_q_RF is not None
        return (
            None,
            None,
            None,
            None if items_RD is None else _of_table(ditems, items_RD, rows_BC),
            _of_table(firsts[0], q_RF, rows_BC),
            firsts[1].mT @ firsts[2],
            _of_table(seconds[0], second_q_RF, rows_BC) if second else None,
            seconds[1].mT @ seconds[2] if second else None,
            dweight_XH.to(weight_XH.dtype),
            grad_BCH.sum(dim=1) if ctx.has_bias else None,
        )


def _arguments(
    rows_BC: torch.Tensor | None,
    items_RD: torch.Tensor | None,
    q_RF: torch.Tensor,
    sums_BFX: torch.Tensor,
    second_q_RF: torch.Tensor | None,
    second_sums_BFX: torch.Tensor | None,
    weight_XH: torch.Tensor,
) -> tuple[list[torch.Tensor], list[int], list[bool]]:
    """Pointers, strides and flags as the kernels take them; what is not there is never read."""
    q_RF, sums_BFX = _by_rows(q_RF), sums_BFX.contiguous()
    items = q_RF if items_RD is None else _by_rows(items_RD)
    second_q = q_RF if second_q_RF is None else _by_rows(second_q_RF)
    second_sums = sums_BFX if second_sums_BFX is None else second_sums_BFX.contiguous()
    rows = sums_BFX if rows_BC is None else rows_BC.contiguous()
    return (
        [items, q_RF, sums_BFX, second_q, second_sums, rows, weight_XH],
        [items.stride(0), q_RF.stride(0), second_q.stride(0), *weight_XH.stride()],
        [rows_BC is not None, items_RD is not None, second_q_RF is not None],
    )


def _by_rows(table: torch.Tensor) -> torch.Tensor:
    """The table; a copy only where a row does not lie in one piece."""
    return table if table.stride(1) == 1 else table.contiguous()


def _of_table(
    gathered_BCX: torch.Tensor, table_RX: torch.Tensor, rows_BC: torch.Tensor | None
) -> torch.Tensor:
    """The gradient of a table from that of its gathered rows."""
    gathered = gathered_BCX.flatten(0, 1)
    if rows_BC is None:
        return gathered.to(table_RX.dtype)
    whole = gathered.new_zeros(table_RX.shape)
    return whole.index_add_(0, rows_BC.flatten(), gathered).to(table_RX.dtype)

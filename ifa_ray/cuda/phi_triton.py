"""The feature map and its derivative, inside Triton kernels; float32."""

from __future__ import annotations

import triton
import triton.language as tl


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

"""Chooses the form of a kernel that runs: the reference, or Triton's.

Triton compiles for CUDA devices. Its interpreter runs the same kernels on a CPU, slowly, which is
how they are tested where there is no GPU; it is asked for by name and never chosen.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import torch

# One entry for each context that is open.
_INTERPRETED: list[bool] = []
_NAIVE: list[bool] = []


def has_triton() -> bool:
    """True if Triton is installed; does not import it."""
    return importlib.util.find_spec("triton") is not None


def runs_triton(device: torch.device) -> bool:
    """True if tensors on this device go to Triton's form of a kernel."""
    if _NAIVE:
        return False
    if device.type == "cuda":
        return has_triton()
    return device.type == "cpu" and bool(_INTERPRETED)


@contextlib.contextmanager
def naive() -> Iterator[None]:
    """Inside, the naive forms run on every device: what the others are measured against."""
    _NAIVE.append(True)
    try:
        yield
    finally:
        _NAIVE.pop()


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Inside, tensors on the CPU go to Triton's interpreter.

    Triton decides when a kernel's module is loaded whether it is interpreted, so the environment
    must say `TRITON_INTERPRET=1` before the first one is.

    Raises:
        RuntimeError: if Triton is not installed, or its kernels were loaded to be compiled.
    """
    if not has_triton():
        raise RuntimeError("the interpreter needs the package triton, which is not installed.")
    from triton.runtime.interpreter import InterpretedFunction

    from ifa_ray.cuda import sums_triton

    if not isinstance(sums_triton.partial_sums, InterpretedFunction):
        raise RuntimeError("TRITON_INTERPRET was not 1 when the kernels were loaded.")
    _INTERPRETED.append(True)
    try:
        yield
    finally:
        _INTERPRETED.pop()

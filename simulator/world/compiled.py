"""Loops compiled to machine code, and why their results are the same everywhere.

Knows numba only. What is compiled here works on integers, or does one IEEE operation at a time in
the written order: no fast-math, so nothing is reordered, and results are equal to the numpy forms
bit for bit (tests hold both against each other). Logarithms and exponentials stay with numpy.

A compiled function is kept on disk and compiled again when its *own* file changes, so functions
that call each other stand in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

__all__ = ["compiled", "elementwise"]

Function = TypeVar("Function", bound=Callable)
Built = TypeVar("Built")


def compiled(function: Function) -> Function:
    """Compiles a loop over arrays at its first call, without the interpreter's lock."""

    def build(cache: bool) -> Function:
        dispatcher: Any = numba.njit(function, cache=cache, nogil=True)
        return dispatcher

    return _kept_on_disk(build)


def elementwise(signature: str) -> Callable[[Callable], np.ufunc]:
    """Compiles a function of scalars into a numpy ufunc: broadcasting, one pass, no temporaries."""

    def decorate(function: Callable) -> np.ufunc:
        def build(cache: bool) -> np.ufunc:
            return numba.vectorize([signature], cache=cache)(function)

        return _kept_on_disk(build)

    return decorate


def _kept_on_disk(build: Callable[[bool], Built]) -> Built:
    try:
        return build(True)
    except RuntimeError:  # no folder that can be written: compiled again in each process
        return build(False)

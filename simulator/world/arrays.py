"""Array types, dataclasses of arrays over the same rows, and loops compiled to machine code.

Compiled loops work on integers, or do one IEEE operation at a time in the written order: no
fast-math, so nothing is reordered, and results are equal to the numpy forms bit for bit (tests hold
both against each other). Logarithms and exponentials stay with numpy. A compiled function is kept
on disk and compiled again when its *own* file changes, so functions that call each other stand in
one file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

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


class RowArrays:
    """Base of dataclasses whose fields are arrays over the same rows."""

    def take(self, rows: Longs) -> Self:
        """Copies some rows."""
        # Any: `fields` wants a dataclass, which this base is not.
        own: Any = self
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(own)})

    def put(self, rows: Longs, other: Self) -> None:
        """Writes rows back that `take` took, in place."""
        own: Any = self
        for field in dataclasses.fields(own):
            getattr(self, field.name)[rows] = getattr(other, field.name)

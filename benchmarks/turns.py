"""Pieces of work timed in turns, so that a busy machine slows all of them alike.

Knows callables and a clock; knows no model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Spent = dict[str, float]
"""`p50_ms` and `min_ms` of the trials."""


def in_turns(
    work: Mapping[str, Callable[[], object]],
    trials: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Spent]:
    """Times each piece once per trial, after one warm-up of each; CPU seconds by default."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for run in work.values():
        run()
    for _ in range(trials):
        for name, run in work.items():
            begun = clock()
            run()
            spent[name].append(1e3 * (clock() - begun))
    return {
        name: {"p50_ms": statistics.median(times), "min_ms": min(times)}
        for name, times in spent.items()
    }


def multiplications(shape: tuple[int, int, int], times: int = 1) -> Callable[[], None]:
    """So many products [a, b] x [b, c] by the library, into memory that is there already.

    Rows in parts of 1,024 where there are more, which is faster on a CPU than all at once.
    """
    a, b, c = shape
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((a, b), (b, c)))
    parts = left.split(1024)
    outs = [torch.empty(len(part), c) for part in parts]

    def run() -> None:
        for _ in range(times):
            for part, out in zip(parts, outs, strict=True):
                torch.mm(part, right, out=out)

    return run

"""What a device itself can do, and how long a piece of work takes on it.

Knows devices and callables; knows no model. Times on CUDA are of events around one call each, after
warm-up, so what Python needs to launch it is in them if the device had to wait for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def describe_device(device: torch.device) -> dict[str, str | int | float]:
    """Name, memory, processors and the versions that matter to it."""
    if device.type != "cuda":
        return {"device": "cpu (a dry run: no figure below is of a GPU)"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "processors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": str(torch.version.cuda),
    }


def timed(work: Callable[[], object], device: torch.device, trials: int) -> dict[str, float]:
    """Milliseconds of one call: p50, p99 and the least of the trials, after a tenth as warm-up."""
    for _ in range(max(2, trials // 10)):
        work()
    if device.type == "cuda":
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(trials)
        ]
        torch.cuda.synchronize()
        for begin, end in pairs:
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
        spent = [begin.elapsed_time(end) for begin, end in pairs]
    else:
        spent = []
        for _ in range(trials):
            begun = time.perf_counter()
            work()
            spent.append(1e3 * (time.perf_counter() - begun))
    ordered = sorted(spent)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return {"p50_ms": statistics.median(ordered), "p99_ms": p99, "min_ms": ordered[0]}


def copy_gb_per_s(device: torch.device, megabytes: int, trials: int) -> float:
    """Bytes read and written per second by a copy within the device's memory, 10^9/s."""
    source = torch.ones(megabytes * 250_000, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    found = timed(lambda: target.copy_(source), device, trials)
    return 2 * source.nbytes / found["p50_ms"] / 1e6


def matmul_tflop_per_s(
    device: torch.device, shape: tuple[int, int, int], dtype: torch.dtype, trials: int
) -> float:
    """The library's rate for [a, b] x [b, c], 10^12 floating-point operations per second."""
    a, b, c = shape
    left, right = (torch.ones(size, dtype=dtype, device=device) for size in ((a, b), (b, c)))
    out = torch.empty(a, c, dtype=dtype, device=device)
    found = timed(lambda: torch.mm(left, right, out=out), device, trials)
    return 2 * a * b * c / found["p50_ms"] / 1e9

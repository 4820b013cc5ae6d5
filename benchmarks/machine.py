"""What a number was measured on: hardware, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import numpy as np
import torch


def describe_machine() -> dict[str, str | int]:
    """The context without which a measured time means nothing."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "torch_threads": torch.get_num_threads(),
        "load_1m": f"{os.getloadavg()[0]:.2f}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16; False where nothing says so."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

"""What learning costs beside the step: optimisers of large tables, publishing, memory.

Knows learners and clocks. Publishing needs safetensors, which is imported where it is needed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.synthetic import catalogue
from benchmarks.training_log import sample
from ifa_ray.config import SPARSE_OPTIMIZERS, ModelConfig, TrainingConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.training.loop import Learner

__all__ = ["learner_of_size", "measure_memory", "measure_optimizers", "measure_publishing"]

SEED = 0
_PUBLICATIONS = 5
# Not the system's folder for temporary files, which may be memory.
_DISK = Path("bench-results")


def measure_optimizers(
    rows: int, *, steps: int = 30, clock: Callable[[], float] = time.process_time
) -> dict[str, float | int]:
    """A step's milliseconds, and the optimiser state's megabytes, with a hashed table of `rows`.

    Small requests, so that the optimiser is seen: m = n = 1,000, width 64. They take turns.
    """
    items = catalogue(50_000, SEED)
    samples = [sample(items, 1_000, 1_000, seed=SEED, number=n) for n in range(steps + 1)]
    model = ModelConfig(name="ifa", width=64, tower_widths=(64,), id_buckets=rows)
    learners = {
        name: Learner(model, TrainingConfig(sparse_optimizer=name), items, SEED)
        for name in SPARSE_OPTIMIZERS
    }
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for number, one in enumerate(samples):
        for name, learner in learners.items():
            started = clock()
            learner.step([one])
            if number > 0:
                seconds[name].append(clock() - started)
    found: dict[str, float | int] = {"rows": rows}
    for name, learner in learners.items():
        found[f"{name}_step_ms"] = 1e3 * statistics.median(seconds[name])
        state = learner.arrays().optimizer.values()
        found[f"{name}_state_mb"] = sum(t.nbytes for t in state) / 1e6
    return found


def learner_of_size(megabytes: int, items: ItemTable) -> Learner:
    """One whose version, weights and Adam's state, has about that size."""
    width = 64
    rows = int(megabytes * 1e6 / (3 * 4 * width))
    model = ModelConfig(name="ifa", width=width, tower_widths=(64,), id_buckets=rows)
    learner = Learner(model, TrainingConfig(), items, SEED)
    learner.step([sample(items, 100, 100, seed=SEED, number=0)])
    return learner


def measure_publishing(
    megabytes: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float | int]:
    """Seconds from a learner to a version on the disk, and from there to a model that can rank.

    A version is weights and Adam's state, three numbers for each weight; wall time, with fsync.
    The least disturbed of five; of which `publish_cpu_s` is the processor's, the rest waiting for
    it or for the disk.
    """
    from ifa_ray.training.checkpoint import load_model, save_checkpoint, version_folder

    items = catalogue(5_000, SEED)
    learner = learner_of_size(megabytes, items)
    saves, processor, loads, size = [], [], [], 0
    _DISK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_DISK) as root:
        for version in range(_PUBLICATIONS):
            folder = version_folder(root, version)
            started, cpu = clock(), time.process_time()
            save_checkpoint(folder, learner, version=version, log_watermark={}, metrics={})
            saves.append(clock() - started)
            processor.append(time.process_time() - cpu)
            size = sum(path.stat().st_size for path in folder.iterdir())
            started = clock()
            load_model(folder, items)
            loads.append(clock() - started)
    return {
        "checkpoint_mb": size / 1e6,
        "publish_s": min(saves),
        "publish_cpu_s": statistics.median(processor),
        "publish_median_s": statistics.median(saves),
        "load_model_s": min(loads),
    }


def measure_memory(steps: int) -> dict[str, float | int]:
    """How resident memory changes over so many steps of ifa_plus, megabytes.

    The first tenth is let pass: allocators fill their caches. A slope is told from noise by the
    difference of the means of the last and the first fifth of what remains.
    """
    items = catalogue(20_000, SEED)
    model = ModelConfig(name="ifa_plus", width=32, max_history=500, tower_widths=(32,))
    learner = Learner(model, TrainingConfig(), items, SEED)
    samples = [sample(items, 500, 500, seed=SEED, number=number) for number in range(16)]
    resident = []
    for step in range(steps):
        learner.step([samples[step % len(samples)]])
        resident.append(_resident_bytes() / 1e6)
    settled = resident[steps // 10 :]
    fifth = max(1, len(settled) // 5)
    growth = statistics.mean(settled[-fifth:]) - statistics.mean(settled[:fifth])
    return {"steps": steps, "resident_mb": resident[-1], "growth_mb": growth}


def _resident_bytes() -> int:
    """What Linux says; 0 where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)

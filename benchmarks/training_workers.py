"""One worker against two, each with one thread: gradients averaged over gloo, weak scaling.

Knows processes and learners. Each worker learns one request a step, so two learn twice as many;
what is lost is the time that averaging takes. Torch alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.synthetic import catalogue
from benchmarks.training_log import sample
from ifa_ray.config import ModelConfig, TrainingConfig
from ifa_ray.training.loop import Learner
from ifa_ray.training.parallel import Ranks

__all__ = ["measure_workers"]

SEED = 0
_MODEL_ITEMS = 50_000


def measure_workers(
    model: ModelConfig, m: int, n: int, *, steps: int, workers: int = 2
) -> dict[str, float | int | str]:
    """Requests per second of several workers over those of one.

    By CPU seconds, waiting is not counted: it is what idle cores would give at most. By the wall
    clock it is what this machine gave, with whatever else it did.
    """
    one, several = _run(model, m, n, steps, 1), _run(model, m, n, steps, workers)
    found: dict[str, float | int | str] = {"model": model.name, "workers": workers}
    for clock in ("cpu", "wall"):
        # The slowest worker is the pace of all.
        found[f"one_{clock}_ms"] = 1e3 * max(r[clock] for r in one)
        found[f"several_{clock}_ms"] = 1e3 * max(r[clock] for r in several)
        ratio = max(r[clock] for r in one) / max(r[clock] for r in several)
        found[f"speedup_{clock}"] = workers * ratio
    return found


def _run(model: ModelConfig, m: int, n: int, steps: int, workers: int) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = (workers, model, m, n, steps, folder)
        mp.spawn(_work, args=arguments, nprocs=workers)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(workers)]


def _work(
    rank: int, workers: int, model: ModelConfig, m: int, n: int, steps: int, folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers
    )
    items = catalogue(_MODEL_ITEMS, SEED)
    learner = Learner(model, TrainingConfig(), items, SEED)
    # One worker shares with nobody, so that the difference is what a second one costs.
    if workers > 1:
        learner.share(Ranks.here())
    batches = [
        [sample(items, m, n, seed=SEED, number=number * workers + each) for each in range(workers)]
        for number in range(steps + 1)
    ]
    learner.step(batches[0])
    dist.barrier()
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches[1:]:
        learner.step(batch)
    found = {
        "cpu": (time.process_time() - cpu) / steps,
        "wall": (time.perf_counter() - wall) / steps,
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    # Not a barrier: gloo aborts a process whose peer leaves while the last of it is on its way.
    while not all((Path(folder) / f"{other}.json").exists() for other in range(workers)):
        time.sleep(0.01)
    dist.destroy_process_group()

"""How fast models learn from a log on disk, and what a version costs to publish.

    python -m benchmarks.training [--quick] [--models A,B] [--steps N] [--json PATH]

Requests are read from Parquet shards, joined with their labels and histories, made a batch, tested
and learned from, with the real loss. Seconds are those of CPU with one thread, which a busy machine
lengthens little; requests per second are per core. Torch and numpy alone, but for reading the log
and writing versions, which need pyarrow and safetensors; replicas of a served ranker are measured
where Ray is installed (`benchmarks.serving_publish`).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.training_costs import measure_memory, measure_optimizers, measure_publishing
from benchmarks.training_log import write_log
from benchmarks.training_workers import measure_workers
from ifa_ray.config import TOWER_PRECISIONS, ModelConfig, TrainingConfig
from ifa_ray.data.features import build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS
from ifa_ray.schema import TrainingSample
from ifa_ray.training.loop import Learner

__all__ = ["Size", "Step", "main", "measure", "verdicts"]

SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, n behaviours, B requests a step."""

    m: int
    n: int
    width: int
    top_k: int
    tower_widths: tuple[int, ...]
    batch_size: int
    steps: int

    def model(self, name: str) -> ModelConfig:
        """A model's settings at this size."""
        return ModelConfig(
            name=name, width=self.width, top_k=self.top_k, max_history=self.n,
            tower_widths=self.tower_widths,
        )  # fmt: skip


FULL = Size(m=10_000, n=10_000, width=64, top_k=100, tower_widths=(128, 64), batch_size=1, steps=8)
QUICK = Size(m=200, n=400, width=16, top_k=4, tower_widths=(16,), batch_size=2, steps=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One model learning; milliseconds per request, medians over the steps.

    Attributes:
        precision: of the towers' products.
        load_ms: from Parquet to samples with histories and labels.
        batch_ms: from samples to tensors.
        step_ms: testing and training, the batch included.
        requests_per_s: of loading and training together, one core.
        share: of loading and batching in it.
    """

    model: str
    precision: str
    m: int
    n: int
    width: int
    batch_size: int
    steps: int
    load_ms: float
    batch_ms: float
    step_ms: float
    requests_per_s: float
    share: float


def measure(
    size: Size, models: Sequence[str], clock: Callable[[], float] = time.process_time
) -> list[Step]:
    """Times models on the same log; they take turns step by step, after one warm-up each."""
    with tempfile.TemporaryDirectory() as folder:
        log = write_log(
            Path(folder), m=size.m, n=size.n, requests=size.batch_size * (size.steps + 1), seed=SEED
        )
        samples, items, load_s = log.read(clock)
    kinds = [(name, precision) for precision in TOWER_PRECISIONS for name in models]
    learners = {
        (name, precision): Learner(
            size.model(name),
            TrainingConfig(batch_size=size.batch_size, tower_precision=precision),
            items,
            SEED,
        )
        for name, precision in kinds
    }
    steps: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    batching: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for number in range(size.steps + 1):
        part = samples[number * size.batch_size : (number + 1) * size.batch_size]
        for kind, learner in learners.items():
            batched = _timed(clock, _batch, part, items, learner.model_config)
            stepped = _timed(clock, learner.step, part)
            if number > 0:
                batching[kind].append(batched)
                steps[kind].append(stepped)
    return [_step(*kind, size, load_s, batching[kind], steps[kind]) for kind in kinds]


def _batch(part: Sequence[TrainingSample], items: ItemTable, config: ModelConfig) -> object:
    return build_batch([sample.request for sample in part], items, config)


def _timed(clock: Callable[[], float], work: Callable[..., object], *arguments: object) -> float:
    started = clock()
    work(*arguments)
    return clock() - started


def _step(
    name: str,
    precision: str,
    size: Size,
    load_s: float,
    batching: Sequence[float],
    steps: Sequence[float],
) -> Step:
    load_ms = 1e3 * load_s
    batch_ms, step_ms = (1e3 * statistics.median(s) / size.batch_size for s in (batching, steps))
    whole_ms = load_ms + step_ms
    return Step(
        model=name, precision=precision, m=size.m, n=size.n, width=size.width,
        batch_size=size.batch_size,
        steps=size.steps, load_ms=load_ms, batch_ms=batch_ms, step_ms=step_ms,
        requests_per_s=1e3 / whole_ms, share=(load_ms + batch_ms) / whole_ms,
    )  # fmt: skip


def _replicas(quick: bool) -> dict[str, Any]:
    """`benchmarks.serving_publish` in a process of its own; what it lacks, where it cannot run."""
    if quick:
        return {"not measured": "with --quick"}
    if importlib.util.find_spec("ray") is None:
        return {"not measured": "ray is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replicas.json"
        command = [sys.executable, "-m", "benchmarks.serving_publish", "--json", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return dict(json.loads(path.read_text())["results"])


def verdicts(found: dict[str, Any]) -> list[str]:
    """A line for each number that was wanted."""
    lines = []

    def wanted(what: str, value: float, sign: str, limit: float, unit: str) -> None:
        met = value <= limit if sign == "<=" else value >= limit
        verdict = "met" if met else "missed"
        lines.append(f"  {what}: {value:.3g}{unit}, wanted {sign} {limit:g}{unit}: {verdict}")

    for step in found["steps"]:
        name = f"{step['model']}, towers in {step['precision']}"
        if step["model"] == "ifa":
            wanted(f"{name}, requests a second and core", step["requests_per_s"], ">=", 10, "")
        if step["model"] in ("ifa", "ifa_plus"):
            what = f"{name}, loading and batching"
            wanted(what, 100 * step["share"], "<=", 15, "%")
    publishing, replicas = found["publishing"], found["replicas"]
    mb = publishing["checkpoint_mb"]
    wanted(f"publishing {mb:.0f} MB", publishing["publish_s"], "<=", 0.5, " s")
    if "push_s" in replicas:
        what = f"publishing {mb:.0f} MB to {replicas['replicas']} replicas"
        wanted(what, replicas["push_s"], "<=", 0.5, " s")
    wanted("memory growth over the steps", found["memory"]["growth_mb"], "<=", 5, " MB")
    wanted("2 workers, by CPU", found["workers"]["speedup_cpu"], ">=", 1.6, "x")
    wanted("2 workers, by wall clock", found["workers"]["speedup_wall"], ">=", 1.6, "x")
    return lines


def _print(found: dict[str, Any]) -> None:
    head = f"{'load':>8} {'batch':>8} {'step':>9} {'requests/s':>11} share"
    print(f"{'ms a request':<12} {'towers':<9} {head}")
    for s in found["steps"]:
        times = f"{s['load_ms']:8.2f} {s['batch_ms']:8.2f} {s['step_ms']:9.1f}"
        print(
            f"{s['model']:<12} {s['precision']:<9} {times} "
            f"{s['requests_per_s']:11.2f} {s['share']:5.1%}"
        )
    size = found["steps"][0]
    print(
        f"m = {size['m']:,}, n = {size['n']:,}, width {size['width']}, batch {size['batch_size']}, "
        f"{size['steps']} steps; share: loading and batching, of loading and step"
    )
    for part in ("optimizers", "publishing", "replicas", "memory", "workers"):
        print(f"\n{part}")
        for name, value in found[part].items():
            print(f"  {name}: {value:,.4g}" if isinstance(value, float) else f"  {name}: {value}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--models", default="ifa,ifa_plus,twin", metavar="A,B",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="B", help="requests a step")
    parser.add_argument("--steps", type=int, default=300, metavar="N",
                        help="over which memory must stay flat; 10000 takes minutes "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    models = tuple(options.models.split(","))
    for name in models:
        if name not in MODELS:
            parser.error(str(unknown_name("models", name, MODELS)))
    size = QUICK if options.quick else FULL
    if options.batch_size:
        size = dataclasses.replace(size, batch_size=options.batch_size)
    steps = min(options.steps, 20) if options.quick else options.steps
    found = {
        "steps": [dataclasses.asdict(step) for step in measure(size, models)],
        "optimizers": measure_optimizers(rows=20_000 if options.quick else 1_000_000),
        "publishing": measure_publishing(megabytes=4 if options.quick else 100),
        "replicas": _replicas(options.quick),
        "memory": measure_memory(steps),
        "workers": measure_workers(size.model(models[0]), size.m, size.n, steps=size.steps),
    }
    _print(found)
    lines = verdicts(found)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {
            "benchmark": "training",
            "machine": machine,
            "verdicts": lines,
            "results": found,
        }
        write(options.json, document)


if __name__ == "__main__":
    main()

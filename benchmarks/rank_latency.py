"""How long a request takes each model: ranking it, and learning from it.

    python -m benchmarks.rank_latency [--quick] [--models A,B] [--counts] [--precision bf16]
        [--grid] [--only rank] [--json PATH]

Ranking goes through `ModelRanker.rank`, checks and features included, with weights as they were
drawn: by these no candidate can be left out, so this is the most that a request costs. `whole` is
the same with every tower of every candidate, which is the forward pass of a step. A training step
is features, forward, backward and the optimisers, on one request, with a plain mean of log-sigmoids
in place of the loss. Models take turns within a trial, so that a busy machine slows
all of them alike; with one thread its CPU time is what is measured. Torch and numpy alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from benchmarks.machine import describe_machine, has_amx
from benchmarks.results import write
from benchmarks.synthetic import catalogue, request
from ifa_ray.config import CROSS_FEATURES, ModelConfig
from ifa_ray.data.features import build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import unknown_name
from ifa_ray.models import MODELS, build_model
from ifa_ray.ranking.ranker import PRECISIONS, ModelRanker
from ifa_ray.schema import RankRequest

BASELINE = "ifa"
TASKS = ("rank", "whole", "train")
SEED = 0
NUM_ITEMS = 50_000

AMX_MS = 12.0
"""Wanted of IFA in bfloat16, where the processor has AMX."""

AGREEMENT = 0.995
"""Of the slates' places must hold the same item in a lower precision."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, n behaviours, and the model settings that go with them."""

    m: int
    n: int
    width: int
    top_k: int
    tower_widths: tuple[int, ...]
    trials: int


# The sizes of the presets `quick` and `standard`; top_k is 1% of the history, as in the paper.
SIZES = (
    Size(m=1_000, n=2_000, width=32, top_k=20, tower_widths=(64, 32), trials=30),
    Size(m=10_000, n=10_000, width=64, top_k=100, tower_widths=(128, 64), trials=7),
)
# One of m and n moves, the other stays at 10,000.
GRID = tuple(
    Size(m=m, n=n, width=64, top_k=max(1, n // 100), tower_widths=(128, 64), trials=5)
    for m, n in ((1_000, 10_000), (3_000, 10_000), (10_000, 10_000), (10_000, 3_000),
                 (10_000, 1_000))
)  # fmt: skip
QUICK_SIZES = (Size(m=200, n=400, width=16, top_k=4, tower_widths=(16,), trials=3),)


# What is wanted at m = n = 10,000: (task, model) in milliseconds, or as a multiple of another's.
TARGETS = (
    (("rank", "ifa"), None, "<=", 40.0),
    (("rank", "ifa_plus"), None, "<=", 60.0),
    (("rank", "ifa_plus"), ("rank", "ifa"), "<=", 1.6),
    (("rank", "twin"), ("rank", "ifa"), ">=", 10.0),
    (("rank", "twin"), ("rank", "ifa_plus"), ">=", 10.0),
    (("rank", "full_attention"), ("rank", "ifa"), ">=", 8.0),
    (("rank", "full_attention"), ("rank", "ifa_plus"), ">=", 8.0),
    (("train", "ifa"), ("whole", "ifa"), "<=", 4.0),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Milliseconds of one model at one size.

    Attributes:
        task: `rank`, `whole` or `train`.
        p50_ms, p25_ms, p75_ms: of the trials.
        min_ms: the least disturbed trial.
        times_baseline: ratio of the medians to the baseline's.
    """

    model: str
    task: str
    m: int
    n: int
    width: int
    top_k: int
    trials: int
    p50_ms: float
    p25_ms: float
    p75_ms: float
    min_ms: float
    times_baseline: float


def measure(
    size: Size,
    models: tuple[str, ...] = tuple(MODELS),
    cross_features: tuple[str, ...] = ("channel",),
    clock: Callable[[], float] = time.perf_counter,
    precision: str = "fp32",
    only: tuple[str, ...] = TASKS,
) -> list[Result]:
    """Times models at one size at the tasks named, `ifa` among them, after a warm-up of each."""
    items = catalogue(NUM_ITEMS, SEED)
    asked = [
        request(items, size.m, size.n, seed=SEED, number=number) for number in range(size.trials)
    ]
    results = []
    tasks: dict[str, Callable[[ModelConfig, ItemTable], Callable[[RankRequest], object]]] = {
        "rank": functools.partial(_prepare_rank, precision=precision),
        "whole": functools.partial(_prepare_rank, precision="fp32", prunes=False),
        "train": _prepare_train,
    }
    for task in only:
        prepare = tasks[task]
        work = {name: prepare(_config(name, size, cross_features), items) for name in models}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for run in work.values():
            run(asked[0])
        for one in asked:
            for name, run in work.items():
                start = clock()
                run(one)
                seconds[name].append(clock() - start)
        baseline = statistics.median(seconds[BASELINE])
        results += [_result(name, task, size, s, baseline) for name, s in seconds.items()]
    return results


def agreement(size: Size, model: str, cross_features: tuple[str, ...], precision: str) -> float:
    """The share of the slates' places, over the trials, that hold the same item as in fp32."""
    items, config = catalogue(NUM_ITEMS, SEED), _config(model, size, cross_features)
    rankers = [
        ModelRanker(build_model(config, items, SEED), items, version=0, precision=kind)
        for kind in ("fp32", precision)
    ]
    same: list[float] = []
    for number in range(size.trials):
        asked = request(items, size.m, size.n, seed=SEED, number=number)
        one, other = (ranker.rank([asked])[0].ids_K for ranker in rankers)
        same.append(float((one == other).mean()))
    return statistics.mean(same)


def verdicts(results: list[Result]) -> list[str]:
    """A line for each of `TARGETS` that both of its models were timed for."""
    p50_ms = {(r.task, r.model): r.p50_ms for r in results if r.m == r.n == 10_000}
    lines = []
    for (task, model), other, sign, limit in TARGETS:
        if (task, model) not in p50_ms or (other is not None and other not in p50_ms):
            continue
        found = p50_ms[task, model] / (p50_ms[other] if other else 1.0)
        met = found <= limit if sign == "<=" else found >= limit
        unit = f"times {' '.join(other)}" if other else "ms"
        verdict = "met" if met else "missed"
        lines.append(f"  {task} {model}: {found:.1f} {unit}, wanted {sign} {limit:g}: {verdict}")
    return lines


def verdict_in_bf16(results: list[Result], amx: bool) -> list[str]:
    """The line for what is wanted of IFA in bfloat16, of a processor with AMX alone."""
    lines = []
    for r in results:
        if (r.task, r.model, r.m, r.n) == ("rank", "ifa", 10_000, 10_000):
            met = "met" if r.p50_ms <= AMX_MS else "missed"
            verdict = met if amx else "not measured, this processor has no AMX"
            lines.append(
                f"  rank ifa in bf16: {r.p50_ms:.1f} ms, wanted <= {AMX_MS:g} with AMX: {verdict}"
            )
    return lines


def _config(name: str, size: Size, cross_features: tuple[str, ...]) -> ModelConfig:
    return ModelConfig(
        name=name,
        cross_features=cross_features,
        width=size.width,
        top_k=size.top_k,
        max_history=size.n,
        tower_widths=size.tower_widths,
    )


def _prepare_rank(
    config: ModelConfig, items: ItemTable, precision: str, *, prunes: bool = True
) -> Callable[[RankRequest], object]:
    model = build_model(config, items, SEED)
    ranker = ModelRanker(model, items, version=0, precision=precision, prunes=prunes)
    return lambda asked: ranker.rank([asked])


def _prepare_train(config: ModelConfig, items: ItemTable) -> Callable[[RankRequest], object]:
    model = build_model(config, items, SEED)
    optimizers = (
        torch.optim.SparseAdam(list(model.sparse_parameters())),
        torch.optim.Adam(model.dense_parameters()),
    )

    def step(asked: RankRequest) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        outputs = model(build_batch([asked], items, config))
        loss = -logsigmoid(outputs.logits_BCL).mean()
        if outputs.auxiliary_BC is not None:  # a search stage learns too
            loss = loss - logsigmoid(outputs.auxiliary_BC).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _result(name: str, task: str, size: Size, seconds: list[float], baseline: float) -> Result:
    p25, p50, p75 = statistics.quantiles(seconds, n=4, method="inclusive")
    return Result(
        model=name,
        task=task,
        m=size.m,
        n=size.n,
        width=size.width,
        top_k=size.top_k,
        trials=size.trials,
        p50_ms=p50 * 1e3,
        p25_ms=p25 * 1e3,
        p75_ms=p75 * 1e3,
        min_ms=min(seconds) * 1e3,
        times_baseline=p50 / baseline,
    )


def table(results: list[Result]) -> str:
    """The results as aligned text, one block per task and size."""
    lines = []
    previous: tuple[object, ...] = ()
    for r in results:
        block = (r.task, r.m, r.n)
        if block != previous:
            lines += [
                "",
                f"{r.task}: m = {r.m:,}, n = {r.n:,}, width {r.width}, top_k {r.top_k}, "
                f"{r.trials} trials",
                f"  {'model':<16} {'p50 ms':>9} {'p25':>9} {'p75':>9} {'min':>9} "
                f"{'x ' + BASELINE:>7}",
            ]
            previous = block
        lines.append(
            f"  {r.model:<16} {r.p50_ms:9.2f} {r.p25_ms:9.2f} {r.p75_ms:9.2f} {r.min_ms:9.2f} "
            f"{r.times_baseline:7.2f}"
        )
    return "\n".join(lines[1:])


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.rank_latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--models", default=",".join(MODELS), metavar="A,B", help="default: all")
    parser.add_argument("--counts", action="store_true", help="all cross features, for all models")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of ranking")
    parser.add_argument("--grid", action="store_true", help="ranking against m and against n")
    parser.add_argument("--only", choices=TASKS, help="one of the tasks")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine: dict[str, Any] = describe_machine()
    models = tuple(dict.fromkeys((BASELINE, *options.models.split(","))))
    for name in models:
        if name not in MODELS:
            parser.error(str(unknown_name("models", name, MODELS)))
    cross_features = CROSS_FEATURES if options.counts else ("channel",)
    sizes = QUICK_SIZES if options.quick else GRID if options.grid else SIZES
    # A busy machine does not lengthen CPU time; of several threads it would be the sum.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    only = ("rank",) if options.grid else (options.only,) if options.only else TASKS
    results = [
        result
        for size in sizes
        for result in measure(
            size, models, cross_features, clock, precision=options.precision, only=only
        )
    ]
    print(table(results))
    lines = verdicts(results)
    agreed: dict[str, float] = {}
    if options.precision != "fp32":
        agreed = {
            name: agreement(sizes[-1], name, cross_features, options.precision) for name in models
        }
        for name, share in agreed.items():
            met = "met" if share >= AGREEMENT else "missed"
            wanted = f"wanted >= {AGREEMENT:.1%}: {met}"
            lines.append(f"  {name}: {share:.2%} of the slates' places as in fp32, {wanted}")
        lines += verdict_in_bf16(results, has_amx())
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"ranked in {options.precision}")
    if options.json:
        rows = [dataclasses.asdict(result) for result in results]
        document = {
            "benchmark": "rank_latency",
            "machine": machine,
            "verdicts": lines,
            "precision": options.precision,
            "agreement": agreed,
            "results": rows,
        }
        write(options.json, document)


if __name__ == "__main__":
    main()

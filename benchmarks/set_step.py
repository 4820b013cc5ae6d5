"""What a set step adds to the time of a request.

    python -m benchmarks.set_step [--quick] [--model NAME] [--json PATH]

Every step ranks the same requests through `ModelRanker.rank`, in turns, so that a busy machine
slows all of them alike; the cost of a step is the median of what it adds to the same request's time
with the step off. The step's weights are drawn at random: its work does not depend on them. Torch
and numpy alone, one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.synthetic import catalogue, request
from ifa_ray.config import SET_STEPS, ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.models import MODELS, build_model
from ifa_ray.ranker import ModelRanker
from ifa_ray.schema import History, RankRequest

__all__ = ["Cost", "measure", "verdicts"]

SEED = 0
NUM_ITEMS = 50_000
SESSION_MS = 25 * 60_000
SESSION_IMPRESSIONS = 30

# Of a request of IFA, wanted of the learned step.
SHARE = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, n behaviours, slates of k, and the model that goes with them."""

    m: int
    n: int
    k: int
    width: int
    tower_widths: tuple[int, ...]
    trials: int


SIZES = (
    Size(m=1_000, n=2_000, k=10, width=32, tower_widths=(64, 32), trials=60),
    Size(m=10_000, n=10_000, k=10, width=64, tower_widths=(128, 64), trials=15),
)
QUICK_SIZES = (Size(m=200, n=400, k=5, width=16, tower_widths=(16,), trials=3),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Medians over the trials of one step at one size.

    Attributes:
        rank_ms: of a whole request.
        step_ms: of what the step added to it.
        share: of a request's time without the step.
    """

    set_step: str
    model: str
    m: int
    n: int
    k: int
    pool: int
    rank_ms: float
    step_ms: float
    share: float


def measure(
    size: Size, model_name: str, clock: Callable[[], float] = time.perf_counter
) -> list[Cost]:
    """Times every set step at one size, after one warm-up of each."""
    items = catalogue(NUM_ITEMS, SEED)
    asked = [_in_session(items, size, number) for number in range(size.trials)]
    rankers = {name: _ranker(name, model_name, size, items) for name in SET_STEPS}
    pool = rankers["off"][0].set_pool
    seconds: dict[str, list[float]] = {name: [] for name in SET_STEPS}
    for _, ranker in rankers.values():
        ranker.rank(asked[:1])
    for one in asked:
        for name, (_, ranker) in rankers.items():
            start = clock()
            ranker.rank([one])
            seconds[name].append(clock() - start)
    off_ms = statistics.median(seconds["off"]) * 1e3
    costs = []
    for name in SET_STEPS:
        added = [s - off for s, off in zip(seconds[name], seconds["off"], strict=True)]
        step_ms = statistics.median(added) * 1e3
        costs.append(
            Cost(
                set_step=name, model=model_name, m=size.m, n=size.n, k=size.k, pool=pool,
                rank_ms=statistics.median(seconds[name]) * 1e3, step_ms=step_ms,
                share=step_ms / off_ms,
            )
        )  # fmt: skip
    return costs


def _in_session(items: ItemTable, size: Size, number: int) -> RankRequest:
    """A request whose latest impressions belong to one session that is going on."""
    plain = request(items, size.m, size.n, seed=SEED, number=number)
    times_ms = plain.history.times_ms_T.copy()
    latest = min(SESSION_IMPRESSIONS, size.n)
    first_ms = plain.time_ms - SESSION_MS
    times_ms[:-latest] = times_ms[:-latest].clip(max=first_ms)
    times_ms[-latest:] = first_ms + (SESSION_MS // latest) * torch.arange(latest).numpy()
    history = History(
        ids_T=plain.history.ids_T, actions_T=plain.history.actions_T, times_ms_T=times_ms
    )
    return dataclasses.replace(plain, history=history, k=min(size.k, size.m))


def _ranker(
    set_step: str, model_name: str, size: Size, items: ItemTable
) -> tuple[ModelConfig, ModelRanker]:
    config = ModelConfig(
        name=model_name, width=size.width, max_history=size.n, tower_widths=size.tower_widths,
        set_step=set_step,
    )  # fmt: skip
    model = build_model(config, items, SEED)
    if model.set_response is not None:
        generator = torch.Generator().manual_seed(SEED)
        model.set_response.weights_LG.normal_(0.0, 0.3, generator=generator)
    return config, ModelRanker(model, items, version=0)


def verdicts(costs: list[Cost]) -> list[str]:
    """A line for each size, for what the learned step may add."""
    return [
        f"  a learned step at {c.m:,} candidates: {c.share:.1%} of a request, "
        f"wanted <= {SHARE:.0%}: {'met' if c.share <= SHARE else 'missed'}"
        for c in costs
        if c.set_step == "learned"
    ]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.set_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--model", default="ifa", choices=sorted(MODELS), help="default: ifa")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    sizes = QUICK_SIZES if options.quick else SIZES
    costs = [cost for size in sizes for cost in measure(size, options.model)]
    print(f"{'m':>7} {'n':>7} {'k':>4} {'pool':>5} {'step':<8} {'rank ms':>9} {'step ms':>9} share")
    for c in costs:
        print(
            f"{c.m:7,} {c.n:7,} {c.k:4} {c.pool:5} {c.set_step:<8} {c.rank_ms:9.2f} "
            f"{c.step_ms:9.2f} {c.share:5.1%}"
        )
    lines = verdicts(costs)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        rows = [dataclasses.asdict(cost) for cost in costs]
        document = {
            "benchmark": "set_step", "machine": machine, "verdicts": lines, "results": rows,
        }  # fmt: skip
        write(options.json, document)


if __name__ == "__main__":
    main()

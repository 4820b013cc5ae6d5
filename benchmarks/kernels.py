"""What each part of an IFA request costs a CPU, beside what it cannot cost less than.

    python -m benchmarks.kernels [--quick] [--json PATH]

A part's floor is the time of its own products alone, of the same shapes and into memory that is
there, or, for a part without products, of copying the bytes that it must write. The parts are the
model's own, called one by one on what it was given; CPU time of one thread, in turns. Torch and
numpy alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.synthetic import catalogue, request
from benchmarks.turns import Spent, in_turns, multiplications
from ifa_ray.config import ModelConfig
from ifa_ray.data.features import Batch, build_batch
from ifa_ray.models import build_model
from ifa_ray.models.ifa import IFA
from ifa_ray.models.inputs import Candidates, TowerInputs
from ifa_ray.models.linear_attention import SequenceState
from ifa_ray.ranking.ranker import ModelRanker, top_k
from ifa_ray.ranking_rule import parse_ranking_rule

SEED = 0
WHOLE, PRODUCTS = "the whole request", "its products alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, n behaviours."""

    m: int
    n: int
    width: int
    tower_widths: tuple[int, ...]
    items: int
    trials: int


FULL = Size(m=10_000, n=10_000, width=64, tower_widths=(128, 64), items=50_000, trials=15)
QUICK = Size(m=200, n=300, width=16, tower_widths=(16, 8), items=500, trials=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a request.

    Attributes:
        products: [a, b] x [b, c] and how many of them.
        copied_bytes: what it writes, where it multiplies nothing.
    """

    name: str
    run: Callable[[], object]
    products: tuple[tuple[tuple[int, int, int], int], ...] = ()
    copied_bytes: int = 0

    def floor(self) -> Callable[[], object]:
        """The least that this part must do."""
        if not self.products:
            source = torch.ones(max(1, self.copied_bytes // 4))
            target = torch.empty_like(source)
            return lambda: target.copy_(source)
        products = [multiplications(shape, times) for shape, times in self.products]
        return lambda: [product() for product in products]


def measure(size: Size) -> dict[str, Any]:
    """Times every part, its floor, the request, and all of its products."""
    items = catalogue(size.items, SEED)
    config = ModelConfig(
        name="ifa", width=size.width, max_history=size.n, tower_widths=size.tower_widths
    )
    model = build_model(config, items, SEED)
    assert isinstance(model, IFA)
    ranker = ModelRanker(model, items, version=0)
    asked = request(items, size.m, size.n, seed=SEED, number=0)
    with torch.inference_mode():
        batch = build_batch([asked], items, config)
        embedded = model.items(batch.candidate_rows_BC)
        parts = [
            Part(
                name="features",
                run=lambda: build_batch([asked], items, config),
                copied_bytes=sum(
                    getattr(batch, field.name).nbytes for field in dataclasses.fields(batch)
                ),
            ),
            *_attention_parts(model, size, batch, embedded),
            *_tower_parts(model, size, model.tower_inputs(batch)),
        ]
        log_p_CL = model.log_probabilities(batch)[0].numpy()
        rule = parse_ranking_rule(config.ranking_rule)
        parts.append(
            Part(
                name="scores and slate",
                run=lambda: top_k(asked.candidates_C, rule.scores(log_p_CL), asked.k),
                copied_bytes=log_p_CL.nbytes,
            )
        )
        products = [product for part in parts for product in part.products]
        all_products = Part(name=PRODUCTS, run=list, products=tuple(products)).floor()
        work: dict[str, Callable[[], object]] = {part.name: part.run for part in parts}
        work |= {f"{part.name} (floor)": part.floor() for part in parts}
        spent = in_turns(
            work | {WHOLE: lambda: ranker.rank([asked]), PRODUCTS: all_products}, size.trials
        )
    rows = {part.name: _row(part, spent) for part in parts}
    return {
        "parts": rows,
        WHOLE: spent[WHOLE],
        PRODUCTS: spent[PRODUCTS],
        "peak_mb_over_the_tables": _peak_mb(lambda: ranker.rank([asked])),
    }


def _attention_parts(model: IFA, size: Size, batch: Batch, embedded: torch.Tensor) -> list[Part]:
    """From rows to F_cs, F_cc and their product with F_can."""
    m, n, D = size.m, size.n, size.width
    attention = model.candidates_to_sequence
    features = model.items(batch.history_rows_BT) + model.actions(batch.history_actions_BT)
    state = attention.state(features, batch.mask_BT)
    candidates = Candidates(
        features_BCD=embedded,
        rows_BC=batch.candidate_rows_BC,
        code_BC=batch.candidate_code_BC,
        mask_BC=batch.mask_BC,
    )
    phi_k_BTF, v_BTD = attention.keys(features), attention.value(features)
    cs_BCD, _ = state.read(model.item_queries(embedded, batch.candidate_rows_BC))
    both = torch.cat([batch.candidate_rows_BC, batch.history_rows_BT], dim=1)
    return [
        Part(name="embeddings of all", run=lambda: model.items(both), copied_bytes=4 * D * (m + n)),
        Part(
            name="actions added",
            run=lambda: features + model.actions(batch.history_actions_BT),
            copied_bytes=8 * D * n,
        ),
        Part(
            name="phi(K) and V of the history",
            run=lambda: (attention.keys(features), attention.value(features)),
            products=(((n, D, D), 2),),
        ),
        Part(
            name="sums of the history",
            run=lambda: SequenceState.of(phi_k_BTF, v_BTD, batch.mask_BT),
            products=(((D, n, D), 1),),
        ),
        Part(
            name="F_cs from the sums",
            run=lambda: state.read(model.item_queries(embedded, batch.candidate_rows_BC)),
            products=(((m, D, D + 1), 1),),
        ),
        Part(
            name="F_cc",
            run=lambda: model.candidates_to_candidates.read(candidates),
            products=(((D, m, D), 1), ((m, D, D + 1), 1)),
        ),
        Part(name="F_can * F_cs", run=lambda: embedded * cs_BCD, copied_bytes=4 * D * m),
    ]


def _tower_parts(model: IFA, size: Size, inputs: TowerInputs) -> list[Part]:
    """The towers that the ranking rule names, one after the other.

    Of untrained weights no candidate is left out by its impression's tower alone, so this is the
    most that a request may cost (`ifa_ray.ranking.pruning`).
    """
    m, D = size.m, size.width
    towers = parse_ranking_rule(model.config.ranking_rule).objectives
    widths = (4 * D, *size.tower_widths)
    return [
        Part(
            name="towers of the rule",
            run=lambda: [model.logits_of(inputs, only=(tower,)) for tower in towers],
            products=tuple(((m, i, o), len(towers)) for i, o in itertools.pairwise(widths)),
        )
    ]


def _row(part: Part, spent: dict[str, Spent]) -> dict[str, float]:
    mine, floor = spent[part.name], spent[f"{part.name} (floor)"]
    row = {
        "p50_ms": mine["p50_ms"],
        "floor_ms": floor["p50_ms"],
        "times_floor": mine["p50_ms"] / max(floor["p50_ms"], 1e-6),
    }
    flop = sum(2 * a * b * c * times for (a, b, c), times in part.products)
    if flop:
        row["floor_gflop_per_s"] = flop / floor["min_ms"] / 1e6
    else:
        row["floor_gb_per_s"] = 2 * part.copied_bytes / max(floor["min_ms"], 1e-6) / 1e6
    return row


def _peak_mb(work: Callable[[], object]) -> float:
    """The most memory of arrays and tensors at any moment of a call, beyond what was held before.

    Torch's own allocator is read through its profiler, numpy's by `tracemalloc`; the two peaks
    are added, so this is an upper bound.
    """
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    of_numpy = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    assert profiler.profiler is not None
    recorded = profiler.profiler.kineto_results.events()  # its summary merges them by operator
    held = peak = 0
    for event in sorted(recorded, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return (of_numpy + peak) / 1e6


def verdicts(found: dict[str, Any]) -> list[str]:
    """A line for each number that was wanted."""
    times = found[WHOLE]["p50_ms"] / found[PRODUCTS]["p50_ms"]
    memory = found["peak_mb_over_the_tables"]
    return [
        f"  {what}: {value:.3g}{unit}, wanted <= {limit:g}{unit}: "
        f"{'met' if value <= limit else 'missed'}"
        for what, value, limit, unit in (
            ("an IFA request over its own products", times, 2, "x"),
            ("peak memory of a request over the tables", memory, 64, " MB"),
        )
    ]


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine()
    size = QUICK if options.quick else FULL
    found = measure(size)
    print(
        f"an IFA request: m = {size.m:,}, n = {size.n:,}, width {size.width}, {size.trials} trials"
    )
    print(f"  {'part':<28} {'p50 ms':>8} {'floor':>8} {'times':>6}  the floor's rate")
    for name, row in found["parts"].items():
        rate = next(f"{v:,.0f} {k[6:]}" for k, v in row.items() if k.endswith("_per_s"))
        print(
            f"  {name:<28} {row['p50_ms']:8.2f} {row['floor_ms']:8.2f} {row['times_floor']:6.1f}"
            f"  {rate}"
        )
    for name in (WHOLE, PRODUCTS):
        print(f"  {name:<28} {found[name]['p50_ms']:8.2f}")
    lines = verdicts(found)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        document = {"benchmark": "kernels", "machine": machine, "verdicts": lines, "results": found}
        write(options.json, document)


if __name__ == "__main__":
    main()

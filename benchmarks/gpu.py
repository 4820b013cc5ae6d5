"""Everything that a page about a GPU needs, in one command and less than eight minutes.

    python -m benchmarks.gpu [--dry-run] [--json PATH]

With torch, triton and numpy alone. It measures the card's own floors (copying, multiplying), IFA's
kernels against them, one request in every form (plain torch, torch.compile, kernels, kernels in a
recorded graph, full softmax attention), batches of requests, buckets of sizes, and a training step.
Without a CUDA device it says so and exits with 2; --dry-run takes the same way at tiny sizes on a
CPU, in Triton's interpreter where Triton is installed, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from benchmarks.gpu_page import table, verdicts, what_ran
from benchmarks.gpu_rates import copy_gb_per_s, describe_device, matmul_tflop_per_s, timed
from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.synthetic import catalogue, request
from ifa_ray.config import ModelConfig
from ifa_ray.cuda.dispatch import has_triton, interpreted, naive
from ifa_ray.cuda.fused import fuse
from ifa_ray.cuda.graphs import GraphedModel, unrecorded
from ifa_ray.cuda.reads import Reading, read_and_project
from ifa_ray.cuda.sums import KeysValues, gathered_sums
from ifa_ray.data.features import Batch, build_batch
from ifa_ray.data.items import ItemTable
from ifa_ray.models import build_model
from ifa_ray.models.base import RankModel
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.schema import RankRequest

SEED = 0
NO_DEVICE = "no CUDA device here: nothing was measured (--dry-run runs the same code on a CPU)."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """One setting: m candidates, n behaviours, and how often each thing is done."""

    m: int
    n: int
    width: int
    tower_widths: tuple[int, ...]
    items: int
    batches: tuple[int, ...]
    trials: int
    copied_mb: int

    def config(self, name: str) -> ModelConfig:
        """A model's settings at this size."""
        return ModelConfig(
            name=name, width=self.width, max_history=self.n, tower_widths=self.tower_widths
        )


FULL = Size(m=10_000, n=10_000, width=64, tower_widths=(128, 64), items=50_000,
            batches=(1, 4, 16, 32), trials=500, copied_mb=1_000)  # fmt: skip
DRY = Size(m=70, n=90, width=16, tower_widths=(16, 8), items=300, batches=(1, 2), trials=2,
           copied_mb=1)  # fmt: skip


def measure(size: Size, device: torch.device) -> dict[str, Any]:
    """All of it; a part that fails is reported by its error and stops no other."""
    items = catalogue(size.items, SEED)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "floors": lambda: _floors(size, device),
        "kernels": lambda: _kernels(size, device),
        "request": lambda: _request(size, device, items),
        "batched": lambda: _batched(size, device, items),
        "buckets": lambda: _buckets(size, device, items),
        "training_step": lambda: _training(size, device, items),
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        begun = time.perf_counter()
        found[name] = _or_error(part)
        found[name]["seconds_spent"] = round(time.perf_counter() - begun, 1)
    return found


def _or_error(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part found, or why it could not: a card's page must not depend on its weakest part."""
    try:
        return part()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def _floors(size: Size, device: torch.device) -> dict[str, Any]:
    """What the card does with a copy, and with products of a request's shape and a large one."""
    first = (size.m, 4 * size.width, 4 * size.tower_widths[0])
    square = (8192,) * 3 if device.type == "cuda" else (64,) * 3
    found: dict[str, Any] = {"copy_gb_per_s": copy_gb_per_s(device, size.copied_mb, 20)}
    for name, dtype, precision in (
        ("float32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bfloat16", torch.bfloat16, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        for shape, what in ((first, "first_layer"), (square, "square")):
            found[f"{what}_{name}_tflop_per_s"] = matmul_tflop_per_s(device, shape, dtype, 20)
    torch.set_float32_matmul_precision("highest")
    return found


def _kernels(size: Size, device: torch.device) -> dict[str, Any]:
    """The two kernels of a request alone: time, bytes or operations per second, against naive."""
    m, n, D, H = size.m, size.n, size.width, 4 * size.tower_widths[0]
    generator = torch.Generator().manual_seed(SEED)

    def draw(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(rows, width, generator=generator).to(device, dtype)

    rows_1T = torch.randint(0, size.items, (1, n), generator=generator).to(device)
    rows_1C = torch.randint(0, size.items, (1, m), generator=generator).to(device)
    mask_1T = torch.ones(1, n, dtype=torch.bool, device=device)
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        both, can = draw(size.items, 2 * D, dtype), draw(size.items, D, dtype)
        history = KeysValues(k_RF=both[:, :D], v_RE=both[:, D:], rows_BT=rows_1T)
        sums = gathered_sums(history, mask_1T, phi="softplus")
        reading = Reading(
            q_RF=can, sums_BFX=sums, count_B=torch.tensor([float(n)], device=device), phi="softplus"
        )
        weight_XH = draw(4 * D, H, dtype)
        work = {
            "sums": partial(gathered_sums, history, mask_1T, phi="softplus"),
            "reads": partial(
                read_and_project, reading, weight_XH, size_BC=(1, m), rows_BC=rows_1C,
                items_RD=can, candidates=reading,
            ),
        }  # fmt: skip
        for name, run in work.items():
            with torch.inference_mode():
                found[f"{name}_{kind}"] = timed(run, device, size.trials)
                with naive():
                    found[f"{name}_{kind}_naive"] = timed(run, device, size.trials)
        moved = n * (2 * D * both.element_size() + rows_1T.element_size() + 1)
        found[f"sums_{kind}"]["gb_per_s"] = moved / found[f"sums_{kind}"]["p50_ms"] / 1e6
        work_flop = 2 * m * (4 * D * H + 2 * D * D)
        found[f"reads_{kind}"]["tflop_per_s"] = work_flop / found[f"reads_{kind}"]["p50_ms"] / 1e9
    return found


def _batch(size: Size, items: ItemTable, number: int, config: ModelConfig, B: int = 1) -> Batch:
    asked = [request(items, size.m, size.n, seed=SEED, number=number + b) for b in range(B)]
    return build_batch(asked, items, config)


def _frozen(name: str, size: Size, device: torch.device, items: ItemTable) -> RankModel:
    model = fuse(build_model(size.config(name), items, SEED).to(device))
    model.freeze()
    return model


def _request(size: Size, device: torch.device, items: ItemTable) -> dict[str, Any]:
    """One request in every form; `staged` and `slate` begin on the host and end there.

    `slate_by_graphs` is all that a served ranker does about one, checks and features included.
    """
    model = _frozen("ifa", size, device, items)
    batch = _batch(size, items, 0, model.config)
    resident = batch.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()

    def rank() -> torch.Tensor:
        return model.log_probabilities(resident)

    backend = "inductor" if device.type == "cuda" else "eager"
    compiled = torch.compile(rank, backend=backend)
    graphed = GraphedModel(model, [(size.m, size.n)])
    found: dict[str, Any] = {}
    with torch.inference_mode():
        with naive():
            found["eager"] = timed(rank, device, size.trials)
            found["compiled"] = _or_error(lambda: timed(compiled, device, size.trials))
        found["kernels"] = timed(rank, device, size.trials)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() - held
            found["peak_memory"] = {"mib_over_the_tables": peak / 2**20}
        recorded = _or_error(
            lambda: timed(lambda: graphed.log_probabilities(batch).cpu(), device, size.trials)
        )
        found["graph_staged"] = recorded
        for heads, dtype in ((1, torch.bfloat16), (4, torch.bfloat16), (4, torch.float32)):
            name = f"sdpa_{heads}_heads_{str(dtype).removeprefix('torch.')}"
            found[name] = timed(_softmax(size, device, heads, dtype), device, size.trials // 5 + 1)
    ranker = ModelRanker(model, items, version=0)
    asked = request(items, size.m, size.n, seed=SEED, number=0)
    trials = size.trials // 5 + 1
    found["slate_from_a_request"] = timed(lambda: ranker.rank([asked]), device, trials)
    found["slate_by_graphs"] = _or_error(lambda: _by_graphs(model, items, asked, device, trials))
    plus = _frozen("ifa_plus", size, device, items)
    with torch.inference_mode():
        found["ifa_plus_kernels"] = timed(
            lambda: plus.log_probabilities(resident), device, size.trials
        )
    return found


def _by_graphs(
    model: RankModel, items: ItemTable, asked: RankRequest, device: torch.device, trials: int
) -> dict[str, float]:
    """The same through a ranker with `graphs: true`, as it is served: padded, staged, replayed."""
    with unrecorded() if device.type == "cpu" else contextlib.nullcontext():
        by_graphs = GraphedModel.of_ranker(model).log_probabilities
        ranker = ModelRanker(model, items, version=0, score_all=by_graphs)
        return timed(lambda: ranker.rank([asked]), device, trials)


def _softmax(
    size: Size, device: torch.device, heads: int, dtype: torch.dtype
) -> Callable[[], torch.Tensor]:
    """Full softmax attention alone: no projections, no towers."""
    D = size.width // heads
    query, key, value = (
        torch.randn(1, heads, length, D, generator=torch.Generator().manual_seed(SEED))
        .to(device, dtype)
        for length in (size.m, size.n, size.n)
    )  # fmt: skip
    return lambda: scaled_dot_product_attention(query, key, value)


def _batched(size: Size, device: torch.device, items: ItemTable) -> dict[str, Any]:
    """Candidates per second for B requests at once, resident, and from a recorded graph."""
    model = _frozen("ifa", size, device, items)
    found: dict[str, Any] = {}
    for B in size.batches:
        batch = _batch(size, items, 0, model.config, B)
        resident = batch.to(device)
        graphed = GraphedModel(model, [(size.m, size.n)])
        with torch.inference_mode():
            for name, run in (
                ("kernels", partial(model.log_probabilities, resident)),
                ("graph_staged", partial(graphed.log_probabilities, batch)),
            ):
                spent = _or_error(partial(timed, run, device, size.trials // 5 + 1))
                if "p50_ms" in spent:
                    spent["candidates_per_s"] = B * size.m / spent["p50_ms"] * 1e3
                found[f"{name}_{B}"] = spent
    return found


def _buckets(size: Size, device: torch.device, items: ItemTable) -> dict[str, Any]:
    """Requests of several sizes through three recorded graphs; padding must change no score."""
    model = _frozen("ifa", size, device, items)
    buckets = [(size.m // part, size.n // part) for part in (4, 2, 1)]
    graphed = GraphedModel(model, buckets)
    found: dict[str, Any] = {}
    for m, n in ((size.m // 5, size.n // 5), (size.m // 2, size.n // 3), (size.m, size.n)):
        one = dataclasses.replace(size, m=m, n=n)
        batch = _batch(one, items, 1, model.config)
        with torch.inference_mode():
            exact = model.log_probabilities(batch.to(device))
        off = (graphed.log_probabilities(batch) - exact).abs().max().item()
        spent = timed(partial(graphed.log_probabilities, batch), device, size.trials // 5 + 1)
        found[f"{m}x{n}"] = spent | {"bucket": str(graphed.bucket(m, n)), "largest_error": off}
    return found


def _training(size: Size, device: torch.device, items: ItemTable) -> dict[str, Any]:
    """Forward, backward and the optimisers for one request, with the kernels and without."""
    config = size.config("ifa")
    batch = _batch(size, items, 0, config).to(device)
    found: dict[str, Any] = {}
    for name, context in (("eager", naive), ("kernels", contextlib.nullcontext)):
        model = fuse(build_model(config, items, SEED).to(device))
        optimizers = (
            torch.optim.SparseAdam(list(model.sparse_parameters())),
            torch.optim.Adam(model.dense_parameters()),
        )

        def step(model: RankModel = model, optimizers: Any = optimizers) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad()
            (-logsigmoid(model(batch).logits_BCL).mean()).backward()
            for optimizer in optimizers:
                optimizer.step()

        with context():
            found[name] = timed(step, device, size.trials // 10 + 1)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints; exits with 2 where there is nothing to measure."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on a CPU: does it run?")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print(NO_DEVICE)
        sys.exit(2)
    begun = time.perf_counter()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before a kernel's module is loaded
        device = torch.device("cpu")
        with interpreted() if has_triton() else contextlib.nullcontext():
            found = measure(DRY, device)
    else:
        device = torch.device("cuda")
        found = measure(FULL, device)
    machine: dict[str, Any] = describe_machine() | describe_device(device)
    machine["triton"] = _triton_version()
    machine["wall_s"] = round(time.perf_counter() - begun, 1)
    if options.dry_run:  # times of an interpreter are no figures
        found = what_ran(found)
    print(table(found))
    lines = [] if options.dry_run else verdicts(found)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.dry_run:
        print("a dry run on a CPU: it shows that the code runs, and nothing of any GPU.")
    if options.json:
        document = {
            "benchmark": "gpu", "dry_run": options.dry_run, "machine": machine, "verdicts": lines,
            "results": found,
        }  # fmt: skip
        write(options.json, document)


def _triton_version() -> str:
    if not has_triton():
        return "not installed"
    import triton

    return str(triton.__version__)


if __name__ == "__main__":
    main()

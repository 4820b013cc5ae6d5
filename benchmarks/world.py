"""What the world costs: users, impressions and requests per second and core, bytes per user.

    python -m benchmarks.world [--quick] [--full-scale] [--json PATH]

A million items, 10,000 candidates, histories of up to 10,000: a shard of users lives its whole
prehistory and a day, then each stage is timed alone. `--full-scale` fills the histories of 100,000
users (11 GB of disk under the temporary folder, some minutes) where the default fills 2,000 and
says what more would take. Times are CPU seconds of one process without Ray.

Others, by their own papers: KuaiSim lives 160-390 impressions/s, with histories of 100 and no watch
time; Sim4Rec draws 26 million responses/s on 16 cores from a trivial response, 1.6 million a core.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numba
import torch

from benchmarks.machine import describe_machine
from benchmarks.results import write
from benchmarks.world_memory import FULL_USERS, measure_memory
from benchmarks.world_stages import Result, Size, measure_faiss, measure_stages
from simulator.config import uncalibrated_config, world_config

__all__ = ["measure", "table", "verdicts"]

FULL = Size(
    config=dataclasses.replace(world_config("standard"), num_items=1_000_000),
    users=192, trials=7, exact_users=24, histories=(2_000, 10_000),
)  # fmt: skip
QUICK = Size(
    config=dataclasses.replace(uncalibrated_config("smoke")),
    users=8, trials=3, exact_users=4, histories=(50, 1_000),
)  # fmt: skip

# What is wanted at a million items and C = 10,000: (part begins with, name, unit, sign, limit).
TARGETS = (
    ("retrieval", "all channels", "ms", "<=", 5.0),
    ("closed loop", "a request", "ms", "<=", 4.0),
    ("warm-up", "whole loop", "impressions/s", ">=", 20_000.0),
    ("retrieval", "content recall of brute force", "share", ">=", 0.9),
)


def measure(size: Size, full_scale: bool = False, compare: bool = True) -> list[Result]:
    """All figures of one size.

    Args:
        size: of the world.
        full_scale: fills the histories of 100,000 users.
        compare: times faiss too, if it is installed.
    """
    results, world, _ = measure_stages(size)
    if compare:
        results += measure_faiss(world)
    num_users, length = size.histories
    return results + measure_memory(world, FULL_USERS if full_scale else num_users, length)


def table(results: list[Result]) -> str:
    """The results as aligned text, one block per part."""
    lines = []
    for previous, r in zip([None, *results], results, strict=False):
        if previous is None or previous.part != r.part:
            lines += ["", r.part]
        spread = (
            f"  [{_number(r.p25)}, {_number(r.p75)}], {r.trials} trials" if r.trials > 1 else ""
        )
        lines.append(f"  {r.name:<50} {_number(r.p50):>12} {r.unit}{spread}")
    return "\n".join(lines[1:])


def verdicts(results: list[Result]) -> list[str]:
    """A line for each of `TARGETS`."""
    lines = []
    for part, name, unit, sign, limit in TARGETS:
        for r in results:
            if r.part.startswith(part) and (r.name, r.unit) == (name, unit):
                met = r.p50 <= limit if sign == "<=" else r.p50 >= limit
                verdict = "met" if met else "missed"
                lines.append(
                    f"  {r.part}, {name}: {_number(r.p50)} {unit}, wanted {sign} "
                    f"{_number(limit)}: {verdict}"
                )
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: list[str] | None = None) -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.world",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument(
        "--full-scale", action="store_true", help="histories of 100,000 users: 11 GB of disk"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine: dict[str, Any] = describe_machine() | {"numba": numba.__version__}
    results = measure(
        QUICK if options.quick else FULL, options.full_scale, compare=not options.quick
    )
    print(table(results))
    lines = [] if options.quick else verdicts(results)
    print("\n".join(["", *lines]))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if options.json:
        rows = [dataclasses.asdict(result) for result in results]
        document = {
            "benchmark": "world", "machine": machine, "verdicts": lines, "results": rows,
        }  # fmt: skip
        write(options.json, document)


if __name__ == "__main__":
    main()

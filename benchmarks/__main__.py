"""`python -m benchmarks`: the whole suite; results also as JSON under bench-results/."""

from __future__ import annotations

from pathlib import Path

from benchmarks import (
    abtest,
    closed_loop,
    kernels,
    peers,
    rank_latency,
    set_step,
    state_growth,
    training,
    world,
)

RESULTS = Path("bench-results")

if __name__ == "__main__":
    for benchmark in (
        rank_latency,
        kernels,
        peers,
        state_growth,
        set_step,
        training,
        world,
        closed_loop,
        abtest,
    ):
        path = RESULTS / f"{benchmark.__name__.rpartition('.')[2]}.json"
        benchmark.main(["--json", str(path)])
        print(f"results: {path}")

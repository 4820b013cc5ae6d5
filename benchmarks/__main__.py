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

# Each by the name of its results; in bfloat16 what docs/performance.md says of it.
SUITE = {
    "rank_latency": (rank_latency.main, ()),
    "rank_latency_bf16": (
        rank_latency.main,
        ("--models", "ifa,ifa_plus,twin,full_attention", "--only", "rank", "--precision", "bf16"),
    ),
    "kernels": (kernels.main, ()),
    "peers": (peers.main, ()),
    "state_growth": (state_growth.main, ()),
    "state_growth_bf16": (state_growth.main, ("--precision", "bf16")),
    "set_step": (set_step.main, ()),
    "training": (training.main, ()),
    "world": (world.main, ()),
    "closed_loop": (closed_loop.main, ()),
    "abtest": (abtest.main, ()),
}

if __name__ == "__main__":
    for name, (main, arguments) in SUITE.items():
        path = RESULTS / f"{name}.json"
        main([*arguments, "--json", str(path)])
        print(f"results: {path}")

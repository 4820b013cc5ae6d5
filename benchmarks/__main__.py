"""`python -m benchmarks`: the whole suite; results also as JSON under bench-results/."""

from __future__ import annotations

from pathlib import Path

from benchmarks import rank_latency

RESULTS = Path("bench-results")

if __name__ == "__main__":
    path = RESULTS / "rank_latency.json"
    rank_latency.main(["--json", str(path)])
    print(f"results: {path}")

"""The whole suite: every number that was wanted of this project's speed, and a verdict for each.

    python -m benchmarks [--only NAME,NAME] [--out DIR] [--list]

Each benchmark is a process of its own and prints its tables as it ends; the verdicts of all stand
at the end once more, and everything is also written to DIR as JSON. Where a number was missed,
docs/performance.md says why. A quarter of an hour or so; leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import write

MET, MISSED, OPEN = "met", "missed", "not measured"

# Status of a benchmark that needs what this machine has not.
_NOTHING_TO_MEASURE = 2


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One run of one module; `question` is what it answers."""

    module: str
    question: str
    arguments: tuple[str, ...] = ()


_BF16 = ("--precision", "bf16")

SUITE = {
    "rank_latency": Benchmark("rank_latency", "what a request costs, and learning from it"),
    "rank_latency_bf16": Benchmark(
        "rank_latency", "the same in bfloat16",
        ("--models", "ifa,ifa_plus,twin,full_attention", "--only", "rank", *_BF16),
    ),
    "kernels": Benchmark("kernels", "how far a request is from what a core can do"),
    "state_growth": Benchmark("state_growth", "a kept state, as the history grows"),
    "state_growth_bf16": Benchmark("state_growth", "the same in bfloat16", _BF16),
    "world": Benchmark("world", "retrieval, responses, histories"),
    "abtest": Benchmark("abtest", "an A/B analysis of logs"),
    "gpu": Benchmark("gpu", "the same request on a GPU"),
}  # fmt: skip
"""Each by the name of its results. `benchmarks.serving` is not among them: it needs ten minutes and
ports of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs benchmarks one after the other; 1 if one broke."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="A,B", help="these, in the suite's order (default: all)")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR",
                        help="of the JSON files (default: %(default)s)")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="names and questions, and no more")
    options = parser.parse_args(arguments)
    names = tuple(SUITE) if options.only is None else tuple(options.only.split(","))
    for name in names:
        if name not in SUITE:
            parser.error(f"only == {name!r}, must be of: {', '.join(SUITE)}")
    names = tuple(name for name in SUITE if name in names)
    if options.list:
        print("\n".join(f"{name:<18} {SUITE[name].question}" for name in names))
        return 0
    found: dict[str, list[str]] = {}
    broken = []
    for number, name in enumerate(names, start=1):
        print(f"\n== {number} of {len(names)}: {name}, {SUITE[name].question}\n", flush=True)
        begun = time.monotonic()
        status = _run(name, options.out)
        if status == _NOTHING_TO_MEASURE:
            found[name] = [f"  {SUITE[name].question}: {OPEN}"]
        elif status != 0:
            broken.append(name)
            print(f"{name} ended with status {status}", file=sys.stderr)
        else:
            found[name] = json.loads(_path(name, options.out).read_bytes()).get("verdicts", [])
        print(f"\n{name}: {time.monotonic() - begun:.0f} s", flush=True)
    print("\n== verdicts\n")
    print(summary(found))
    if broken:
        print(f"broke: {', '.join(broken)}")
    write(options.out / "verdicts.json", {"verdicts": found, "broke": broken})
    print(f"results: {options.out}")
    return 1 if broken else 0


def _path(name: str, out: Path) -> Path:
    return out / f"{name}.json"


def _run(name: str, out: Path) -> int:
    benchmark, path = SUITE[name], _path(name, out)
    path.unlink(missing_ok=True)  # an old result is not taken for a new one
    command = [sys.executable, "-m", f"benchmarks.{benchmark.module}", *benchmark.arguments]
    return subprocess.run([*command, "--json", str(path)], check=False).returncode


def summary(found: dict[str, list[str]]) -> str:
    """All verdicts, by benchmark, and how many of each kind."""
    lines = [line for name, of in found.items() if of for line in (name, *of)]
    counts = {
        kind: sum(f": {kind}" in line for of in found.values() for line in of)
        for kind in (MET, MISSED, OPEN)
    }
    return "\n".join([*lines, "", ", ".join(f"{count} {kind}" for kind, count in counts.items())])


if __name__ == "__main__":
    sys.exit(main())

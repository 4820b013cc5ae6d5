"""`python -m simulator`, `ifa-sim`: the commands of the world; knows no other logic."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ifa_ray.cli import run_command_line

COMMANDS = {
    "run": ("simulator.cli.run", "run the closed loop and the A/B comparison"),
    "experiment": (
        "simulator.studies.experiment",
        "run the whole comparison: worlds, regimes, rules",
    ),
    "log": (
        "simulator.cli.log",
        "write a warm-up log for offline comparisons, without rankers and without Ray",
    ),
    "report": ("simulator.cli.run", "write a finished run's report.html again"),
    "calibration": (
        "simulator.calibration.command",
        "print the world's figures beside the real ones: target, achieved, distance, verdict",
    ),
    "calibrate": (
        "simulator.calibration.command",
        "fit a world's levels and distributions to a log of your own",
    ),
    "rerank-headroom": (
        "simulator.studies.rerank_headroom",
        "measure what re-ranking recovers of what repetition costs a greedy list",
    ),
    "sensitivity": (
        "simulator.studies.sensitivity",
        "repeat the A/B with each mechanism of the world moved, zero included",
    ),
    "recall": (
        "simulator.studies.recall",
        "measure how many of the truly best items the retrieval stage finds, by channel",
    ),
}
"""A command's module, which has its `add_…` and `run_…`, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The process's status: 0, 2 after a mistake of the user's, or what the command says.
    """
    return run_command_line(
        "ifa-sim",
        "simulator",
        "The world that tests rankers: an offline A/B test in a closed loop.",
        COMMANDS,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

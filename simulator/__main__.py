"""The command line of the world: finds the command and runs it; knows no other logic.

Tables and paths go to standard output, progress and errors to standard error. A mistake of the
user's ends with one line and status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ifa_ray.errors import IfaRayError
from simulator.cli.calibration import (
    add_calibrate,
    add_calibration,
    run_calibrate,
    run_calibration,
)
from simulator.cli.experiment import add_experiment, run_experiment
from simulator.cli.log import add_log, run_log
from simulator.cli.recall import add_recall, run_recall
from simulator.cli.report import add_report, run_report
from simulator.cli.run import add_run, run_run
from simulator.cli.sensitivity import add_sensitivity, run_sensitivity
from simulator.cli.set_headroom import add_set_headroom, run_set_headroom

EXIT_USAGE = 2

_COMMANDS = {
    "run": run_run,
    "experiment": run_experiment,
    "log": run_log,
    "report": run_report,
    "calibration": run_calibration,
    "calibrate": run_calibrate,
    "set-headroom": run_set_headroom,
    "sensitivity": run_sensitivity,
    "recall": run_recall,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="The world that tests rankers: an offline A/B test in a closed loop.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    add_run(commands)
    add_experiment(commands)
    add_log(commands)
    add_report(commands)
    add_calibration(commands)
    add_calibrate(commands)
    add_set_headroom(commands)
    add_sensitivity(commands)
    add_recall(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`python -m simulator report`: a finished run's report.html, written again."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    report = commands.add_parser("report", description="Writes a finished run's report.html again.")
    report.add_argument("run", type=Path, metavar="RUN_DIR")


def run_report(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ifa_ray.abtest.report.render import write_report

    print(write_report(args.run))
    return 0

"""`python -m simulator sensitivity`: its flags, its help, and the files of its table.

Parses, prints and writes; the runs are made in `simulator.studies.sensitivity`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ifa_ray.data.run_folder import write_atomically
from ifa_ray.processes import usable_cores
from simulator.cli.settings import add_set, read_setting
from simulator.run.presets import PRESETS, preset
from simulator.world.config import WORLDS

_HELP = """\
Repeats the A/B comparison with one mechanism of the world moved at a time, zero included, and
prints where each arm wins. Every row is a whole run (plain processes, no Ray) in a folder of its
own below --out: the same command again does only what is missing. About a minute of one core a row.

examples:
  python -m simulator sensitivity --out runs/sensitivity
  python -m simulator sensitivity --knobs mood_gain,loyalty_gain --replicates 12 --out runs/some
  python -m simulator sensitivity --set 'model.cross_features=["channel","category","author"]' \
      --out runs/with-counts
"""


def add_sensitivity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    sensitivity = commands.add_parser(
        "sensitivity",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sensitivity.add_argument("--preset", default="smoke", choices=sorted(PRESETS))
    sensitivity.add_argument("--world", default="balanced", choices=sorted(WORLDS))
    sensitivity.add_argument("--seed", type=int, default=0, help="of every row (default: 0)")
    sensitivity.add_argument("--arms", help="comma-separated, the first is the control")
    sensitivity.add_argument("--knobs", help="comma-separated settings of the world (default: all)")
    for flag in ("replicates", "users", "days", "train-requests-per-day"):
        sensitivity.add_argument(f"--{flag}", type=int, metavar="N")
    add_set(sensitivity)
    sensitivity.add_argument("--out", type=Path, required=True, help="a folder for all the runs")
    sensitivity.add_argument("--processes", type=int, metavar="N", help="default: the cores")


def run_sensitivity(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.studies.sensitivity import SensitivitySettings, format_table, measure_sensitivity

    given: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("replicates", "users", "days", "train_requests_per_day")
        if getattr(args, name) is not None
    }
    for name in ("arms", "knobs"):
        if getattr(args, name) is not None:
            given[name] = tuple(text.strip() for text in getattr(args, name).split(","))
    changes = {"seed": args.seed, **dict(read_setting(text) for text in args.set)}
    base = preset(args.preset, args.world).replace(changes)
    report = measure_sensitivity(
        base,
        SensitivitySettings(**given),
        args.out.resolve(),
        usable_cores() if args.processes is None else args.processes,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    table = format_table(report)
    write_atomically(args.out / "sensitivity.json", json.dumps(report, indent=1).encode())
    write_atomically(args.out / "sensitivity.md", table.encode())
    print(table)
    return 0

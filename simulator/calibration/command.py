"""`python -m simulator calibration` and `calibrate`: the world beside the real figures, and fitted.

Parses and prints; the work is in `simulator.calibration`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ifa_ray.config import require
from simulator.run.presets import PRESETS, preset
from simulator.world.config import WORLDS

_CALIBRATION_HELP = """\
Prints the world's figures beside the real ones: target, source and tier, achieved, distance, what
is allowed, verdict. A miss is shown as a miss. The feed is measured on worlds that were not solved
on, under the earlier policy; random exposure in closed form, as a uniformly random ranker of the
whole catalogue would meet it. With --run, of every arm of a finished run instead.

examples:
  python -m simulator calibration --preset kuairand --svg kuairand.svg
  python -m simulator calibration --preset quick --world exact_heavy
  python -m simulator calibration --run runs/mine
"""


_CALIBRATE_HELP = """\
Fits a world to a log in the form of docs/log.md: levels by the solver of the named worlds, lengths
of histories and videos as lognormals, popularity as a power law of rank, sessions, and how far
users differ. What it writes is a preset.

examples:
  python -m simulator calibrate --log logs/mine --out mine.json
  python -m simulator run --preset mine.json
  python -m simulator calibration --preset mine.json
"""


def add_calibration(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    calibration = commands.add_parser(
        "calibration",
        description=_CALIBRATION_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = calibration.add_mutually_exclusive_group()
    which.add_argument(
        "--preset", "--scale", help=f"one of {', '.join(PRESETS)}, or a file of `calibrate`"
    )
    which.add_argument("--run", type=Path, metavar="DIR", help="of a finished run, arm by arm")
    calibration.add_argument("--world", help=f"named world: {', '.join(WORLDS)}")
    calibration.add_argument("--svg", type=Path, metavar="FILE", help="draw the figures as well")
    calibration.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_calibration(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.calibration.figures import calibration_svg
    from simulator.calibration.measure import curves, format_rows, surface_of
    from simulator.calibration.sample import CROWDS
    from simulator.calibration.table import calibration_of_arms, compare_worlds, sample_worlds

    if args.run is not None:
        from ifa_ray.data.run_folder import RunFolder
        from simulator.run.opening import load_config

        require(args.svg is None, "svg", str(args.svg), "left out with --run")
        tables = calibration_of_arms(RunFolder(args.run), load_config(args.run))
        if args.json:
            print(json.dumps(tables, indent=1))
        for arm, rows in tables.items() if not args.json else ():
            print(f"{arm}\n{format_rows(rows)}\n")
        return 0
    name = args.preset or "quick"
    config = preset(name, args.world or "balanced")
    surface, crowd = surface_of(config.preset), CROWDS.get(config.preset)
    sampled = sample_worlds(config.world, surface=surface, crowd=crowd)
    rows = compare_worlds(sampled, surface, crowd)
    print(json.dumps(rows, indent=1) if args.json else format_rows(rows))
    if args.svg is not None:
        title = f"{name}, {args.world or 'balanced'}: the world and what was published"
        args.svg.write_text(calibration_svg(sampled, curves(surface), title), encoding="utf-8")
        print(args.svg, file=sys.stderr)
    return 0


def add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    calibrate = commands.add_parser(
        "calibrate",
        description=_CALIBRATE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    calibrate.add_argument("--log", type=Path, required=True, metavar="PATH", help="a run's folder")
    calibrate.add_argument("--out", type=Path, required=True, metavar="FILE", help="the preset")
    calibrate.add_argument("--preset", default="quick", help="whose sizes it has (default: quick)")
    calibrate.add_argument("--world", help=f"whose mechanisms it has: {', '.join(WORLDS)}")
    calibrate.add_argument("--seed", type=int, default=2022, metavar="N", help="of sampled worlds")


def run_calibrate(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.calibration.fit import fit_log, write_preset

    base = preset(args.preset, args.world or "balanced")
    fitted = fit_log(
        args.log, base, args.seed, lambda line: print(line, file=sys.stderr, flush=True)
    )
    write_preset(args.out, fitted)
    print(args.out)
    return 0

"""`python -m simulator calibration` and `calibrate`: the world beside the real figures, and fitted.

Parses and prints; the work is in `simulator.calibration`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from simulator.run.presets import PRESETS, preset
from simulator.world.config import WORLDS

_CALIBRATION_HELP = """\
Prints the world's figures beside the real ones: target, source and tier, achieved, distance, what
is allowed, verdict. A miss is shown as a miss. The feed is measured on worlds that were not solved
on, under the earlier policy; random exposure in closed form, as a uniformly random ranker of the
whole catalogue would meet it. With --run, of every arm of a finished run instead.

examples:
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
_Commands = argparse._SubParsersAction


def _command(
    commands: _Commands[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_calibration(commands: _Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = _command(commands, "calibration", _CALIBRATION_HELP)
    either = parser.add_mutually_exclusive_group()
    sizes = f"one of {', '.join(PRESETS)}, or a file of `calibrate`"
    either.add_argument("--preset", "--scale", default="quick", help=sizes)
    either.add_argument("--run", type=Path, metavar="DIR", help="of a finished run, arm by arm")
    parser.add_argument("--world", default="balanced", help=f"named world: {', '.join(WORLDS)}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_calibration(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.calibration.measure import format_rows, surface_of
    from simulator.calibration.sample import CROWDS
    from simulator.calibration.table import calibration_of_arms, compare_worlds, sample_worlds

    if args.run is not None:
        from ifa_ray.data.run_folder import RunFolder
        from simulator.run.opening import load_config

        tables = calibration_of_arms(RunFolder(args.run), load_config(args.run))
        texts = (f"{arm}\n{format_rows(rows)}\n" for arm, rows in tables.items())
        print(json.dumps(tables, indent=1) if args.json else "\n".join(texts))
        return 0
    config = preset(args.preset, args.world)
    surface, crowd = surface_of(config.preset), CROWDS.get(config.preset)
    found = sample_worlds(config.world, surface=surface, crowd=crowd)
    rows = compare_worlds(found, surface, crowd)
    print(json.dumps(rows, indent=1) if args.json else format_rows(rows))
    return 0


def add_calibrate(commands: _Commands[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = _command(commands, "calibrate", _CALIBRATE_HELP)
    parser.add_argument("--log", type=Path, required=True, metavar="PATH", help="a run's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the preset")
    parser.add_argument("--preset", default="quick", help="whose sizes it has (default: quick)")
    mechanisms = f"whose mechanisms it has: {', '.join(WORLDS)}"
    parser.add_argument("--world", default="balanced", help=mechanisms)
    parser.add_argument("--seed", type=int, default=2022, metavar="N", help="of sampled worlds")


def run_calibrate(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.calibration.fit import fit_log, write_preset

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    write_preset(args.out, fit_log(args.log, preset(args.preset, args.world), args.seed, say))
    print(args.out)
    return 0

"""`python -m simulator experiment`: its flags, its help, and the pages over its parts."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from ifa_ray.config import require
from ifa_ray.errors import unknown_name
from ifa_ray.processes import usable_cores
from simulator.cli.run import print_verdicts, with_budget
from simulator.cli.settings import EXIT_INTERRUPTED, add_set, read_setting
from simulator.run.presets import PRESETS
from simulator.studies.experiment import Part, experiment_parts

_HELP = """\
The comparison that this project exists for: IFA, IFA+, the paper's baselines, a random and a
popularity ranker and the oracle against TWIN, in three worlds, ranking all candidates and ranking
as many as the same time allows; then with another ranking rule, and with a learned set step.
docs/results/ has its reports.

Every part is a run (plain processes, no Ray) in a folder of its own below --out, with a report;
comparison.html is over all of them. The same command again continues what was interrupted. A part's
config.json is a preset: `run --preset FILE` repeats it alone, on a cluster too.

examples:
  python -m simulator experiment --out runs/experiment                 # about three core-hours
  python -m simulator experiment --out runs/experiment --parts quality-balanced
  python -m simulator experiment --preset smoke --out runs/try         # minutes, no verdict
"""

_FLAGS = ("seed", "replicates", "users", "days")


def add_experiment(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    experiment = commands.add_parser(
        "experiment",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    experiment.add_argument("--out", type=Path, required=True, help="a folder for all the runs")
    experiment.add_argument("--preset", default="experiment", choices=sorted(PRESETS))
    for flag in _FLAGS:
        experiment.add_argument(f"--{flag}", type=int, metavar="N", help="of every part")
    add_set(experiment)
    experiment.add_argument(
        "--budget", metavar="ARM|MS", help="of the equal-latency parts (default: the cost of IFA+)"
    )
    experiment.add_argument("--parts", help="comma-separated names of parts (default: all)")
    experiment.add_argument("--processes", type=int, metavar="N", help="default: the cores")


def run_experiment(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ifa_ray.abtest.report.render import write_comparison

    processes = usable_cores() if args.processes is None else args.processes
    require(processes >= 1, "processes", processes, ">= 1")
    changes: dict[str, Any] = {
        flag: getattr(args, flag) for flag in _FLAGS if getattr(args, flag) is not None
    }
    parts = experiment_parts(args.preset, changes | dict(read_setting(text) for text in args.set))
    wanted = _wanted(args.parts, parts)
    out = args.out.resolve()
    for number, part in enumerate(wanted, 1):
        print(f"part {number} of {len(wanted)}: {part.name}", file=sys.stderr)
        try:
            _live_part(part, out, processes, args.budget)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command continues", file=sys.stderr)
            return EXIT_INTERRUPTED
        print(part.name)
        print_verdicts(out / part.name)
    finished = [part for part in parts if (out / part.name / "result.json").exists()]
    print(write_comparison([out / part.name for part in finished], out))
    return 0


def _live_part(part: Part, out: Path, processes: int, budget: str | None) -> None:
    from simulator.run.opening import load_config
    from simulator.run.simulate import simulate

    root = out / part.name
    resume = (root / "config.json").exists()
    config = part.config
    if resume:
        saved = load_config(root)
        if part.budget is not None:  # as it was measured when the part was begun
            config = dataclasses.replace(
                config,
                regime=saved.regime,
                budget_ms=saved.budget_ms,
                candidate_limits=saved.candidate_limits,
            )
    elif part.budget is not None:
        config = with_budget(config, budget or part.budget)
    reuse = None if part.reuse is None else out / part.reuse
    if reuse is not None and not (reuse / "config.json").exists():
        reuse = None  # that part was not asked for
    simulate(config, root, processes=processes, resume=resume, reuse=reuse)


def _wanted(text: str | None, parts: tuple[Part, ...]) -> list[Part]:
    if text is None:
        return list(parts)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in [part.name for part in parts]:
            raise unknown_name("part", name, [part.name for part in parts])
    return [part for part in parts if part.name in names]

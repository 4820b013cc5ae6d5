"""`python -m simulator experiment`: is a lifelong-sequence ranker worth serving, and what moves it?

One table compares every kind of ranker in three worlds, with the paper's ranking rule and no
re-ranking, in both regimes. A second one moves the rule and the re-ranking, since they may move
more than the architecture does. One feature set, one seed and one size for all.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from ifa_ray.abtest.report.render import write_comparison
from ifa_ray.config import require
from ifa_ray.errors import unknown_name
from ifa_ray.processes import usable_cores
from simulator.cli.run import print_verdicts, with_budget
from simulator.cli.settings import EXIT_INTERRUPTED, add_command, add_settings, changes_of
from simulator.run.opening import load_config
from simulator.run.presets import AA_ARM, RunConfig, preset
from simulator.run.simulate import simulate
from simulator.world.config import WORLDS

_CHALLENGERS = ("ifa", "ifa_plus")

_HELP = """\
The comparison that this project exists for: IFA, IFA+, the paper's baselines, a random and a
popularity ranker and the oracle against TWIN, in three worlds, ranking all candidates and ranking
as many as the same time allows; then with another ranking rule, and with learned re-ranking.
docs/results/ has its reports.

Every part is a run (plain processes, no Ray) in a folder of its own below --out, with a report;
comparison.html is over all of them. The same command again continues what was interrupted. A part's
config.json is a preset: `run --preset FILE` repeats it alone, on a cluster too.

examples:
  python -m simulator experiment --out runs/experiment                 # about three core-hours
  python -m simulator experiment --out runs/experiment --parts quality-balanced
  python -m simulator experiment --preset smoke --out runs/try         # minutes, no verdict
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One run of the experiment."""

    name: str  # of its folder
    config: RunConfig  # complete but for the limits of `equal_latency`, which are measured
    budget: str | None = None  # the arm whose cost all get in `equal_latency`; None in `quality`
    reuse: str | None = None  # the part whose worlds it shares: what is the same is done once


def experiment_parts(preset_name: str, changes: dict[str, object]) -> tuple[Part, ...]:
    """All parts, those of the first table first.

    Args:
        preset_name: `experiment`, or a smaller preset to try it out.
        changes: settings of every part, as `Config.replace` takes them.
    """
    quality, equal = [], []
    for number, world in enumerate(WORLDS):
        config = preset(preset_name, world).replace(changes)
        if number:  # how far luck reaches is measured once
            config = config.replace({"arms": [arm for arm in config.arms if arm != AA_ARM]})
        few = config.replace({"arms": (config.arms[0], *_CHALLENGERS)})
        name = f"quality-{world}"
        quality.append(Part(name=name, config=config))
        budget = _CHALLENGERS[-1]
        equal.append(Part(name=f"equal-latency-{world}", config=few, budget=budget, reuse=name))
    few = equal[0].config
    rule = few.replace({"model.ranking_rule": "long_view"})
    reranked = few.replace({"model.set_step": "learned"})
    name = quality[0].name
    return (
        *quality,
        *equal,
        Part(name="rule-long-view", config=rule, reuse=name),
        Part(name="set-step-learned", config=reranked, reuse=name),
    )


def add_experiment(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    experiment = add_command(commands, "experiment", _HELP)
    experiment.add_argument("--out", type=Path, required=True, help="a folder for all the runs")
    add_settings(experiment, ("seed", "replicates", "users", "days"), default="experiment")
    experiment.add_argument(
        "--budget", metavar="ARM|MS", help="of the equal-latency parts (default: the cost of IFA+)"
    )
    experiment.add_argument("--parts", help="comma-separated names of parts (default: all)")
    experiment.add_argument("--processes", type=int, metavar="N", help="default: the cores")


def run_experiment(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    processes = usable_cores() if args.processes is None else args.processes
    require(processes >= 1, "processes", processes, ">= 1")
    require(args.world is None, "world", args.world, "left out: every world has its parts")
    parts = {
        part.name: part
        for part in experiment_parts(args.preset or args.default_preset, changes_of(args))
    }
    names = [name.strip() for name in args.parts.split(",")] if args.parts else list(parts)
    for name in names:
        if name not in parts:
            raise unknown_name("part", name, parts)
    out = args.out.resolve()
    for number, name in enumerate(sorted(names, key=list(parts).index), 1):
        print(f"part {number} of {len(names)}: {name}", file=sys.stderr)
        try:
            _run_part(parts[name], out, processes, args.budget)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command continues", file=sys.stderr)
            return EXIT_INTERRUPTED
        print(name)
        print_verdicts(out / name)
    print(write_comparison([out / n for n in parts if (out / n / "result.json").exists()], out))
    return 0


def _run_part(part: Part, out: Path, processes: int, budget: str | None) -> None:
    root, config = out / part.name, part.config
    resume = (root / "config.json").exists()
    if part.budget is not None and not resume:
        config = with_budget(config, budget or part.budget)
    elif part.budget is not None:  # as it was measured when the part was begun
        saved = load_config(root)
        measured = ("regime", "budget_ms", "candidate_limits")
        config = config.replace({name: getattr(saved, name) for name in measured})
    reuse = None if part.reuse is None else out / part.reuse
    if reuse is not None and not (reuse / "config.json").exists():
        reuse = None  # that part was not asked for
    simulate(config, root, processes=processes, resume=resume, reuse=reuse)

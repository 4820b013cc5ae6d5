"""`python -m simulator run`: its flags, its help, and what it does before and after the loop.

Ray is imported only without `--plain`, after the environment that keeps it private is set.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import sys
from pathlib import Path

from ifa_ray.config import require
from ifa_ray.data.run_folder import RunFolder
from ifa_ray.errors import ConfigError
from simulator.cli.settings import EXIT_INTERRUPTED, add_command, add_settings, config_of
from simulator.run.cluster import Cluster
from simulator.run.presets import REGIMES, RunConfig

_HELP = """\
Runs the closed loop and the A/B comparison.

Synthetic users with lifelong histories ask for slates; a retrieval actor emits candidates; each
arm's ranker, behind Ray Serve, picks the top set; what users do is logged as Parquet; Ray Train
learns from each day's log and publishes versions that the rankers pick up. At the end the arms are
compared by replicates, and result.json and report.html are written.

examples:
  python -m simulator run --preset quick
  python -m simulator run --preset smoke --arms twin,ifa,random --out runs/mine
  python -m simulator run --arms twin,mine=my_package.my_module:MyRanker
  python -m simulator run --resume --out runs/mine      # continue after Ctrl-C or a crash
  python -m simulator run --preset smoke --plain 2      # two plain processes instead of Ray
  python -m simulator run --preset paper --dry-run      # what it would cost, measured here
  python -m simulator run --regime equal_latency --budget ifa_plus    # the same time for all
  ray job submit --working-dir . -- python -m simulator run --preset smoke --out $PWD/runs/job
"""


_SETTINGS = (
    "arms",
    "seed",
    "replicates",
    "users",
    "days",
    "burn_in_days",
    "world.num_candidates",
    "world.slate_size",
    "model.top_k",
    "train_requests_per_day",
)


def add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    run = add_command(commands, "run", _HELP)
    add_settings(run, _SETTINGS, num_candidates="candidates")
    run.add_argument(
        "--regime", choices=REGIMES, help="all candidates for all (default), or the same time"
    )
    run.add_argument(
        "--budget",
        metavar="ARM|MS",
        help="with equal_latency: milliseconds of CPU per request, or the arm whose cost they are "
        "(default: the last arm); measured now and written into the run's config",
    )
    run.add_argument("--out", type=Path, help="the run's folder (default: runs/PRESET-TIME)")
    run.add_argument("--resume", action="store_true", help="continue the run in --out")
    run.add_argument(
        "--reuse", type=Path, metavar="RUN", help="a run of the same worlds: what is equal is taken"
    )
    run.add_argument("--dry-run", action="store_true", help="only print what it would cost here")
    run.add_argument(
        "--plain",
        type=int,
        metavar="N",
        help="no Ray and no serving: N plain processes, at most one an arm; the same bytes",
    )
    cluster = run.add_argument_group("on Ray")
    for name, field in Cluster.__dataclass_fields__.items():
        kind = str if name == "address" else int
        flag = f"--{name.replace('_', '-')}"
        cluster.add_argument(flag, type=kind, default=field.default, help=field.metadata["doc"])


def run_run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.run.opening import link_latest, load_config
    from simulator.run.simulate import simulate

    if args.resume and args.out is None:
        raise ConfigError("out == None, must name the run to continue with --resume.")
    budget, is_limited = args.budget, args.regime == "equal_latency"
    require(args.reuse is None or not args.resume, "reuse", args.reuse, "left out with --resume")
    rule = "left out without --regime equal_latency"
    require(budget is None or is_limited, "budget", budget, rule)
    config = config_of(args, load_config(args.out) if args.resume else None)
    if args.plain is not None:
        require(args.plain >= 1, "plain", args.plain, ">= 1")
        require(args.address is None, "address", args.address, "left out with --plain: no cluster")
    name = f"{config.preset}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    # Resolved now: `latest` may be what the user named, and will point elsewhere.
    root = (args.out or Path("runs") / name).resolve()
    cluster = Cluster(**{name: getattr(args, name) for name in Cluster.__dataclass_fields__})
    _find_rankers(config)
    if args.dry_run:
        from simulator.run.costs import estimate_run

        say = functools.partial(print, file=sys.stderr)
        print("\n".join(estimate_run(config, say).lines()))
        return 0
    if is_limited and not args.resume:
        config = with_budget(config, budget)
    try:
        more = {"cluster": cluster, "resume": args.resume, "reuse": args.reuse}
        simulate(config, root, processes=args.plain, **more)
    except KeyboardInterrupt:
        text = f"continue with: python -m simulator run --resume --out {root}"
        print(f"\ninterrupted; {text}", file=sys.stderr)
        return EXIT_INTERRUPTED
    try:
        link_latest(root)
    except OSError as error:
        print(f"warning: no `latest` beside {root}: {error.strerror}", file=sys.stderr)
    print_verdicts(root)
    return 0


def with_budget(config: RunConfig, budget: str | None) -> RunConfig:
    """The config with every arm's candidates limited to what it can rank in the same time."""
    from simulator.run.costs import measure_budget

    measured = measure_budget(config, budget or config.parsed_arms[-1].name)
    print("\n".join(measured.lines()), file=sys.stderr)
    limits = [f"{arm}={limit}" for arm, limit in measured.limits.items()]
    changes = {"budget_ms": round(measured.budget_ms, 3), "candidate_limits": limits}
    return config.replace({"regime": "equal_latency", **changes})


def _find_rankers(config: RunConfig) -> None:
    """Imports the rankers named on the command line, to fail before anything starts."""
    specs = [arm.ranker for arm in config.parsed_arms if arm.ranker and not arm.in_world]
    if specs:
        from ifa_ray.plugins import load_ranker_class

        for spec in specs:
            load_ranker_class(spec)


def print_verdicts(root: Path) -> None:
    """A finished run's verdicts, a line each, and where its report lies."""
    folder = RunFolder(root)
    for verdict in json.loads(folder.result.read_bytes())["ab"]["verdicts"].values():
        print(verdict["line"])
    print(folder.report)


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    report = commands.add_parser("report", description="Writes a finished run's report.html again.")
    report.add_argument("run", type=Path, metavar="RUN_DIR")


def run_report(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ifa_ray.abtest.report.render import write_report

    print(write_report(args.run))
    return 0

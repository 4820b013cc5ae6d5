"""The command line: `python -m simulator run | log | report | calibration | sensitivity | ...`.

Parses and prints; the work is elsewhere. Ray is imported only by the command that needs it, after
the environment that keeps it private is set.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.config import require
from ifa_ray.data.run_folder import write_atomically
from ifa_ray.errors import ConfigError, IfaRayError
from ifa_ray.processes import usable_cores
from simulator.cluster import Cluster
from simulator.config import WORLDS
from simulator.presets import ARMS, PRESETS, REGIMES, RunConfig, override, preset
from simulator.quiet import private_ray_environment, quiet_ray_logs

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

RUN_HELP = """\
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
  python -m simulator run --regime equal_latency --budget ifa_plus    # the same time for all
  ray job submit --working-dir . -- python -m simulator run --preset smoke --out $PWD/runs/job
"""

LOG_HELP = """\
Writes a warm-up log and nothing else: synthetic users live lifelong histories under the earlier
policy, and their last requests are logged with all candidates. No ranker and no Ray: rankers can
be trained and compared on it offline (python -m ifa_ray evaluate --data DIR). It is the beginning
of a run, byte for byte: python -m simulator run --resume --out DIR continues it.

examples:
  python -m simulator log --preset quick --world balanced --replicates 5 --out logs/balanced
  python -m simulator log --preset standard --users 64 --requests 16 --out logs/long
  python -m simulator log --max-history 500 --set world.history_median=400 --out logs/short
"""

CALIBRATION_HELP = """\
Prints the world's figures beside the real ones: target, source and tier, achieved, distance, what
is allowed, verdict. A miss is shown as a miss. The feed is measured on worlds that were not solved
on, under the earlier policy; random exposure in closed form, as a uniformly random ranker of the
whole catalogue would meet it. With --run, of every arm of a finished run instead.

examples:
  python -m simulator calibration --preset kuairand --svg kuairand.svg
  python -m simulator calibration --preset quick --world exact_heavy
  python -m simulator calibration --run runs/mine
"""

CALIBRATE_HELP = """\
Fits a world to a log in the form of docs/log.md: levels by the solver of the named worlds, lengths
of histories and videos as lognormals, popularity as a power law of rank, sessions, and how far
users differ. What it writes is a preset.

examples:
  python -m simulator calibrate --log logs/mine --out mine.json
  python -m simulator run --preset mine.json
  python -m simulator calibration --preset mine.json
"""

SET_HEADROOM_HELP = """\
Measures, by the oracle, what a set step recovers of what repetition costs a greedy list.

A ranker learns a world's warm-up and first days; then, for each request that its users make, the
true expected watch time of whole slates is compared: the greedy list by learned score, the best set
under the same scores (repetition known exactly), the set steps mmr, dpp and learned, and the two
that know everything. Plain Python, no Ray; about two minutes a world. See docs/set-step.md.

examples:
  python -m simulator set-headroom --world balanced --seed 1 --seeds 5
  python -m simulator set-headroom --preset smoke --users 12 --json
"""

SENSITIVITY_HELP = """\
Repeats the A/B comparison with one mechanism of the world moved at a time, zero included, and
prints where each arm wins. Every row is a whole run (plain processes, no Ray) in a folder of its
own below --out: the same command again does only what is missing. About a minute of one core a row.

examples:
  python -m simulator sensitivity --out runs/sensitivity
  python -m simulator sensitivity --knobs mood_gain,loyalty_gain --replicates 12 --out runs/some
  python -m simulator sensitivity --set 'model.cross_features=["channel","category","author"]' \
      --out runs/with-counts
"""

# Flags that replace one setting of the preset.
SETTINGS = {
    "seed": ("seed", "everything random derives from it"),
    "replicates": ("replicates", "independent worlds; fewer than 3 give no verdict"),
    "users": ("users", "per replicate"),
    "days": ("days", "simulated under the arms"),
    "burn-in-days": ("burn_in_days", "the first of them, shown but not counted"),
    "candidates": ("world.num_candidates", "C, ranked per request"),
    "slate-size": ("world.slate_size", "how many of them are shown, at most"),
    "top-k": ("model.top_k", "k, behaviours that two-stage models look at"),
    "train-requests-per-day": ("train_requests_per_day", "samples each model learns per day"),
}

LOG_SETTINGS = {
    **{flag: SETTINGS[flag] for flag in ("seed", "replicates", "users", "candidates")},
    "requests": (
        "world.warmup_requests_per_user",
        "per user, made with all candidates and all logged: the last of the prehistory",
    ),
    "max-history": ("world.max_history", "T, that a request carries; models read as much"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.command(args))
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="The world that tests rankers: an offline A/B test in a closed loop.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_run(commands)
    _add_log(commands)
    report = commands.add_parser("report", help="write a finished run's report.html again")
    report.add_argument("run", type=Path, metavar="RUN_DIR")
    report.set_defaults(command=_report)
    _add_calibration(commands)
    _add_calibrate(commands)
    _add_set_headroom(commands)
    _add_sensitivity(commands)
    return parser


def _add_sensitivity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sensitivity = commands.add_parser(
        "sensitivity",
        help="repeat the A/B with each mechanism of the world moved, zero included",
        description=SENSITIVITY_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sensitivity.add_argument("--preset", default="smoke", choices=sorted(PRESETS))
    sensitivity.add_argument("--world", default="balanced", choices=sorted(WORLDS))
    sensitivity.add_argument("--seed", type=int, default=0, help="of every row (default: 0)")
    sensitivity.add_argument("--arms", help="comma-separated, the first is the control")
    sensitivity.add_argument("--knobs", help="comma-separated settings of the world (default: all)")
    for flag in ("replicates", "users", "days", "train-requests-per-day"):
        sensitivity.add_argument(f"--{flag}", type=int, metavar="N")
    _add_set(sensitivity)
    sensitivity.add_argument("--out", type=Path, required=True, help="a folder for all the runs")
    sensitivity.add_argument("--processes", type=int, metavar="N", help="default: the cores")
    sensitivity.set_defaults(command=_sensitivity)


def _add_calibration(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibration = commands.add_parser(
        "calibration",
        help="print the world's figures beside the real ones: target, achieved, distance, verdict",
        description=CALIBRATION_HELP,
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
    calibration.set_defaults(command=_calibration)


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="fit a world's levels and distributions to a log of your own",
        description=CALIBRATE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    calibrate.add_argument("--log", type=Path, required=True, metavar="PATH", help="a run's folder")
    calibrate.add_argument("--out", type=Path, required=True, metavar="FILE", help="the preset")
    calibrate.add_argument("--preset", default="quick", help="whose sizes it has (default: quick)")
    calibrate.add_argument("--world", help=f"whose mechanisms it has: {', '.join(WORLDS)}")
    calibrate.add_argument("--seed", type=int, default=2022, metavar="N", help="of sampled worlds")
    calibrate.set_defaults(command=_calibrate)


def _add_set_headroom(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    headroom = commands.add_parser(
        "set-headroom",
        help="measure what set steps recover of what repetition costs a greedy list",
        description=SET_HEADROOM_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    headroom.add_argument("--preset", default="quick", choices=sorted(PRESETS))
    headroom.add_argument("--world", default="balanced", help="default: balanced")
    headroom.add_argument("--seed", type=int, default=9000, metavar="N", help="default: 9000")
    headroom.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="this many worlds from --seed on"
    )
    headroom.add_argument("--model", default="ifa", help="default: ifa")
    headroom.add_argument("--users", type=int, default=96, metavar="N", help="default: 96")
    headroom.add_argument("--learn-days", type=int, default=1, metavar="N", help="default: 1")
    headroom.add_argument("--measured-days", type=int, default=2, metavar="N", help="default: 2")
    headroom.add_argument(
        "--rules",
        default="pitctr,long_view",
        help="ranking rules, comma-separated; users are shown the first one's lists",
    )
    headroom.add_argument(
        "--strengths", metavar="MMR,DPP,LEARNED", help="of the set steps (default: as chosen)"
    )
    headroom.add_argument("--json", action="store_true", help="print JSON instead of a table")
    headroom.set_defaults(command=_set_headroom)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="run the closed loop and the A/B comparison",
        description=RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "--arms",
        help=f"comma-separated, the first is the control: {', '.join(ARMS)}, or "
        "NAME=package.module:Class for a ranker of your own (its code is run)",
    )
    _add_settings(run, SETTINGS)
    run.add_argument("--out", type=Path, help="the run's folder (default: runs/PRESET-TIME)")
    run.add_argument("--resume", action="store_true", help="continue the run in --out")
    run.add_argument("--address", help="of a Ray cluster (default: a private one on this machine)")
    run.add_argument("--user-actors", type=int, default=2, metavar="N", help="default: 2")
    run.add_argument("--retrieval-actors", type=int, default=1, metavar="N", help="default: 1")
    run.add_argument("--replicas", type=int, default=1, metavar="N", help="per arm, default: 1")
    run.add_argument(
        "--regime",
        choices=REGIMES,
        help="quality: every arm ranks all candidates (the default); equal_latency: as many as it "
        "can in the --budget, measured now and written into the run's config",
    )
    run.add_argument(
        "--budget",
        metavar="ARM|MS",
        help="with equal_latency: milliseconds of CPU per request, or the arm whose cost they are "
        "(default: the last arm)",
    )
    run.add_argument(
        "--plain",
        type=int,
        metavar="N",
        help="no Ray and no serving: N plain processes, at most one an arm; the same bytes",
    )
    run.set_defaults(command=_run)


def _add_log(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    log = commands.add_parser(
        "log",
        help="write a warm-up log for offline comparisons, without rankers and without Ray",
        description=LOG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_settings(log, LOG_SETTINGS)
    log.add_argument("--out", type=Path, required=True, help="the log's folder, absent or empty")
    log.add_argument("--resume", action="store_true", help="finish the log in --out")
    log.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="that live shards side by side; changes no byte (default: the cores)",
    )
    log.set_defaults(command=_log, arms=None)


def _add_settings(
    command: argparse.ArgumentParser, settings: Mapping[str, tuple[str, str]]
) -> None:
    """The flags that make a config of a preset."""
    command.add_argument(
        "--preset", help=f"one of {', '.join(PRESETS)}, or a file of `calibrate` (default: quick)"
    )
    command.add_argument("--world", help=f"named world: {', '.join(WORLDS)} (default: balanced)")
    for flag, (_, text) in settings.items():
        command.add_argument(f"--{flag}", type=int, metavar="N", help=text)
    _add_set(command)
    command.set_defaults(settings=settings)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, as config.json names it: world.mood_gain=0, "
        "model.ranking_rule=long_view, training.learning_rate=0.001; may be repeated",
    )


def _run(args: argparse.Namespace) -> int:
    from simulator.opening import link_latest, load_config, open_run

    if args.resume and args.out is None:
        raise ConfigError("out == None, must name the run to continue with --resume.")
    config = _config(args, load_config(args.out) if args.resume else None)
    require(args.budget is None or args.regime == "equal_latency", "budget", args.budget,
            "left out without --regime equal_latency")  # fmt: skip
    if args.plain is not None:
        require(args.plain >= 1, "plain", args.plain, ">= 1")
        require(args.address is None, "address", args.address, "left out with --plain: no cluster")
    name = f"{config.preset}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    # Resolved now: `latest` may be what the user named, and will point elsewhere.
    root = (args.out or Path("runs") / name).resolve()
    cluster = Cluster(
        address=args.address,
        user_actors=args.user_actors,
        retrieval_actors=args.retrieval_actors,
        replicas=args.replicas,
    )
    if args.user_actors > config.shards:
        print(
            f"warning: user_actors == {args.user_actors}, but {config.shards} shards keep only "
            f"{config.shards} busy.",
            file=sys.stderr,
        )
    _find_rankers(config)
    if args.regime == "equal_latency" and not args.resume:
        config = _with_budget(config, args.budget)
    with open_run(root, config, args.resume) as folder:
        if not folder.result.exists():
            try:
                if args.plain is not None:
                    from simulator.plain_run import run_plain

                    run_plain(folder, config, args.plain)
                else:
                    if cluster.embedded:
                        private_ray_environment(root / ".ray-home")
                    quiet_ray_logs()
                    from simulator.loop import run

                    run(folder, config, cluster)
            except KeyboardInterrupt:
                print(
                    f"\ninterrupted; continue with: python -m simulator run --resume --out {root}",
                    file=sys.stderr,
                )
                return EXIT_INTERRUPTED
        try:
            link_latest(root)
        except OSError as error:
            print(f"warning: no `latest` beside {root}: {error.strerror}", file=sys.stderr)
        _print_verdict(json.loads(folder.result.read_bytes()))
        print(folder.report)
    return 0


def _with_budget(config: RunConfig, budget: str | None) -> RunConfig:
    """The config with every arm's candidates limited to what it can rank in the same time."""
    from simulator.budget import measure_budget

    measured = measure_budget(config, budget or config.parsed_arms[-1].name)
    print("\n".join(measured.lines()), file=sys.stderr)
    return dataclasses.replace(
        config,
        regime="equal_latency",
        budget_ms=round(measured.budget_ms, 3),
        candidate_limits=tuple(f"{arm}={limit}" for arm, limit in measured.limits.items()),
    )


def _log(args: argparse.Namespace) -> int:
    from simulator.opening import load_config, open_run
    from simulator.warmup_log import write_warmup_log

    config = _config(args, load_config(args.out) if args.resume else None)
    processes = usable_cores() if args.processes is None else args.processes
    require(processes >= 1, "processes", processes, ">= 1")
    root = args.out.resolve()
    with open_run(root, config, args.resume) as folder:
        try:
            total = write_warmup_log(folder, config, processes)
        except KeyboardInterrupt:
            print(
                f"\ninterrupted; continue with: python -m simulator log --resume --out {root}",
                file=sys.stderr,
            )
            return EXIT_INTERRUPTED
    print(
        f"{config.replicates} replicates, {total['users']:,} users, {total['impressions']:,} "
        f"impressions, {total['logged_requests']:,} logged requests of "
        f"{config.world.num_candidates:,} candidates"
    )
    print(root)
    return 0


def _find_rankers(config: RunConfig) -> None:
    """Imports the rankers named on the command line, to fail before anything starts."""
    specs = [arm.ranker for arm in config.parsed_arms if arm.ranker and not arm.in_world]
    if specs:
        from ifa_ray.plugins import load_ranker_class

        for spec in specs:
            load_ranker_class(spec)


def _config(args: argparse.Namespace, saved: RunConfig | None) -> RunConfig:
    """The preset with its flags, or the saved config, which flags may only repeat."""
    base = saved
    if base is None or args.preset is not None or args.world is not None:
        name = args.preset or (saved.preset if saved else "quick")
        base = preset(name, args.world or "balanced")
    changes = {
        name: getattr(args, flag.replace("-", "_"))
        for flag, (name, _) in args.settings.items()
        if getattr(args, flag.replace("-", "_")) is not None
    }
    if args.candidates is not None:  # most of the warm-up makes do with fewer, never with more
        fewer = min(args.candidates, base.world.warmup_candidates)
        changes["world.warmup_candidates"] = fewer
    if "world.max_history" in changes:  # of the world and of models that read it
        changes["model.max_history"] = changes["world.max_history"]
    changes |= dict(_setting(text) for text in args.set)
    if args.arms is not None:
        changes["arms"] = tuple(text.strip() for text in args.arms.split(","))
    return override(base, changes)


def _setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE; the value is JSON, or a plain word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"set == {text!r}, must be NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _report(args: argparse.Namespace) -> int:
    from ifa_ray.abtest.report.render import write_report

    print(write_report(args.run))
    return 0


def _calibration(args: argparse.Namespace) -> int:
    from simulator.calibration import calibration_of_arms, format_rows
    from simulator.calibration.crowd import CROWDS
    from simulator.calibration.figures import calibration_svg
    from simulator.calibration.table import compare_lives, live_worlds, surface_of
    from simulator.calibration.targets import curves

    if args.run is not None:
        from ifa_ray.data.run_folder import RunFolder
        from simulator.opening import load_config

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
    lives = live_worlds(config.world, surface=surface, crowd=crowd)
    rows = compare_lives(lives, surface, crowd)
    print(json.dumps(rows, indent=1) if args.json else format_rows(rows))
    if args.svg is not None:
        title = f"{name}, {args.world or 'balanced'}: the world and what was published"
        args.svg.write_text(calibration_svg(lives, curves(surface), title), encoding="utf-8")
        print(args.svg, file=sys.stderr)
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from simulator.calibration.fit import fit_log, write_preset

    base = preset(args.preset, args.world or "balanced")
    fitted = fit_log(
        args.log, base, args.seed, lambda line: print(line, file=sys.stderr, flush=True)
    )
    write_preset(args.out, fitted)
    print(args.out)
    return 0


def _set_headroom(args: argparse.Namespace) -> int:
    from simulator.set_headroom import HeadroomSettings, format_report, measure_headroom

    require(args.seeds >= 1, "seeds", args.seeds, ">= 1")
    settings = {
        "model": args.model,
        "users": args.users,
        "learn_days": args.learn_days,
        "measured_days": args.measured_days,
        "rules": tuple(text.strip() for text in args.rules.split(",")),
    }
    if args.strengths is not None:
        try:
            settings["strengths"] = tuple(float(text) for text in args.strengths.split(","))
        except ValueError:
            raise ConfigError(
                f"strengths == {args.strengths!r}, must be numbers, comma-separated."
            ) from None
    report = measure_headroom(
        preset(args.preset, args.world),
        range(args.seed, args.seed + args.seeds),
        HeadroomSettings(**settings),
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(json.dumps(report, indent=1) if args.json else format_report(report))
    return 0


def _sensitivity(args: argparse.Namespace) -> int:
    from simulator.sensitivity import SensitivitySettings, format_table, measure_sensitivity

    given: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("replicates", "users", "days", "train_requests_per_day")
        if getattr(args, name) is not None
    }
    for name in ("arms", "knobs"):
        if getattr(args, name) is not None:
            given[name] = tuple(text.strip() for text in getattr(args, name).split(","))
    changes = {"seed": args.seed, **dict(_setting(text) for text in args.set)}
    base = override(preset(args.preset, args.world), changes)
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


def _print_verdict(result: dict) -> None:
    for verdict in result["ab"]["verdicts"].values():
        print(verdict["line"])


if __name__ == "__main__":
    sys.exit(main())

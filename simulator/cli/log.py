"""`python -m simulator log`: its flags, its help, and its last lines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ifa_ray.config import require
from ifa_ray.processes import usable_cores
from simulator.cli.settings import EXIT_INTERRUPTED, add_command, add_settings, config_of

_HELP = """\
Writes a warm-up log and nothing else: synthetic users with lifelong histories under the earlier
policy, whose last requests are logged with all candidates. No ranker and no Ray: rankers can
be trained and compared on it offline (python -m ifa_ray evaluate --data DIR). It is the beginning
of a run, byte for byte: python -m simulator run --resume --out DIR continues it.

examples:
  python -m simulator log --preset quick --world balanced --replicates 5 --out logs/balanced
  python -m simulator log --preset standard --users 64 --requests 16 --out logs/long
  python -m simulator log --max-history 500 --set world.history_median=400 --out logs/short
"""

_SETTINGS = (
    "seed",
    "replicates",
    "users",
    "world.num_candidates",
    "world.warmup_requests_per_user",
    "world.max_history",
)


def add_log(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    log = add_command(commands, "log", _HELP)
    add_settings(log, _SETTINGS, num_candidates="candidates", warmup_requests_per_user="requests")
    log.add_argument("--out", type=Path, required=True, help="the log's folder, absent or empty")
    log.add_argument("--resume", action="store_true", help="finish the log in --out")
    log.add_argument(
        "--processes", type=int, metavar="N", help="side by side; no byte depends on it"
    )


def run_log(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.run.opening import load_config, open_run
    from simulator.run.shards import write_warmup_log

    config = config_of(args, load_config(args.out) if args.resume else None)
    processes = usable_cores() if args.processes is None else args.processes
    require(processes >= 1, "processes", processes, ">= 1")
    root = args.out.resolve()
    with open_run(root, config, args.resume) as folder:
        try:
            total = write_warmup_log(folder, config, processes)
        except KeyboardInterrupt:
            text = f"continue with: python -m simulator log --resume --out {root}"
            print(f"\ninterrupted; {text}", file=sys.stderr)
            return EXIT_INTERRUPTED
    print(
        f"{config.replicates} replicates, {total['users']:,} users, {total['impressions']:,} "
        f"impressions, {total['logged_requests']:,} logged requests of "
        f"{config.world.num_candidates:,} candidates"
    )
    print(root)
    return 0

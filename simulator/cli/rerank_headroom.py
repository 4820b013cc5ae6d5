"""`python -m simulator rerank-headroom`: its flags, its help, and its table.

Parses and prints; the measurement is in `simulator.studies.rerank_headroom`.
"""

from __future__ import annotations

import argparse
import json
import sys

from ifa_ray.config import require
from ifa_ray.errors import ConfigError
from simulator.run.presets import PRESETS, preset

_HELP = """\
Measures, by the oracle, what a set step recovers of what repetition costs a greedy list.

A ranker learns a world's warm-up and first days; then, for each request that its users make, the
true expected watch time of whole slates is compared: the greedy list by learned score, the best set
under the same scores (repetition known exactly), the set steps mmr, dpp and learned, and the two
that know everything. Plain Python, no Ray; about two minutes a world. See docs/re-ranking.md.

examples:
  python -m simulator rerank-headroom --world balanced --seed 1 --seeds 5
  python -m simulator rerank-headroom --preset smoke --users 12 --json
"""


def add_rerank_headroom(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    headroom = commands.add_parser(
        "rerank-headroom",
        description=_HELP,
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


def run_rerank_headroom(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from simulator.studies.rerank_headroom import HeadroomSettings, format_report, measure_headroom

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

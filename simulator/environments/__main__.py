"""Plays policies in an environment: `python -m simulator.environments`.

Knows the command line only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ifa_ray.errors import IfaRayError
from simulator.environments import IDS, REWARDS
from simulator.environments.policies import POLICIES, evaluate
from simulator.world.config import SCALES, WORLDS

EXIT_USAGE = 2
HELP = f"""\
Plays policies in an environment: the same episodes for each, so that they can be compared on pairs.
A model is trained on the users' prehistory first.

policies: {", ".join(POLICIES)}

examples:
  python -m simulator.environments --env simulator/Session-v0 --policy ifa --episodes 50 --seed 1
  python -m simulator.environments --policy random,popularity,ifa,oracle --users 256
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        report = evaluate(
            args.env,
            tuple(name.strip() for name in args.policy.split(",")),
            episodes=args.episodes,
            seed=args.seed,
            scale=args.scale,
            epochs=args.epochs,
            say=lambda text: print(text, file=sys.stderr, flush=True),
            world=args.world,
            world_seed=args.world_seed,
            users=args.users,
            reward=args.reward,
        )
    except IfaRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(json.dumps(report, indent=1) if args.json else _table(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator.environments",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", default="simulator/Session-v0", help=f"one of {', '.join(IDS)}")
    parser.add_argument("--policy", default="random,oracle", help="comma-separated")
    parser.add_argument("--episodes", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first episode")
    parser.add_argument("--scale", default="smoke", help=f"one of {', '.join(SCALES)}")
    parser.add_argument("--world", default="balanced", help=f"one of {', '.join(WORLDS)}")
    parser.add_argument("--world-seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--users", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--reward", default="watch_s", help=f"one of {', '.join(REWARDS)}")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="of models; default: 1")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _table(report: Mapping[str, Any]) -> str:
    first = next(iter(report["policies"]))
    lines = [
        f"{report['env']}, {report['scale']}/{report['world']}, {report['episodes']} episodes from "
        f"seed {report['seed']}; mean +- s.e.",
        f"{'policy':<16}{'return, ' + report['reward']:>22}{f'over {first}':>22}"
        f"{'requests':>10}{'regret, s/request':>22}",
    ]
    for name, row in report["policies"].items():
        over = "" if name == first else _pair(row, "over_first")
        lines.append(
            f"{name:<16}{_pair(row, 'return'):>22}{over:>22}"
            f"{row['requests']:>10.2f}{_pair(row, 'regret_s'):>22}"
        )
    return "\n".join(lines)


def _pair(row: Mapping[str, float], name: str) -> str:
    return f"{row[name]:.1f} +- {row[f'{name}_se']:.1f}"


if __name__ == "__main__":
    sys.exit(main())

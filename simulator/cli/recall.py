"""`python -m simulator recall`: its flags, its help, and its table.

Parses and prints; the measurement is in `simulator.studies.recall`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from ifa_ray.config import require
from simulator.run.presets import PRESETS, preset
from simulator.world.config import WORLDS

_HELP = """\
Measures, by the oracle, how many of the items that a user would watch longest the retrieval stage
finds. No ranker can show what is no candidate: this bounds them all.

Users live their histories under the earlier policy and each asks once, at noon of day 0. For the
100 and the 1,000 best of all live, unseen items, by true expected watch time (without mood and
boredom, which belong to a session), the table has a row for all channels together and one for each:

  recall      share of the best that are candidates by this channel, mean over users; the channels
              add up to all, since an item that several would bring counts for the first of them
  candidates  share of the candidates that are this channel's
  x chance    recall over that of as many unseen items drawn at random: 1 is no better than chance;
              explore, which draws at random from what the others left, is below 1 for that reason

Seconds at `quick`. Other seeds say how far to trust a row. See docs/world.md, Retrieval.

examples:
  python -m simulator recall --preset quick
  python -m simulator recall --world exact_heavy --users 96 --seed 3
  python -m simulator recall --preset smoke --json
"""


def add_recall(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    recall = commands.add_parser(
        "recall",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    recall.add_argument(
        "--preset",
        default="quick",
        help=f"one of {', '.join(PRESETS)}, or a file of `calibrate` (default: quick)",
    )
    recall.add_argument("--world", help=f"named world: {', '.join(WORLDS)} (default: balanced)")
    recall.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    recall.add_argument(
        "--users", type=int, default=24, metavar="N", help="that live and ask (default: 24)"
    )
    recall.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_recall(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    config = preset(args.preset, args.world or "balanced").world
    require(args.users >= 1, "users", args.users, ">= 1")
    require(args.seed >= 0, "seed", args.seed, ">= 0")

    import asyncio
    import time

    import numpy as np

    from simulator.studies.recall import oracle_recall, recall_table
    from simulator.world.day import run_warmup
    from simulator.world.world import ShardState, World

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:5.1f} s  {text}", file=sys.stderr, flush=True)

    start = time.perf_counter()
    say(f"a world of {config.num_items:,} items, seed {args.seed}")
    world = World(config, args.seed)
    shard = ShardState.new(world, np.arange(args.users, dtype=np.int32))
    say(f"{args.users} users live their histories")
    asyncio.run(run_warmup(world, shard))
    lived = int(shard.histories.lengths(shard.user_ids).sum())
    say(f"{lived:,} impressions; now each asks for {config.num_candidates:,} candidates")
    rows = oracle_recall(world, shard, day=0)
    say("measured")
    print(
        json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
        if args.json
        else recall_table(rows)
    )
    return 0

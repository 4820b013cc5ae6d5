"""Solves the levels of the named worlds and stores them with the package.

python -m simulator.calibration                                    all of them, some minutes
python -m simulator.calibration --scale quick --world balanced     one
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from simulator.calibration.measure import random_pool, surface_of, wanted_rates
from simulator.calibration.sample import CROWDS
from simulator.calibration.solve import solve_levels, solve_popularity
from simulator.world.config import (
    LEVELS_PATH,
    SCALES,
    WORLDS,
    WorldConfig,
    uncalibrated_config,
    world_config,
)

SOLVING_SEED = 2022


def main(arguments: Sequence[str] | None = None) -> int:
    """Solves what the arguments name, or everything."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.calibration",
        description="Solve the levels of named worlds and store them with the package. Needed "
        "after a change of the earlier policy, of retrieval or of a mechanism.",
    )
    parser.add_argument("--scale", choices=sorted(SCALES), action="append")
    parser.add_argument("--world", choices=sorted(WORLDS), action="append")
    parser.add_argument("--seed", type=int, default=SOLVING_SEED)
    args = parser.parse_args(arguments)
    # The paper's surface says little: what it leaves open stays as KuaiRand has it.
    pairs = [
        (scale, world)
        for scale in sorted(args.scale or SCALES, key=lambda scale: scale == "kuaishou_paper")
        for world in args.world or WORLDS
    ]
    started = time.monotonic()
    for number, (scale, world) in enumerate(pairs, 1):
        print(f"{scale}/{world} ({number} of {len(pairs)})", flush=True)
        start = uncalibrated_config(scale, world)
        if scale == "kuaishou_paper":
            start = start.with_levels(world_config("kuairand", world).levels)
        _store(f"{scale}/{world}", _solve(start, scale, args.seed), args.seed)
    print(f"stored in {LEVELS_PATH.name} after {time.monotonic() - started:.0f} s")
    return 0


def _solve(start: WorldConfig, scale: str, seed: int) -> WorldConfig:
    """Levels; where popularity is solved too, what is popular changes what they meet: in turns."""
    wanted, pool = wanted_rates(surface_of(scale)), random_pool(surface_of(scale))
    crowd = CROWDS.get(scale)
    if crowd is not None:
        start = solve_levels(start, wanted, seed, pool=pool, rounds=1)
        start = solve_popularity(start, crowd, wanted, seed, _say)
    # A small catalogue wears out: there the levels change what the policy shows the most.
    rounds = 5 if scale == "smoke" else 2
    return solve_levels(start, wanted, seed, pool=pool, rounds=rounds, report=_say)


def _say(line: str) -> None:
    print("  " + line, flush=True)


def _store(key: str, config: WorldConfig, seed: int) -> None:
    stored = json.loads(LEVELS_PATH.read_text()) if LEVELS_PATH.exists() else {"levels": {}}
    about = (
        "Levels of the named worlds, solved against kuairand_targets.json and "
        "kuaishou_paper_targets.json. Written by "
        f"`python -m simulator.calibration --seed {seed}`; not edited by hand."
    )
    levels = {**stored["levels"], key: {n: round(v, 5) for n, v in config.levels.items()}}
    ordered = {"about": about, "levels": dict(sorted(levels.items()))}
    LEVELS_PATH.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

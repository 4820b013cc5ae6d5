"""Where episodes begin: a world and users with a lived prehistory, made once and kept.

Knows the world; no Gymnasium. A prehistory costs far more than an episode, so the populations used
last are kept in this process and shared by all environments over them. Nobody changes one: an
episode lives on a copy of its user.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from simulator.config import WorldConfig
from simulator.day import DayLog, run_warmup
from simulator.profiles import LongProfiles, long_profiles
from simulator.queries import Candidates, RetrievalQuery
from simulator.slates import Visit
from simulator.users import history_targets
from simulator.world import ShardState, World

__all__ = ["MAX_POPULATIONS", "Population", "population"]

MAX_POPULATIONS = 4
"""So many are kept; the one used least recently goes first."""

# A prehistory that takes longer says so, this often.
QUIET_S = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """A world and its users at the end of their prehistory; never changed.

    Attributes:
        world: catalogue and rules.
        shard: the users, ids 0 to users - 1 in order, and their histories.
        profiles: what a platform knows of them over their whole histories, in the same order.
        log: of the prehistory; its last requests are there with all their candidates.
    """

    world: World
    shard: ShardState
    profiles: LongProfiles
    log: DayLog

    def __len__(self) -> int:
        return len(self.shard.user_ids)

    def retrieve(self, query: RetrievalQuery) -> Candidates:
        """The candidates of some requests, by the stage under which the prehistory was lived."""
        return self.world.retrieval.retrieve(query)


@functools.lru_cache(maxsize=MAX_POPULATIONS)
def population(config: WorldConfig, world_seed: int, users: int) -> Population:
    """The population of a world; a pure function of its arguments, computed once.

    Says on stderr how far it is when it takes more than a few seconds.
    """
    world = World(config, world_seed)
    shard = ShardState.new(world, np.arange(users, dtype=np.int32))
    targets = history_targets(config, shard.users)
    progress = _Progress(users, int(targets.sum()))
    log = _finish(world, shard, progress)
    profiles = long_profiles(world.catalog.observed, shard.histories, shard.user_ids)
    return Population(world=world, shard=shard, profiles=profiles, log=log)


def _finish(world: World, shard: ShardState, progress: _Progress) -> DayLog:
    """Lives the prehistory; in a thread of its own where an event loop runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_warmup(world, shard, observe=progress))
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(lambda: asyncio.run(run_warmup(world, shard, observe=progress))).result()


class _Progress:
    """Counts impressions and prints a line now and then."""

    def __init__(self, users: int, target: int) -> None:
        self._users, self._target, self._lived = users, target, 0
        self._next_s = time.monotonic() + QUIET_S

    def __call__(self, visit: Visit) -> None:
        self._lived += len(visit.row_P)
        if time.monotonic() >= self._next_s:
            share = min(self._lived / self._target, 1.0)
            print(f"prehistory of {self._users} users: {share:.0%}", file=sys.stderr, flush=True)
            self._next_s = time.monotonic() + QUIET_S

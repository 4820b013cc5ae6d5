"""`python -m simulator recall`: how many of the truly best items retrieval finds, by channel.

Knows hidden user state: a measurement of the world, never an input of a ranker. It bounds what any
ranker can do with the candidates, and says which channel an improvement would have to come from.

Letters: U users, C candidates, N items of which n are live, T the truly best of them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import numpy as np
import polars as pl

from ifa_ray.config import require
from simulator.cli.settings import add_command, add_world, preset_of
from simulator.world.arrays import Longs
from simulator.world.config import DAY_MS, START_MS
from simulator.world.day import run_warmup
from simulator.world.policy import expected_watch_s
from simulator.world.queries import Channel, RetrievalQuery, long_profiles, make_query
from simulator.world.users import UserState, drift
from simulator.world.world import ShardState, World

_TOPS = (100, 1_000)
_CHUNK = 65_536

_HELP = """\
Measures, by the oracle, how many of the items that a user would watch longest the retrieval stage
finds. No ranker can show what is no candidate: this bounds them all.

After a warm-up each user asks once, at noon of day 0. For the 100 and the 1,000 best of all live,
unseen items, by true expected watch time (without mood and boredom, which belong to a session), the
table has a row for all channels together and one for each:

  recall      share of the best that are candidates by this channel, mean over users; the channels
              add up to all, since an item that several would bring counts for the first of them
  candidates  share of the candidates that are this channel's
  lift        recall over that of as many unseen items drawn at random: 1 is no better than chance;
              explore, which draws at random from what the others left, is below 1 for that reason

Seconds at `quick`. Other seeds say how far to trust a row. See docs/world.md, Retrieval.

examples:
  python -m simulator recall --preset quick
  python -m simulator recall --world exact_heavy --users 96 --seed 3
"""


def add_recall(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    recall = add_command(commands, "recall", _HELP)
    add_world(recall)
    recall.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    recall.add_argument("--users", type=int, default=24, metavar="N", help="default: 24")


def run_recall(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    config = preset_of(args).world
    require(args.users >= 1, "users", args.users, ">= 1")
    require(args.seed >= 0, "seed", args.seed, ">= 0")
    print(f"a world of {config.num_items:,} items, seed {args.seed}", file=sys.stderr, flush=True)
    world = World(config, args.seed)
    shard = ShardState.new(world, np.arange(args.users, dtype=np.int32))
    asyncio.run(run_warmup(world, shard))
    with pl.Config(
        tbl_rows=-1,
        float_precision=3,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_formatting="ASCII_MARKDOWN",
    ):
        print(oracle_recall(world, shard))
    return 0


def oracle_recall(
    world: World, shard: ShardState, day: int = 0, tops: Sequence[int] = _TOPS
) -> pl.DataFrame:
    """Asks once for each user of a shard at noon of a day; changes nothing.

    Best is by true expected watch time (`simulator.world.policy`), over every live item: O(U n),
    that is, a quarter of a second a user at a million items.

    Returns:
        For each T, a row for all channels together and one for every channel that brought a
        candidate: `best` (T), `channel`, `recall`, `candidates` and `lift`, as `--help` has them.

    Raises:
        ConfigError: if a user has fewer than T items left.
    """
    query, users = _asked_at_noon(world, shard, day)
    found = world.retrieval.retrieve(query)
    live_U = world.catalog.observed.num_live(query.time_ms_U)
    best_UT = np.stack(
        [
            _best_unseen(
                world, users.take(np.array([row])), query, row, int(live_U[row]), max(tops)
            )
            for row in range(len(query))
        ]
    )
    # The channel of each of the best, -1 where it is no candidate.
    channel_UT = np.full(best_UT.shape, -1, np.int8)
    for row, (ids_C, best_T) in enumerate(zip(found.ids_UC, best_UT, strict=True)):
        place_T = np.minimum(np.searchsorted(ids_C, best_T), len(ids_C) - 1)
        is_found_T = ids_C[place_T] == best_T
        channel_UT[row, is_found_T] = found.channels_UC[row][place_T[is_found_T]]
    unseen = live_U.mean() - (query.seen_US >= 0).sum(axis=1).mean()
    rows = []
    for top in tops:
        for channel in ("all", *Channel):
            is_all = channel == "all"
            is_by_UC = found.channels_UC >= 0 if is_all else found.channels_UC == channel
            hit_UT = channel_UT[:, :top] >= 0 if is_all else channel_UT[:, :top] == channel
            if is_by_UC.any():
                recall, chance = hit_UT.mean(), is_by_UC.sum(axis=1).mean() / unseen
                name = "all" if is_all else Channel(channel).name.lower()
                rows.append((top, name, recall, is_by_UC.mean(), recall / chance))
    names = ["best", "channel", "recall", "candidates", "lift"]
    return pl.DataFrame(rows, schema=names, orient="row")


def _asked_at_noon(world: World, shard: ShardState, day: int) -> tuple[RetrievalQuery, UserState]:
    """The query that the stage gets at noon, and the users as they then are."""
    size = len(shard.user_ids)
    day_U = np.full(size, day, np.int32)
    users = shard.users.take(np.arange(size))
    drift(world.config, world.seed, users, day_U)
    query = make_query(
        world.config,
        shard.histories,
        long_profiles(world.catalog.observed, shard.histories, shard.user_ids),
        user_id_U=shard.user_ids,
        day_U=day_U,
        session_U=np.zeros(size, np.int32),
        round_U=np.zeros(size, np.int32),
        time_ms_U=np.full(size, START_MS + day * DAY_MS + DAY_MS // 2, np.int64),
        num_candidates=world.config.num_candidates,
    )
    return query, users


def _best_unseen(
    world: World, user: UserState, query: RetrievalQuery, row: int, live: int, top: int
) -> Longs:
    """The T live, unseen items that one user would watch longest, longest first."""
    watch_s_n = np.empty(live)
    for start in range(0, live, _CHUNK):
        ids_n = np.arange(start, min(start + _CHUNK, live), dtype=np.int32)
        time_ms = query.time_ms_U[row : row + 1]
        watch_s_n[ids_n] = expected_watch_s(world, user, ids_n[None], time_ms)[0]
    seen = query.seen_US[row]
    watch_s_n[seen[seen >= 0]] = -np.inf
    left = int(np.isfinite(watch_s_n).sum())
    require(top <= left, "top", top, f"<= {left} live, unseen items of user {user.user_id_U[0]}")
    return np.argsort(-watch_s_n, kind="stable")[:top]

"""How many of the truly best items the retrieval stage finds, by the oracle and by channel.

Knows hidden user state: a measurement of the world, never an input of a ranker. It bounds what any
ranker can do with the candidates, and says which channel an improvement would have to come from.

Letters: U users, C candidates, N items of which n are live, T the truly best of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ifa_ray.config import require
from simulator.world.config import DAY_MS, START_MS
from simulator.world.policy import expected_watch_s
from simulator.world.queries import Candidates, Channel, RetrievalQuery, long_profiles, make_query
from simulator.world.users import UserState, drift
from simulator.world.world import ShardState, World

ALL_CHANNELS = "all"
TOPS = (100, 1_000)
_CHUNK = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecallRow:
    """What one channel, or all together, brought.

    Attributes:
        top: T, how many of the best live items that a user has not seen are looked for.
        channel: name in lower case, or `ALL_CHANNELS`.
        recall: share of the T that are candidates by this channel, mean over users.
        candidates: share of the candidates that are by this channel, mean over users.
        lift: recall over that of as many items drawn at random; 1 is no better than chance.
    """

    top: int
    channel: str
    recall: float
    candidates: float
    lift: float


def oracle_recall(
    world: World, shard: ShardState, day: int, tops: Sequence[int] = TOPS
) -> list[RecallRow]:
    """Asks once for each user of a shard at noon of a day; changes nothing.

    Best is by true expected watch time (`simulator.world.policy`), over every live item: O(U n),
    that is,: a quarter of a second a user at a million items.

    Args:
        world: whose retrieval stage is asked, for C = `num_candidates`.
        shard: users with histories, at the boundary before `day`.
        day: 0 is the first after the warm-up.
        tops: values of T.

    Returns:
        For each T, a row for every channel that brought a candidate, and one for all together.

    Raises:
        ConfigError: if there are no users, or a user has fewer than T items left.
    """
    require(len(shard.user_ids) >= 1, "len(user_ids)", len(shard.user_ids), ">= 1")
    query, users = _asked_at_noon(world, shard, day)
    found = world.retrieval.retrieve(query)
    live_U = world.catalog.observed.num_live(query.time_ms_U)
    rows = []
    best_UT = [
        _best_unseen(world, users.take(np.array([row])), query, row, int(live_U[row]), max(tops))
        for row in range(len(query))
    ]
    for top in tops:
        channel_UT = np.stack([
            _channels_of(found, row, best_T[:top]) for row, best_T in enumerate(best_UT)
        ])  # fmt: skip
        unseen = live_U.mean() - (query.seen_US >= 0).sum(axis=1).mean()
        for channel in [None, *Channel]:
            is_by_UC = found.channels_UC >= 0 if channel is None else found.channels_UC == channel
            if not is_by_UC.any():
                continue
            hit_UT = channel_UT >= 0 if channel is None else channel_UT == channel
            chance = is_by_UC.sum(axis=1).mean() / unseen
            rows.append(
                RecallRow(
                    top=top,
                    channel=ALL_CHANNELS if channel is None else channel.name.lower(),
                    recall=float(hit_UT.mean()),
                    candidates=float(is_by_UC.mean()),
                    lift=float(hit_UT.mean() / chance),
                )
            )
    return rows


def recall_table(rows: Sequence[RecallRow]) -> str:
    """The rows as aligned text."""
    lines = [f"{'best':>6}  {'channel':<9} {'recall':>8} {'candidates':>11} {'x chance':>9}"]
    for previous, row in zip([None, *rows], rows, strict=False):
        top = f"{row.top:,}" if previous is None or previous.top != row.top else ""
        lines.append(
            f"{top:>6}  {row.channel:<9} {row.recall:>8.1%} {row.candidates:>11.1%} "
            f"{row.lift:>9.1f}"
        )
    return "\n".join(lines)


def _asked_at_noon(world: World, shard: ShardState, day: int) -> tuple[RetrievalQuery, UserState]:
    """What the stage is told at noon, and the users as they then are."""
    size = len(shard.user_ids)
    day_U = np.full(size, day, np.int32)
    users = shard.users.take(np.arange(size))
    drift(world.config, world.seed, users, day_U)
    query = make_query(
        world.config, shard.histories,
        long_profiles(world.catalog.observed, shard.histories, shard.user_ids),
        user_id_U=shard.user_ids, day_U=day_U, session_U=np.zeros(size, np.int32),
        round_U=np.zeros(size, np.int32),
        time_ms_U=np.full(size, START_MS + day * DAY_MS + DAY_MS // 2, np.int64),
        num_candidates=world.config.num_candidates,
    )  # fmt: skip
    return query, users


def _best_unseen(
    world: World, user: UserState, query: RetrievalQuery, row: int, live: int, top: int
) -> npt.NDArray[np.int64]:
    """The T live, unseen items that one user would watch longest, longest first."""
    watch_s_n = np.empty(live)
    for start in range(0, live, _CHUNK):
        ids_n = np.arange(start, min(start + _CHUNK, live), dtype=np.int32)
        watch_s_n[ids_n] = expected_watch_s(
            world, user, ids_n[None], query.time_ms_U[row : row + 1]
        )[0]
    seen = query.seen_US[row]
    watch_s_n[seen[seen >= 0]] = -np.inf
    left = int(np.isfinite(watch_s_n).sum())
    require(top <= left, "top", top, f"<= {left} live, unseen items of user {user.user_id_U[0]}")
    return np.argsort(-watch_s_n, kind="stable")[:top]


def _channels_of(found: Candidates, row: int, ids_T: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """The channel of each item in a user's candidates, -1 where it is none of them."""
    ids_C = found.ids_UC[row]
    place_T = np.minimum(np.searchsorted(ids_C, ids_T), len(ids_C) - 1)
    return np.where(ids_C[place_T] == ids_T, found.channels_UC[row][place_T], -1)

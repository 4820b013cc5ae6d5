"""Users' reactions to slates: random slots, scrolling, watching, feedback, and their effects.

Knows the hidden world; one request of many users is simulated at once. Knows nothing of rankers or
of how slates are made.

Letters: R users asking at once, C candidates, K slate size, P impressions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from ifa_ray.schema import pack_actions
from simulator.world.arrays import Bools, Floats, Ints, Longs
from simulator.world.catalog import Catalog
from simulator.world.config import WorldConfig
from simulator.world.crn import Purpose, uniform
from simulator.world.queries import Candidates, Channel, RetrievalQuery
from simulator.world.responses import (
    bias,
    feedback,
    is_long_view,
    play_time_s,
    utility,
    watch_distribution,
)
from simulator.world.users import SessionState, joy, leave_probability, remember_authors, satisfy
from simulator.world.world import ShardState, World

SWIPE_MS = 400
NETWORK_MS = 300
RANDOM_TRIES = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slates:
    """Slates shown to R users."""

    ids_RK: Ints
    channels_RK: npt.NDArray[np.int8]  # the channel that brought each, or `Channel.RANDOM`
    is_rand_RK: Bools  # the slot was filled at random


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Visit:
    """Reactions of R users to their slates."""

    # columns of the log, but request_id and model_version, [P] each
    impressions: dict[str, np.ndarray]
    # utility, bias and session_joy of the impressions, float64 [P]; for calibration and
    # tests, never for a log
    hidden: dict[str, np.ndarray]
    row_P: Longs  # which of the R users each impression belongs to
    left_R: Bools  # left the session
    end_ms_R: Longs  # when the next request can be made


def fill_random_slots(
    world: World, query: RetrievalQuery, ids_RK: Ints, candidates: Candidates
) -> Slates:
    """Gives a small share of slots to uniformly random catalogue items, as KuaiRand does.

    At most one slot of a request. Whether, where and with what are keyed by the request, not by
    the slate, so all arms show the same random items.
    """
    config, seed = world.config, world.seed
    ids_RK = ids_RK.copy()
    channels_RK = _channels_of(candidates, ids_RK)
    is_rand_RK = np.zeros(ids_RK.shape, bool)
    k = ids_RK.shape[1]
    random_R = uniform(seed, Purpose.RANDOM_SLOT, *query.keys, 0)[:, 0] < k * config.rand_share
    slot_R = (k * uniform(seed, Purpose.RANDOM_SLOT, *query.keys, 1)[:, 0]).astype(np.int64)
    rows = np.flatnonzero(random_R)
    live = world.catalog.observed.num_live(query.time_ms_U[rows])
    keys = (key[rows] for key in query.keys)
    draws = uniform(seed, Purpose.RANDOM_ITEM, *keys, np.arange(RANDOM_TRIES))
    for row, item_T in zip(rows, (draws * live[:, None]).astype(np.int32), strict=True):
        for item in item_T:  # the first is nearly always unseen: one pass, not a sort
            if not (query.seen_US[row] == item).any() and not (ids_RK[row] == item).any():
                ids_RK[row, slot_R[row]] = item
                channels_RK[row, slot_R[row]] = Channel.RANDOM
                is_rand_RK[row, slot_R[row]] = True
                break
    return Slates(ids_RK=ids_RK, channels_RK=channels_RK, is_rand_RK=is_rand_RK)


def show(
    world: World,
    shard: ShardState,
    rows: Longs,
    sessions: SessionState,
    query: RetrievalQuery,
    slates: Slates,
) -> Visit:
    """Simulates one request of the shard's users `rows`: updates shard and sessions in place."""
    config, seed, catalog = world.config, world.seed, world.catalog
    items = catalog.observed.items
    users, session, ids_RK = shard.users.take(rows), sessions.take(rows), slates.ids_RK
    keys = (query.user_id_U[:, None], query.day_U[:, None], query.session_U[:, None], ids_RK)

    bias_R = bias(config, users)
    fresh_RK = utility(config, catalog, users, ids_RK, query.time_ms_U, session.mood_U)
    seen = scroll(config, seed, catalog, session, keys, ids_RK, fresh_RK, bias_R)
    duration_ms_RK = items.duration_ms_N[ids_RK]
    watch = watch_distribution(config, seen.utility_UK, duration_ms_RK / 1000)
    loops_RK = uniform(seed, Purpose.REPLAY, *keys) < config.replay_share
    play_s_RK = play_time_s(watch, uniform(seed, Purpose.WATCH, *keys), loops_RK)
    play_ms_RK = np.rint(1000 * play_s_RK).astype(np.int32)
    actions = feedback(config, seed, keys, seen.utility_UK, play_ms_RK, duration_ms_RK)

    spent_ms_RK = np.where(seen.seen_UK, play_ms_RK + SWIPE_MS, 0).astype(np.int64)
    stop_ms_RK = query.time_ms_U[:, None] + np.cumsum(spent_ms_RK, axis=1)
    long_RK = seen.seen_UK & is_long_view(play_ms_RK, duration_ms_RK)
    remember_authors(users, items.author_id_N[ids_RK], long_RK)
    satisfy(users, seen.joy_UK, seen.seen_UK)
    users.last_ms_U[:] = stop_ms_RK[:, -1]
    shard.users.put(rows, users)
    sessions.put(rows, session)

    row_P, place_P = np.nonzero(seen.seen_UK)
    impressions = {
        "user_id": query.user_id_U[row_P],
        "video_id": ids_RK[row_P, place_P],
        "time_ms": (stop_ms_RK - spent_ms_RK)[row_P, place_P],
        "position": place_P.astype(np.int16),
        **{name: column[row_P, place_P] for name, column in actions.items()},
        "play_time_ms": play_ms_RK[row_P, place_P],
        "duration_ms": duration_ms_RK[row_P, place_P],
        "is_rand": slates.is_rand_RK[row_P, place_P].astype(np.int8),
        "channel": slates.channels_RK[row_P, place_P],
    }
    shard.histories.append_sorted(
        impressions["user_id"],
        impressions["video_id"],
        pack_actions(actions)[row_P, place_P],
        impressions["time_ms"],
    )
    return Visit(
        impressions=impressions,
        hidden={
            "utility": seen.utility_UK[row_P, place_P],
            "bias": bias_R[row_P],
            "session_joy": seen.session_joy_UK[row_P, place_P],
        },
        row_P=row_P,
        left_R=seen.left_U,
        end_ms_R=stop_ms_RK[:, -1] + NETWORK_MS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Exposure:
    """The ends of U users' scrolling."""

    seen_UK: Bools  # a prefix of each row
    utility_UK: Floats  # with boredom; meaningless where not seen
    joy_UK: Floats  # satisfaction with each impression
    session_joy_UK: Floats  # of the session so far, this impression included
    left_U: Bools  # the user left the session here


def scroll(
    config: WorldConfig,
    seed: int,
    catalog: Catalog,
    session: SessionState,
    keys: tuple[npt.ArrayLike, ...],
    slate_UK: Ints,
    fresh_utility_UK: Floats,
    bias_U: Floats,
) -> Exposure:
    """Walks down the slates of all users at once; updates the sessions in place.

    The first position is always seen. `keys` are user, day, session and item, broadcastable to
    [U, K]; `fresh_utility_UK` is before boredom; `bias_U` is eagerness, which is not satisfaction.
    """
    leave_UK = uniform(seed, Purpose.LEAVE, *keys)
    refresh_UK = uniform(seed, Purpose.REFRESH, *keys) < config.refresh_rate
    author_UK = catalog.observed.items.author_id_N[slate_UK]
    topic_UK, second_UK = catalog.topic_N[slate_UK], catalog.second_N[slate_UK]
    mix_UK = catalog.mix_N[slate_UK]
    seen_UK = np.zeros(slate_UK.shape, bool)
    utility_UK, joy_UK, session_joy_UK = (np.zeros(slate_UK.shape) for _ in range(3))
    here_U, left_U = np.ones(len(slate_UK), bool), np.zeros(len(slate_UK), bool)
    for k in range(slate_UK.shape[1]):
        item = (topic_UK[:, k], second_UK[:, k], mix_UK[:, k], author_UK[:, k])
        seen_UK[:, k] = here_U
        utility_UK[:, k] = fresh_utility_UK[:, k] - session.boredom(config, *item)
        joy_UK[:, k] = joy(utility_UK[:, k], bias_U)
        session.see(here_U, *item, joy_UK[:, k])
        session_joy_UK[:, k] = session.joy_U
        leaves_U = here_U & (leave_UK[:, k] < leave_probability(config, session.joy_U))
        left_U |= leaves_U
        here_U = here_U & ~leaves_U & ~refresh_UK[:, k]
        if not here_U.any():
            break
    return Exposure(
        seen_UK=seen_UK,
        utility_UK=utility_UK,
        joy_UK=joy_UK,
        session_joy_UK=session_joy_UK,
        left_U=left_U,
    )


def _channels_of(candidates: Candidates, ids_RK: Ints) -> npt.NDArray[np.int8]:
    """The channel of each chosen candidate; rows of `candidates` are sorted by id."""
    row = np.arange(len(ids_RK), dtype=np.int64)[:, None] << 32
    place_RK = np.searchsorted((row + candidates.ids_UC).ravel(), row + ids_RK)
    return candidates.channels_UC.ravel()[place_RK]

"""One possible future of a simulated user: requests, slates, reactions, sessions and days.

Knows the parts of the world and the order in which a request passes them, that of
`simulator.world.day`; no Gymnasium, no rewards.

An episode copies a user at the end of the prehistory and continues it under an id of its own, its
*key*. Every later draw of the world is keyed by it, so an episode depends on its key and the slates
shown, and on nothing else.

Letters: C candidates, K slate size, S sessions of a day; U and R are always 1 here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ifa_ray.data.history import HistoryBlocks
from ifa_ray.schema import History
from simulator.studies.set_value import fresh_utility, oracle_set, slate_watch_s
from simulator.world.arrays import Bools, Ints, Longs
from simulator.world.config import DAY_MS, START_MS, WorldConfig
from simulator.world.crn import Purpose, uniform
from simulator.world.day import DayLog, run_warmup
from simulator.world.queries import LongProfiles, long_profiles, make_query
from simulator.world.slates import fill_random_slots, show
from simulator.world.users import (
    GAP_MS,
    Moment,
    SessionState,
    day_fraction,
    drift,
    mood_topics,
    plan_day,
)
from simulator.world.world import ShardState, World

MAX_POPULATIONS = 4
ORACLE_POOL = 200  # the oracle chooses from this many candidates of the highest utility
_ROW = np.zeros(1, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """A world and its users at the end of their prehistory; shared, never changed."""

    world: World  # catalogue and rules
    shard: ShardState  # users 0, 1, ... and their histories
    profiles: LongProfiles  # of the users' whole histories, as retrieval reads them
    log: DayLog  # of the prehistory; its last requests are logged with all their candidates


@functools.lru_cache(maxsize=MAX_POPULATIONS)
def population(config: WorldConfig, world_seed: int, users: int) -> Population:
    """Simulates the prehistory of a population; the populations used last are kept."""
    world = World(config, world_seed)
    shard = ShardState.new(world, np.arange(users, dtype=np.int32))
    # In a thread of its own, because a notebook runs an event loop in this one.
    with ThreadPoolExecutor(max_workers=1) as pool:
        log = pool.submit(lambda: asyncio.run(run_warmup(world, shard))).result()
    profiles = long_profiles(world.catalog.observed, shard.histories, shard.user_ids)
    return Population(world=world, shard=shard, profiles=profiles, log=log)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """The user's reaction to a slate."""

    ids_K: Ints  # as shown: one slot may hold a random item instead of the chosen one
    seen_K: Bools  # a prefix
    # columns of the impressions table by name, [K] each, 0 where not seen
    columns: dict[str, np.ndarray]
    left: bool  # the user left the session


class Episode:
    """An episode of a user of a population, which comes on day 0.

    Attributes:
        user_id: whose future it is.
        day, session, round: int, of the pending request, from 0.
        time_ms: of the pending request.
        candidates: of the pending request, a batch of one.

    Args:
        population: where it begins.
        user_id: of a user of the population.
        key: int >= 0, which of the user's futures.
    """

    day: int
    session: int
    round: int
    time_ms: int
    _sessions: SessionState

    def __init__(self, population: Population, user_id: int, key: int) -> None:
        world, self.population, self.user_id = population.world, population, user_id
        self._users = population.shard.users.take(np.array([user_id]))
        self._users.user_id_U[:] = key
        self._profiles = population.profiles.take(np.array([user_id]))
        self._histories = HistoryBlocks()
        past = population.shard.histories.view(user_id)
        self._histories.append(key, past.ids_T, past.actions_T, past.times_ms_T)
        count_U, start_US = plan_day(world.config, world.seed, self._users, 0)
        if count_U[0] == 0:
            # An episode begins with a request, so a user whom the plan leaves at home comes once.
            first_U = uniform(world.seed, Purpose.SESSION_START, self._users.user_id_U, 0, 0)
            start_US[:, 0] = START_MS + (DAY_MS * day_fraction(first_U)).astype(np.int64)
        self._begin_day(0, max(int(count_U[0]), 1), start_US[0])

    def ask(self) -> None:
        """Makes the next request and retrieves its candidates."""
        config, row = self.population.world.config, np.ones(1, np.int32)
        self._query = make_query(
            config,
            self._histories,
            self._profiles,
            user_id_U=self._users.user_id_U,
            day_U=self.day * row,
            session_U=self.session * row,
            round_U=self.round * row,
            time_ms_U=np.array([self.time_ms]),
            num_candidates=config.num_candidates,
        )
        self.candidates = self.population.world.retrieval.retrieve(self._query)

    def show(self, ids_K: Ints) -> Shown:
        """Shows candidates, best first, in answer to the pending request."""
        world = self.population.world
        slates = fill_random_slots(world, self._query, ids_K[None], self.candidates)
        shard = ShardState(
            user_ids=self._users.user_id_U, users=self._users, histories=self._histories
        )
        visit = show(world, shard, _ROW, self._sessions, self._query, slates)
        self.time_ms = int(visit.end_ms_R[0])
        self.round += 1
        place_P = visit.impressions["position"]
        columns = {}
        for name, column_P in visit.impressions.items():
            columns[name] = np.zeros(len(ids_K), column_P.dtype)
            columns[name][place_P] = column_P
        seen_K = np.isin(np.arange(len(ids_K)), place_P)
        return Shown(
            ids_K=slates.ids_RK[0], seen_K=seen_K, columns=columns, left=bool(visit.left_R[0])
        )

    def come_again(self, gone_after_days: int) -> bool:
        """Moves to the user's next session, on whatever day; False if the user is gone.

        Users of this world never decide to stay away for good: gone is a platform's definition, so
        many days in a row without a session.
        """
        world = self.population.world
        self.session += 1
        if self.session < self._num_sessions:
            self._begin_session()
            return True
        for day in range(self.day + 1, self.day + 1 + gone_after_days):
            count_U, start_US = plan_day(world.config, world.seed, self._users, day)
            if count_U[0] > 0:
                # A nightly job has processed all that the user did before.
                self._profiles = long_profiles(
                    world.catalog.observed, self._histories, self._users.user_id_U
                )
                self._begin_day(day, int(count_U[0]), start_US[0])
                return True
        return False

    def history(self, limit: int) -> History:
        """The latest `limit` impressions."""
        return self._histories.view(int(self._users.user_id_U[0]), limit=limit)

    def oracle_slate(self) -> Ints:
        """Ids [K], greedy by true expected watch time, boredom included; uses hidden state.

        Greedy, so a slate that keeps the user longer with less now can exceed it.
        """
        world, moment, ids_RC = self.population.world, self._moment(), self.candidates.ids_UC
        if ids_RC.shape[1] > ORACLE_POOL:
            utility_C = fresh_utility(world, moment, ids_RC)[0]
            ids_RC = ids_RC[:, np.argsort(-utility_C, kind="stable")[:ORACLE_POOL]]
        return oracle_set(world, moment, ids_RC, world.config.slate_size, repetition=True)[0]

    def expected_watch_s(self, ids_K: Ints) -> float:
        """True expected watch seconds of a slate as chosen, before random slots are filled."""
        return float(slate_watch_s(self.population.world, self._moment(), ids_K[None])[0])

    def _moment(self) -> Moment:
        return Moment(
            users=self._users, sessions=self._sessions, time_ms_R=np.array([self.time_ms])
        )

    def _begin_day(self, day: int, num_sessions: int, start_S: Longs) -> None:
        self.day, self.session = day, 0
        self._num_sessions, self._start_S = num_sessions, start_S
        self._begin_session()

    def _begin_session(self) -> None:
        """Starts a session as planned, but not before the last one is well over."""
        config, seed = self.population.world.config, self.population.world.seed
        day_U, session_U = np.array([self.day], np.int32), np.array([self.session], np.int32)
        drift(config, seed, self._users, day_U)
        start_ms = int(self._start_S[self.session])
        self.time_ms = max(start_ms, int(self._users.last_ms_U[0]) + GAP_MS)
        self.round = 0
        mood_U = mood_topics(config, seed, self._users, day_U, session_U)
        self._sessions = SessionState.new(config, mood_U)

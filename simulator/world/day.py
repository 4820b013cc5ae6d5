"""The simulation of a day: users come, ask, are shown slates, watch, and leave or ask again.

Knows the order in which the parts of the world are called. The ranker and the retrieval stage are
arguments: async functions, wherever they run.

Letters: U users of a shard, R of them asking at once, C candidates, K slate size.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping

import numpy as np

from ifa_ray.errors import RankerError
from ifa_ray.schema import (
    IMPRESSION_COLUMNS,
    REQUEST_COLUMNS,
    RankRequest,
    RankResponse,
)
from simulator.world.arrays import Bools, Ints, Longs
from simulator.world.config import DAY_MS, START_MS
from simulator.world.crn import Purpose, uniform
from simulator.world.policy import choose_slates
from simulator.world.queries import Candidates, RetrievalQuery, long_profiles, make_query
from simulator.world.slates import Visit, fill_random_slots, show
from simulator.world.users import (
    GAP_MS,
    Moment,
    SessionState,
    day_fraction,
    drift,
    history_targets,
    mood_topics,
    plan_day,
)
from simulator.world.world import ShardState, World

Retrieve = Callable[[RetrievalQuery], Awaitable[Candidates]]
Rank = Callable[[list[RankRequest]], Awaitable[list[RankResponse]]]

# Share of a slate that a warm-up request adds to a history: room that is left to the last requests.
WARMUP_YIELD = 0.8
# The warm-up's calendar ends this many days early, so that no last session runs into day 0.
WARMUP_MARGIN_DAYS = 0.5
# Sessions between two nightly jobs of the warm-up, whose users come at different paces.
PROFILE_SESSIONS = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DayLog:
    """The actions of one shard's users in a day."""

    # `IMPRESSION_COLUMNS`, ordered by (user_id, time_ms, position)
    impressions: dict[str, np.ndarray]
    # `REQUEST_COLUMNS`, ordered by request_id, which is (user_id, watermark); candidates
    # int32 and channels int8 are [requests, C]
    requests: dict[str, np.ndarray]
    num_users: int  # users of the shard, present or not
    num_requests: int  # requests made, logged or not

    def summary(self) -> dict[str, int]:
        """Counts for a progress line."""
        return {
            "users": self.num_users,
            "active_users": len(np.unique(self.impressions["user_id"])),
            "requests": self.num_requests,
            "logged_requests": len(self.requests["request_id"]),
            "impressions": len(self.impressions["user_id"]),
            "clicks": int(self.impressions["is_click"].sum()),
            "play_time_ms": int(self.impressions["play_time_ms"].sum(dtype=np.int64)),
        }


async def run_day(
    world: World,
    shard: ShardState,
    day: int,
    *,
    retrieve: Retrieve,
    rank: Rank,
    model_version: int,
    num_candidates: int | None = None,
    observe: Callable[[Moment], None] | None = None,
) -> DayLog:
    """Simulates one day of a shard's users; updates the shard in place.

    Args:
        world: shared by all shards.
        shard: at the boundary before `day`.
        day: 0 is the first after the warm-up.
        retrieve: the retrieval stage.
        rank: answers requests in their order.
        model_version: the version that must answer.
        num_candidates: of each request; C, unless this ranker is given fewer.
        observe: is given all users who ask, hidden parts included, before `rank` is; for
            measurements and tests.

    Raises:
        RankerError: if an answer breaks the contract or is of another version.
    """
    config = world.config
    count = config.num_candidates if num_candidates is None else num_candidates
    num_sessions_U, start_ms_US = plan_day(config, world.seed, shard.users, day)
    simulation = _Simulation(world, shard, model_version)
    simulation.begin_sessions(np.flatnonzero(num_sessions_U), day, start_ms_US[:, 0])
    while len(rows := np.flatnonzero(simulation.session_U < num_sessions_U)):
        query = simulation.query(rows, count)
        candidates = await retrieve(query)
        if observe is not None:
            users, sessions = shard.users.take(rows), simulation.sessions.take(rows)
            observe(Moment(users=users, sessions=sessions, time_ms_R=query.time_ms_U))
        ids_RK = await _ask(world, shard, query, candidates, rank, model_version)
        draw_R = uniform(world.seed, Purpose.SAMPLE, *query.keys)[:, 0]
        ended = simulation.show(rows, query, candidates, ids_RK, draw_R < config.sample_rate)
        again = ended[simulation.session_U[ended] < num_sessions_U[ended]]
        next_U1 = np.minimum(simulation.session_U, config.max_sessions - 1)[:, None]
        simulation.begin_sessions(
            again, day, np.take_along_axis(start_ms_US, next_U1, axis=1)[:, 0]
        )
    return simulation.finish(count)


async def run_warmup(
    world: World,
    shard: ShardState,
    model_version: int = -1,
    observe: Callable[[Visit], None] = lambda _: None,
) -> DayLog:
    """Simulates the prehistory of new users under the earlier policy; updates the shard in place.

    Every user asks until the own history is long enough, at an own pace, so that all end just
    before day 0. The last requests of each are made with all C candidates and logged. `observe` is
    given every visit, hidden parts included; for calibration and tests.
    """
    config = world.config
    target_U = history_targets(config, shard.users)
    last = config.warmup_requests_per_user
    body_U = np.maximum(target_U - int(last * config.slate_size * WARMUP_YIELD), 1)
    simulation = _Simulation(world, shard, model_version, observe)
    everybody = np.arange(len(shard.user_ids))
    simulation.begin_warmup_sessions(everybody, target_U)
    while len(rows := np.flatnonzero(simulation.watermarks(everybody) < body_U)):
        simulation.serve_earlier(rows, target_U, config.warmup_candidates)
        await asyncio.sleep(0)  # this may take seconds: let others on the event loop run
    for _ in range(last if len(everybody) else 0):
        simulation.serve_earlier(everybody, target_U, config.num_candidates, logged=True)
        await asyncio.sleep(0)
    return simulation.finish(config.num_candidates)


class _Simulation:
    """A shard's users between requests: their days, sessions, clocks, profiles and log."""

    def __init__(
        self,
        world: World,
        shard: ShardState,
        model_version: int,
        observe: Callable[[Visit], None] = lambda _: None,
    ) -> None:
        self.world, self.shard = world, shard
        self._model_version, self._observe = model_version, observe
        num_users = len(shard.user_ids)
        self.day_U, self.session_U, self.round_U = np.zeros((3, num_users), np.int32)
        self.time_ms_U = np.zeros(num_users, np.int64)
        self.profiles = long_profiles(world.catalog.observed, shard.histories, shard.user_ids)
        self.sessions = SessionState.new(world.config, np.zeros(num_users, np.int32))
        self._impressions: list[Mapping[str, np.ndarray]] = []
        self._requests: list[Mapping[str, np.ndarray]] = []
        self._num_requests = 0

    def watermarks(self, rows: Longs) -> Longs:
        """History length of each user."""
        return self.shard.histories.lengths(self.shard.user_ids[rows])

    def begin_sessions(self, rows: Longs, day: int | np.ndarray, start_ms_U: np.ndarray) -> None:
        """Starts each user's session `session_U`; not before the last one is well over."""
        config, seed = self.world.config, self.world.seed
        self.day_U[rows] = day
        self.round_U[rows] = 0
        users = self.shard.users.take(rows)
        drift(config, seed, users, self.day_U[rows])
        self.shard.users.put(rows, users)
        self.time_ms_U[rows] = np.maximum(start_ms_U[rows], users.last_ms_U + GAP_MS)
        mood_R = mood_topics(config, seed, users, self.day_U[rows], self.session_U[rows])
        self.sessions.put(rows, SessionState.new(config, mood_R))

    def begin_warmup_sessions(self, rows: Longs, target_U: Longs) -> None:
        """Places sessions so that the calendar runs with the share of the history simulated."""
        config, shard = self.world.config, self.shard
        share_R = np.minimum(self.watermarks(rows) / target_U[rows], 1.0)
        days_R = share_R * (config.warmup_days - WARMUP_MARGIN_DAYS)
        day_R = np.floor(days_R).astype(np.int32)
        time_R = START_MS + (day_R - config.warmup_days) * np.int64(DAY_MS)
        start_ms_U = np.zeros(len(shard.user_ids), np.int64)
        start_ms_U[rows] = time_R + (DAY_MS * day_fraction(days_R - day_R)).astype(np.int64)
        self.begin_sessions(rows, day_R - config.warmup_days, start_ms_U)
        due = rows[self.session_U[rows] % PROFILE_SESSIONS == 0]
        if len(due):
            observed = self.world.catalog.observed
            self.profiles.put(due, long_profiles(observed, shard.histories, shard.user_ids[due]))

    def query(self, rows: Longs, num_candidates: int, stripes: int = 1) -> RetrievalQuery:
        """The query of each user's next request."""
        return make_query(
            self.world.config,
            self.shard.histories,
            self.profiles.take(rows),
            user_id_U=self.shard.user_ids[rows],
            day_U=self.day_U[rows],
            session_U=self.session_U[rows],
            round_U=self.round_U[rows],
            time_ms_U=self.time_ms_U[rows],
            num_candidates=num_candidates,
            stripes=stripes,
        )

    def show(
        self,
        rows: Longs,
        query: RetrievalQuery,
        candidates: Candidates,
        ids_RK: Ints,
        logged_R: Bools,
    ) -> Longs:
        """Shows slates and logs the reactions; returns those of `rows` whose session is over."""
        watermark_R = self.watermarks(rows)
        request_id_R = query.user_id_U.astype(np.int64) << 32 | watermark_R
        slates = fill_random_slots(self.world, query, ids_RK, candidates)
        visit = show(self.world, self.shard, rows, self.sessions, query, slates)
        self._observe(visit)
        self._num_requests += len(rows)
        versions_P = np.full(len(visit.row_P), self._model_version, np.int32)
        ids = {"request_id": request_id_R[visit.row_P], "model_version": versions_P}
        self._impressions.append({**visit.impressions, **ids})
        if logged_R.any():  # other rounds may have another number of candidates
            requests = {
                "request_id": request_id_R,
                "user_id": query.user_id_U,
                "time_ms": query.time_ms_U,
                "watermark": watermark_R.astype(np.int32),
                "candidates": candidates.ids_UC,
                "channels": candidates.channels_UC,
            }
            self._requests.append({name: column[logged_R] for name, column in requests.items()})
        self.time_ms_U[rows] = visit.end_ms_R
        self.round_U[rows] += 1
        ended = rows[visit.left_R | (self.round_U[rows] >= self.world.config.max_requests)]
        self.session_U[ended] += 1
        return ended

    def serve_earlier(
        self, rows: Longs, target_U: Longs, num_candidates: int, *, logged: bool = False
    ) -> None:
        """Simulates one request of the warm-up for each of `rows`, under the earlier policy."""
        world = self.world
        # Few candidates stand for all that C would be: a policy that shows the very best of each
        # channel all the time would wear the channels out.
        query = self.query(rows, num_candidates, world.config.num_candidates // num_candidates)
        candidates = world.retrieval.retrieve(query)
        ids_RK = choose_slates(
            world.catalog.observed, world.config, query, self.profiles.take(rows), candidates
        )
        ended = self.show(rows, query, candidates, ids_RK, np.full(len(rows), logged))
        self.begin_warmup_sessions(ended, target_U)

    def finish(self, num_candidates: int) -> DayLog:
        """The whole log, in order and in the contract's types."""
        impressions = {
            name: np.concatenate(
                [np.empty(0, dtype), *(part[name] for part in self._impressions)], dtype=dtype
            )
            for name, dtype in IMPRESSION_COLUMNS.items()
        }
        keys = (impressions[name] for name in ("position", "time_ms", "user_id"))
        order = np.lexsort(tuple(keys))
        requests = {}
        for name, spec in REQUEST_COLUMNS.items():
            dtype = spec.removeprefix("list<").removesuffix(">")
            empty = np.empty((0, num_candidates) if spec.startswith("list<") else 0, dtype)
            parts = [part[name] for part in self._requests]
            requests[name] = np.concatenate([empty, *parts], dtype=dtype)
        request_order = np.argsort(requests["request_id"])
        return DayLog(
            impressions={name: column[order] for name, column in impressions.items()},
            requests={name: column[request_order] for name, column in requests.items()},
            num_users=len(self.shard.user_ids),
            num_requests=self._num_requests,
        )


async def _ask(
    world: World,
    shard: ShardState,
    query: RetrievalQuery,
    candidates: Candidates,
    rank: Rank,
    model_version: int,
) -> Ints:
    """Slates [R, K] from the ranker, each answer of its request and of the day's version."""
    requests = []
    for row, user in enumerate(query.user_id_U.tolist()):
        watermark = shard.histories.length(user)
        requests.append(
            RankRequest(
                request_id=user << 32 | watermark,
                user_id=user,
                time_ms=int(query.time_ms_U[row]),
                candidates_C=candidates.ids_UC[row],
                channels_C=candidates.channels_UC[row],
                history=shard.histories.view(user, limit=world.config.max_history),
                k=world.config.slate_size,
            )
        )
    responses = await rank(requests)
    if len(responses) != len(requests):
        raise RankerError(f"len(responses) == {len(responses)}, must be {len(requests)}.")
    for request, response in zip(requests, responses, strict=True):
        # Ids and scores are checked where they are made (`ifa_ray.serving.versions.score`).
        for field, wanted in (("request_id", request.request_id), ("model_version", model_version)):
            if (found := getattr(response, field)) != wanted:
                raise RankerError(
                    f"request {request.request_id}: {field} == {found}, must be {wanted}."
                )
    return np.stack([response.ids_K for response in responses]).astype(np.int32)

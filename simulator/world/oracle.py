"""Rankers that know the world: by true expected watch time, and by popularity. Never for a log.

Knows everything that is hidden. Session intent and boredom belong to a session and are left out, so
the oracle is the best that a ranker of single items could know before a session begins: a bound of
those, not of rankers that see the session's impressions.

Letters: U users, X items per user.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ifa_ray.schema import RankRequest, RankResponse
from simulator.world.arrays import Floats, Ints, Longs
from simulator.world.responses import expected_play_s, utility, watch_distribution
from simulator.world.users import UserState
from simulator.world.world import ShardState, World


def expected_watch_s(world: World, users: UserState, ids_UX: Ints, time_ms_U: Longs) -> Floats:
    """Expected watch seconds of items for users, float64 [U, X]."""
    duration_s_UX = world.catalog.observed.items.duration_ms_N[ids_UX] / 1000
    utility_UX = utility(world.config, world.catalog, users, ids_UX, time_ms_U)
    watch = watch_distribution(world.config, utility_UX, duration_s_UX)
    return expected_play_s(watch, world.config.replay_share)


class WorldRanker:
    """Ranks the requests of one shard's users by a score that only the world knows."""

    def __init__(self, world: World, shard: ShardState) -> None:
        self._world, self._shard = world, shard
        self._row = {int(user): row for row, user in enumerate(shard.user_ids)}

    def rank(self, requests: Sequence[RankRequest], model_version: int = 0) -> list[RankResponse]:
        """Answers requests of the shard's users, in their order."""
        return [self._rank_one(request, model_version) for request in requests]

    def _rank_one(self, request: RankRequest, model_version: int) -> RankResponse:
        started = time.thread_time()
        score_C = self._score(request)
        best_K = np.argsort(-score_C, kind="stable")[: request.k]
        return RankResponse(
            request_id=request.request_id,
            ids_K=request.candidates_C[best_K],
            scores_K=score_C[best_K].astype(np.float32),
            model_version=model_version,
            rank_ms=1e3 * (time.thread_time() - started),
        )

    def _score(self, request: RankRequest) -> Floats:
        """One score per candidate, [C]; higher is better."""
        raise NotImplementedError


class OracleRanker(WorldRanker):
    """By true expected watch time: an upper bound for rankers of single items."""

    def _score(self, request: RankRequest) -> Floats:
        users = self._shard.users.take(np.array([self._row[request.user_id]]))
        time_ms = np.array([request.time_ms])
        return expected_watch_s(self._world, users, request.candidates_C[None], time_ms)[0]


class PopularityRanker(WorldRanker):
    """By share of the platform's impressions, the same for every user."""

    def _score(self, request: RankRequest) -> Floats:
        return self._world.catalog.observed.popularity_N[request.candidates_C]


def world_ranker(arm: str, world: World, shard: ShardState) -> WorldRanker:
    """Makes the ranker of an arm that is in `simulator.run.presets.WORLD_RANKERS`."""
    return {"oracle": OracleRanker, "popularity": PopularityRanker}[arm](world, shard)

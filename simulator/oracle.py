"""True expected watch time of candidates: for bounds, calibration and tests, never for a log.

Knows everything that is hidden. Moods and boredom belong to a session and are left out, so this is
the best that a ranker of single items could know before a session begins.

Letters: U users, X items per user.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ifa_ray.schema import RankRequest, RankResponse
from simulator.responses import expected_play_s, watch_distribution
from simulator.users import UserState
from simulator.utility import utility
from simulator.world import ShardState, World

__all__ = ["OracleRanker", "expected_watch_s"]


def expected_watch_s(
    world: World,
    users: UserState,
    ids_UX: npt.NDArray[np.int32],
    time_ms_U: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Expected watch seconds of items for users, float64 [U, X]."""
    duration_s_UX = world.catalog.observed.items.duration_ms_N[ids_UX] / 1000
    utility_UX = utility(world.config, world.catalog, users, ids_UX, time_ms_U)
    watch = watch_distribution(world.config, utility_UX, duration_s_UX)
    return expected_play_s(watch, world.config.replay_share)


class OracleRanker:
    """Ranks a shard's requests by true expected watch time: an upper bound for item rankers."""

    def __init__(self, world: World, shard: ShardState) -> None:
        self._world, self._shard = world, shard
        self._row = {int(user): row for row, user in enumerate(shard.user_ids)}

    def rank(self, requests: list[RankRequest], model_version: int = 0) -> list[RankResponse]:
        """Answers requests of the shard's users, in their order."""
        return [self._rank_one(request, model_version) for request in requests]

    def _rank_one(self, request: RankRequest, model_version: int) -> RankResponse:
        users = self._shard.users.take(np.array([self._row[request.user_id]]))
        watch_s_C = expected_watch_s(
            self._world, users, request.candidates_C[None], np.array([request.time_ms])
        )[0]
        best_K = np.argsort(-watch_s_C, kind="stable")[: request.k]
        return RankResponse(
            request_id=request.request_id,
            ids_K=request.candidates_C[best_K],
            scores_K=watch_s_C[best_K].astype(np.float32),
            model_version=model_version,
        )

"""The earlier, imperfect recommender under which all prehistories are simulated.

Knows what a platform knows: popularity, content, categories, histories. It has no latent interests
and learns nothing; levels are calibrated under it, and models are first trained on its log.

Letters: U users, C candidates, K slate size, N items, R recent positives, V vectors, D content
width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ifa_ray.schema import RankRequest, RankResponse
from simulator.world.arrays import Floats, Ints, Longs
from simulator.world.catalog import ObservedCatalog
from simulator.world.config import WorldConfig
from simulator.world.crn import Purpose, uniform
from simulator.world.queries import Candidates, LongProfiles, RetrievalQuery
from simulator.world.responses import expected_play_s, utility, watch_distribution
from simulator.world.users import UserState
from simulator.world.world import ShardState, World

# Beside them: the settings `policy_popularity` and `policy_noise`.
LONG_WEIGHT = 2.0
RECENT_WEIGHT = 0.5
CATEGORY_WEIGHT = 1.5

_CHUNK = 1 << 18  # candidates whose content is gathered at once


def choose_slates(
    catalog: ObservedCatalog,
    config: WorldConfig,
    query: RetrievalQuery,
    profiles: LongProfiles,
    candidates: Candidates,
) -> Ints:
    """The best K candidates of each user, best first, int32 [U, K]."""
    ids_UC = candidates.ids_UC
    content_ND = catalog.items.content_ND
    score_UC = config.policy_popularity * np.log(len(catalog.items) * catalog.popularity_N[ids_UC])
    recent_URD = content_ND[query.recent_UR]
    recent_URD[query.recent_UR < 0] = 0
    score_UC += LONG_WEIGHT * best_match(content_ND, ids_UC, profiles.content_UMD)
    score_UC += RECENT_WEIGHT * best_match(content_ND, ids_UC, recent_URD)
    lift_UC = np.take_along_axis(
        profiles.category_lift_UG, catalog.items.category_N[ids_UC].astype(np.int64), axis=1
    )
    score_UC += CATEGORY_WEIGHT * lift_UC
    user, day, session, _ = query.keys
    noise_UC = uniform(catalog.seed, Purpose.POLICY, user, day, session, ids_UC)
    score_UC -= config.policy_noise * np.log(-np.log(noise_UC))
    best_UK = np.argsort(-score_UC, axis=1, kind="stable")[:, : config.slate_size]
    return np.take_along_axis(ids_UC, best_UK, axis=1)


def best_match(
    content_ND: npt.NDArray[np.float32], ids_UC: Ints, vectors_UVD: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Inner product of each candidate with the closest of its user's vectors, at least 0, [U, C].

    Summed dimension by dimension: a matrix product's last bits may depend on the batch.
    """
    best_UC = np.zeros(ids_UC.shape, np.float32)
    step = max(1, _CHUNK // ids_UC.shape[1])
    for start in range(0, len(ids_UC), step):
        rows = slice(start, start + step)
        content_DUC = content_ND.T[:, ids_UC[rows]]
        for vector_UD in vectors_UVD[rows].swapaxes(0, 1):
            product_UC = np.zeros(content_DUC.shape[1:], np.float32)
            for d, content_UC in enumerate(content_DUC):
                product_UC += content_UC * vector_UD[:, d, None]
            np.maximum(best_UC[rows], product_UC, out=best_UC[rows])
    return best_UC


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

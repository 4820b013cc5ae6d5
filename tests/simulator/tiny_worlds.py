"""A world small enough to live in a test, plain retrieval and plain rankers."""

import asyncio
import dataclasses
import functools

import numpy as np

from ifa_ray.schema import IMPRESSION_COLUMNS, REQUEST_COLUMNS, RankResponse
from simulator.world.config import uncalibrated_config
from simulator.world.day import run_day, run_warmup
from simulator.world.users import make_users
from simulator.world.world import ShardState, World

TINY = dataclasses.replace(
    uncalibrated_config("smoke"), num_items=1_200, num_candidates=80, warmup_candidates=40,
    max_history=120, history_median=60.0, min_history=30, warmup_requests_per_user=2,
    sample_rate=0.5, rand_share=0.05, leave_level=-3.3,
)  # fmt: skip


@functools.cache
def tiny_world(seed=1, **changes):
    return World(dataclasses.replace(TINY, **changes), seed)


def users_of(world, user_ids):
    return make_users(world.config, world.seed, user_ids)


def retrieve_from(world):
    async def answer(query):
        return world.retrieval.retrieve(query)

    return answer


def answer_with(choose, version=0):
    """A ranker from a function of one request to its ids, best first."""

    async def rank(requests):
        return [
            RankResponse(
                request_id=request.request_id,
                ids_K=np.asarray(choose(request), np.int32)[: request.k],
                scores_K=np.zeros(request.k, np.float32),
                model_version=version,
            )
            for request in requests
        ]

    return rank


def first_candidates(request):
    return request.candidates_C


def shuffled_candidates(request):
    """A ranker that knows nothing; a multiplicative hash, so it needs no generator."""
    keys = (request.candidates_C.astype(np.int64) + request.request_id) * 2_654_435_761 % 2**32
    return request.candidates_C[np.argsort(keys)]


def live(world, user_ids, days=2, choose=first_candidates):
    """Warm-up and days of some users: the shard and its logs."""
    shard = ShardState.new(world, np.asarray(user_ids, np.int32))
    logs = [asyncio.run(run_warmup(world, shard))]
    for day in range(days):
        logs.append(live_day(world, shard, day, answer_with(choose)))
    return shard, logs


def live_day(world, shard, day, rank):
    return asyncio.run(
        run_day(world, shard, day, retrieve=retrieve_from(world), rank=rank, model_version=0)
    )


def rows_of(logs):
    """All rows of several shards' logs of one day, in an order that forgets the shards."""
    impressions = {
        n: np.concatenate([log.impressions[n] for log in logs]) for n in IMPRESSION_COLUMNS
    }
    requests = {n: np.concatenate([log.requests[n] for log in logs]) for n in REQUEST_COLUMNS}
    first = np.lexsort((impressions["position"], impressions["request_id"]))
    second = np.argsort(requests["request_id"])
    return (
        {name: column[first] for name, column in impressions.items()},
        {name: column[second] for name, column in requests.items()},
    )

"""User shards as actors: each lives some virtual shards of every world, and writes their log.

Knows Ray handles and the run folder; the day is in `simulator.world.day`. A shard's memory is
a cache of what its committed days say, so an actor that died, or one in a resumed run, reads the
log again and continues to the same bytes.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ifa_ray.data.run_folder import RunFolder, ShardDay
from ifa_ray.errors import RankerError
from ifa_ray.schema import RankRequest, RankResponse
from simulator.run.presets import RunConfig
from simulator.run.shards import live_prehistory, shard_before, write_shard_day
from simulator.world.day import ShardState, run_day
from simulator.world.policy import WorldRanker, world_ranker
from simulator.world.queries import Candidates, Retrieval, RetrievalQuery
from simulator.world.retrieval import ChannelRetrieval
from simulator.world.world import RetrievalFactory, World

# Large enough to spread a call's fixed cost, small enough to spread a round over replicas.
REQUESTS_PER_CALL = 4
MAX_TRIES = 7
_TRANSIENT = (ActorDiedError, ActorUnavailableError, DeploymentUnavailableError)


class UserShards:
    """Lives users through their days; async, so that many worlds wait on rankers at once."""

    def __init__(
        self,
        config: dict[str, Any],
        root: str,
        application_prefix: str,
        retrieval: Sequence[str],
    ) -> None:
        self._config = RunConfig.from_dict(config)
        self._folder = RunFolder(Path(root))
        self._arms = {arm.name: arm for arm in self._config.parsed_arms}
        # By name: a handle among its arguments would keep a restarted actor from starting.
        self._retrieval = [ray.get_actor(name) for name in retrieval]
        self._world = functools.cache(self._build_world)
        self._prefix = application_prefix
        self._application = functools.cache(self._find_application)
        # (arm, replicate, shard) -> the next day to live, and the shard as it stands before it.
        self._shards: dict[tuple[str, int, int], tuple[int, ShardState]] = {}

    async def warm_up(self, replicate: int, shard: int) -> dict[str, int]:
        """Lives the prehistory that all arms of a replicate share; returns its summary."""
        world = self._world(replicate)
        return await live_prehistory(self._folder, self._config, world, replicate, shard)

    async def live_day(self, key: ShardDay, version: int) -> dict[str, int]:
        """Lives one day of one shard under an arm's ranker; returns the day's summary.

        A committed day is not lived again.
        """
        if not self._folder.is_committed(key):
            state = self._state_before(key)
            timings: list[tuple[int, float, float]] = []
            rank = functools.partial(self._rank, key, version, timings)
            if self._arms[key.arm].in_world:
                ranker = world_ranker(key.arm, self._world(key.replicate), state)
                rank = functools.partial(_rank_here, ranker, timings)
            log = await run_day(
                self._world(key.replicate),
                state,
                key.day,
                retrieve=functools.partial(self._retrieve, key.replicate, key.shard),
                rank=rank,
                model_version=version,
                num_candidates=self._config.candidates_of(key.arm),
            )
            write_shard_day(self._folder, key, log, state, timings)
            self._shards[key.arm, key.replicate, key.shard] = (key.day + 1, state)
        return self._folder.summary(key)

    async def _retrieve(self, replicate: int, shard: int, query: RetrievalQuery) -> Candidates:
        actor = self._retrieval[shard % len(self._retrieval)]
        return await actor.retrieve.remote(replicate, query)

    async def _rank(
        self,
        key: ShardDay,
        version: int,
        timings: list[tuple[int, float, float]],
        requests: list[RankRequest],
    ) -> list[RankResponse]:
        chunks = [
            requests[start : start + REQUESTS_PER_CALL]
            for start in range(0, len(requests), REQUESTS_PER_CALL)
        ]
        started = time.perf_counter()
        answers = await asyncio.gather(*(self._rank_chunk(key, version, chunk) for chunk in chunks))
        wait_ms = 1e3 * (time.perf_counter() - started) / len(requests)
        responses = [response for answer in answers for response in answer]
        timings.extend((each.request_id, each.rank_ms, wait_ms) for each in responses)
        return responses

    async def _rank_chunk(
        self, key: ShardDay, version: int, requests: list[RankRequest]
    ) -> list[RankResponse]:
        """One call of the arm's application. Ranking changes nothing, so it is safe to repeat."""
        handle = self._application(key.arm)
        for attempt in range(MAX_TRIES):
            try:
                return await handle.rank.remote(
                    slot=key.replicate, requests=requests, min_version=version, exact=True
                )
            except RankerError as error:
                # Ray raises it as it was, or in a wrapper that prints the remote traceback.
                raise RankerError(f"arm {key.arm}: {getattr(error, 'cause', error)}") from None
            except _TRANSIENT:
                if attempt == MAX_TRIES - 1:
                    raise
                await asyncio.sleep(0.5 * 2**attempt)  # a replica is back within half a minute
        raise AssertionError("unreachable")

    def _state_before(self, key: ShardDay) -> ShardState:
        """The shard at the start of a day: from memory, or read again from the log."""
        next_day, state = self._shards.pop((key.arm, key.replicate, key.shard), (-1, None))
        if state is not None and next_day == key.day:
            return state
        return shard_before(self._folder, self._world(key.replicate), key)

    def _build_world(self, replicate: int) -> World:
        return World(self._config.world, self._config.world_seed(replicate))

    def _find_application(self, arm: str) -> DeploymentHandle:
        # Ids and one history are small; by value they skip the object store (about 2 ms a call).
        return serve.get_app_handle(self._prefix + arm).options(_by_reference=False)


async def _rank_here(
    ranker: WorldRanker, timings: list[tuple[int, float, float]], requests: list[RankRequest]
) -> list[RankResponse]:
    """Ranks without an application, for an arm that knows the world."""
    responses = ranker.rank(requests)
    timings.extend((each.request_id, each.rank_ms, each.rank_ms) for each in responses)
    return responses


class RetrievalActor:
    """Holds each replicate's retrieval stage and emits candidates for batches of users.

    Args:
        config: of the run, as `RunConfig.to_dict` gives it.
        retrieval: builds the stage of a world.
    """

    def __init__(
        self, config: dict[str, Any], retrieval: RetrievalFactory = ChannelRetrieval
    ) -> None:
        self._config = RunConfig.from_dict(config)
        self._factory = retrieval
        # The latent half of the world is not kept: retrieval sees what a platform sees.
        self._stage = functools.cache(self._build_stage)

    def retrieve(self, replicate: int, query: RetrievalQuery) -> Candidates:
        """C unique candidates for each user of the query."""
        return self._stage(replicate).retrieve(query)

    def _build_stage(self, replicate: int) -> Retrieval:
        seed = self._config.world_seed(replicate)
        return World(self._config.world, seed, self._factory).retrieval

"""User shards and retrieval as Ray actors.

Knows Ray handles; a day is in `simulator.run.shards`. An actor that died, or one in a resumed run,
reads the log again and continues to the same bytes.
"""

from __future__ import annotations

import asyncio
import functools
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
from simulator.run.shards import Shards
from simulator.world.queries import Candidates, Retrieval, RetrievalQuery
from simulator.world.retrieval import ChannelRetrieval
from simulator.world.world import RetrievalFactory, World

# Large enough to spread a call's fixed cost, small enough to spread a round over replicas.
REQUESTS_PER_CALL = 4
MAX_TRIES = 7
_TRANSIENT = (ActorDiedError, ActorUnavailableError, DeploymentUnavailableError)


class UserShards:
    """Simulates users through their days; async, so that many worlds wait on rankers at once."""

    def __init__(
        self, config: dict[str, Any], root: str, application_prefix: str, retrieval: Sequence[str]
    ) -> None:
        run = RunConfig.from_dict(config)
        self._shards = Shards(RunFolder(Path(root)), run)
        self._in_world = {arm.name for arm in run.parsed_arms if arm.in_world}
        # By name: a handle among its arguments would keep a restarted actor from starting.
        self._retrieval = [ray.get_actor(name) for name in retrieval]
        self._prefix = application_prefix
        self._application = functools.cache(self._find_application)

    async def warm_up(self, replicate: int, shard: int) -> dict[str, int]:
        """The summary of the prehistory that all arms of a replicate share."""
        return await self._shards.warm_up(replicate, shard)

    async def simulate_day(self, key: ShardDay, version: int) -> dict[str, int]:
        """The summary of one day of one shard under an arm's ranker."""

        async def retrieve(query: RetrievalQuery) -> Candidates:
            actor = self._retrieval[key.shard % len(self._retrieval)]
            return await actor.retrieve.remote(key.replicate, query)

        async def rank(requests: list[RankRequest]) -> list[RankResponse]:
            starts = range(0, len(requests), REQUESTS_PER_CALL)
            chunks = [requests[start : start + REQUESTS_PER_CALL] for start in starts]
            calls = (self._rank_chunk(key, version, chunk) for chunk in chunks)
            return [response for answer in await asyncio.gather(*calls) for response in answer]

        answer = None if key.arm in self._in_world else rank
        return await self._shards.simulate_day(key, version, answer, retrieve)

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

    def _find_application(self, arm: str) -> DeploymentHandle:
        # Ids and one history are small; by value they skip the object store (about 2 ms a call).
        return serve.get_app_handle(self._prefix + arm).options(_by_reference=False)


class RetrievalActor:
    """Holds each replicate's retrieval stage and emits candidates for batches of users."""

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

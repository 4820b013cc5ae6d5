"""The retrieval stage as an actor: queries in, candidate sets out.

Knows Ray and the plain `simulator.world.retrieval`; keeps nothing but the catalogues, so
any number of actors may answer, in any order, with the same candidates.
"""

from __future__ import annotations

import functools
from typing import Any

from simulator.presets import RunConfig
from simulator.world.queries import Candidates, Retrieval, RetrievalQuery
from simulator.world.retrieval import ChannelRetrieval
from simulator.world.world import RetrievalFactory, World


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

"""The retrieval stage as an actor: queries in, candidate sets out.

Knows Ray and the plain `simulator.retrieval`; keeps nothing between calls but the catalogues, so
any number of actors may answer, in any order, with the same candidates.
"""

from __future__ import annotations

import functools
from typing import Any

from simulator.presets import RunConfig
from simulator.retrieval import Candidates, RetrievalQuery, retrieve
from simulator.world import World

__all__ = ["RetrievalActor"]


class RetrievalActor:
    """Holds each replicate's catalogue and emits candidates for batches of users."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = RunConfig.from_dict(config)
        # The latent half of the world is not kept: retrieval sees what a platform sees.
        self._index = functools.cache(self._build_index)

    def retrieve(self, replicate: int, query: RetrievalQuery) -> Candidates:
        """C unique candidates for each user of the query."""
        return retrieve(self._index(replicate), self._config.world, query)

    def _build_index(self, replicate: int) -> Any:
        world = World(self._config.world, self._config.world_seed(replicate))
        return world.catalog.observed

"""A world, and the part of its population that one shard holds.

Knows catalogue, users and histories as values; a day is in `simulator.world.day`. A world
 is a pure function of config and seed, so every process builds its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Self

import numpy as np

from ifa_ray.data.history import HistoryBlocks
from ifa_ray.errors import LogError
from simulator.world.arrays import Ints
from simulator.world.catalog import Catalog, ObservedCatalog, make_catalog
from simulator.world.config import WorldConfig
from simulator.world.queries import Retrieval
from simulator.world.retrieval import ChannelRetrieval
from simulator.world.users import UserState, make_users

RetrievalFactory = Callable[[ObservedCatalog, WorldConfig], Retrieval]


class World:
    """A catalogue and the rules of a population, a pure function of config and seed.

    Attributes:
        config: its settings.
        seed: of every draw.
        catalog: the items, hidden and observed.
    """

    def __init__(
        self, config: WorldConfig, seed: int, retrieval: RetrievalFactory = ChannelRetrieval
    ) -> None:
        self.config = config
        self.seed = seed
        self.catalog: Catalog = make_catalog(config, seed)
        self._build_retrieval = retrieval

    @functools.cached_property
    def retrieval(self) -> Retrieval:
        """The retrieval stage of the warm-up, and of runs without actors; built when used."""
        return self._build_retrieval(self.catalog.observed, self.config)


@dataclasses.dataclass(kw_only=True, eq=False)
class ShardState:
    """Some users of a world at a day boundary."""

    user_ids: Ints  # unique
    users: UserState  # their hidden state, in the same order
    histories: HistoryBlocks  # their impressions; not hidden, so not part of the arrays

    @classmethod
    def new(cls, world: World, user_ids: Ints, histories: HistoryBlocks | None = None) -> Self:
        """Users before their warm-up; their histories are kept in memory unless given, empty."""
        users = make_users(world.config, world.seed, user_ids)
        return cls(user_ids=users.user_id_U, users=users, histories=histories or HistoryBlocks())

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The hidden part, for saving at a day boundary."""
        return self.users.to_arrays()

    @classmethod
    def from_arrays(cls, world: World, arrays: Mapping[str, np.ndarray]) -> Self:
        """A shard with its hidden part restored; the caller fills `histories` from the log.

        Raises:
            LogError: if an array is missing, foreign, or of another shape than this world's.
        """
        expected = make_users(
            world.config, world.seed, np.asarray(arrays.get("user_id_U", ()), np.int32)
        ).to_arrays()
        if arrays.keys() != expected.keys():
            odd = sorted(arrays.keys() ^ expected.keys())
            raise LogError(f"state holds arrays {sorted(arrays)}, must not differ in {odd}.")
        for name, array in expected.items():
            found = arrays[name]
            if found.shape != array.shape or found.dtype != array.dtype:
                raise LogError(
                    f"state.{name} is {found.dtype} {found.shape}, "
                    f"must be {array.dtype} {array.shape}."
                )
        users = UserState(**{name: np.array(array) for name, array in arrays.items()})
        return cls(user_ids=users.user_id_U, users=users, histories=HistoryBlocks())

"""Where a run runs: nothing here changes a byte of its log. Knows settings, no Ray."""

from __future__ import annotations

import dataclasses
import os

from ifa_ray.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster, and how many processes of each kind a run gets on it.

    Attributes:
        address: of the cluster; None starts an embedded, private one.
        user_actors: that share the virtual shards.
        retrieval_actors: that share the queries.
        replicas: of each arm's ranker.
    """

    address: str | None = None
    user_actors: int = 2
    retrieval_actors: int = 1
    replicas: int = 1

    def __post_init__(self) -> None:
        for field in ("user_actors", "retrieval_actors", "replicas"):
            require(getattr(self, field) >= 1, field, getattr(self, field), ">= 1")

    @property
    def embedded(self) -> bool:
        """Whether the run brings its own Ray. A submitted job finds its cluster in RAY_ADDRESS."""
        return self.address is None and "RAY_ADDRESS" not in os.environ

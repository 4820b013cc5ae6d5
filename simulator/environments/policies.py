"""Agents to compare with, and how any ranker of `ifa_ray` becomes an agent.

Knows observations; only the oracle is given more, and says so. A policy answers all rows at once.

Letters: B requests, C candidates, K slate size.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ifa_ray.ranker import Ranker
from ifa_ray.schema import History, RankRequest, validate_response
from simulator.catalog import ObservedCatalog
from simulator.config import START_MS
from simulator.environments.spaces import Observation
from simulator.environments.vector import RankingVectorEnv, RetentionVectorEnv, SessionVectorEnv
from simulator.environments.wrappers import slates_of_scores

__all__ = ["OraclePolicy", "Policy", "PopularityPolicy", "RankerPolicy", "request_of"]

Slates = npt.NDArray[np.int64]


class Policy(Protocol):
    """Anything that answers requests with slates."""

    def slates(self, observation: Observation) -> Slates:
        """Places of candidates [B, K] for a batched observation."""
        ...


class RankerPolicy:
    """Lets a ranker choose: ours, trained or not, or a class of one's own."""

    def __init__(self, ranker: Ranker, k: int) -> None:
        self._ranker, self._k = ranker, k

    def slates(self, observation: Observation) -> Slates:
        """The ranker's slates.

        Raises:
            RankerError: if an answer breaks the contract.
        """
        requests = [
            request_of(observation, row, self._k) for row in range(len(observation["user_id"]))
        ]
        slates = []
        for request, response in zip(requests, self._ranker.rank(requests), strict=True):
            validate_response(request, response)
            order = np.argsort(request.candidates_C)
            place = np.searchsorted(request.candidates_C, response.ids_K, sorter=order)
            slates.append(order[place])
        return np.stack(slates)


class PopularityPolicy:
    """Shows everybody the candidates that the platform shows most."""

    def __init__(self, catalog: ObservedCatalog, k: int) -> None:
        self._catalog, self._k = catalog, k

    def slates(self, observation: Observation) -> Slates:
        """The most popular candidates."""
        popularity_BC = self._catalog.popularity_N[observation["candidate_ids"]]
        return slates_of_scores(np.log(popularity_BC), self._k)


class OraclePolicy:
    """Shows what the oracle would: it looks into the environment, as no agent may."""

    def __init__(self, env: RankingVectorEnv | SessionVectorEnv | RetentionVectorEnv) -> None:
        self._env = env

    def slates(self, observation: Observation) -> Slates:
        """The oracle's slates for what is pending."""
        del observation
        return self._env.oracle_slates()


def request_of(observation: Observation, row: int, k: int) -> RankRequest:
    """One row of a batched observation as the request that a ranker is asked.

    Histories hold no more than the observation shows. The id is made of user and second, as an
    observation has no watermark.
    """
    past = observation["history_mask"][row] != 0
    user_id, time_ms = int(observation["user_id"][row, 0]), int(observation["time_ms"][row, 0])
    return RankRequest(
        request_id=user_id << 32 | (time_ms - START_MS) // 1000,
        user_id=user_id,
        time_ms=time_ms,
        candidates_C=observation["candidate_ids"][row],
        channels_C=observation["candidate_channels"][row],
        history=History(
            ids_T=observation["history_ids"][row][past],
            actions_T=observation["history_actions"][row][past],
            times_ms_T=observation["history_times_ms"][row][past],
        ),
        k=k,
    )

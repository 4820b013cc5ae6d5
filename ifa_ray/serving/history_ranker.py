"""Ranks requests that name their user alone: with the history in the store, or what a state lacks.

Knows a store and a ranker, no event loop and no HTTP. Requests that bring their history are the
ranker's as if there were no store: to the bit, and without touching a state, which thereby holds
what was stored and nothing that a caller made up.

Exact as long as nothing is erased while it ranks: `RankerDeployment` has one thread do both. Where
another replica may erase, the store says so (`ErasedMeanwhileError`), and the request begins anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ifa_ray.ranking.ranker import Ranker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_ranker import StatefulRanker
from ifa_ray.schema import MAX_HISTORY, History, RankRequest, RankResponse, StoredHistory
from ifa_ray.serving.history_store import HistoryStore
from ifa_ray.serving.sequence_store import ErasedMeanwhileError

_ATTEMPTS = 3


class HistoryRanker:
    """Any ranker, with whole histories from a store: O(history) a request."""

    def __init__(self, ranker: Ranker, store: HistoryStore) -> None:
        """Ranks with `ranker`."""
        self._ranker = ranker
        self._store = store

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks requests; those of `FROM_STORE` with what had happened by their `time_ms`.

        Of a history longer than `MAX_HISTORY` the latest so many are read.

        Raises:
            RequestError, RankerError: as the ranker.
            StoreError: if a history cannot be read.
        """
        filled: list[RankRequest] = []
        watermarks: list[int | None] = []
        for request in requests:
            watermark = None
            if isinstance(request.history, StoredHistory):
                watermark, history = _stored(
                    self._store, request, lambda watermark: max(0, watermark - MAX_HISTORY)
                )
                request = dataclasses.replace(request, history=history)
            filled.append(request)
            watermarks.append(watermark)
        responses = self._ranker.rank(filled)
        if len(responses) != len(requests):  # whoever called says what is wrong with that
            return responses
        return [
            response if watermark is None else dataclasses.replace(response, watermark=watermark)
            for response, watermark in zip(responses, watermarks, strict=True)
        ]


class StateHistoryRanker:
    """A ranker that keeps states, with what they lack from a store.

    The answers are those of `HistoryRanker` up to the order of float32 sums.
    """

    def __init__(self, ranker: StatefulRanker, store: HistoryStore) -> None:
        """Ranks with `ranker`."""
        self._ranker = ranker
        self._store = store

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """As `HistoryRanker.rank`."""
        return [
            self._rank_stored(request)
            if isinstance(request.history, StoredHistory)
            else self._ranker.rank_without_states([request])[0]
            for request in requests
        ]

    def _rank_stored(self, request: RankRequest) -> RankResponse:
        watermark, history = _stored(
            self._store,
            request,
            lambda watermark: self._ranker.needs_from(request.user_id, watermark),
        )
        response = self._ranker.rank_at(dataclasses.replace(request, history=history), watermark)
        return dataclasses.replace(response, watermark=watermark)


def _stored(
    store: HistoryStore, request: RankRequest, begins_at: Callable[[int], int]
) -> tuple[int, History]:
    """A user's watermark at the request's time, and the behaviours from `begins_at` it to there.

    Raises:
        ErasedMeanwhileError: if the user is erased again and again.
    """
    for left in reversed(range(_ATTEMPTS)):
        watermark = store.watermark(request.user_id, request.time_ms)
        begin = begins_at(watermark)
        try:
            return watermark, store.read(request.user_id, begin, watermark - begin)
        except ErasedMeanwhileError:
            if not left:
                raise
    raise AssertionError


def with_histories(ranker: Ranker, store: HistoryStore) -> Ranker:
    """The ranker that reads histories of `FROM_STORE` in a ranker's place."""
    if isinstance(ranker, StatefulRanker):
        return StateHistoryRanker(ranker, store)
    return HistoryRanker(ranker, store)


def erase_user(user_id: int, store: HistoryStore, states: Sequence[SequenceStates]) -> int:
    """Removes a user from the store, then from states; returns how many behaviours there were."""
    erased = store.erase(user_id)
    for cache in states:
        cache.forget_user(user_id)
    return erased

"""Ranks requests that name their user alone: with the history in the store, or what a state lacks.

Knows a store and a ranker, no event loop and no HTTP. Requests that bring their history are the
ranker's as if there were no store: to the bit, and without touching a state, which thereby holds
what was stored and nothing that a caller made up. One thread of a replica ranks and erases, so a
state is never put back that an erasure meant; where another replica erases, the user's generation
says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ifa_ray.ranking.ranker import Ranker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_ranker import StatefulRanker
from ifa_ray.schema import MAX_HISTORY, RankRequest, RankResponse, StoredHistory
from ifa_ray.serving.sequence_store import ErasedMeanwhileError, HistoryStore

_ATTEMPTS = 3
_MOST_USERS = 1_000_000
"""Whose generations a slot remembers; with more it begins anew, as do the states."""


class StoredHistories:
    """The histories of a store as one slot reads them, with the cached states of its users."""

    def __init__(self, store: HistoryStore, states: SequenceStates | None = None) -> None:
        self.store, self.states = store, states
        self._generations: dict[int, int] = {}

    def forget(self, user_id: int) -> None:
        """Drops a user's states."""
        if self.states is not None:
            self.states.forget(lambda user, _: user == user_id)
        self._generations.pop(user_id, None)

    def read(
        self, request: RankRequest, begins_at: Callable[[int], int]
    ) -> tuple[int, RankRequest]:
        """A user's watermark at the request's time, and the request with what is before it.

        `begins_at` tells from a watermark the first behaviour to read.
        """
        user_id = request.user_id
        for left in reversed(range(_ATTEMPTS)):
            end = self.store.watermark(user_id, request.time_ms)
            self._heed(user_id, end.generation)
            begin = begins_at(end.length)
            try:
                history = self.store.read(user_id, begin, end.length, end.generation)
                return end.length, dataclasses.replace(request, history=history)
            except ErasedMeanwhileError:
                if not left:
                    raise
        raise AssertionError

    def _heed(self, user_id: int, generation: int) -> None:
        """Drops states of before an erasure. One of generation 0 holds nothing, and goes on."""
        if self.states is None:
            return
        if self._generations.get(user_id, 0) not in (0, generation):
            self.forget(user_id)
        if len(self._generations) >= _MOST_USERS:
            self.states.forget(lambda *_: True)
            self._generations.clear()
        self._generations[user_id] = generation


class HistoryRanker:
    """A ranker with whole histories from a store, or with what its states lack.

    The answers are those of a ranker that is given whole histories, up to the order of float32 sums
    where states are kept. Of a history longer than `MAX_HISTORY` the latest so many are read.
    """

    def __init__(self, ranker: Ranker, histories: StoredHistories) -> None:
        self._ranker, self._histories = ranker, histories

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks requests; those of `FROM_STORE` with what had happened by their `time_ms`."""
        if isinstance(self._ranker, StatefulRanker):
            return [self._rank_cached(self._ranker, request) for request in requests]
        asked = [
            self._histories.read(request, lambda length: max(0, length - MAX_HISTORY))
            if isinstance(request.history, StoredHistory)
            else (None, request)
            for request in requests
        ]
        responses = self._ranker.rank([request for _, request in asked])
        if len(responses) != len(requests):  # whoever called says what is wrong with that
            return responses
        return [
            dataclasses.replace(response, watermark=watermark)
            for response, (watermark, _) in zip(responses, asked, strict=True)
        ]

    def _rank_cached(self, ranker: StatefulRanker, request: RankRequest) -> RankResponse:
        if not isinstance(request.history, StoredHistory):
            return ranker.rank_without_states([request])[0]
        watermark, asked = self._histories.read(
            request, lambda length: ranker.needs_from(request.user_id, length)
        )
        return dataclasses.replace(ranker.rank_at(asked, watermark), watermark=watermark)

"""A ranker that does not read a history twice: it caches each user's attention state.

A request is at a watermark w, the number of the user's behaviours before it. The state of the same
user and version is brought there by appending what came since, and ranks in the place of the
history. The decision follows from w, the state's watermark s and where the behaviours begin that
the request brought, f = w - their number:

    s == w                    the state answers
    f <= s < w                the behaviours [s, w) are appended, then it answers
    no state, f == 0          it is made
    w < s, f == 0             the request is older than the state: ranked from its history alone
    otherwise                 refused (`HistoryGapError`), naming where the behaviours must begin

Behaviours that the state holds already are compared with its latest ones and never added twice.
Beyond `max_history` the model reads the latest `max_history` behaviours, and no sum over all is
what it reads: such requests are ranked from their histories. Knows rankers and the cache; no Ray,
no store of histories.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RequestError
from ifa_ray.models.base import RankModel
from ifa_ray.ranking.cached_state import HistoryState
from ifa_ray.ranking.ranker import ModelRanker
from ifa_ray.ranking.state_cache import SequenceStates
from ifa_ray.ranking.state_keeper import COLUMNS, HistoryKeeper, part_of
from ifa_ray.schema import History, RankRequest, RankResponse, validate_request


class HistoryGapError(RequestError):
    """A request brought too few behaviours; the message says from which on they are needed."""


class StatefulRanker(ModelRanker):
    """Ranks with one version of a model, from the states of a cache.

    Threads: one that ranks, and any that read statistics, are what is meant. Several that rank are
    right too, but two that meet over one user's state have one of them make it anew, or refuse.
    """

    def __init__(
        self,
        model: RankModel,
        items: ItemTable,
        version: int,
        states: SequenceStates,
        clock: Callable[[], float] = time.perf_counter,
        precision: str = "fp32",
    ) -> None:
        """Prepares the model for inference.

        Args as for `ModelRanker`, and:
            model: of those that cache something (`RankModel.cache_spec`).
            states: the cache, which the rankers of other versions of this model may share.

        Raises:
            ConfigError: if the model must see a history whole; on an unknown precision.
        """
        super().__init__(model, items, version, clock, precision)
        self._keeper = HistoryKeeper(model, items)
        self._states = states
        self._window = model.config.max_history

    def rank_at(self, request: RankRequest, watermark: int) -> RankResponse:
        """Ranks a request that brings behaviours [watermark - T, watermark) of its user's history.

        The answer is that of a ranker which has the whole history, up to the order of float32 sums.

        Args:
            request: its history may be the whole one, what came since `needs_from`, or empty.
            watermark: how many behaviours of the user came before the request.

        Raises:
            HistoryGapError: if behaviours are missing between the state and those brought.
            RequestError, RankerError: as `ModelRanker.rank`.
        """
        start = self._clock()
        validate_request(request)
        begin = watermark - len(request.history)
        if begin < 0:
            raise RequestError(
                f"watermark == {watermark}, must be >= len(history) == {len(request.history)}."
            )
        state = self._states.take(request.user_id, self._version)
        outcome, needs_from = self._decide(None if state is None else state.length, watermark)
        if state is not None and (begin > needs_from or outcome == "older"):
            self._states.put(request.user_id, self._version, state)
        if begin > needs_from:
            raise self._gap(request, watermark, needs_from)
        if outcome in ("older", "beyond"):
            self._states.count(outcome)
            return self._rank_one(request)
        appended = 0
        if state is None:
            state = self._keeper.empty()
        elif _agree(state, request.history, begin):
            appended = watermark - state.length
        elif begin == 0:
            outcome, state = "conflict", self._keeper.empty()
        else:  # what the state holds is not to be trusted, and what came is not the whole
            raise self._gap(request, watermark, 0)
        try:
            self._keeper.append(state, part_of(request.history, state.length - begin, None))
            batch, cached = self._keeper.read(state, request)
        except RequestError:  # a refusal leaves a state right; after anything else it is not kept
            if state.length:
                self._states.put(request.user_id, self._version, state)
            raise
        latest = state.latest
        self._states.put(request.user_id, self._version, state)
        self._states.count(outcome, appended)
        return self._answer(dataclasses.replace(request, history=latest), batch, cached, start)

    def rank(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks requests that bring whole histories, each in the place of its watermark.

        Raises:
            RequestError, RankerError: as `ModelRanker.rank`.
        """
        return [self.rank_at(request, len(request.history)) for request in requests]

    rank_valid = rank

    def rank_without_states(self, requests: Sequence[RankRequest]) -> list[RankResponse]:
        """Ranks from the requests' histories alone, to the bit as `ModelRanker.rank` does."""
        return super().rank(requests)

    def needs_from(self, user_id: int, watermark: int) -> int:
        """The first behaviour that a request at a watermark must bring, as things stand.

        `watermark` where none are needed. A state may be evicted before the request comes, which
        is then refused, naming where to begin.
        """
        return self._decide(self._states.watermark(user_id, self._version), watermark)[1]

    def _decide(self, held: int | None, watermark: int) -> tuple[str, int]:
        """The outcome where a state of this length, or none, is held; and `needs_from`."""
        if watermark > self._window:
            return "beyond", watermark - self._window
        if held is None:
            return "missing", 0
        if held > watermark:
            return "older", 0
        return "hit" if held == watermark else "behind", held

    def _gap(self, request: RankRequest, watermark: int, needs_from: int) -> HistoryGapError:
        """The refusal of a request that brought too few behaviours."""
        self._states.count("gap")
        return HistoryGapError(
            f"len(history) == {len(request.history)} at watermark {watermark}, must be >= "
            f"{watermark - needs_from}: version {self._version} needs the behaviours of user "
            f"{request.user_id} from {needs_from} on."
        )


def _agree(state: HistoryState, history: History, begin: int) -> bool:
    """True if behaviours [begin, ...) are those that the state holds, as far as it can tell."""
    latest_begin = state.length - len(state.latest)
    first, stop = max(begin, latest_begin), min(state.length, begin + len(history))
    if first >= stop:
        return True
    one = part_of(state.latest, first - latest_begin, stop - latest_begin)
    other = part_of(history, first - begin, stop - begin)
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in COLUMNS)

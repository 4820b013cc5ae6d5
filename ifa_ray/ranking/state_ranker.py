"""A ranker that does not read a history twice: it keeps each user's sequence state.

A request is at a watermark w, the number of the user's behaviours before it. The state of the same
user and version is brought there by appending what came since, and ranks in the state's place of
the history. What is appended and what is refused follows from three numbers, w, the state's
watermark s and where the behaviours begin that the request brought, f = w - their number:

    s == w                    the state answers
    f <= s < w                the behaviours [s, w) are appended, then it answers
    no state, f == 0          it is made
    w < s, f == 0             the request is older than the state: ranked from its history alone
    otherwise                 refused (`HistoryGapError`), naming where the behaviours must begin

Behaviours that the state holds already are compared with its latest ones and never added twice.
Beyond `max_history` the model reads the latest `max_history` behaviours, and no sum over all is
what it reads: such requests are ranked from their histories, or, if so asked for, from a state of
the whole life. Knows rankers and the cache; no Ray, no store of histories.

Letters: T behaviours.
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
from ifa_ray.ranking.state_keeper import HistoryKeeper, part_of
from ifa_ray.schema import History, RankRequest, RankResponse, validate_request


class HistoryGapError(RequestError):
    """A request brought too few behaviours; the message says from which on they are needed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decision:
    """What to do about a request, decided before anything is changed.

    Attributes:
        outcome: of `ifa_ray.ranking.state_cache.OUTCOMES`.
        needs_from: where the behaviours must begin that the request brings.
    """

    outcome: str
    needs_from: int


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
        *,
        whole_life: bool = False,
    ) -> None:
        """Prepares the model for inference.

        Args:
            model: as for `ModelRanker`; of those that keep something (`RankModel.cache_spec`).
            items: as for `ModelRanker`.
            version: as for `ModelRanker`; states are kept under it.
            states: the cache, which the rankers of other versions of this model may share.
            clock: as for `ModelRanker`.
            precision: as for `ModelRanker`.
            whole_life: True reads every behaviour of a history that is longer than `max_history`,
                as the same model with a larger `max_history` would; only the feature "length of the
                history" stays at the longest that the model has learned on.

        Raises:
            ConfigError: if the model must see a history whole; on an unknown precision.
        """
        super().__init__(model, items, version, clock, precision)
        self._keeper = HistoryKeeper(model, items)
        self._states = states
        self._window = None if whole_life else model.config.max_history

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
        borrowed = self._states.take(request.user_id, self._version)
        state = borrowed.state
        decision = self._decide(None if state is None else state.length, watermark)
        if begin > decision.needs_from:
            if state is not None:
                self._states.put(borrowed, state)
            raise self._gap(request, watermark, decision.needs_from)
        if decision.outcome in ("older", "beyond"):
            if state is not None and decision.outcome == "older":
                self._states.put(borrowed, state)
            self._states.count(decision.outcome)
            return self._rank_one(request)
        outcome, appended = decision.outcome, 0
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
                self._states.put(borrowed, state)
            raise
        latest = state.latest.history()
        self._states.put(borrowed, state)
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
        """Ranks from the requests' histories alone, to the bit as `ModelRanker.rank` does.

        Raises:
            RequestError, RankerError: as `ModelRanker.rank`.
        """
        for request in requests:
            validate_request(request)
        return super().rank_valid(requests)

    def append(self, user_id: int, begin: int, history: History) -> int | None:
        """Adds behaviours [begin, begin + T) to the user's state, those that it lacks.

        Saying it again changes nothing. A user without a state is left without: it is made when it
        is needed. So is one whose state holds other behaviours than these, or would hold more than
        the model reads: the state is dropped.

        Returns:
            The state's watermark; None where there is no state.

        Raises:
            HistoryGapError: if behaviours between the state and these are missing.
            RequestError: if a column has another type or length than the others, or a behaviour
                happened before the one before it.
        """
        _check_behaviours(history, begin)
        borrowed = self._states.take(user_id, self._version)
        state, stop = borrowed.state, begin + len(history)
        if state is None:
            return None
        if begin > state.length:
            self._states.put(borrowed, state)
            raise HistoryGapError(
                f"the behaviours begin at {begin}, must begin at <= {state.length}, where the "
                f"state of user {user_id} and version {self._version} ends."
            )
        if not _agree(state, history, begin) or (self._window and stop > self._window):
            return None
        try:
            if stop > state.length:
                self._keeper.append(state, part_of(history, state.length - begin, None))
        except RequestError:
            self._states.put(borrowed, state)
            raise
        self._states.put(borrowed, state)
        return state.length

    def needs_from(self, user_id: int, watermark: int) -> int:
        """From which behaviour on a request at a watermark must bring them, as things stand.

        `watermark` where none are needed. A state may be evicted before the request comes, which
        is then refused, naming where to begin.
        """
        held = self._states.watermark(user_id, self._version)
        return self._decide(held, watermark).needs_from

    def _decide(self, held: int | None, watermark: int) -> _Decision:
        """What becomes of a request at a watermark where a state holds so many, or is not there."""
        if self._window is not None and watermark > self._window:
            return _Decision(outcome="beyond", needs_from=watermark - self._window)
        if held is None:
            return _Decision(outcome="missing", needs_from=0)
        if held > watermark:
            return _Decision(outcome="older", needs_from=0)
        return _Decision(outcome="hit" if held == watermark else "behind", needs_from=held)

    def _gap(self, request: RankRequest, watermark: int, needs_from: int) -> HistoryGapError:
        """The refusal of a request that brought too few behaviours."""
        self._states.count("gap")
        return HistoryGapError(
            f"len(history) == {len(request.history)} at watermark {watermark}, must be >= "
            f"{watermark - needs_from}: version {self._version} needs the behaviours of user "
            f"{request.user_id} from {needs_from} on."
        )


def _check_behaviours(history: History, begin: int) -> None:
    """Checks what `validate_request` checks in a request."""
    if begin < 0:
        raise RequestError(f"begin == {begin}, must be >= 0.")
    columns: dict[str, tuple[np.ndarray, type[np.generic]]] = {
        "ids": (history.ids_T, np.int32),
        "actions": (history.actions_T, np.uint8),
        "times_ms": (history.times_ms_T, np.int64),
    }
    for field, (column, dtype) in columns.items():
        if column.dtype != dtype or column.shape != (len(history),):
            raise RequestError(
                f"history.{field} is {column.dtype} {column.shape}, must be "
                f"{np.dtype(dtype)} ({len(history)},)."
            )


def _agree(state: HistoryState, history: History, begin: int) -> bool:
    """True if behaviours [begin, ...) are those that the state holds, as far as it can tell."""
    ours = state.latest.history()
    ours_begin = state.length - len(ours)
    first, stop = max(begin, ours_begin), min(state.length, begin + len(history))
    if first >= stop:
        return True
    one = part_of(ours, first - ours_begin, stop - ours_begin)
    other = part_of(history, first - begin, stop - begin)
    return (
        np.array_equal(one.ids_T, other.ids_T)
        and np.array_equal(one.times_ms_T, other.times_ms_T)
        and np.array_equal(one.actions_T, other.actions_T)
    )

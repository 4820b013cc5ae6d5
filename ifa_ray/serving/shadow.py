"""A second version that ranks the same traffic, and whose scores are logged and never sent.

`offer` takes what was just answered and returns at once: what does not fit into a short queue is
dropped and counted. One thread ranks what is in the queue and rests after each ranking, so that it
is busy for no more than a share of the time. Within that share it competes with the answers for the
processor and for Python's lock, and so slows them; beyond it, never. What is ranked is therefore a
sample, which leans to quiet times.

Histories that the service keeps are read again, as long as the answer's was. Where a user was
erased meanwhile they are shorter, and the answer is dropped.

Knows rankers and a store, no event loop and no Ray. The log holds no user's id: erasing a user
would not reach it.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence

from ifa_ray.config import require
from ifa_ray.schema import MAX_HISTORY, History, RankRequest, RankResponse, StoredHistory
from ifa_ray.serving.history_store import HistoryStore
from ifa_ray.serving.slots import Loaded, score

__all__ = ["Shadow"]

_LOG = logging.getLogger("ray.serve")
_MAX_NUMBERS = 4_000_000
"""Candidates and behaviours of all that waits: some 60 MB."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """A request and what was answered."""

    request: RankRequest
    response: RankResponse

    @property
    def numbers(self) -> int:
        """How much memory it keeps from being freed, in numbers."""
        return len(self.request.candidates_C) + len(self.request.history)


class Shadow:
    """The second version of one slot; `close` ends its thread."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        share: float,
        queue: int,
        write: Callable[[str], None],
        count: Callable[[str, int], None],
        store: HistoryStore | None = None,
        begin: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Starts the thread.

        Args:
            loaded: ranks whole histories; no answer ever comes from it.
            share: of the time, at most, that it is busy.
            queue: answers that may wait for it.
            write: takes a line of the log.
            count: takes one of `ifa_ray.serving.measures.SHADOW_OUTCOMES` and how many.
            store: of histories that requests leave out.
            begin: is called first on the thread.
            clock: seconds.

        Raises:
            ConfigError: on a setting outside its rule.
        """
        require(0 < share <= 1, "share", share, "in (0, 1]")
        require(queue >= 1, "queue", queue, ">= 1")
        self.version = loaded.version
        self._loaded, self._store = loaded, store
        self._share, self._queue = share, queue
        self._write, self._count = write, count
        self._begin, self._clock = begin, clock
        self._changed = threading.Condition()
        self._waiting: collections.deque[_Pair] = collections.deque()
        self._numbers = 0
        self._closed = self._warned = False
        self._outcomes: collections.Counter[str] = collections.Counter()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    @property
    def outcomes(self) -> dict[str, int]:
        """How many answers came to which end."""
        with self._changed:
            return dict(self._outcomes)

    def offer(self, requests: Sequence[RankRequest], responses: Sequence[RankResponse]) -> None:
        """Takes answers, or drops them; never waits for a ranking."""
        dropped = 0
        with self._changed:
            for request, response in zip(requests, responses, strict=True):
                pair = _Pair(request=request, response=response)
                if (
                    self._closed
                    or len(self._waiting) >= self._queue
                    or self._numbers + pair.numbers > _MAX_NUMBERS
                ):
                    dropped += 1
                    continue
                self._numbers += pair.numbers
                self._waiting.append(pair)
            self._changed.notify_all()
        self._counted("dropped", dropped)

    def close(self) -> None:
        """Ends the thread after the ranking that it is at."""
        with self._changed:
            self._closed = True
            left = len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        self._counted("dropped", left)
        self._thread.join()

    def _run(self) -> None:
        self._begin()
        while (pair := self._next()) is not None:
            started_s = self._clock()
            try:
                outcome = self._rank(pair)
            except Exception as error:  # whatever a version does wrong, answers go on
                outcome = "failed"
                if not self._warned:
                    _LOG.warning("shadow version %d, the first error: %r", self.version, error)
                self._warned = True
            spent_s = self._clock() - started_s
            self._counted(outcome, 1)
            self._rest(spent_s / self._share - spent_s)

    def _next(self) -> _Pair | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            pair = self._waiting.popleft()
            self._numbers -= pair.numbers
            return pair

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, max(0.0, seconds))

    def _rank(self, pair: _Pair) -> str:
        request, answered = pair.request, pair.response
        if isinstance(request.history, StoredHistory):
            history = self._history_of(request, answered)
            if history is None:
                return "dropped"
            request = dataclasses.replace(request, history=history)
        (response,) = score(self._loaded, [request])
        line = {
            "request_id": request.request_id,
            "version": answered.model_version,
            "ids": answered.ids_K.tolist(),
            "scores": answered.scores_K.tolist(),
            "rank_ms": answered.rank_ms,
            "shadow_version": response.model_version,
            "shadow_ids": response.ids_K.tolist(),
            "shadow_scores": response.scores_K.tolist(),
            "shadow_rank_ms": response.rank_ms,
        }
        self._write(json.dumps(line))
        return "logged"

    def _history_of(self, request: RankRequest, answered: RankResponse) -> History | None:
        """What the answer was made from; None where it is not there any more."""
        if self._store is None or answered.watermark is None:
            return None
        begin = max(0, answered.watermark - MAX_HISTORY)
        history = self._store.read(request.user_id, begin, answered.watermark - begin)
        return history if len(history) == answered.watermark - begin else None

    def _counted(self, outcome: str, answers: int) -> None:
        if not answers:
            return
        with self._changed:
            self._outcomes[outcome] += answers
        self._count(outcome, answers)

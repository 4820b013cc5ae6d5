"""Cached attention states of many users in memory: the least recently used are evicted first.

Knows states by their size alone; whether one may answer a request is for
`ifa_ray.ranking.state_ranker` to decide. No Ray, no event loop, no files: a lost state is made
again from the history.

Threads: any may call anything. A state that is worked on is taken out and put back, so a second
thread that wants it finds nothing, as after an eviction. One that was not put back, because
something failed half way, is gone, not half right.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ifa_ray.config import require
from ifa_ray.ranking.cached_state import HistoryState

OUTCOMES = ("hit", "behind", "missing", "conflict", "older", "beyond", "gap")
"""Outcomes of a request's look-up.

`hit`: the state was there and up to date. `behind`: it was there, and the behaviours since were
appended. `missing`: it was made from the whole history. `conflict`: it held other behaviours, and
was made anew. `older`: the request is from before the state's last behaviour, and was ranked
without one. `beyond`: the history is longer than what the model reads, and was ranked without one.
`gap`: the request brought too few behaviours, and was refused.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateStats:
    """Counts since the start, and what is held now.

    Attributes:
        outcomes: of requests, by name of `OUTCOMES`.
        appended: behaviours added to states that were there.
        evictions: states that made room for others.
        states: held now.
        state_bytes: of these.
        max_bytes: the budget.
    """

    outcomes: dict[str, int]
    appended: int
    evictions: int
    states: int
    state_bytes: int
    max_bytes: int

    @property
    def hit_rate(self) -> float:
        """The share of requests, refused ones aside, that a state answered which was there."""
        answered = sum(self.outcomes.values()) - self.outcomes["gap"]
        return (self.outcomes["hit"] + self.outcomes["behind"]) / max(1, answered)


class Borrowed(NamedTuple):
    """A state that `SequenceStates.take` hands over and `put` wants back."""

    key: tuple[int, int]
    state: HistoryState | None
    forgets: int


class SequenceStates:
    """States by (user id, model version), within a budget of bytes.

    Two versions of a model may be held side by side, as in a roll-out; states of different models
    (arms, slots) need a cache each.
    """

    def __init__(self, max_bytes: int) -> None:
        """Holds none.

        Args:
            max_bytes: of all states together. States in a thread's hands come on top: one a thread.

        Raises:
            ConfigError: if it is negative.
        """
        require(max_bytes >= 0, "max_bytes", max_bytes, ">= 0")
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], tuple[HistoryState, int]] = OrderedDict()
        self._bytes = self._appended = self._evictions = self._forgets = 0
        self._outcomes: Counter[str] = Counter()

    def take(self, user_id: int, version: int) -> Borrowed:
        """Removes a state, if there is one, and hands it over."""
        with self._lock:
            key = (user_id, version)
            return Borrowed(key, self._remove(key), self._forgets)

    def put(self, borrowed: Borrowed, state: HistoryState) -> None:
        """Stores a state, the borrowed one or its successor, as the one used last.

        Others make room; one that is larger than the budget is not kept. Should another thread have
        put one for the same user meanwhile, the longer one stays. If anything was forgotten since
        it was borrowed, the state is too: it may be what was meant.
        """
        size = state.nbytes + _ENTRY_BYTES
        with self._lock:
            if borrowed.forgets != self._forgets:
                return
            held, held_size = self._held.get(borrowed.key, (None, 0))
            if held is not None and held.length > state.length:
                state, size = held, held_size
            self._remove(borrowed.key)
            if size > self._max_bytes:
                self._evictions += 1
                return
            self._held[borrowed.key] = (state, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._held)))
                self._evictions += 1

    def watermark(self, user_id: int, version: int) -> int | None:
        """The history length of a state; None where there is none. It counts as no use."""
        with self._lock:
            held = self._held.get((user_id, version))
            return None if held is None else held[0].length

    def forget(self, is_meant: Callable[[int, int], bool]) -> None:
        """Drops the states of (user id, version) that are meant, O(states); borrowed ones too."""
        with self._lock:
            self._forgets += 1
            for key in [key for key in self._held if is_meant(*key)]:
                self._remove(key)

    def count(self, outcome: str, appended: int = 0) -> None:
        """Counts a request's outcome, one of `OUTCOMES`."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._appended += appended

    def stats(self) -> StateStats:
        """A consistent reading of everything that is counted."""
        with self._lock:
            return StateStats(
                outcomes={outcome: self._outcomes[outcome] for outcome in OUTCOMES},
                appended=self._appended,
                evictions=self._evictions,
                states=len(self._held),
                state_bytes=self._bytes,
                max_bytes=self._max_bytes,
            )

    def _remove(self, key: tuple[int, int]) -> HistoryState | None:
        held, size = self._held.pop(key, (None, 0))
        self._bytes -= size
        return held


# Of the map, for each state: the key, two integers, the pair and the map's links.
_ENTRY_BYTES = 300

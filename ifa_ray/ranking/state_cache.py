"""Cached attention states of many users in memory: the least recently used are evicted first.

Knows states by their size alone; whether one may answer a request is for
`ifa_ray.ranking.state_ranker` to decide. No Ray, no event loop, no files: a lost state is made
again from the history.

Any thread may call anything. A state that is worked on is taken out and put back, so a second
thread that wants it finds nothing, as after an eviction; one that was not put back, because
something failed half way, is gone, not half right. Ranking and erasing a user are for one thread:
a state that is out while its user is forgotten would be put back.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable

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

# Of the map, for each state: the key, two integers, the pair and the map's links.
_ENTRY_BYTES = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateStats:
    """Counts since the start, and what is held now.

    Attributes:
        outcomes: of requests, by name of `OUTCOMES`.
        appended: behaviours added to states that were there.
        evictions: states that made room for others.
        states, state_bytes: held now.
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


class SequenceStates:
    """States by (user id, model version), within a budget of bytes.

    Two versions of a model may be held side by side, as in a roll-out; states of different models
    (arms, slots) need a cache each.
    """

    def __init__(self, max_bytes: int) -> None:
        """Holds none, and at most `max_bytes` of states, those in a thread's hands aside."""
        require(max_bytes >= 0, "max_bytes", max_bytes, ">= 0")
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], tuple[HistoryState, int]] = OrderedDict()
        self._bytes = self._appended = self._evictions = 0
        self._outcomes: Counter[str] = Counter()

    def take(self, user_id: int, version: int) -> HistoryState | None:
        """Removes a state, if there is one, and hands it over."""
        with self._lock:
            return self._remove((user_id, version))

    def put(self, user_id: int, version: int, state: HistoryState) -> None:
        """Stores a state as the one used last; the least recently used make room.

        One that is larger than the budget is not kept. Should another thread have put one for the
        same user meanwhile, the longer one stays.
        """
        key, size = (user_id, version), state.nbytes + _ENTRY_BYTES
        with self._lock:
            held, held_size = self._held.get(key, (None, 0))
            if held is not None and held.length > state.length:
                state, size = held, held_size
            self._remove(key)
            if size > self._max_bytes:
                self._evictions += 1
                return
            self._held[key] = (state, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._held)))
                self._evictions += 1

    def watermark(self, user_id: int, version: int) -> int | None:
        """The history length of a state; None where there is none. It counts as no use."""
        with self._lock:
            held, _ = self._held.get((user_id, version), (None, 0))
            return None if held is None else held.length

    def forget(self, is_meant: Callable[[int, int], bool]) -> None:
        """Drops the states of each (user id, version) that is meant, O(states)."""
        with self._lock:
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

"""Sequence states of many users in memory: by user and version, the least lately used go first.

Knows states by their size alone; what is in them, and whether one may answer a request, is
`ifa_ray.ranking.state_ranker`'s. No Ray, no event loop, no files: a lost state is made again
from the history.

Threads: any may call anything. A state that is worked on is taken out and put back, so it is in one
thread's hands or in the cache, never both; a second thread that wants it finds nothing, as after an
eviction. Requests of one user are therefore best sent to one thread. A state that was not put back,
because something failed half way, is gone, not half right.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable

from ifa_ray.config import require
from ifa_ray.ranking.cached_state import HistoryState

OUTCOMES = ("hit", "behind", "missing", "conflict", "older", "beyond", "gap")
"""What became of a request's state.

`hit`: it was there and up to date. `behind`: it was there, and the behaviours since were appended.
`missing`: it was made from the whole history. `conflict`: what was there held other behaviours, and
it was made anew. `older`: the request is from before the state's last behaviour, and was ranked
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Borrowed:
    """What `SequenceStates.take` hands over and `put` wants back.

    Attributes:
        key: user id and version.
        state: None where there was none.
        forgets: how often something had been forgotten by then.
    """

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
        self._bytes = 0
        self._outcomes: Counter[str] = Counter()
        self._appended = 0
        self._evictions = 0
        self._forgets = 0

    def take(self, user_id: int, version: int) -> Borrowed:
        """Removes a state, if there is one, and hands it over."""
        with self._lock:
            key = (user_id, version)
            return Borrowed(key=key, state=self._remove(key), forgets=self._forgets)

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
        """How many behaviours a state holds; None where there is none. It counts as no use."""
        with self._lock:
            held = self._held.get((user_id, version))
            return None if held is None else held[0].length

    def forget_user(self, user_id: int) -> None:
        """Drops a user's states of all versions, those in a thread's hands too. O(states)."""
        self._forget(lambda key: key[0] == user_id)

    def forget_users(self, is_meant: Callable[[int], bool]) -> None:
        """As `forget_user`, of the users that a function says yes to."""
        self._forget(lambda key: is_meant(key[0]))

    def forget_version(self, version: int) -> None:
        """Drops all users' states of a version, as when it is unloaded. O(states)."""
        self._forget(lambda key: key[1] == version)

    def count(self, outcome: str, appended: int = 0) -> None:
        """Notes what became of a request's state, one of `OUTCOMES`."""
        assert outcome in OUTCOMES, outcome
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

    def _forget(self, is_meant: Callable[[tuple[int, int]], bool]) -> None:
        with self._lock:
            self._forgets += 1
            for key in list(filter(is_meant, self._held)):
                self._remove(key)

    def _remove(self, key: tuple[int, int]) -> HistoryState | None:
        held = self._held.pop(key, None)
        if held is None:
            return None
        self._bytes -= held[1]
        return held[0]


# Of the map, for each state: the key, two integers, the pair and the map's links.
_ENTRY_BYTES = 300

"""The sequence state of one user: all that a model reads of a history, of a size that hardly grows.

Sums of linear attention, sums by code, the latest behaviours themselves, and where the history
ends. Knows how to hold these and how large they are; what is put in is
`ifa_ray.models.history_keeper`'s, for the sums hold what one version of one model makes of
behaviours.

Letters: F features of phi, E width of values, T behaviours.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from ifa_ray.models.code_table import CodeTable
from ifa_ray.schema import History


class Latest:
    """The latest behaviours of a growing history, oldest first, in one piece.

    Twice the room, so that what is kept moves once every `capacity` appends.
    """

    __slots__ = ("_actions", "_ids", "_start", "_stop", "_times_ms", "capacity")

    def __init__(self, capacity: int) -> None:
        """Holds none yet, and `capacity` >= 1 at most."""
        self.capacity = capacity
        self._start = self._stop = 0
        self._ids = np.empty(2 * capacity, np.int32)
        self._actions = np.empty(2 * capacity, np.uint8)
        self._times_ms = np.empty(2 * capacity, np.int64)

    @property
    def nbytes(self) -> int:
        """What its arrays hold, spare room included."""
        return self._ids.nbytes + self._actions.nbytes + self._times_ms.nbytes

    def __len__(self) -> int:
        return self._stop - self._start

    def append(self, history: History) -> None:
        """Adds behaviours after all others; the oldest ones give way."""
        count = min(len(history), self.capacity)
        keep = min(len(self), self.capacity - count)
        if self._stop + count > 2 * self.capacity:
            for column in (self._ids, self._actions, self._times_ms):
                column[:keep] = column[self._stop - keep : self._stop].copy()
            self._stop = keep
        begin, stop = self._stop, self._stop + count
        skip = len(history) - count
        self._ids[begin:stop] = history.ids_T[skip:]
        self._actions[begin:stop] = history.actions_T[skip:]
        self._times_ms[begin:stop] = history.times_ms_T[skip:]
        self._start, self._stop = begin - keep, stop

    @property
    def last_ms(self) -> int:
        """When the last one happened; there is one."""
        return int(self._times_ms[self._stop - 1])

    def history(self) -> History:
        """What is held, copied."""
        held = slice(self._start, self._stop)
        return History(
            ids_T=self._ids[held].copy(),
            actions_T=self._actions[held].copy(),
            times_ms_T=self._times_ms[held].copy(),
        )


class HistoryState:
    """What was kept of one user's history by one version of a model. Mutable; not thread-safe.

    Attributes:
        length: n, how many behaviours it holds: the watermark up to which it is exact.
        dense_FE: phi(K)^T [V, 1], float32; None where the model reads no such sums.
        pending: how many of the latest behaviours are not in `dense_FE` yet.
        codes: sums by code; None where neither model nor features read them.
        latest: the last behaviours themselves.
    """

    __slots__ = ("codes", "dense_FE", "first_ms", "latest", "length", "pending")

    def __init__(
        self, dense_FE: npt.NDArray[np.float32] | None, codes: CodeTable | None, latest: int
    ) -> None:
        """The state of the empty history.

        Args:
            dense_FE: zeros.
            codes: an empty table.
            latest: how many behaviours to hold themselves, >= 1.
        """
        self.length = 0
        self.pending = 0
        self.first_ms = 0
        self.dense_FE = dense_FE
        self.codes = codes
        self.latest = Latest(latest)

    @property
    def last_ms(self) -> int | None:
        """When the last behaviour happened; None for the empty history."""
        return self.latest.last_ms if len(self.latest) else None

    @property
    def nbytes(self) -> int:
        """What the state costs in memory: all its arrays, their headers and its objects."""
        arrays = self.latest.nbytes
        objects: list[object] = [self, self.latest]
        num_arrays = 3
        if self.dense_FE is not None:
            arrays += self.dense_FE.nbytes
            num_arrays += 1
        if self.codes is not None:
            arrays += self.codes.nbytes
            num_arrays += 5
            objects.append(self.codes)
        headers = num_arrays * _ARRAY_HEADER + sum(map(sys.getsizeof, objects))
        return arrays + headers


_ARRAY_HEADER = sys.getsizeof(np.empty(0))

"""The sequence state of one user: all that a model reads of a history, of a size that hardly grows.

Sums of linear attention, sums by code, the latest behaviours themselves, and where the history
ends. Knows how to hold these and how large they are; what is put in is
`ifa_ray.ranking.state_keeper`'s, for the sums hold what one version of one model makes of
behaviours.

Letters: F features of phi, E width of values, T behaviours.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import torch

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

NEVER_MS = np.iinfo(np.int64).min
"""When a code was last met that never was."""

_DAY_MS = 86_400_000
_FIRST_ROWS = 8
# Knuth's multiplicative hash: the golden ratio's bits.
_GOLDEN, _WORD = 2_654_435_769, 0xFFFF_FFFF


def naive_sums(
    codes_TG: npt.NDArray[np.int32],
    values_TV: npt.NDArray[np.float32],
    times_ms_T: npt.NDArray[np.int64],
    decay_days: tuple[float, ...],
    now_ms: int,
) -> dict[int, npt.NDArray[np.float64]]:
    """The sums as they are meant, [D, V] for each code met; kept to say what a table must hold."""
    sums: dict[int, npt.NDArray[np.float64]] = {}
    for codes_G, values_V, time_ms in zip(codes_TG, values_TV, times_ms_T, strict=True):
        age_days = (now_ms - int(time_ms)) / _DAY_MS
        weight_D = np.exp(-age_days / np.array(decay_days))
        for code in codes_G.tolist():
            so_far_DV = sums.setdefault(code, np.zeros((len(decay_days), len(values_V))))
            so_far_DV += weight_D[:, None] * values_V
    return sums


class CodeTable:
    """For each code met: D decayed sums of V values, and when it was last met.

    Mutable; all arrays grow by doubling, so an append is O(G X) amortised.
    """

    __slots__ = ("_codes_S", "_index_H", "_last_ms_S", "_rates_D", "_shift", "_sums_SDV", "size")

    def __init__(self, decay_days: tuple[float, ...], num_values: int) -> None:
        """An empty table.

        Args:
            decay_days: D decay times; infinity sums plainly.
            num_values: V, what each behaviour adds to its codes.
        """
        self.size = 0
        self._rates_D = -1.0 / np.array(decay_days) / _DAY_MS
        self._codes_S = np.empty(_FIRST_ROWS, np.int32)
        self._last_ms_S = np.empty(_FIRST_ROWS, np.int64)
        self._sums_SDV = np.zeros((_FIRST_ROWS, len(decay_days), num_values), np.float32)
        self._index()

    @property
    def nbytes(self) -> int:
        """What its arrays hold, spare room included."""
        arrays = (self._codes_S, self._last_ms_S, self._sums_SDV, self._index_H, self._rates_D)
        return sum(array.nbytes for array in arrays)

    def append(self, codes_G: list[int], values_V: npt.NDArray[np.float32], time_ms: int) -> None:
        """Adds one behaviour, not older than any before it; its codes are distinct. O(G X)."""
        rows_G = np.array([self._row(code, time_ms) for code in codes_G])
        passed_ms_G = time_ms - self._last_ms_S[rows_G]
        sums_GDV = self._sums_SDV[rows_G]
        if passed_ms_G.any():
            sums_GDV *= np.exp(passed_ms_G[:, None] * self._rates_D)[..., None]
        sums_GDV += values_V
        self._sums_SDV[rows_G] = sums_GDV
        self._last_ms_S[rows_G] = time_ms

    def extend(
        self,
        codes_TG: npt.NDArray[np.int32],
        values_TV: npt.NDArray[np.float32],
        times_ms_T: npt.NDArray[np.int64],
    ) -> None:
        """Adds many behaviours, oldest first, none older than any before them. O(T G X + S)."""
        G, X = codes_TG.shape[1], self._sums_SDV[0].size
        rows_N = self._find_or_add(codes_TG.ravel(), int(times_ms_T[0]))
        times_ms_N = np.repeat(times_ms_T, G)
        last_ms_S = self._last_ms_S.copy()
        np.maximum.at(last_ms_S, rows_N, times_ms_N)
        self._age(last_ms_S)
        passed_ms_N = (last_ms_S[rows_N] - times_ms_N).astype(np.float32)
        weight_ND = np.exp(passed_ms_N[:, None] * self._rates_D.astype(np.float32))
        added_NDV = weight_ND[..., None] * np.repeat(values_TV, G, axis=0)[:, None]
        sums_SX = torch.from_numpy(self._sums_SDV.reshape(-1, X))  # one memory, so in place
        sums_SX.index_add_(0, torch.from_numpy(rows_N), torch.from_numpy(added_NDV.reshape(-1, X)))

    def merge(self, later: CodeTable) -> None:
        """Adds what a table of later behaviours holds."""
        if not later.size:
            return
        rows_N = self._find_or_add(later._codes_S[: later.size], NEVER_MS)
        theirs_ms_N = later._last_ms_S[: later.size]
        last_ms_S = self._last_ms_S.copy()
        last_ms_S[rows_N] = theirs_ms_N
        self._age(last_ms_S)
        self._sums_SDV[rows_N] += later._sums_SDV[: later.size]

    def read(
        self, codes_K: npt.NDArray[np.int32], now_ms: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """What is known of codes as of now, O(K X) however much was met.

        Returns:
            Sums [K, D, V], 0 for codes that were never met; and when each was last met, [K],
            `NEVER_MS` if never.
        """
        rows_K = self._find(codes_K)
        met_K = rows_K >= 0
        met_rows = rows_K[met_K]
        sums_KDV = np.zeros((len(codes_K), *self._sums_SDV.shape[1:]), np.float32)
        last_ms_K = np.full(len(codes_K), NEVER_MS)
        last_ms_K[met_K] = last_ms = self._last_ms_S[met_rows]
        factor_D = np.exp((now_ms - last_ms)[:, None] * self._rates_D)
        sums_KDV[met_K] = self._sums_SDV[met_rows] * factor_D[..., None].astype(np.float32)
        return sums_KDV, last_ms_K

    def _age(self, last_ms_S: npt.NDArray[np.int64]) -> None:
        """Moves rows on to later moments."""
        moved = np.flatnonzero(last_ms_S[: self.size] != self._last_ms_S[: self.size])
        old_ms = self._last_ms_S[moved]
        passed_ms = np.where(old_ms == NEVER_MS, 0, last_ms_S[moved] - old_ms)
        factor_D = np.exp(passed_ms[:, None] * self._rates_D)
        self._sums_SDV[moved] *= factor_D[..., None].astype(np.float32)
        self._last_ms_S = last_ms_S

    def _row(self, code: int, time_ms: int) -> int:
        """The row of one code, which is made if it has none. Python's integers are faster here."""
        last = len(self._index_H) - 1
        place = (code * _GOLDEN & _WORD) >> self._shift
        while (row := self._index_H.item(place)) >= 0:
            if self._codes_S.item(row) == code:
                return row
            place = (place + 1) & last
        if self.size == len(self._codes_S):
            self._grow(self.size + 1)
            return self._row(code, time_ms)
        row = self.size
        self._index_H[place] = row
        self._codes_S[row], self._last_ms_S[row] = code, time_ms
        self.size += 1
        return row

    def _find(self, codes_K: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Rows of codes, -1 where they have none; expected O(K)."""
        last = len(self._index_H) - 1
        place_K = self._home(codes_K)
        row_K = self._index_H[place_K].astype(np.int64)
        open_N = np.flatnonzero((row_K >= 0) & (self._codes_S[row_K] != codes_K))
        while len(open_N):
            place_K[open_N] = place_N = (place_K[open_N] + 1) & last
            row_K[open_N] = row_N = self._index_H[place_N]
            open_N = open_N[(row_N >= 0) & (self._codes_S[row_N] != codes_K[open_N])]
        return row_K

    def _find_or_add(self, codes_K: npt.NDArray[np.int32], new_ms: int) -> npt.NDArray[np.int64]:
        """As `_find`; codes without a row get one, last met at a given moment."""
        row_K = self._find(codes_K)
        if (row_K >= 0).all():
            return row_K
        new_codes = np.unique(codes_K[row_K < 0])
        start, stop = self.size, self.size + len(new_codes)
        if stop > len(self._codes_S):
            self._grow(stop)
        self._codes_S[start:stop], self._last_ms_S[start:stop] = new_codes, new_ms
        self.size = stop
        self._place(np.arange(start, stop))
        return self._find(codes_K)

    def _grow(self, rows: int) -> None:
        capacity = max(rows, 2 * len(self._codes_S))
        for name in ("_codes_S", "_last_ms_S", "_sums_SDV"):
            old = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: self.size] = old[: self.size]
            setattr(self, name, new)
        self._index()

    def _index(self) -> None:
        """Makes the index anew: at most half full, so that a search is short."""
        bits = (2 * len(self._codes_S) - 1).bit_length()
        self._shift = 32 - bits
        self._index_H = np.full(1 << bits, -1, np.int32)
        self._place(np.arange(self.size))

    def _place(self, rows_N: npt.NDArray[np.int64]) -> None:
        """Enters rows, whose codes are distinct and not there yet, into the index."""
        last = len(self._index_H) - 1
        place_N = self._home(self._codes_S[rows_N])
        while len(rows_N):
            free_N = self._index_H[place_N] < 0
            self._index_H[place_N[free_N]] = rows_N[free_N]  # of several the last one stays
            lost_N = self._index_H[place_N] != rows_N
            rows_N, place_N = rows_N[lost_N], (place_N[lost_N] + 1) & last

    def _home(self, codes_K: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        hashed_K = codes_K.astype(np.uint32) * np.uint32(_GOLDEN)
        return (hashed_K >> np.uint32(self._shift)).astype(np.int64)

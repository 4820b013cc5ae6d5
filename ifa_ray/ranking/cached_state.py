"""The cached attention state of one user: what a model needs of a history, whatever its length.

Sums of linear attention, exponentially decayed sums per code, and the latest behaviours. Knows how
to hold these and how large they are; `ifa_ray.ranking.state_keeper` fills them.

Letters: F features of phi, E width of values, T behaviours, G codes of each, S codes met, K asked
for, D decays, V values, X = D V.
"""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.schema import History

NEVER_MS = np.iinfo(np.int64).min
"""The last time of a code that was never met."""

_NO_CODE = np.iinfo(np.int32).max
_DAY_MS = 86_400_000
_ARRAY_HEADER = sys.getsizeof(np.empty(0))


class CodeTable:
    """For each code met: D decayed sums of V values, and when it was last met. Mutable.

    Rows are sorted by code, so a look-up is a binary search and a code that is new moves the rows
    after it: a user meets few new codes, and the table has no spare room. The last row, of no code,
    is where a search ends that finds nothing.
    """

    __slots__ = ("_codes_S", "_last_ms_S", "_rates_D", "_sums_SDV")

    def __init__(self, decay_days: tuple[float, ...], num_values: int) -> None:
        """An empty table of D decay times, in days; infinity sums plainly."""
        self._rates_D = -1.0 / np.array(decay_days) / _DAY_MS
        self._codes_S = np.array([_NO_CODE], np.int32)
        self._last_ms_S = np.array([NEVER_MS])
        self._sums_SDV = np.zeros((1, len(decay_days), num_values), np.float32)

    @property
    def size(self) -> int:
        """S, the number of codes met."""
        return len(self._codes_S) - 1

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that it holds."""
        return self._codes_S, self._last_ms_S, self._sums_SDV, self._rates_D

    def add(
        self,
        codes_TG: npt.NDArray[np.int32],
        values_TV: npt.NDArray[np.float32],
        times_ms_T: npt.NDArray[np.int64],
    ) -> None:
        """Adds behaviours, oldest first, none older than any before them. O(T G X + S)."""
        rows_N = self._find_or_add(codes_TG.ravel(), int(times_ms_T[0]))
        if len(times_ms_T) == 1:  # no row twice
            self._age(rows_N, times_ms_T)
            self._sums_SDV[rows_N] += values_TV
            return
        G, X = codes_TG.shape[1], math.prod(self._sums_SDV.shape[1:])
        times_ms_N = np.repeat(times_ms_T, G)
        last_ms_S = self._last_ms_S.copy()
        last_ms_S[rows_N] = times_ms_N  # of equal rows the last one stays, which is the latest
        moved = np.flatnonzero(last_ms_S != self._last_ms_S)
        self._age(moved, last_ms_S[moved])
        passed_ms_N = (last_ms_S[rows_N] - times_ms_N).astype(np.float32)
        weight_ND = np.exp(passed_ms_N[:, None] * self._rates_D.astype(np.float32))
        added_NDV = weight_ND[..., None] * np.repeat(values_TV, G, axis=0)[:, None]
        sums_SX = torch.from_numpy(self._sums_SDV.reshape(-1, X))  # one memory, so in place
        sums_SX.index_add_(0, torch.from_numpy(rows_N), torch.from_numpy(added_NDV.reshape(-1, X)))

    def read(
        self, codes_K: npt.NDArray[np.int32], now_ms: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Reads codes as of now, O(K (X + log S)).

        Returns:
            Sums [K, D, V], 0 for codes that were never met; and when each was last met, [K],
            `NEVER_MS` if never.
        """
        rows_K = self._codes_S.searchsorted(codes_K)
        met_K = self._codes_S[rows_K] == codes_K
        met_rows = rows_K[met_K]
        sums_KDV = np.zeros((len(codes_K), *self._sums_SDV.shape[1:]), np.float32)
        last_ms_K = np.full(len(codes_K), NEVER_MS)
        last_ms_K[met_K] = last_ms = self._last_ms_S[met_rows]
        factor_D = np.exp((now_ms - last_ms)[:, None] * self._rates_D)
        sums_KDV[met_K] = self._sums_SDV[met_rows] * factor_D[..., None].astype(np.float32)
        return sums_KDV, last_ms_K

    def _age(self, rows_N: npt.NDArray[np.int64], times_ms_N: npt.NDArray[np.int64]) -> None:
        """Moves rows, none of them twice, on to later moments."""
        passed_ms_N = times_ms_N - self._last_ms_S[rows_N]
        factor_ND = np.exp(passed_ms_N[:, None] * self._rates_D)
        self._sums_SDV[rows_N] *= factor_ND[..., None].astype(np.float32)
        self._last_ms_S[rows_N] = times_ms_N

    def _find_or_add(self, codes_N: npt.NDArray[np.int32], new_ms: int) -> npt.NDArray[np.int64]:
        """The row of each code; those that have none get one, last met at a given moment."""
        rows_N = self._codes_S.searchsorted(codes_N)
        found_N = self._codes_S[rows_N] == codes_N
        if found_N.all():
            return rows_N
        new = np.unique(codes_N[~found_N])
        at = self._codes_S.searchsorted(new)
        self._codes_S = np.insert(self._codes_S, at, new)
        self._last_ms_S = np.insert(self._last_ms_S, at, new_ms)
        self._sums_SDV = np.insert(self._sums_SDV, at, 0, axis=0)
        return self._codes_S.searchsorted(codes_N)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class HistoryState:
    """The cached state of one user for one version of a model. Mutable; not thread-safe.

    Attributes:
        dense_FE: phi(K)^T [V, 1] of the first `num_summed` behaviours, float32; None where the
            model reads no such sums.
        codes: sums by code; None where neither model nor features read them.
        latest: the last behaviours themselves.
        length: n, behaviours in all.
    """

    dense_FE: npt.NDArray[np.float32] | None
    codes: CodeTable | None
    latest: History = dataclasses.field(default_factory=History.empty)
    length: int = 0
    num_summed: int = 0

    @property
    def last_ms(self) -> int | None:
        """The time of the last behaviour; None for the empty history."""
        return int(self.latest.times_ms_T[-1]) if self.length else None

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, their headers and the objects that hold them."""
        latest = self.latest
        arrays: list[np.ndarray] = [latest.ids_T, latest.actions_T, latest.times_ms_T]
        objects: list[object] = [self, latest]
        if self.dense_FE is not None:
            arrays.append(self.dense_FE)
        if self.codes is not None:
            arrays += self.codes.arrays
            objects.append(self.codes)
        return sum(a.nbytes + _ARRAY_HEADER for a in arrays) + sum(map(sys.getsizeof, objects))

"""Watch time without the video's length: D2Q and WTG, frozen on the time before the test.

A long video is watched longer whoever chose it, so watch time rewards showing long ones. Both
proxies compare a play with those of videos of like duration:

- D2Q (duration-deconfounded quantile; Zhan et al., KDD 2022): the share of plays in the same
  duration bin that were shorter, ties counting half, in [0, 1].
- WTG (watch time gain; Zheng et al., 2022): (play - mean of the bin) / (standard deviation of it).

Knows two columns of a log. Bins and moments come from one log and judge all arms alike.

Letters: N plays of the pre-period, B duration bins.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["FIXED", "WatchNorms"]

MAX_BINS = 30
MIN_PLAYS = 100
"""A bin has about as many plays or more, so that its quantiles are worth something."""

FIXED = 2**20
"""Fixed point of both proxies: sums of integers do not depend on the order of rows."""

_PLAY_BITS = 40  # plays up to 34 years; bins above them in one sorted key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WatchNorms:
    """What plays of each duration were like before the test.

    Attributes:
        edges_B: int64, the lower end of each duration bin but the first, ms.
        keys_N: int64, sorted: the bin above the play time, one number per play.
        starts_B: int64, where each bin begins in `keys_N`; one more than there are bins.
        mean_B, sd_B: float64, of play times, ms.
    """

    edges_B: npt.NDArray[np.int64]
    keys_N: npt.NDArray[np.int64]
    starts_B: npt.NDArray[np.int64]
    mean_B: npt.NDArray[np.float64]
    sd_B: npt.NDArray[np.float64]

    @classmethod
    def of(cls, play_ms_N: npt.NDArray[np.integer], duration_ms_N: npt.NDArray[np.integer]
           ) -> WatchNorms:  # fmt: skip
        """Measures a log's plays. Bins hold equally many, as far as equal durations allow."""
        durations_N = duration_ms_N.astype(np.int64)
        bins = int(np.clip(len(durations_N) // MIN_PLAYS, 1, MAX_BINS))
        inner = np.arange(1, bins) / bins
        edges_B = np.unique(np.quantile(durations_N, inner, method="higher").astype(np.int64))
        edges_B = edges_B[edges_B > durations_N.min()]
        bin_N = np.searchsorted(edges_B, durations_N, side="right")
        keys_N = np.sort((bin_N << _PLAY_BITS) | play_ms_N.astype(np.int64))
        count = len(edges_B) + 1
        starts_B = np.searchsorted(keys_N, np.arange(count + 1, dtype=np.int64) << _PLAY_BITS)
        plays = [
            (keys_N[low:high] & ((1 << _PLAY_BITS) - 1)).astype(np.float64)
            for low, high in itertools.pairwise(starts_B)
        ]
        return cls(
            edges_B=edges_B,
            keys_N=keys_N,
            starts_B=starts_B,
            mean_B=np.array([part.mean() for part in plays]),
            sd_B=np.array([part.std() for part in plays]),
        )

    def d2q(self, play_ms_M: npt.NDArray[np.integer], duration_ms_M: npt.NDArray[np.integer]
            ) -> npt.NDArray[np.int64]:  # fmt: skip
        """D2Q of M plays, times `FIXED`. O(M log N)."""
        bin_M = np.searchsorted(self.edges_B, duration_ms_M.astype(np.int64), side="right")
        key_M = (bin_M << _PLAY_BITS) | play_ms_M.astype(np.int64)
        below_M = np.searchsorted(self.keys_N, key_M, side="left")
        upto_M = np.searchsorted(self.keys_N, key_M, side="right")
        start_M = self.starts_B[bin_M]
        size_M = self.starts_B[bin_M + 1] - start_M
        rank_M = (below_M + upto_M) / 2 - start_M
        return np.rint(rank_M / size_M * FIXED).astype(np.int64)

    def wtg(self, play_ms_M: npt.NDArray[np.integer], duration_ms_M: npt.NDArray[np.integer]
            ) -> npt.NDArray[np.int64]:  # fmt: skip
        """WTG of M plays, times `FIXED`; 0 in a bin whose plays were all alike."""
        bin_M = np.searchsorted(self.edges_B, duration_ms_M.astype(np.int64), side="right")
        sd_M = self.sd_B[bin_M]
        gain_M = np.divide(play_ms_M - self.mean_B[bin_M], sd_M, out=np.zeros(len(bin_M)),
                           where=sd_M > 0)  # fmt: skip
        return np.rint(gain_M * FIXED).astype(np.int64)

    def columns(self, impressions: pl.LazyFrame) -> pl.LazyFrame:
        """Adds `d2q` and `wtg` (int64, times `FIXED`) to impressions."""
        both = pl.struct("play_time_ms", "duration_ms")
        return impressions.with_columns(
            both.map_batches(self._of_struct("d2q"), pl.Int64, is_elementwise=True).alias("d2q"),
            both.map_batches(self._of_struct("wtg"), pl.Int64, is_elementwise=True).alias("wtg"),
        )

    def _of_struct(self, name: str):  # type: ignore[no-untyped-def]  # polars' own callback type
        measure = {"d2q": self.d2q, "wtg": self.wtg}[name]

        def apply(rows: pl.Series) -> pl.Series:
            fields = rows.struct.unnest()
            plays = fields["play_time_ms"].cast(pl.Int64).to_numpy()
            return pl.Series(measure(plays, fields["duration_ms"].cast(pl.Int64).to_numpy()))

        return apply

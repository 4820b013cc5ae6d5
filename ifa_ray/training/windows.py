"""A stream cut into hours, days or equal counts of requests, and the metrics of each piece.

Knows times, counts and predictions; nothing of models or files. A piece is named by when it was
(UTC) or by its place in the stream, so it does not depend on who cuts, or from where on.

Letters: S requests, X candidates of all requests, L objectives.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ifa_ray.config import require
from ifa_ray.errors import ConfigError
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.loop import BatchResult, StreamMetrics, summarise

__all__ = ["DAY_MS", "Every", "day_of", "undefined_reasons", "window_rows"]

DAY_MS = 86_400_000
_HOUR_MS = 3_600_000


@dataclasses.dataclass(frozen=True)
class Every:
    """How a stream is cut: `hour`, `day`, or so many requests (`500`)."""

    text: str
    count: int | None

    @classmethod
    def parse(cls, field: str, text: str) -> Every:
        """Reads a setting.

        Args:
            field: its name, for messages.
            text: its value.

        Raises:
            ConfigError: if it is none of the three.
        """
        if text in ("hour", "day"):
            return cls(text, None)
        try:
            count = int(text)
        except ValueError:
            raise ConfigError(
                f"{field} == {text!r}, must be hour, day, or a number of requests."
            ) from None
        require(count >= 1, field, count, ">= 1 request")
        return cls(text, count)

    def keys(self, times_ms_S: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.int64]:
        """The piece that each request is in, [S].

        Args:
            times_ms_S: when they were asked; never decreasing.
            first: the place of the first of them in the stream.
        """
        if self.count is not None:
            return (first + np.arange(len(times_ms_S))) // self.count
        return times_ms_S // (_HOUR_MS if self.text == "hour" else DAY_MS)

    def name(self, key: int) -> str:
        """What a piece is called: 2026-11-24, 2026-11-24T07, or 500-999."""
        if self.count is not None:
            return f"{key * self.count}-{(key + 1) * self.count - 1}"
        unit_s = 3600 if self.text == "hour" else 86400
        start = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=key * unit_s)
        return start.isoformat()[: 13 if self.text == "hour" else 10]

    def pieces(self, times_ms_S: npt.NDArray[np.int64], start: int) -> Iterator[tuple[int, int]]:
        """The pieces of a whole stream from a place on, as (first, one past the last)."""
        keys = self.keys(times_ms_S[start:], start)
        cuts = start + 1 + np.flatnonzero(np.diff(keys))
        edges = [start, *map(int, cuts), len(times_ms_S)]
        yield from ((low, high) for low, high in itertools.pairwise(edges) if low < high)


def day_of(time_ms: int) -> str:
    """The UTC day of a moment."""
    return Every("day", None).name(time_ms // DAY_MS)


def window_rows(
    results: Sequence[BatchResult],
    times_ms_S: npt.NDArray[np.int64],
    first: int,
    every: Every,
    version: int,
) -> list[dict[str, Any]]:
    """The progressive metrics of each window of a version's requests, as plain JSON values.

    A window that two versions share makes one row for each: a row tests one version.

    Args:
        results: of the consecutive batches, S requests in all.
        times_ms_S: when the requests were asked.
        first: the place of the first of them in the stream.
        every: how windows are cut.
        version: that learned from them.
    """
    sizes_S = np.concatenate([r.sizes_B for r in results])
    users_S = np.concatenate([r.user_ids_B for r in results])
    log_probs_XL = np.concatenate([r.log_probs_XL for r in results])
    labels_XL = np.concatenate([r.labels_XL for r in results])
    learned = [r.learned_B for r in results if r.learned_B is not None]
    learned_S = np.concatenate(learned) if learned else None
    ends_S = np.cumsum(sizes_S)
    keys_S = every.keys(times_ms_S, first)
    edges = [0, *map(int, 1 + np.flatnonzero(np.diff(keys_S))), len(sizes_S)]
    rows = []
    for low, high in itertools.pairwise(edges):
        start, stop = int(ends_S[low] - sizes_S[low]), int(ends_S[high - 1])
        part = BatchResult(
            loss=0.0,
            user_ids_B=users_S[low:high],
            sizes_B=sizes_S[low:high],
            log_probs_XL=log_probs_XL[start:stop],
            labels_XL=labels_XL[start:stop],
            seconds=0.0,
            learned_B=None if learned_S is None else learned_S[low:high],
        )
        metrics = summarise([part])
        positives_L = part.labels_XL.sum(axis=0, dtype=np.int64)
        rows.append(
            {
                "version": version,
                "window": every.name(int(keys_S[low])),
                "first_ms": int(times_ms_S[low]),
                "last_ms": int(times_ms_S[high - 1]),
                "requests": high - low,
                "requests_so_far": first + high,
                "candidates": stop - start,
                "positives": dict(zip(OBJECTIVES, map(int, positives_L), strict=True)),
                "auc": metrics.auc,
                "gauc": metrics.gauc,
                "log_loss": metrics.log_loss,
                "calibration": metrics.calibration,
                "undefined": undefined_reasons(metrics, positives_L),
            }
        )
        if metrics.learned_candidates is not None:
            rows[-1]["learned_candidates"] = metrics.learned_candidates
    return rows


def undefined_reasons(metrics: StreamMetrics, positives_L: npt.NDArray[np.int64]) -> dict[str, str]:
    """Why each metric that is None is None: `auc.is_like` to a reason."""
    reasons = {}
    for i, objective in enumerate(OBJECTIVES):
        count = int(positives_L[i])
        which = (
            f"no positives among {metrics.candidates:,} candidates"
            if count == 0
            else f"no negatives among {metrics.candidates:,} candidates"
        )
        if metrics.auc[objective] is None:
            reasons[f"auc.{objective}"] = which
        if metrics.gauc[objective] is None:
            lone = count in (0, metrics.candidates)
            reasons[f"gauc.{objective}"] = which if lone else "no request has both classes"
        if metrics.calibration[objective] is None:
            reasons[f"calibration.{objective}"] = which
    return reasons

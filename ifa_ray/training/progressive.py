"""Progressive metrics of a stream: by hours, days or counts of requests, and over all of it.

A window is named by when it was (UTC) or by its place in the stream. Sums over the whole stream
take fixed memory, which travels in a checkpoint: counts of predictions by log-odds bin make the
AUC. pITCTR is peaked near 0, so probabilities are not binned but their log-odds. Knows times and
predictions; nothing of models or files.

Letters: S requests, X candidates of all requests, L objectives, K bins.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import require
from ifa_ray.errors import CheckpointError, ConfigError
from ifa_ray.metrics import group_aucs
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.learner import BatchResult, StreamMetrics, summarise

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


_LOWEST, _HIGHEST, _BINS = -24.0, 8.0, 8192
_L = len(OBJECTIVES)
_SHAPES = {
    "counts": (_L, 2, _BINS), "log_loss": (_L,), "predicted": (_L,), "gauc": (_L,),
    "gauc_requests": (_L,), "steps": (), "requests": (), "candidates": (),
}  # fmt: skip
_FLOATS = ("log_loss", "predicted", "gauc")


@dataclasses.dataclass(eq=False)
class StreamTotals:
    """Sums over all requests tested so far.

    The AUC treats predictions of one bin, 1/256 of a unit of log-odds, as ties: it is off by at
    most half the share of (positive, negative) pairs that fall into one bin.
    """

    values: dict[str, np.ndarray]

    @classmethod
    def empty(cls) -> StreamTotals:
        """Before the first request."""
        kinds = {name: np.float64 if name in _FLOATS else np.int64 for name in _SHAPES}
        return cls({name: np.zeros(shape, kinds[name]) for name, shape in _SHAPES.items()})

    def add(self, result: BatchResult) -> None:
        """Counts a batch."""
        values, X = self.values, len(result.labels_XL)
        values["steps"] += 1
        values["requests"] += len(result.sizes_B)
        values["candidates"] += X
        groups_X = np.repeat(np.arange(len(result.sizes_B)), result.sizes_B)
        for i in range(_L):
            log_p_X = result.log_probs_XL[:, i].astype(np.float64)
            labels_X = result.labels_XL[:, i].astype(np.int64)
            log_not_X = np.log(np.maximum(-np.expm1(log_p_X), 2.0**-53))
            bins_X = _bins(log_p_X - log_not_X)
            both = np.bincount(labels_X * _BINS + bins_X, minlength=2 * _BINS)
            values["counts"][i] += both.reshape(2, _BINS)
            values["log_loss"][i] -= np.where(labels_X > 0, log_p_X, log_not_X).sum()
            values["predicted"][i] += np.exp(log_p_X).sum()
            _, aucs = group_aucs(log_p_X, labels_X, groups_X)
            values["gauc"][i] += aucs.sum()
            values["gauc_requests"][i] += len(aucs)

    def metrics(self) -> dict[str, Any]:
        """The metrics so far as plain JSON values; None where one is not defined."""
        values = self.values
        X = int(values["candidates"])
        positives_L = values["counts"][:, 1].sum(axis=1)
        each = {
            "auc": [_auc(values["counts"][i]) for i in range(_L)],
            "gauc": [_ratio(values["gauc"][i], values["gauc_requests"][i]) for i in range(_L)],
            "log_loss": [_ratio(values["log_loss"][i], X) for i in range(_L)],
            "calibration": [_ratio(values["predicted"][i], positives_L[i]) for i in range(_L)],
        }
        counts = {name: int(values[name]) for name in ("steps", "requests", "candidates")}
        return {
            **counts,
            **{name: dict(zip(OBJECTIVES, found, strict=True)) for name, found in each.items()},
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """A copy that can be saved."""
        return {name: torch.from_numpy(value.copy()) for name, value in self.values.items()}

    @classmethod
    def of_tensors(cls, tensors: dict[str, torch.Tensor]) -> StreamTotals:
        """What `tensors` gave.

        Raises:
            CheckpointError: if it is something else.
        """
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != _SHAPES:
            raise CheckpointError(f"totals have shapes {found}, must be {_SHAPES}.")
        return cls({name: tensor.numpy().copy() for name, tensor in tensors.items()})


def _bins(log_odds_X: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    scale = _BINS / (_HIGHEST - _LOWEST)
    return np.clip((log_odds_X - _LOWEST) * scale, 0, _BINS - 1).astype(np.int64)


def _auc(counts_2K: npt.NDArray[np.int64]) -> float | None:
    negatives_K, positives_K = counts_2K
    below_K = np.cumsum(negatives_K) - negatives_K
    pairs = int(positives_K.sum()) * int(negatives_K.sum())
    return float((positives_K * (below_K + negatives_K / 2)).sum() / pairs) if pairs else None


def _ratio(total: Any, count: Any) -> float | None:
    return float(total / count) if count else None

"""Progressive metrics of a stream: by hours, days or counts of requests, and over all of it.

Sums over the whole stream take fixed memory, which travels in a checkpoint: counts of predictions
by bin of their log-odds make the AUC. Knows times and predictions; nothing of models or files.

Letters: S requests, X candidates of all requests, L objectives, K bins.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import require
from ifa_ray.metrics import group_aucs
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.learner import BatchResult, joined, quality

UNIT_MS = {"hour": 3_600_000, "day": 86_400_000}


@dataclasses.dataclass(frozen=True)
class Every:
    """The cuts of a stream: by `hour` or `day` (UTC), or every so many requests."""

    unit: str | int

    @classmethod
    def parse(cls, field: str, text: str) -> Every:
        """Reads a setting: hour, day, or a number."""
        if text in UNIT_MS:
            return cls(text)
        count = int(text) if text.isdecimal() else 0
        require(count >= 1, field, text, "hour, day, or a number of requests >= 1")
        return cls(count)

    def keys(self, times_ms_S: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.int64]:
        """The piece of each request [S], of which `first` come before in the stream."""
        if isinstance(self.unit, int):
            return (first + np.arange(len(times_ms_S))) // self.unit
        return times_ms_S // UNIT_MS[self.unit]

    def name(self, key: int) -> str:
        """The name of a piece: 2026-11-24, 2026-11-24T07, or 500-999."""
        if isinstance(self.unit, int):
            return f"{key * self.unit}-{(key + 1) * self.unit - 1}"
        epoch = datetime.datetime(1970, 1, 1)
        start = epoch + datetime.timedelta(milliseconds=key * UNIT_MS[self.unit])
        return start.isoformat()[: 13 if self.unit == "hour" else 10]

    def pieces(self, times_ms_S: npt.NDArray[np.int64], start: int) -> Iterator[tuple[int, int]]:
        """The pieces of a whole stream from a place on, as (first, one past the last)."""
        for low, high in _runs(self.keys(times_ms_S[start:], start)):
            yield start + low, start + high


def _runs(keys_S: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where each run of equal keys begins and ends."""
    edges = [0, *map(int, 1 + np.flatnonzero(np.diff(keys_S))), len(keys_S)]
    return ((low, high) for low, high in itertools.pairwise(edges) if low < high)


def day_of(time_ms: int) -> str:
    """The UTC day of a moment."""
    return Every("day").name(time_ms // UNIT_MS["day"])


def window_rows(
    results: Sequence[BatchResult],
    times_ms_S: npt.NDArray[np.int64],
    first: int,
    every: Every,
    version: int,
) -> list[dict[str, Any]]:
    """The progressive metrics of each window of a version's requests, as plain JSON values.

    A window that two versions share makes one row for each: a row tests one version. `first`
    requests come before in the stream.
    """
    sizes_S, log_probs_XL, labels_XL = joined(results)
    learned = [r.learned_B for r in results if r.learned_B is not None]
    ends_S, keys_S, rows = np.cumsum(sizes_S), every.keys(times_ms_S, first), []
    for low, high in _runs(keys_S):
        X = slice(int(ends_S[low] - sizes_S[low]), int(ends_S[high - 1]))
        found = quality(sizes_S[low:high], log_probs_XL[X], labels_XL[X])
        sums_L = map(int, labels_XL[X].sum(axis=0, dtype=np.int64))
        positives = dict(zip(OBJECTIVES, sums_L, strict=True))
        row = {
            "version": version,
            "window": every.name(int(keys_S[low])),
            "first_ms": int(times_ms_S[low]),
            "last_ms": int(times_ms_S[high - 1]),
            "requests": high - low,
            "requests_so_far": first + high,
            "candidates": X.stop - X.start,
            "positives": positives,
            **found,
            "undefined": _undefined(found, positives, X.stop - X.start),
        }
        if learned:
            row["learned_candidates"] = int(np.concatenate(learned)[low:high].sum())
        rows.append(row)
    return rows


def _undefined(
    found: Mapping[str, Mapping[str, float | None]], positives: Mapping[str, int], candidates: int
) -> dict[str, str]:
    """Why each metric that is None is None: `auc.is_like` to a reason."""
    reasons = {}
    for objective, count in positives.items():
        lone = f"no {'negatives' if count else 'positives'} among {candidates:,} candidates"
        for metric in ("auc", "gauc", "calibration"):
            if found[metric][objective] is None:
                is_lone = metric != "gauc" or count in (0, candidates)
                reasons[f"{metric}.{objective}"] = (
                    lone if is_lone else "no request has both classes"
                )
    return reasons


_L, _BINS, _LOWEST, _HIGHEST = len(OBJECTIVES), 8192, -24.0, 8.0


class StreamTotals:
    """Sums over all requests tested so far, as tensors that a checkpoint keeps.

    The AUC treats predictions of one bin, 1/256 of a unit of log-odds, as ties: it is off by at
    most half the share of (positive, negative) pairs that fall into one bin.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        self._sums = {
            "counts": np.zeros((_L, 2, _BINS), np.int64),
            "gauc_requests": np.zeros(_L, np.int64),
            **{name: np.zeros(_L) for name in ("log_loss", "predicted", "gauc")},
            **{name: np.zeros((), np.int64) for name in ("steps", "requests", "candidates")},
        }
        for name, tensor in (tensors or {}).items():
            self._sums[name] = tensor.numpy().copy()

    def tensors(self) -> dict[str, torch.Tensor]:
        """A copy that can be saved."""
        return {name: torch.from_numpy(value.copy()) for name, value in self._sums.items()}

    def add(self, result: BatchResult) -> None:
        """Counts a batch."""
        sums = self._sums
        sums["steps"] += 1
        sums["requests"] += len(result.sizes_B)
        sums["candidates"] += len(result.labels_XL)
        groups_X = np.repeat(np.arange(len(result.sizes_B)), result.sizes_B)
        for i in range(_L):
            log_p_X = result.log_probs_XL[:, i].astype(np.float64)
            labels_X = result.labels_XL[:, i].astype(np.int64)
            log_not_X = np.log(np.maximum(-np.expm1(log_p_X), 2.0**-53))
            # Most probabilities are near 0, so their log-odds are binned.
            places_X = (log_p_X - log_not_X - _LOWEST) * (_BINS / (_HIGHEST - _LOWEST))
            bins_X = np.clip(places_X, 0, _BINS - 1).astype(np.int64)
            both = np.bincount(labels_X * _BINS + bins_X, minlength=2 * _BINS)
            sums["counts"][i] += both.reshape(2, _BINS)
            sums["log_loss"][i] -= np.where(labels_X > 0, log_p_X, log_not_X).sum()
            sums["predicted"][i] += np.exp(log_p_X).sum()
            _, aucs = group_aucs(log_p_X, labels_X, groups_X)
            sums["gauc"][i] += aucs.sum()
            sums["gauc_requests"][i] += len(aucs)

    def metrics(self) -> dict[str, Any]:
        """The metrics so far as plain JSON values; None where one is not defined."""
        sums = self._sums
        negatives_LK, positives_LK = sums["counts"][:, 0], sums["counts"][:, 1]
        below_LK = np.cumsum(negatives_LK, axis=1) - negatives_LK
        won_L = (positives_LK * (below_LK + negatives_LK / 2)).sum(axis=1)
        positives_L, negatives_L = positives_LK.sum(axis=1), negatives_LK.sum(axis=1)
        fractions = {
            "auc": (won_L, positives_L * negatives_L),
            "gauc": (sums["gauc"], sums["gauc_requests"]),
            "log_loss": (sums["log_loss"], np.full(_L, sums["candidates"])),
            "calibration": (sums["predicted"], positives_L),
        }
        return {
            **{name: int(sums[name]) for name in ("steps", "requests", "candidates")},
            **{
                name: {
                    objective: float(total_L[i] / count_L[i]) if count_L[i] else None
                    for i, objective in enumerate(OBJECTIVES)
                }
                for name, (total_L, count_L) in fractions.items()
            },
        }

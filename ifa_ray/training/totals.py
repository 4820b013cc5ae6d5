"""Progressive metrics of a stream of any length, in fixed memory that travels in a checkpoint.

Counts of predictions by log-odds bin make the AUC; everything else is a sum. pITCTR is peaked near
0, so probabilities are not binned but their log-odds. Knows batches' predictions, not models.

Letters: L objectives, K bins, X candidates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.errors import CheckpointError
from ifa_ray.metrics import group_aucs
from ifa_ray.schema import OBJECTIVES
from ifa_ray.training.loop import BatchResult

__all__ = ["StreamTotals"]

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

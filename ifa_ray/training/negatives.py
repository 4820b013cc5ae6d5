"""Which negatives a model learns from when it need not learn from all, and what each then counts.

Knows samples and hashes, not models. A candidate of which nothing happened is kept with probability
`rate` and then counts 1 / rate; all others are kept and count 1. Sums over the kept are, on average
over seeds, sums over all (Horvitz and Thompson, 1952), and so are their gradients. That holds where
a candidate's score does not depend on which others are there, and nowhere else.

Letters: C candidates of a request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.schema import TrainingSample
from ifa_ray.training.losses import Importance

_GOLDEN, _LOW_64 = 0x9E3779B97F4A7C15, (1 << 64) - 1


def kept_places(
    sample: TrainingSample, rate: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The places of the candidates to learn from, in order, and what each counts.

    Whether a negative is kept is a hash of seed, request and item: it depends neither on order, nor
    on the batch, nor on who asks. Where none would be left the first stays, and counts 0.

    Args:
        sample: with its whole candidate set.
        rate: in (0, 1], of negatives kept.
        seed: another one keeps others.
    """
    positive_C = sample.labels_CL.max(axis=1) > 0
    key = _mixed(
        _mixed(np.array([seed], np.uint64)) ^ np.uint64(sample.request.request_id & _LOW_64)
    )
    hashes_C = _mixed(key ^ sample.request.candidates_C.astype(np.uint64))
    uniform_C = (hashes_C >> np.uint64(11)).astype(np.float64) * 2.0**-53
    places = np.flatnonzero(positive_C | (uniform_C < rate))
    if len(places) == 0:
        return np.zeros(1, np.int64), np.zeros(1, np.float32)
    return places, np.where(positive_C[places], 1.0, 1.0 / rate).astype(np.float32)


class NegativeSampler:
    """Keeps all positives and some negatives of each request, with their importance."""

    def __init__(self, rate: float, seed: int) -> None:
        self._rate, self._seed = rate, seed

    def __call__(
        self, samples: Sequence[TrainingSample]
    ) -> tuple[list[TrainingSample], Importance]:
        """The samples with the kept candidates alone, and what each of those counts."""
        found = [kept_places(sample, self._rate, self._seed) for sample in samples]
        kept = [_taken(sample, at) for sample, (at, _) in zip(samples, found, strict=True)]
        weights_BC = np.zeros((len(kept), max(len(at) for at, _ in found)), np.float32)
        for row, (_, weights_C) in enumerate(found):
            weights_BC[row, : len(weights_C)] = weights_C
        candidates = sum(len(sample.labels_CL) for sample in samples)
        return kept, Importance(torch.from_numpy(weights_BC), candidates)


def _taken(sample: TrainingSample, places: npt.NDArray[np.int64]) -> TrainingSample:
    request, positions_C = sample.request, sample.positions_C
    channels_C = request.channels_C
    return TrainingSample(
        request=dataclasses.replace(
            request,
            candidates_C=request.candidates_C[places],
            channels_C=None if channels_C is None else channels_C[places],
            k=min(request.k, len(places)),
        ),
        labels_CL=sample.labels_CL[places],
        positions_C=None if positions_C is None else positions_C[places],
    )


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), of each value."""
    mixed = values + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))

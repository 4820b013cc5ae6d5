"""Several workers, one model: gradients averaged over ranks between backward and step.

Knows gradients and torch.distributed; knows neither models nor data. Every rank draws its own part
of a batch, gets the same average and takes the same step, so weights stay equal without ever being
sent. Sums over ranks are made in one order on every rank, but in another than one worker's: results
of several workers equal those of one to rounding, not to the bit.

A batch's loss is a mean over its candidates, so a rank counts by its candidates: parts of unequal
size then make the gradient that one worker has of the whole batch.

Letters: V visited rows of a table, D width, W ranks, X candidates of all requests, L objectives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from ifa_ray.config import ModelConfig, TrainingConfig, require
from ifa_ray.schema import OBJECTIVES, TrainingSample

__all__ = ["Ranks", "average_gradients", "part_of_rank", "require_workers"]


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The processes that learn one model, of which this is one; all are given the same batches.

    All methods but `part` and `weight` are collective: each rank calls them in the same order.

    Attributes:
        rank: of this process; 0 alone writes.
        world_size: W.
    """

    rank: int
    world_size: int

    @classmethod
    def here(cls) -> Ranks:
        """Those of the process group that this process has joined."""
        return cls(dist.get_rank(), dist.get_world_size())

    def part(self, samples: Sequence[TrainingSample]) -> Sequence[TrainingSample]:
        """What this rank learns of a batch; the whole of it where it has fewer samples than W."""
        return self._parts(samples)[self.rank]

    def weight(self, samples: Sequence[TrainingSample]) -> float:
        """W times this rank's share of the candidates: the mean over ranks is then right."""
        counts = [_candidates(part) for part in self._parts(samples)]
        return self.world_size * counts[self.rank] / sum(counts)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `average_gradients`."""
        average_gradients(parameters)

    def gather(
        self, samples: Sequence[TrainingSample], loss: float, log_probs_XL: npt.NDArray[np.float32]
    ) -> tuple[float, npt.NDArray[np.float32]]:
        """What all ranks said of a batch, in the batch's order.

        Args:
            samples: the whole batch.
            loss: of this rank's part.
            log_probs_XL: of this rank's part.

        Returns:
            The loss of the whole batch, not finite if that of any part is not; and the log
            probabilities of all its candidates. Both are the same on every rank.
        """
        parts = self._parts(samples)
        counts = [_candidates(part) for part in parts]
        # Messages of one size, as gloo wants them; the loss travels in front.
        message = torch.zeros(1 + max(counts) * len(OBJECTIVES))
        message[0] = loss
        message[1 : 1 + log_probs_XL.size] = torch.from_numpy(log_probs_XL).reshape(-1)
        messages = [torch.empty_like(message) for _ in parts]
        dist.all_gather(messages, message)
        found = [
            each[1 : 1 + count * len(OBJECTIVES)].view(count, len(OBJECTIVES)).numpy()
            for each, count in zip(messages, counts, strict=True)
        ]
        if len(samples) < self.world_size:  # every rank has said the same of the whole batch
            return float(messages[0][0]), found[0]
        total = sum(float(m[0]) * count for m, count in zip(messages, counts, strict=True))
        # A part's requests, one after the other, back to their places.
        pieces = [
            np.split(part_XL, np.cumsum([len(sample.labels_CL) for sample in part])[:-1])
            for part_XL, part in zip(found, parts, strict=True)
        ]
        W = self.world_size
        ordered = [pieces[place % W][place // W] for place in range(len(samples))]
        return total / sum(counts), np.concatenate(ordered)

    def of_first(self, number: int) -> int:
        """The number that rank 0 has, on every rank."""
        message = torch.tensor([number])
        dist.broadcast(message, src=0)
        return int(message)

    def _parts(self, samples: Sequence[TrainingSample]) -> list[Sequence[TrainingSample]]:
        if len(samples) < self.world_size:
            return [samples] * self.world_size
        return [part_of_rank(samples, rank, self.world_size) for rank in range(self.world_size)]


def require_workers(workers: int, model: ModelConfig, training: TrainingConfig) -> None:
    """Refuses a number of workers that cannot share a training.

    Raises:
        ConfigError: naming the setting and its rule.
    """
    require(workers >= 1, "workers", workers, ">= 1")
    require(workers <= training.batch_size, "workers", workers,
            f"<= batch_size, {training.batch_size}: each has its part of a batch")  # fmt: skip
    # Its Newton steps read what was shown in the whole batch.
    require(workers == 1 or model.set_step != "learned", "workers", workers,
            "1 where set_step == 'learned'")  # fmt: skip


def _candidates(samples: Sequence[TrainingSample]) -> int:
    return sum(len(sample.labels_CL) for sample in samples)


def part_of_rank(
    samples: Sequence[TrainingSample], rank: int, world_size: int
) -> Sequence[TrainingSample]:
    """The samples of one rank: every `world_size`-th, so that parts are alike in time and size."""
    return samples[rank::world_size]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the ranks; a gradient that a rank lacks is zero.

    Dense gradients travel as one message. Of a table's only the visited rows do: every rank gathers
    those of all. Collective: every rank calls it with the same parameters.
    """
    listed = list(parameters)
    world_size = dist.get_world_size()
    # Which of them are sparse must not depend on a rank's data: a lookup marks its table so.
    sparse = [p for p in listed if p.grad is not None and p.grad.is_sparse]
    dense = [p for p in listed if p.grad is None or not p.grad.is_sparse]
    _average_dense(dense, world_size)
    for parameter in sparse:
        _average_sparse(parameter, world_size)


def _average_dense(parameters: list[nn.Parameter], world_size: int) -> None:
    if not parameters:
        return
    parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    flat = torch.cat(parts)
    dist.all_reduce(flat)
    flat /= world_size
    for parameter, part in zip(parameters, flat.split([len(x) for x in parts]), strict=True):
        parameter.grad = part.view_as(parameter)


def _average_sparse(parameter: nn.Parameter, world_size: int) -> None:
    grad = parameter.grad
    assert grad is not None
    grad = grad.coalesce()
    rows_V, values_VD = grad.indices()[0], grad.values()
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    dist.all_gather(counts, torch.tensor([len(rows_V)]))
    most = max(int(count) for count in counts)
    # Messages of one size; what is beyond a rank's own count is cut off again.
    rows = torch.zeros(most, dtype=torch.int64)
    values = torch.zeros(most, values_VD.shape[1])
    rows[: len(rows_V)], values[: len(rows_V)] = rows_V, values_VD
    all_rows = [torch.empty_like(rows) for _ in range(world_size)]
    all_values = [torch.empty_like(values) for _ in range(world_size)]
    dist.all_gather(all_rows, rows)
    dist.all_gather(all_values, values)
    sizes = [int(count) for count in counts]
    joined_rows = torch.cat([r[:size] for r, size in zip(all_rows, sizes, strict=True)])
    joined = torch.cat([v[:size] for v, size in zip(all_values, sizes, strict=True)])
    parameter.grad = torch.sparse_coo_tensor(
        joined_rows[None], joined / world_size, tuple(parameter.shape), check_invariants=False
    ).coalesce()

"""Several workers, one model: gradients averaged over ranks between backward and step.

Knows gradients and torch.distributed; knows neither models nor data. Every rank draws its own part
of a batch, gets the same average and takes the same step, so weights stay equal without ever being
sent. Sums over ranks are made in one order on every rank, but in another than one worker's: results
of several workers equal those of one to rounding, not to the bit.

Letters: V visited rows of a table, D width, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from ifa_ray.schema import TrainingSample

__all__ = ["average_gradients", "part_of_rank"]


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

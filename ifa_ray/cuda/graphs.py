"""Ranking as recorded work: one CUDA graph for each bucket of request sizes.

A request of 10,000 by 10,000 keeps a large GPU busy for less time than Python needs to launch what
it consists of. Here a request is padded to its bucket, staged in one pinned buffer, copied at once,
and a graph recorded once is replayed. Elsewhere than on CUDA the same happens without pinning and
recording, so that what is staged and padded can be tested; a ranker takes it there only inside
`unrecorded`. Knows models as functions of batches.

Letters as in `ifa_ray.models.base`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch

from ifa_ray.data.features import Batch, padded_to
from ifa_ray.errors import ConfigError
from ifa_ray.models.base import RankModel
from ifa_ray.models.ifa import IFA
from ifa_ray.schema import MAX_CANDIDATES

# One entry for each context that is open.
_UNRECORDED: list[bool] = []

# Of candidates: at most two and a half times what was asked for, and few enough to be recorded.
_CANDIDATES = (500, 1_000, 2_500, 5_000, 10_000, 25_000, MAX_CANDIDATES)

# So that every column begins where any type may.
_ALIGNMENT = 64
_WARM_UPS = 3


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Inside, `GraphedModel.of_ranker` takes a CPU: it pads and stages there, and records nothing.

    Which is how the way of a request is tested where there is no GPU; it is slower than without.
    """
    _UNRECORDED.append(True)
    try:
        yield
    finally:
        _UNRECORDED.pop()


def buckets_of(max_history: int) -> list[tuple[int, int]]:
    """Sizes (C, T) for requests up to the contract's limits; a history is whole, or a quarter."""
    lengths = {max(1, max_history // 4), max_history}
    return [(C, T) for C in _CANDIDATES for T in sorted(lengths)]


class GraphedModel:
    """log p(objective|can) of a frozen model, whose weights do not change from now on.

    Not for several threads at once: a bucket has one set of buffers. Work that depends on what is
    in a batch, as the number of real behaviours, cannot be recorded: it is refused by CUDA, with a
    `RuntimeError`. IFA's does not; that of models with target attention does.
    """

    def __init__(self, model: RankModel, buckets: Sequence[tuple[int, int]]) -> None:
        """Takes a frozen model.

        Args:
            model: on the device that it will stay on.
            buckets: sizes (C, T) that requests are padded to; recorded when first used.
        """
        self._model = model
        self._buckets = sorted(set(buckets))
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}

    @classmethod
    def of_ranker(cls, model: RankModel) -> GraphedModel:
        """With the buckets of `buckets_of`.

        Raises:
            ConfigError: if nothing can be recorded: not on CUDA, or what the model does depends on
                what is in a batch.
        """
        name, device = model.config.name, model.device.type
        if not isinstance(model, IFA):
            raise ConfigError(
                f"graphs == True, must be False with the model {name}: what it does depends on "
                "what is in a request, which no graph can record."
            )
        if device != "cuda" and not _UNRECORDED:
            raise ConfigError(
                f"graphs == True, must be False with a model on {device}: graphs are CUDA's."
            )
        return cls(model, buckets_of(model.config.max_history))

    def bucket(self, num_candidates: int, history_length: int) -> tuple[int, int] | None:
        """The smallest bucket that holds such a request; None if none does."""
        fits = [
            (C * T, C, T) for C, T in self._buckets if num_candidates <= C and history_length <= T
        ]
        return min(fits)[1:] if fits else None

    def log_probabilities(self, batch: Batch) -> torch.Tensor:
        """As `RankModel.log_probabilities`, of a batch on the host; the answer is on the device.

        The next call overwrites it. A batch that no bucket holds is computed as it is.
        """
        (B, C), T = batch.mask_BC.shape, batch.mask_BT.shape[1]
        bucket = self.bucket(C, T)
        if bucket is None:
            with torch.inference_mode():
                return self._model.log_probabilities(batch.to(self._model.device))
        key = (B, *bucket)
        if key not in self._recorded:
            self._recorded[key] = _Recorded(self._model, padded_to(batch, *bucket))
        return self._recorded[key].run(padded_to(batch, *bucket))[:, :C]


class _Recorded:
    """One size: its buffers, and its graph where there are graphs."""

    def __init__(self, model: RankModel, like: Batch) -> None:
        self._model = model
        on_cuda = model.device.type == "cuda"
        layout, size = _layout(like)
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=on_cuda)
        self._device = torch.zeros(size, dtype=torch.uint8, device=model.device)
        self._host_columns = _columns(self._host, like, layout)
        self._batch = Batch(**_columns(self._device, like, layout))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stage(like)
        if on_cuda:
            self._record()

    def run(self, batch: Batch) -> torch.Tensor:
        """Stages a batch of this size, and computes."""
        if self._graph is None:
            self._stage(batch)
            with torch.inference_mode():
                return self._model.log_probabilities(self._batch)
        torch.cuda.current_stream().synchronize()  # the buffer may still be on its way
        self._stage(batch)
        self._graph.replay()
        return self._out

    def _stage(self, batch: Batch) -> None:
        for name, column in self._host_columns.items():
            column.copy_(getattr(batch, name))
        self._device.copy_(self._host, non_blocking=True)

    def _record(self) -> None:
        # Kernels are compiled and libraries set up outside of what is recorded.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(_WARM_UPS):
                self._model.log_probabilities(self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on: one that loads the next version allocates, too.
        recording = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with recording, torch.inference_mode():
            self._out = self._model.log_probabilities(self._batch)


def _layout(like: Batch) -> tuple[dict[str, int], int]:
    """Where each column begins in one buffer of bytes, and how long it is."""
    starts, end = {}, 0
    for field in dataclasses.fields(like):
        starts[field.name] = end
        end += -(-getattr(like, field.name).nbytes // _ALIGNMENT) * _ALIGNMENT
    return starts, end


def _columns(buffer: torch.Tensor, like: Batch, starts: dict[str, int]) -> dict[str, torch.Tensor]:
    """The columns of a batch as views of the buffer."""
    columns = {}
    for name, start in starts.items():
        column = getattr(like, name)
        part = buffer[start : start + column.nbytes]
        columns[name] = part.view(column.dtype).view(column.shape)
    return columns

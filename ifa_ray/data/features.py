"""From requests to the tensors that a model reads: one function for training and serving.

Knows requests, the catalogue and sizes; knows no model and no weights. What is computed here is
exact for any mixture of sizes: a request gives the same numbers alone and in a batch.

Letters: B requests, C candidates, T history length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RequestError
from ifa_ray.schema import ACTIONS, RankRequest

__all__ = ["NUM_CHANNELS", "NUM_GAPS", "NUM_HOURS", "NUM_LENGTHS", "Batch", "build_batch"]

NUM_HOURS = 24
NUM_CHANNELS = 16
"""Rows of a channel table: 0 is unknown, channel c is 1 + c modulo 15."""

NUM_GAPS = 32
"""Buckets of the time between a behaviour and the request: under a minute, then each 1.6 times
wider than the one before; the last holds everything beyond two years."""

NUM_LENGTHS = 32
"""Buckets of the history's length: 0 is the empty history, then two per doubling."""

# Integers, so that a bucket never depends on how a machine rounds a logarithm.
_GAP_EDGES_MS = (60_000 * 1.6 ** np.arange(NUM_GAPS - 1)).astype(np.int64)
_LENGTH_EDGES = np.unique(np.floor(2.0 ** (np.arange(60) / 2)).astype(np.int64))[: NUM_LENGTHS - 1]
_ACTION_MASK = (1 << len(ACTIONS)) - 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B requests as tensors; histories are padded on the left, candidates on the right.

    Attributes:
        candidate_rows_BC: int64, rows of the `ItemTable`; 0 where padded.
        mask_BC: boolean, True = a real candidate.
        channel_BC: int64 in [0, NUM_CHANNELS).
        history_rows_BT: int64, rows of the latest behaviours, oldest first; 0 = unknown or padded.
        history_actions_BT: int64 in [0, 2**len(ACTIONS)), the action bytes.
        history_gap_BT: int64 in [0, NUM_GAPS), the bucket of the time since.
        mask_BT: boolean, True = a real behaviour. The latest k are always the last k columns.
        history_code_BT: int64 in [0, T): equal for two behaviours exactly if their author is the
            same; T where padded.
        candidate_code_BC: int64, the code of the candidate's author in the history; T if none.
        user_B: int64 in [0, config.user_buckets).
        hour_B: int64 in [0, NUM_HOURS), UTC.
        length_B: int64 in [0, NUM_LENGTHS), the bucket of the number of behaviours read.
    """

    candidate_rows_BC: torch.Tensor
    mask_BC: torch.Tensor
    channel_BC: torch.Tensor
    history_rows_BT: torch.Tensor
    history_actions_BT: torch.Tensor
    history_gap_BT: torch.Tensor
    mask_BT: torch.Tensor
    history_code_BT: torch.Tensor
    candidate_code_BC: torch.Tensor
    user_B: torch.Tensor
    hour_B: torch.Tensor
    length_B: torch.Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        fields = dataclasses.fields(self)
        return dataclasses.replace(
            self, **{f.name: getattr(self, f.name).to(device) for f in fields}
        )


def build_batch(requests: Sequence[RankRequest], items: ItemTable, config: ModelConfig) -> Batch:
    """Builds the batch of requests that were validated; O(m log N + n log N) for m and n in all.

    Args:
        requests: at least one.
        items: the catalogue, N items.
        config: gives `max_history` and `user_buckets`.

    Raises:
        RequestError: if there is no request, or a candidate is not in the catalogue.
    """
    if not requests:
        raise RequestError("len(requests) == 0, must be >= 1.")
    lengths = [min(len(request.history), config.max_history) for request in requests]
    size_BC = (len(requests), max(len(request.candidates_C) for request in requests))
    size_BT = (len(requests), max(1, *lengths))
    T = size_BT[1]
    columns = {
        "candidate_rows_BC": np.zeros(size_BC, np.int64),
        "mask_BC": np.zeros(size_BC, np.bool_),
        "channel_BC": np.zeros(size_BC, np.int64),
        "history_rows_BT": np.zeros(size_BT, np.int64),
        "history_actions_BT": np.zeros(size_BT, np.int64),
        "history_gap_BT": np.zeros(size_BT, np.int64),
        "mask_BT": np.zeros(size_BT, np.bool_),
        "history_code_BT": np.full(size_BT, T, np.int64),
        "candidate_code_BC": np.full(size_BC, T, np.int64),
        "user_B": np.array([r.user_id % config.user_buckets for r in requests], np.int64),
        "hour_B": np.array([r.time_ms // 3_600_000 % NUM_HOURS for r in requests], np.int64),
        "length_B": np.searchsorted(_LENGTH_EDGES, np.array(lengths), side="right"),
    }
    for b, (request, length) in enumerate(zip(requests, lengths, strict=True)):
        _fill(columns, b, request, length, items)
    return Batch(**{name: torch.from_numpy(column) for name, column in columns.items()})


def _fill(
    columns: dict[str, np.ndarray], b: int, request: RankRequest, length: int, items: ItemTable
) -> None:
    """Writes one request into row b of the columns."""
    C, T = len(request.candidates_C), columns["mask_BT"].shape[1]
    rows_C = items.known_rows(request.candidates_C)
    columns["candidate_rows_BC"][b, :C] = rows_C
    columns["mask_BC"][b, :C] = True
    if request.channels_C is not None:
        channel_C = request.channels_C.astype(np.int64)
        channel_C = np.where(channel_C < 0, 0, 1 + channel_C % (NUM_CHANNELS - 1))
        columns["channel_BC"][b, :C] = channel_C
    if length == 0:
        return
    history, start = request.history, T - length
    rows_T = items.rows(history.ids_T[-length:])
    columns["history_rows_BT"][b, start:] = rows_T
    columns["history_actions_BT"][b, start:] = history.actions_T[-length:] & _ACTION_MASK
    columns["history_gap_BT"][b, start:] = _gap_buckets(
        history.times_ms_T[-length:], request.time_ms
    )
    columns["mask_BT"][b, start:] = True
    author_R = items.author_index_R
    code_T, code_C = _local_codes(author_R[rows_T], author_R[rows_C], int(author_R[0]) + 1)
    columns["history_code_BT"][b, start:] = code_T + start
    columns["candidate_code_BC"][b, :C] = np.where(code_C < length, code_C + start, T)


def _gap_buckets(times_ms_T: npt.NDArray[np.int64], now_ms: int) -> npt.NDArray[np.int64]:
    """Bucket of the time since each behaviour: how many of the edges it has reached.

    The times are sorted, so the edges are looked up among them and not they among the edges.
    """
    reached_E = np.searchsorted(times_ms_T, now_ms - _GAP_EDGES_MS, side="right")
    bounds = np.concatenate([[len(times_ms_T)], reached_E, [0]])
    return np.repeat(np.arange(NUM_GAPS)[::-1], -np.diff(bounds)[::-1])


def _local_codes(
    history_T: npt.NDArray[np.int64], candidates_C: npt.NDArray[np.int64], num_keys: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers the keys of a history by a place where each occurs, and finds them in candidates.

    A sparse set: `place` is never cleared, so this is O(T + C) however many keys exist. What an
    untouched entry holds is harmless, as it must name a place that holds the same key.

    Returns:
        Codes in [0, T) of the behaviours, and of the candidates, T where the key does not occur.
    """
    length = len(history_T)
    place = np.empty(num_keys, np.int64)
    place[history_T] = np.arange(length)
    code_C = place[candidates_C]
    inside = (code_C >= 0) & (code_C < length)
    matched = inside & (history_T[np.where(inside, code_C, 0)] == candidates_C)
    return place[history_T], np.where(matched, code_C, length)

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
from torch.nn.functional import pad

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import RequestError
from ifa_ray.schema import ACTIONS, RankRequest

NUM_HOURS = 24
NUM_CHANNELS = 16
"""Rows of a channel table: 0 is unknown, channel c is 1 + c modulo 15."""

NUM_GAPS = 32
"""Buckets of the time between a behaviour and the request: under a minute, then each 1.6 times
wider than the one before; the last holds everything beyond two years."""

NUM_LENGTHS = 32
"""Buckets of the history's length: 0 is the empty history, then two per doubling."""

COUNTS = ("impression", "is_click", "long_view", "is_like")
"""The counts of a candidate's category and author in the history, and of all of it."""

LOG_SCALE = 0.5
"""Makes of logarithms of counts inputs of usual size. Larger ones drown all others at the start,
where data are few (MovieLens); smaller ones are slow to be learned from."""

# Integers, so that a bucket never depends on how a machine rounds a logarithm.
_GAP_EDGES_MS = (60_000 * 1.6 ** np.arange(NUM_GAPS - 1)).astype(np.int64)
_DAY_MS = 86_400_000
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
        history_age_days_BT: float32 >= 0, the time since in days; 0 where padded.
        mask_BT: boolean, True = a real behaviour. The latest k are always the last k columns.
        history_code_BT: int64 in [0, T): equal for two behaviours exactly if their author is the
            same; T where padded.
        candidate_code_BC: int64, the code of the candidate's author in the history; T if none.
        user_B: int64 in [0, config.user_buckets).
        hour_B: int64 in [0, NUM_HOURS), UTC.
        length_B: int64 in [0, NUM_LENGTHS), the bucket of the number of behaviours read.
        cross_counts_BCX: float32, `LOG_SCALE` log(1 + how often) of each of `COUNTS` for each of K
            counted keys, key after key; X = K * len(COUNTS), 0 where no key is counted.
        cross_gap_BCK: int64 in [0, NUM_GAPS], the bucket of the time since the last behaviour with
            the candidate's key; NUM_GAPS = never.
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
    history_age_days_BT: torch.Tensor
    cross_counts_BCX: torch.Tensor
    cross_gap_BCK: torch.Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        fields = dataclasses.fields(self)
        return dataclasses.replace(
            self, **{f.name: getattr(self, f.name).to(device) for f in fields}
        )


def counted_keys(config: ModelConfig) -> tuple[str, ...]:
    """The cross features that are counts, in a fixed order."""
    return tuple(key for key in ("user", "category", "author") if key in config.cross_features)


def build_batch(requests: Sequence[RankRequest], items: ItemTable, config: ModelConfig) -> Batch:
    """Builds the batch of requests that were validated; O(m log N + n log N) for m and n in all.

    Args:
        requests: at least one.
        items: the catalogue, N items.
        config: gives `max_history`, `user_buckets` and the cross features.

    Raises:
        RequestError: if there is no request, or a candidate is not in the catalogue.
    """
    if not requests:
        raise RequestError("len(requests) == 0, must be >= 1.")
    lengths = [min(len(request.history), config.max_history) for request in requests]
    size_BC = (len(requests), max(len(request.candidates_C) for request in requests))
    size_BT = (len(requests), max(1, *lengths))
    T, keys = size_BT[1], counted_keys(config)
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
        "history_age_days_BT": np.zeros(size_BT, np.float32),
        "cross_counts_BCX": np.zeros((*size_BC, len(keys) * len(COUNTS)), np.float32),
        "cross_gap_BCK": np.full((*size_BC, len(keys)), NUM_GAPS, np.int64),
    }
    for b, (request, length) in enumerate(zip(requests, lengths, strict=True)):
        _fill(columns, b, request, length, items, keys)
    return Batch(**{name: torch.from_numpy(column) for name, column in columns.items()})


def with_counts(
    batch: Batch,
    length: int,
    counts_CX: npt.NDArray[np.float32],
    gap_CK: npt.NDArray[np.int64],
) -> Batch:
    """A batch of one request that holds only the latest behaviours, told of those before them.

    Args:
        batch: built with no counted key.
        length: of the whole history.
        counts_CX: `Batch.cross_counts_BCX`, of the whole history.
        gap_CK: `Batch.cross_gap_BCK`, of the whole history.
    """
    return dataclasses.replace(
        batch,
        length_B=torch.from_numpy(np.searchsorted(_LENGTH_EDGES, [length], side="right")),
        cross_counts_BCX=torch.from_numpy(counts_CX)[None],
        cross_gap_BCK=torch.from_numpy(gap_CK)[None],
    )


def gap_buckets(ages_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bucket of each time since: how many of the edges it has reached."""
    return np.searchsorted(_GAP_EDGES_MS, ages_ms, side="right")


def _fill(
    columns: dict[str, np.ndarray],
    b: int,
    request: RankRequest,
    length: int,
    items: ItemTable,
    keys: tuple[str, ...],
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
    gap_T = _gap_buckets(history.times_ms_T[-length:], request.time_ms)
    columns["history_gap_BT"][b, start:] = gap_T
    age_days_T = (request.time_ms - history.times_ms_T[-length:]) / _DAY_MS
    columns["history_age_days_BT"][b, start:] = age_days_T
    columns["mask_BT"][b, start:] = True
    codes = {
        key: _local_codes(index_R[rows_T], index_R[rows_C], int(index_R[0]) + 1)
        for key, index_R in _indices(items, keys).items()
    }
    codes["user"] = (np.zeros(length, np.int64), np.zeros(C, np.int64))
    code_T, code_C = codes["author"]
    columns["history_code_BT"][b, start:] = code_T + start
    columns["candidate_code_BC"][b, :C] = np.where(code_C < length, code_C + start, T)
    actions_T = columns["history_actions_BT"][b, start:]
    for k, key in enumerate(keys):
        counts_CX, last_C = _met(*codes[key], actions_T)
        columns["cross_counts_BCX"][b, :C, k * len(COUNTS) : (k + 1) * len(COUNTS)] = counts_CX
        columns["cross_gap_BCK"][b, :C, k] = np.append(gap_T, NUM_GAPS)[last_C]


def _indices(items: ItemTable, keys: tuple[str, ...]) -> dict[str, npt.NDArray[np.int64]]:
    """For each row of the catalogue its author's index, and that of every counted key."""
    known = {"author": items.author_index_R}
    return known | ({"category": items.category_index_R} if "category" in keys else {})


def _met(
    code_T: npt.NDArray[np.int64], code_C: npt.NDArray[np.int64], actions_T: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Counts and last times of each candidate's key in the history, O(T + C).

    Returns:
        `LOG_SCALE` log(1 + count) of each of `COUNTS`, [C, 4], and the place of the last behaviour
        with the key, T where there is none.
    """
    T = len(code_T)
    # One row more, of zeros: candidates whose key never occurred have code T.
    counts_SX = np.zeros((T + 1, len(COUNTS)))
    counts_SX[:, 0] = np.bincount(code_T, minlength=T + 1)
    for x, action in enumerate(COUNTS[1:], start=1):
        happened_T = (actions_T >> ACTIONS.index(action)) & 1
        counts_SX[:, x] = np.bincount(code_T, weights=happened_T, minlength=T + 1)
    last_S = np.full(T + 1, T)
    last_S[:T] = 0
    np.maximum.at(last_S, code_T, np.arange(T))
    return (LOG_SCALE * np.log1p(counts_SX)).astype(np.float32)[code_C], last_S[code_C]


def _gap_buckets(times_ms_T: npt.NDArray[np.int64], now_ms: int) -> npt.NDArray[np.int64]:
    """As `gap_buckets`, of the time since each behaviour of a history.

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


# Codes name places of the history, which move when it gets longer on its left.
_CODES = ("history_code_BT", "candidate_code_BC")
_WITHOUT_SIZE = ("user_B", "hour_B", "length_B")


def padded_to(batch: Batch, num_candidates: int, history_length: int) -> Batch:
    """The batch with C and T of this size: histories padded on the left, candidates on the right.

    Args:
        batch: on any device.
        num_candidates: at least its C.
        history_length: at least its T.
    """
    C, T = batch.mask_BC.shape[1], batch.mask_BT.shape[1]
    assert num_candidates >= C, (num_candidates, C)
    assert history_length >= T, (history_length, T)
    right, left = num_candidates - C, history_length - T
    columns: dict[str, torch.Tensor] = {}
    for field in dataclasses.fields(batch):
        name, column = field.name, getattr(batch, field.name)
        if name in _WITHOUT_SIZE:
            columns[name] = column
            continue
        if name in _CODES:
            column = column + left
        of_history = name.endswith("T")
        empty = history_length if name in _CODES else NUM_GAPS if name == "cross_gap_BCK" else 0
        sides = (left, 0) if of_history else (0, right)
        features = (0, 0) if column.dim() == 3 else ()
        columns[name] = pad(column, (*features, *sides), value=empty)
    return Batch(**columns)

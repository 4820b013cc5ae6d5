"""Batches of a fixed size: more padding, the same numbers.

A device that replays recorded work needs the same shapes every time. Padding is exact for every
model, so a request may be given the size of its bucket. Knows batches alone.

Letters as in `ifa_ray.data.features`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import pad

from ifa_ray.data.features import NUM_GAPS, Batch

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

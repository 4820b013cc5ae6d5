"""What a catalogue adds to an earlier one, and how full it makes the hashed tables.

Knows catalogues as columns; a checkpoint keeps one hash for each item, so that a later catalogue
can be told to have all of its items unchanged. Models rebuild item features from the catalogue, so
weights of an earlier one fit a later one as they are.

Letters: N items, M earlier items.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ifa_ray.config import ModelConfig
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import CheckpointError

__all__ = ["items_added", "row_hashes", "table_report"]


def row_hashes(items: ItemTable) -> dict[str, torch.Tensor]:
    """Ids and a 64-bit hash of each item's features, [N] each; 12 bytes an item."""
    digest_N = np.zeros(len(items), np.uint64)
    for field in dataclasses.fields(items):
        column = np.ascontiguousarray(getattr(items, field.name))
        for word_N in _words(column.reshape(len(items), -1)):
            digest_N = _mix(digest_N ^ word_N)
    return {
        "video_id": torch.from_numpy(items.video_id_N.copy()),
        "hash": torch.from_numpy(digest_N.view(np.int64)),
    }


def items_added(earlier: dict[str, torch.Tensor], items: ItemTable) -> int:
    """How many items a catalogue has beyond an earlier one.

    Args:
        earlier: `row_hashes` of the earlier one, M items.
        items: the later one.

    Raises:
        CheckpointError: if an item has left or changed: only additions keep what was learned true.
    """
    now = row_hashes(items)
    ids_M, rows = earlier["video_id"].numpy(), items.rows(earlier["video_id"].numpy())
    if (rows == 0).any():
        gone = ids_M[rows == 0]
        raise CheckpointError(
            f"the catalogue lacks {len(gone)} of the {len(ids_M)} items that the version was "
            f"trained with, such as {gone[0]}; items may be added, not removed."
        )
    changed = now["hash"].numpy()[rows - 1] != earlier["hash"].numpy()
    if changed.any():
        raise CheckpointError(
            f"the features of {int(changed.sum())} items are not those that the version was "
            f"trained with, such as item {ids_M[changed][0]}; items may be added, not changed."
        )
    return len(items) - len(ids_M)


def table_report(items: ItemTable, config: ModelConfig) -> dict[str, Any]:
    """How many ids share a row of the hashed tables, by table.

    A row that two ids share learns from both. Users are not counted: they come with requests.
    """
    keys = {
        "item": (items.video_id_N, config.id_buckets),
        "author": (np.unique(items.author_id_N), config.author_buckets),
    }
    report = {}
    for name, (ids, buckets) in keys.items():
        counts = np.bincount(ids % buckets, minlength=1)
        shared = int(counts[counts > 1].sum())
        report[name] = {
            "ids": len(ids),
            "rows": buckets,
            "used_rows": int((counts > 0).sum()),
            "colliding_ids": shared,
            "share_colliding": shared / len(ids),
            "most_ids_in_a_row": int(counts.max()),
        }
    return report


def _words(column_NX: np.ndarray) -> list[npt.NDArray[np.uint64]]:
    """The bytes of each row as 64-bit words, the last padded with zeros."""
    bytes_NX = column_NX.view(np.uint8).reshape(len(column_NX), -1)
    missing = -bytes_NX.shape[1] % 8
    padded = np.pad(bytes_NX, ((0, 0), (0, missing)))
    return list(np.ascontiguousarray(padded).view(np.uint64).T)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al., 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""The log on disk: its three tables and the rules of their values, checked both ways.

Knows the contract of `ifa_ray.schema`; knows nothing of models, worlds or training. How a file is
written and checked column by column is in `ifa_ray.data.tables`, whose functions are found here
too; where a run keeps its files is in `ifa_ray.data.run_folder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ifa_ray.data.items import ItemTable
from ifa_ray.data.tables import (
    Columns,
    ColumnsLike,
    read_table,
    write_table,
)
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS, MAX_CANDIDATES, REQUEST_COLUMNS

ITEM_COLUMNS: Mapping[str, str] = {
    "video_id": "int32",
    "author_id": "int32",
    "category": "int32",
    "duration_ms": "int32",
    "upload_ms": "int64",
    "content": "list<float32>",
}
"""The `items` table: an `ItemTable`, one row for each item."""

TIMING_COLUMNS: Mapping[str, str] = {
    "request_id": "int64",
    "rank_ms": "float32",
    "wait_ms": "float32",
}
"""The `timings` table: what a request cost the ranker, and how long its asker waited for it.

Measurements: the one table that differs from run to run.
"""

_FLAGS = (*ACTIONS, "is_rand")
_NEVER_NEGATIVE = (
    "request_id",
    "user_id",
    "video_id",
    "position",
    "play_time_ms",
    "duration_ms",
    "watermark",
    "author_id",
    "category",
)


def write_impressions(path: Path | str, columns: ColumnsLike) -> None:
    """Writes an `impressions` file whole, or raises a `LogError` that names column and rule."""
    _check_values(Path(path), columns)
    write_table(path, IMPRESSION_COLUMNS, columns)


def write_requests(path: Path | str, columns: ColumnsLike) -> None:
    """Writes a `requests` file whole, or raises a `LogError` that names column and rule."""
    _check_values(Path(path), columns)
    write_table(path, REQUEST_COLUMNS, columns)


def write_items(path: Path | str, items: ItemTable) -> None:
    """Writes a catalogue whole."""
    columns: Columns = {
        "video_id": items.video_id_N,
        "author_id": items.author_id_N,
        "category": items.category_N,
        "duration_ms": items.duration_ms_N,
        "upload_ms": items.upload_ms_N,
        "content": items.content_ND,
    }
    write_table(path, ITEM_COLUMNS, columns)


def write_timings(path: Path | str, columns: ColumnsLike) -> None:
    """Writes a `timings` file whole, or raises a `LogError` that names column and rule."""
    write_table(path, TIMING_COLUMNS, columns)


def read_timings(path: Path | str) -> Columns:
    """Reads a `timings` file, or raises a `LogError` that names file, column and rule."""
    return read_table(path, TIMING_COLUMNS)


def read_impressions(path: Path | str) -> Columns:
    """Reads an `impressions` file, or raises a `LogError` that names file, column and rule."""
    columns = read_table(path, IMPRESSION_COLUMNS)
    _check_values(Path(path), columns)
    return columns


def read_requests(path: Path | str) -> Columns:
    """Reads a `requests` file, or raises a `LogError` that names file, column and rule."""
    columns = read_table(path, REQUEST_COLUMNS)
    _check_values(Path(path), columns)
    return columns


def read_items(path: Path | str) -> ItemTable:
    """Reads a catalogue, or raises a `LogError` that names file, column and rule."""
    columns = read_table(path, ITEM_COLUMNS)
    _check_values(Path(path), columns)
    if columns["content"].ndim != 2:
        raise LogError(f"{path}: column content is ragged, must be one width for all items.")
    try:
        return ItemTable(
            video_id_N=columns["video_id"],
            author_id_N=columns["author_id"],
            category_N=columns["category"],
            duration_ms_N=columns["duration_ms"],
            upload_ms_N=columns["upload_ms"],
            content_ND=columns["content"],
        )
    except LogError as error:
        raise LogError(f"{path}: {error}") from None


def _check_values(path: Path, columns: ColumnsLike) -> None:
    """The rules that a column's type cannot say. A missing column is `write_table`'s to name."""
    for name, values in columns.items():
        if not len(values):
            continue
        if name in _FLAGS and not ((values == 0) | (values == 1)).all():
            bad = values[(values != 0) & (values != 1)][0]
            raise LogError(f"{path}: column {name} holds {bad}, must be 0 or 1.")
        if name in _NEVER_NEGATIVE and values.min() < 0:
            raise LogError(f"{path}: min({name}) == {values.min()}, must be >= 0.")
    if {"request_id", "candidates", "channels"} <= columns.keys():
        _check_requests(path, columns)


def _check_requests(path: Path, columns: ColumnsLike) -> None:
    ids = columns["request_id"]
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        twice = unique[counts > 1][0]
        raise LogError(f"{path}: column request_id holds {twice} more than once, must be unique.")
    for name in ("candidates", "channels"):
        if len(columns[name]) != len(ids):
            raise LogError(
                f"{path}: column {name} has {len(columns[name])} rows, must be {len(ids)}."
            )
    for i, request_id in enumerate(ids):
        where, size = f"{path}: request {request_id}", len(columns["candidates"][i])
        if not 1 <= size <= MAX_CANDIDATES:
            raise LogError(f"{where}: len(candidates) == {size}, not in [1, {MAX_CANDIDATES}].")
        if len(columns["channels"][i]) != size:
            found = len(columns["channels"][i])
            raise LogError(f"{where}: len(channels) == {found}, must be {size}.")

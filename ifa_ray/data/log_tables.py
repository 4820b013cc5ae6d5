"""The result of an adapter: a log as the contract's tables in memory, and what it was asked for.

Knows the columns of `ifa_ray.schema`; knows no file and no model. An adapter is a function

    def read(path: Path, settings: ReadSettings) -> LogTables

and `log_tables` makes the second from what a log has: columns that it lacks are filled with what
"unknown" is in the contract, types are cast, rows are put in order and watermarks are counted.
docs/adapters.md writes one out.

Letters: I impressions, R requests, N items, U users.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ifa_ray.config import Config, require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.tables import Columns
from ifa_ray.errors import LogError, unknown_name
from ifa_ray.schema import IMPRESSION_COLUMNS, REQUEST_COLUMNS

UNKNOWN_CHANNEL = -1
"""The channel of a candidate of which nobody knows who retrieved it."""

_ITEM_TYPES = {
    "author_id": np.int32,
    "category": np.int32,
    "duration_ms": np.int32,
    "upload_ms": np.int64,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSettings(Config):
    """The request to a reader; an adapter heeds what its log has a use for.

    Attributes:
        num_sampled: never-shown candidates that are drawn for a request, where the log has no
            candidate sets of its own.
        max_history: behaviours beyond the latest so many are left out of a sample.
        max_requests: cap on requests; None is all.
        seed: of draws.
    """

    num_sampled: int = 99
    max_history: int = 10_000
    max_requests: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.num_sampled >= 1, "num_sampled", self.num_sampled, ">= 1")
        require(self.max_history >= 1, "max_history", self.max_history, ">= 1")
        cap = self.max_requests
        require(cap is None or cap >= 1, "max_requests", cap, ">= 1")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LogTables:
    """A log as the contract's tables; `log_tables` makes one.

    Attributes:
        items: the catalogue; every candidate is in it.
        impressions: columns of `IMPRESSION_COLUMNS` [I], in order of time.
        requests: columns of `REQUEST_COLUMNS` [R], in order of time.
        notes: what a reader of results must know, one sentence each.
    """

    items: ItemTable
    impressions: Columns
    requests: Columns
    notes: tuple[str, ...] = ()


def log_tables(
    *,
    items: ItemTable,
    impressions: Mapping[str, npt.ArrayLike],
    requests: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> LogTables:
    """Completes and orders the tables of a log.

    Args:
        items: the catalogue.
        impressions: `request_id`, `user_id`, `video_id`, `time_ms` and any other columns of the
            contract [I]; those left out are 0 (`channel`: unknown). Rows in any order.
        requests: `request_id`, `user_id`, `time_ms`, `candidates` (R lists of ids) and, if known,
            `channels` and `watermark` [R]. Without it, a history is what was seen in strictly
            earlier milliseconds.
        notes: see `LogTables`.

    Raises:
        LogError: naming the column that is missing, of another length or does not fit its type.
        ConfigError: on a column that the contract does not have, with the near miss.
    """
    table = _completed("impressions", IMPRESSION_COLUMNS, impressions, 4)
    order = np.lexsort((table["position"], table["user_id"], table["time_ms"]))
    table = {name: values[order] for name, values in table.items()}
    asked = _completed("requests", REQUEST_COLUMNS, requests, 3)
    if "watermark" not in requests:
        counts = watermarks(table, asked["user_id"], asked["time_ms"])
        asked["watermark"] = counts.astype(np.int32)
    order = np.lexsort((asked["request_id"], asked["time_ms"]))
    asked = {name: values[order] for name, values in asked.items()}
    return LogTables(items=items, impressions=table, requests=asked, notes=tuple(notes))


def item_table(columns: Mapping[str, npt.ArrayLike]) -> ItemTable:
    """A catalogue of `video_id` and whatever else is known, rows in any order; 0 is unknown.

    Raises:
        LogError: as `ItemTable`, and if a column does not fit its type.
        ConfigError: on a column that a catalogue does not have.
    """
    names = ("video_id", *_ITEM_TYPES, "content")
    _refuse_unknown("items", columns, names)
    ids = _cast("items", "video_id", columns["video_id"], np.dtype(np.int32))
    order = np.argsort(ids, kind="stable")
    fields = {
        f"{name}_N": _cast("items", name, columns.get(name, np.zeros(len(ids))), np.dtype(kind))
        for name, kind in _ITEM_TYPES.items()
    }
    content = np.asarray(columns.get("content", np.zeros((len(ids), 0))), np.float32)
    for name, values in {**fields, "content": content}.items():
        if len(values) != len(ids):
            raise LogError(f"items.{name} has {len(values)} rows, must be {len(ids)}.")
    return ItemTable(
        video_id_N=ids[order],
        content_ND=content[order],
        **{name: values[order] for name, values in fields.items()},
    )


def watermarks(
    impressions: Mapping[str, np.ndarray],
    users_R: npt.NDArray[np.int32],
    times_ms_R: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Impressions of each user strictly before each time [R], counted; O((I + R) log I)."""
    users_I, times_I = np.asarray(impressions["user_id"]), np.asarray(impressions["time_ms"])
    # Ranks, not values: a key of both fits into 63 bits whatever the clock counts from.
    _, user_ranks = np.unique(np.concatenate([users_I, users_R]), return_inverse=True)
    times, time_ranks = np.unique(np.concatenate([times_I, times_ms_R]), return_inverse=True)
    keys = user_ranks.astype(np.int64) * len(times) + time_ranks
    sorted_I = np.sort(keys[: len(users_I)])
    first_R = user_ranks[len(users_I) :].astype(np.int64) * len(times)
    return np.searchsorted(sorted_I, keys[len(users_I) :]) - np.searchsorted(sorted_I, first_R)


def choose_users(
    users_U: npt.NDArray[np.int64],
    rows_U: npt.NDArray[np.int64],
    *,
    max_rows: int,
    max_users: int | None,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Whole users, in a random order of their own, until `max_rows` or `max_users` is reached.

    A log is thinned by users and not by rows, so that every history stays whole.

    Args:
        users_U: ids, unique.
        rows_U: how many rows of the log each has.
        max_rows: of the users who stay, together.
        max_users: who stay; None is no cap.
        seed: of the order.

    Returns:
        The ids that stay, sorted.

    Raises:
        LogError: if not even one user fits.
    """
    require(max_rows >= 1, "max_rows", max_rows, ">= 1")
    require(max_users is None or max_users >= 1, "max_users", max_users, ">= 1")
    by_id = np.argsort(users_U)
    order = by_id[np.random.default_rng([seed, len(users_U)]).permutation(len(users_U))]
    count = int(np.searchsorted(np.cumsum(rows_U[order]), max_rows, side="right"))
    if not count:
        least = rows_U[order[0]]
        raise LogError(f"max_rows == {max_rows}, must be >= {least}: one user has as many rows.")
    return np.sort(users_U[order[: count if max_users is None else min(count, max_users)]])


def evenly_spaced(rows: npt.NDArray[np.int64], cap: int | None) -> npt.NDArray[np.int64]:
    """At most `cap` of the rows, evenly spaced from the first to the last."""
    if cap is None or cap >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, cap).round().astype(np.int64)]


def _completed(
    table: str, schema: Mapping[str, str], given: Mapping[str, Any], num_needed: int
) -> Columns:
    needed = (*list(schema)[:num_needed], *(["candidates"] if "candidates" in schema else []))
    _refuse_unknown(table, given, schema)
    for name in needed:
        if name not in given:
            raise LogError(f"{table}.{name} is missing, must be given.")
    size = len(np.asarray(given["request_id"]))
    columns: Columns = {}
    for name, kind in schema.items():
        if kind.startswith("list<"):
            lists = given.get(name)
            columns[name] = _lists(table, name, np.dtype(kind[5:-1]), lists, columns)
        else:
            empty = UNKNOWN_CHANNEL if name == "channel" else 0
            values = given.get(name, np.full(size, empty))
            columns[name] = _cast(table, name, values, np.dtype(kind))
        if len(columns[name]) != size:
            raise LogError(f"{table}.{name} has {len(columns[name])} rows, must be {size}.")
    return columns


def _lists(
    table: str, name: str, dtype: np.dtype, lists: Sequence[Any] | None, before: Columns
) -> np.ndarray:
    """R arrays; channels that nobody gave are unknown for each candidate."""
    rows = (
        [np.full(len(c), UNKNOWN_CHANNEL, dtype) for c in before["candidates"]]
        if lists is None
        else [_cast(table, name, row, dtype) for row in lists]
    )
    return np.fromiter(rows, object, len(rows))


def _cast(table: str, name: str, values: npt.ArrayLike, dtype: np.dtype) -> np.ndarray:
    """The values in the contract's type, refused where that would change one."""
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise LogError(f"{table}.{name} holds {found.dtype}, must be numbers that fit {dtype}.")
    with np.errstate(invalid="ignore"):
        cast = found.astype(dtype)
    changed = np.flatnonzero(cast != found)
    if len(changed):
        bad = found[changed[0]]
        raise LogError(f"{table}.{name} holds {bad}, must be a number that fits {dtype}.")
    return cast


def _refuse_unknown(
    table: str, given: Mapping[str, object], known: Sequence[str] | Mapping
) -> None:
    for name in given:
        if name not in known:
            raise unknown_name(f"column of {table}", name, known)

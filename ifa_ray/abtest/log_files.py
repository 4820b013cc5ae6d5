"""Opens one log of anybody's: finds its files, names its columns, checks its values.

Knows Parquet, CSV and the contract's column names; nothing of arms, days of a test, or metrics.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import polars as pl

from ifa_ray.abtest.logs import refuse_nulls
from ifa_ray.abtest.user_days import DAY_MS
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_items
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS

__all__ = ["OPTIONAL", "REQUIRED", "LogFile", "check_values", "open_items", "open_log"]

REQUIRED = ("play_time_ms", "time_ms")
"""Without these there is no test. `day` (a number) may stand for `time_ms`."""

OPTIONAL = ("request_id", "video_id", "position", "duration_ms", *ACTIONS)
"""Each makes more metrics possible."""

SUFFIXES = (".parquet", ".csv")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LogFile:
    """One opened log.

    Attributes:
        path: what was asked for.
        frame: `user_id` (of any type), `day` (int32, days since 1970 or as the log counts),
            `play_time_ms`, and what it has of `time_ms` and `OPTIONAL`.
        unit: the column that `user_id` was.
        unit_type: its type.
    """

    path: Path
    frame: pl.LazyFrame
    unit: str
    unit_type: pl.DataType


def open_log(path: Path, unit: str) -> LogFile:
    """Opens a file, or a folder of files of one kind, lazily.

    Raises:
        LogError: naming the path and what is absent.
    """
    files = _files(path)
    try:
        if files[0].suffix == ".csv":
            raw = pl.scan_csv(files, infer_schema_length=10_000)
        else:
            raw = pl.scan_parquet(files, hive_partitioning=False)
        schema = raw.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{path}: {error}") from error
    _require_columns(path, schema, unit)
    columns = [pl.col(unit).alias("user_id")]
    for name in ("time_ms", "play_time_ms", *OPTIONAL):
        if name in schema and name != unit:
            columns.append(_typed(path, name, schema[name]))
    if "time_ms" in schema:
        columns.append((pl.col("time_ms") // DAY_MS).cast(pl.Int32).alias("day"))
    else:
        columns.append(_typed(path, "day", schema["day"]).cast(pl.Int32))
    if not (schema[unit].is_integer() or schema[unit] == pl.String):
        raise LogError(f"{path}: {unit} is {schema[unit]}, must be a whole number or text.")
    return LogFile(path=path, frame=raw.select(columns), unit=unit, unit_type=schema[unit])


def check_values(file: LogFile) -> None:
    """One pass over all values.

    Raises:
        LogError: on nulls, NaN, negative times, flags that are not 0 or 1, or no row at all.
    """
    refuse_nulls(file.frame, str(file.path))
    names = file.frame.collect_schema().names()
    flags = [name for name in ACTIONS if name in names]
    never_negative = [name for name in ("play_time_ms", "duration_ms", "time_ms") if name in names]
    bounds = file.frame.select(
        pl.len().alias("rows"),
        *(pl.col(name).min().alias(f"min {name}") for name in (*flags, *never_negative)),
        *(pl.col(name).max().alias(f"max {name}") for name in flags),
    ).collect(engine="streaming")
    row = bounds.row(0, named=True)
    if not row["rows"]:
        raise LogError(f"{file.path}: 0 impressions, must hold at least one.")
    for column in never_negative:
        if row[f"min {column}"] < 0:
            raise LogError(f"{file.path}: min({column}) == {row[f'min {column}']}, must be >= 0.")
    for flag in flags:
        low, high = row[f"min {flag}"], row[f"max {flag}"]
        if low < 0 or high > 1:
            raise LogError(f"{file.path}: {flag} goes from {low} to {high}, must be 0 or 1.")


def open_items(path: Path) -> ItemTable:
    """Reads a catalogue: the contract's Parquet, or a CSV with `video_id`, `author_id`, `category`.

    Raises:
        LogError: if it can't be read or lacks a column.
    """
    if path.suffix != ".csv":
        return read_items(path)
    try:
        table = pl.read_csv(path)
        table = table.select(
            pl.col("video_id", "author_id", "category").cast(pl.Int32)
        ).sort("video_id")  # fmt: skip
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{path}: {error}") from error
    if any(table.null_count().row(0)):
        raise LogError(f"{path} holds nulls, must hold none.")
    zeros = pl.zeros(len(table), pl.Int64, eager=True).to_numpy()
    return ItemTable(
        video_id_N=table["video_id"].to_numpy(),
        author_id_N=table["author_id"].to_numpy(),
        category_N=table["category"].to_numpy(),
        duration_ms_N=zeros.astype("int32"),
        upload_ms_N=zeros,
        content_ND=zeros.astype("float32").reshape(len(table), 1)[:, :0],
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise LogError(f"{path}: its suffix is {path.suffix!r}, must be .parquet or .csv.")
        return [path]
    for suffix in SUFFIXES if path.is_dir() else ():
        found = sorted(path.rglob(f"*{suffix}"))
        if found:
            return found
    missing = "no .parquet or .csv file in it" if path.is_dir() else "no such file or folder"
    raise LogError(f"{path}: {missing}.")


def _require_columns(path: Path, schema: pl.Schema, unit: str) -> None:
    for name in (unit, "play_time_ms", "time_ms"):
        if name in schema or (name == "time_ms" and "day" in schema):
            continue
        near = difflib.get_close_matches(name, schema.names(), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        also = " or day" if name == "time_ms" else ""
        raise LogError(
            f"{path} lacks the column {name}{also}; it has {', '.join(schema.names())}.{hint}"
        )


def _typed(path: Path, name: str, kind: pl.DataType) -> pl.Expr:
    """Booleans as 0 and 1; whole milliseconds, so that sums don't depend on the order of rows."""
    if kind == pl.Boolean:
        return pl.col(name).cast(pl.Int8)
    if kind.is_float() and name.endswith("_ms"):
        return pl.col(name).round().cast(pl.Int64)
    if not kind.is_integer():
        rule = "a number" if name.endswith("_ms") else "whole numbers"
        raise LogError(f"{path}: {name} is {kind}, must be {rule}.")
    return pl.col(name)

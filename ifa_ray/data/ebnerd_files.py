"""EB-NeRD's files: which there are, their columns, and of what kind those must be.

Knows the published names; knows nothing of requests, which are made in `ifa_ray.data.ebnerd`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ifa_ray.errors import LogError

BEHAVIOR_COLUMNS = ("impression_id", "user_id", "impression_time", "article_ids_inview",
                    "article_ids_clicked", "next_read_time")  # fmt: skip
HISTORY_COLUMNS = ("user_id", "impression_time_fixed", "article_id_fixed", "read_time_fixed")
ARTICLE_COLUMNS = ("article_id", "category", "premium", "published_time", "body")
"""What is read of each file; all have more."""

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""How a Parquet file that is not whole ends in the reader; some damage makes it panic."""

_KINDS: Mapping[str, str] = {
    "impression_id": "ids", "user_id": "ids", "article_id": "ids",
    "impression_time": "dates and times", "published_time": "dates and times",
    "article_ids_inview": "lists of ids", "article_ids_clicked": "lists of ids",
    "article_id_fixed": "lists of ids", "impression_time_fixed": "lists of dates and times",
    "read_time_fixed": "lists of numbers", "next_read_time": "numbers",
    "next_scroll_percentage": "numbers", "category": "numbers", "premium": "true or false",
    "body": "text",
}  # fmt: skip
_MAY_BE_NULL = ("next_read_time", "category", "premium", "published_time", "body")


def is_ebnerd(path: Path) -> bool:
    """Whether a folder is a split, or a bundle of splits, which `read_ebnerd` refuses by name."""
    return any((folder / "behaviors.parquet").exists() for folder in (path, path / "train"))


def find_articles(folder: Path) -> Path | None:
    """The articles of a split: beside its files, or one folder up."""
    for path in (folder / "articles.parquet", folder.parent / "articles.parquet"):
        if path.exists():
            return path
    return None


def read_columns(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Reads the named columns; what a row cannot do without has no nulls.

    Raises:
        LogError: naming the file, where it is missing, cut off, empty, or a column is not there, of
            another kind or has nulls.
    """
    if not path.exists():
        raise LogError(f"{path}: no such file, must be that of an EB-NeRD split.")
    try:
        table = pl.read_parquet(path, columns=list(columns))
    except UNREADABLE as error:
        why = (str(error).splitlines() or ["unreadable"])[0]
        hint = " A test split has no clicks." if "clicked" in why else ""
        raise LogError(
            f"{path}: must be a whole Parquet file with the columns {', '.join(columns)} "
            f"({why}).{hint}"
        ) from None
    for name, kind in wrong_kinds(table).items():
        raise LogError(f"{path}: column {name} is {table.schema[name]}, must be {kind}.")
    for name in columns:
        if name not in _MAY_BE_NULL and table[name].null_count():
            raise LogError(f"{path}: column {name} has nulls, must have none.")
    if not len(table):
        raise LogError(f"{path}: has no rows, must have at least one.")
    return with_wide_ids(table)


def wrong_kinds(table: pl.DataFrame) -> dict[str, str]:
    """The columns that are of another kind than they must be, and what they must be."""
    return {
        name: _KINDS[name]
        for name, dtype in table.schema.items()
        if name in _KINDS and not _is_kind(dtype, _KINDS[name])
    }


def with_wide_ids(table: pl.DataFrame) -> pl.DataFrame:
    """Integer ids in one type: the files differ in theirs."""
    wide = []
    for name, dtype in table.schema.items():
        if not _KINDS.get(name, "").endswith("ids"):
            continue
        if dtype.is_integer():
            wide.append(pl.col(name).cast(pl.Int64))
        elif (
            isinstance(dtype, pl.List)
            and pl.DataFrame(schema={"id": dtype.inner})["id"].dtype.is_integer()
        ):
            wide.append(pl.col(name).cast(pl.List(pl.Int64)))
    return table.with_columns(wide)


def _is_kind(dtype: pl.DataType, kind: str) -> bool:
    if kind.startswith("lists of "):
        if not isinstance(dtype, pl.List):
            return False
        inner = pl.Series([], dtype=dtype.inner).dtype
        return _is_kind(inner, kind.removeprefix("lists of "))
    return {
        "ids": dtype.is_integer() or dtype == pl.String,
        "dates and times": isinstance(dtype, pl.Datetime),
        "numbers": dtype.is_numeric(),
        "true or false": dtype == pl.Boolean,
        "text": dtype == pl.String,
    }[kind]

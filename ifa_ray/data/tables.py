"""Parquet tables of the log with fixed bytes, and files that appear whole or not at all.

Knows columns and paths; nothing of runs. The same columns give the same bytes; a file is written
under a temporary name, then renamed, and what a killed process left is removed by its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ifa_ray.errors import LogError
from ifa_ray.schema import SCHEMA_VERSION


def temporary_of(path: Path) -> Path:
    """Where this process writes what will be `path`: beside it, so that a rename is enough."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_half_written(path: Path) -> bool:
    """True if it has a name that `temporary_of` gives, in this process or another."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def remove_half_written(root: Path) -> None:
    """Removes what killed processes were writing below `root`, files and folders.

    For whoever holds the folder's lock, before anything writes: a living writer would lose its own.
    """
    # On a cluster a killed driver's actors may still be dying, and finish a file at this moment.
    # What is gone by itself is passed over, which `os.walk` does too.
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            with contextlib.suppress(FileNotFoundError):
                if is_half_written(path) and path.is_dir():
                    shutil.rmtree(path)
                elif is_half_written(path):
                    path.unlink()


Columns = dict[str, np.ndarray]
"""Column name to array [R]. A list column is [R, C] where all rows are equally long, else an
object array of R arrays: indexing by row or by mask is the same for both."""

ColumnsLike = Mapping[str, np.ndarray]

# A file that claims more than this is refused before any of it is decoded.
MAX_VALUES = 1 << 28

_VERSION_KEY = b"ifa_ray.schema_version"


def write_table(path: Path | str, schema: Mapping[str, str], columns: ColumnsLike) -> None:
    """Writes columns as one Parquet file, atomically.

    Args:
        path: of the file; its folder is made where it is missing.
        schema: column name to numpy dtype name, or `list<dtype>`, in the order of the file.
        columns: arrays of exactly these dtypes, [R]; list columns [R, C] or R arrays.

    Raises:
        LogError: naming the file, the column and the rule that it breaks.
    """
    path = Path(path)
    _check_names(path, schema, columns)
    arrays = [_to_arrow(path, name, schema[name], columns[name]) for name in schema]
    num_rows = len(arrays[0])
    for name, array in zip(schema, arrays, strict=True):
        if len(array) != num_rows:
            raise LogError(f"{path}: column {name} has {len(array)} rows, must be {num_rows}.")
    fields = [pa.field(n, _arrow_type(kind), nullable=False) for n, kind in schema.items()]
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode()}
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))
    with written_whole(path) as temporary:
        # Everything that could differ between two writes of the same rows is fixed here.
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=3,
            version="2.6",
            row_group_size=1 << 20,
        )


def read_table(path: Path | str, schema: Mapping[str, str]) -> Columns:
    """Reads one Parquet file that holds exactly the columns of `schema`.

    Raises:
        LogError: naming the file, where it is missing, truncated, of another schema, claims more
            than `MAX_VALUES` values, or holds nulls, NaN or infinity.
    """
    path = Path(path)
    try:
        with pq.ParquetFile(path) as file:
            _check_size(path, file.metadata)
            _check_schema(path, schema, file.schema_arrow)
            table = file.read()
    except FileNotFoundError:
        raise LogError(f"{path}: no such file.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise LogError(f"{path}: not a whole Parquet file ({why}).") from None
    return {name: _to_numpy(path, name, schema[name], table.column(name)) for name in schema}


def concat_columns(tables: Iterable[Columns]) -> Columns:
    """Joins shards of one table, row after row.

    Raises:
        LogError: if there is no table to join.
    """
    joined = list(tables)
    if not joined:
        raise LogError("len(tables) == 0, must be >= 1.")
    return {name: _concat([table[name] for table in joined]) for name in joined[0]}


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name; renames it to `path` once its bytes are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `*.parquet`, so that a reader who lists the folder never sees half a file.
    temporary = temporary_of(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _arrow_type(kind: str) -> pa.DataType:
    if kind.startswith("list<"):
        # Named as Parquet names it, so that what is read has the type of what was written.
        return pa.list_(pa.field("element", _arrow_type(kind[5:-1]), nullable=False))
    return pa.from_numpy_dtype(np.dtype(kind))


def _to_arrow(path: Path, name: str, kind: str, values: np.ndarray) -> pa.Array:
    if kind.startswith("list<"):
        flat, offsets = _flatten(path, name, kind[5:-1], values)
        _check_finite(path, name, flat)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=_arrow_type(kind))
    array = np.asarray(values)
    if array.dtype != kind or array.ndim != 1:
        found = f"{array.dtype}, {array.ndim}-D"
        raise LogError(f"{path}: column {name} is {found}, must be {kind}, 1-D.")
    _check_finite(path, name, array)
    return pa.array(array)


def _flatten(
    path: Path, name: str, kind: str, rows: np.ndarray | Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows as one flat array and int32 offsets [R + 1]."""
    wrong = next((r.dtype for r in rows if r.dtype != kind or r.ndim != 1), None)
    if wrong is not None:
        raise LogError(f"{path}: column {name} holds {wrong}, must be 1-D arrays of {kind}.")
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    if lengths.sum() > MAX_VALUES:
        raise LogError(f"{path}: column {name} has {lengths.sum()} values, max {MAX_VALUES}.")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.concatenate([np.empty(0, kind), *rows])
    return flat, offsets


def _to_numpy(path: Path, name: str, kind: str, column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    is_list = kind.startswith("list<")
    flat = array.flatten() if is_list else array
    nulls = array.null_count + (flat.null_count if is_list else 0)
    if nulls:
        raise LogError(f"{path}: column {name} has {nulls} nulls, must have none.")
    values = flat.to_numpy()
    _check_finite(path, name, values)
    return _rows_of(values, array.value_lengths().to_numpy()) if is_list else values


def _rows_of(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[R, C] where all rows are equally long, else an object array of R views."""
    if len(lengths) == 0:
        return flat.reshape(0, 0)
    if (lengths == lengths[0]).all():
        return flat.reshape(len(lengths), int(lengths[0]))
    return np.fromiter(np.split(flat, np.cumsum(lengths)[:-1]), object, len(lengths))


def _concat(columns: list[np.ndarray]) -> np.ndarray:
    # A shard without rows says nothing about the width of a list column.
    columns = [column for column in columns if len(column)] or columns[:1]
    if len({(column.dtype, column.shape[1:]) for column in columns}) == 1:
        return np.concatenate(columns)
    rows = [row for column in columns for row in column]
    return np.fromiter(rows, object, len(rows))


def _check_names(path: Path, schema: Mapping[str, str], found: Iterable[str]) -> None:
    names = list(found)
    for name in schema:
        if name not in names:
            raise LogError(f"{path}: column {name} is missing, must be {schema[name]}.")
    for name in names:
        if name not in schema:
            raise LogError(f"{path}: column {name} is foreign, must be of {', '.join(schema)}.")


def _check_schema(path: Path, schema: Mapping[str, str], found: pa.Schema) -> None:
    version = (found.metadata or {}).get(_VERSION_KEY, str(SCHEMA_VERSION).encode()).decode()
    if version != str(SCHEMA_VERSION):
        raise LogError(f"{path}: schema version == {version!r}, must be {SCHEMA_VERSION}.")
    _check_names(path, schema, found.names)
    for name, kind in schema.items():
        actual, wanted = found.field(name).type, _arrow_type(kind)
        # Lists are compared by what they hold: another writer names the element otherwise.
        lists = pa.types.is_list(actual) and pa.types.is_list(wanted)
        if not (actual.value_type == wanted.value_type if lists else actual == wanted):
            raise LogError(f"{path}: column {name} is {actual}, must be {kind}.")


def _check_size(path: Path, metadata: pq.FileMetaData) -> None:
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    values = sum(g.column(i).num_values for g in groups for i in range(g.num_columns))
    if values > MAX_VALUES:
        raise LogError(f"{path}: the file claims {values} values, must be <= {MAX_VALUES}.")


def _check_finite(path: Path, name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise LogError(f"{path}: column {name} holds NaN or infinity, must be finite.")

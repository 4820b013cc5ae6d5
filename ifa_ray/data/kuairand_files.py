"""KuaiRand's files: which there are, and their rows as they are published.

Knows the published names and columns; knows nothing of slates and requests, which are made in
`ifa_ray.data.kuairand`. Logs are scanned and never read whole: 27K has 322 million rows.

Letters: U users, N videos.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.data.items import ItemTable
from ifa_ray.data.log_tables import choose_users, item_table
from ifa_ray.errors import LogError
from ifa_ray.schema import ACTIONS

LOG_COLUMNS = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow",
    "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms",
    "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_rand", "tab",
)  # fmt: skip
"""The columns of a log file, in its order."""

TAG_BUCKETS = 32
BEIJING_MS = 8 * 3_600_000
"""What the clock of the dates is ahead of `time_ms`."""

_DAY_MS = 86_400_000
_LOG_NAME = re.compile(r"log_(standard|random)_\d_\d\d_to_\d_\d\d_(pure|1k|27k)(_part\d+)?\.csv")
USED_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "user_id": pl.Int64, "video_id": pl.Int64, "time_ms": pl.Int64,
    **dict.fromkeys((*ACTIONS, "is_rand"), pl.Int64),
    "play_time_ms": pl.Float64, "duration_ms": pl.Float64,
}  # fmt: skip
_VIDEO: Mapping[str, type[pl.DataType]] = {
    "video_id": pl.Int64, "author_id": pl.Int64, "upload_dt": pl.String,
    "video_duration": pl.Float64, "tag": pl.String,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class KuaiRandFiles:
    """The files of one version of KuaiRand.

    Attributes:
        version: pure, 1k or 27k.
        logs: its log files, by name.
        videos: basic features of the videos.
        users: user features; they are checked, not learned from. May be missing.
    """

    version: str
    logs: tuple[Path, ...]
    videos: Path
    users: Path


def is_kuairand(path: Path) -> bool:
    """Whether a folder, or `data/` in it, has a log file of KuaiRand's name."""
    return any(_logs(folder) for folder in (path, path / "data"))


def find_kuairand(path: Path | str) -> KuaiRandFiles:
    """The files of a folder, whether or not they are readable.

    Raises:
        LogError: if there is no log, or logs of two versions.
    """
    folder = Path(path) / "data" if not _logs(Path(path)) else Path(path)
    logs = _logs(folder)
    if not logs:
        raise LogError(f"{path}: has no log_standard_..._pure.csv, _1k.csv or _27k_part1.csv.")
    versions = sorted({match[2] for match in map(_match, logs) if match})
    if len(versions) > 1:
        raise LogError(f"{folder}: holds logs of {' and '.join(versions)}, must be of one version.")
    return KuaiRandFiles(
        version=versions[0],
        logs=tuple(logs),
        videos=folder / f"video_features_basic_{versions[0]}.csv",
        users=folder / f"user_features_{versions[0]}.csv",
    )


def _logs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("log_*.csv") if _match(path))


def _match(path: Path) -> re.Match[str] | None:
    return _LOG_NAME.fullmatch(path.name)


def read_logs(
    files: KuaiRandFiles, *, max_rows: int, max_users: int | None, seed: int
) -> tuple[pl.DataFrame, int, int]:
    """The rows of as many whole users as fit, by (user, time); all users and rows, counted.

    Rows of equal user and time stay in the order of the files.

    Raises:
        LogError: naming the file that is missing, truncated or not of this layout.
    """
    per_user = pl.len().alias("rows")
    counts = pl.concat(
        [
            _collect(path, _scan(path, USED_COLUMNS).group_by("user_id").agg(per_user))
            for path in files.logs
        ]
    )
    counts = counts.drop_nulls().group_by("user_id").agg(pl.col("rows").cast(pl.Int64).sum())
    if not len(counts):
        raise LogError(f"{files.logs[0]}: has no rows, must have at least one.")
    users, rows = counts["user_id"].to_numpy(), counts["rows"].to_numpy()
    chosen = choose_users(users, rows, max_rows=max_rows, max_users=max_users, seed=seed)
    log = pl.concat([_read_log(path, chosen) for path in files.logs])
    log = log.sort("user_id", "time_ms", maintain_order=True)
    return log, len(users), int(rows.sum())


def _read_log(path: Path, users: npt.NDArray[np.int64]) -> pl.DataFrame:
    log = _collect(path, _scan(path, USED_COLUMNS).filter(_is_one_of("user_id", users)))
    nulls = {name: count for name, count in log.null_count().row(0, named=True).items() if count}
    if nulls:
        raise LogError(f"{path}: column {next(iter(nulls))} has empty fields, must have none.")
    for name in (*ACTIONS, "is_rand"):
        values = log[name].to_numpy()
        if not ((values == 0) | (values == 1)).all():
            bad = values[(values != 0) & (values != 1)][0]
            raise LogError(f"{path}: {name} == {bad}, must be 0 or 1.")
    for name in ("user_id", "video_id", "play_time_ms", "duration_ms"):
        values = log[name].to_numpy()
        # Written so that NaN does not pass.
        wrong = values[~((values >= 0) & (values <= np.iinfo(np.int32).max))]
        if len(wrong):
            raise LogError(f"{path}: {name} == {wrong[0]}, must be in [0, 2^31).")
    return log


def read_videos(path: Path, log: pl.DataFrame) -> tuple[ItemTable, int]:
    """The videos of the log, and how many of them the feature file lacks.

    Raises:
        LogError: if the file is missing, truncated or not of this layout.
    """
    shown = log.group_by("video_id").agg(
        pl.col("duration_ms").max(), pl.col("time_ms").min().alias("first_ms")
    ).sort("video_id")  # fmt: skip
    ids = shown["video_id"].to_numpy()
    known = _collect(path, _scan(path, _VIDEO).filter(_is_one_of("video_id", ids)))
    known = known.unique("video_id", keep="first").with_columns(
        pl.lit(True).alias("known"),
        # Beijing's midnight, in the milliseconds of the log.
        (pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms"))
         .dt.epoch("ms") - BEIJING_MS).alias("upload_ms"),
    )  # fmt: skip
    day_ms = (pl.col("first_ms") + BEIJING_MS) // _DAY_MS * _DAY_MS - BEIJING_MS
    table = shown.join(known, on="video_id", how="left").sort("video_id").with_columns(
        pl.min_horizontal("upload_ms", day_ms).alias("upload_ms"),
        pl.coalesce("video_duration", "duration_ms").round().alias("duration_ms"),
        (pl.col("author_id") + 1).fill_null(0).alias("author_id"),
        # A video without tags has an empty field.
        pl.col("tag").fill_null("").str.extract_all(r"\d+").cast(pl.List(pl.Int64)).alias("tags"),
    )  # fmt: skip
    items = item_table(
        {
            "video_id": ids,
            "author_id": table["author_id"].to_numpy(),
            "category": table.select((pl.col("tags").list.first() + 1).fill_null(0))
            .to_series()
            .to_numpy(),
            "duration_ms": table["duration_ms"].to_numpy(),
            "upload_ms": table["upload_ms"].to_numpy(),
            "content": _tag_vectors(table["tags"]),
        }
    )
    return items, int(table["known"].null_count())


def _tag_vectors(tags: pl.Series) -> npt.NDArray[np.float32]:
    """[N, TAG_BUCKETS], unit vectors; zeros where a video has no tags."""
    rows = np.repeat(np.arange(len(tags)), tags.list.len().to_numpy())
    content = np.zeros((len(tags), TAG_BUCKETS), np.float32)
    flat = tags.explode().drop_nulls().to_numpy()
    content[rows, flat % TAG_BUCKETS] = 1.0
    return content / np.maximum(1.0, np.sqrt(content.sum(axis=1, keepdims=True)))


def _is_one_of(column: str, ids: npt.NDArray[np.int64]) -> pl.Expr:
    return pl.col(column).is_in(pl.Series(ids).implode())


def _scan(path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.LazyFrame:
    try:
        with path.open("rb") as file:
            file.seek(-1, 2)
            last = file.read(1)
    except FileNotFoundError:
        raise LogError(f"{path}: no such file, must be that of a KuaiRand folder.") from None
    except OSError:
        raise LogError(f"{path}: is empty, must be a file of KuaiRand.") from None
    # A number that was cut in half is still a number, so the last line must have its end.
    if last != b"\n":
        raise LogError(f"{path}: its last line has no end, is it truncated?")
    return pl.scan_csv(path, schema_overrides=dict(columns)).select(list(columns))


def _collect(path: Path, frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        why = str(error).splitlines()[0]
        raise LogError(f"{path}: not a log or feature file of KuaiRand ({why}).") from None

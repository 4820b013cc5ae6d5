"""What an analysis reads: a run's folder, or anybody's log files; computes no metric.

`Logs` is all that the analysis knows of a log. `RunLogs` is a run's folder, one file per (arm,
replicate, day, shard), the partitions by name:
`impressions/arm=twin/replicate=0/day=000/shard=00.parquet`. `open_log` opens one log of anybody's:
finds its files, names its columns, checks its values; `ifa_ray.abtest.own_logs` makes `Logs` of
several.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.constants import DAY_MS
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_items
from ifa_ray.errors import ConfigError, LogError, unknown_name
from ifa_ray.schema import ACTIONS

COLUMNS = (
    "request_id", "user_id", "video_id", "time_ms", "position", *ACTIONS, "play_time_ms",
    "duration_ms",
)  # fmt: skip
"""What the analysis reads of the impressions of a run."""

PRE_PERIOD = "warmup"  # the pseudo arm of `ifa_ray.data.run_folder`


class Logs(Protocol):
    """The logs of an A/B test: what is read, and how it is compared."""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms to compare, control included."""

    @property
    def control(self) -> str:
        """The arm that the others are compared with."""

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that get a verdict: neither control nor its copy."""

    @property
    def aa_arm(self) -> str | None:
        """A retrained copy of control, whose "effect" is the floor of what can be seen."""

    @property
    def replicates(self) -> int:
        """R, independent worlds with models of their own; 1 for a test on a platform."""

    @property
    def days(self) -> int:
        """Days of the test, numbered from 0."""

    @property
    def burn_in_days(self) -> int:
        """The first of them, shown but not counted."""

    @property
    def alpha(self) -> float:
        """The level of every test and interval."""

    @property
    def fixed_k(self) -> int:
        """How many of a day's first impressions the fixed-k diversity looks at."""

    @property
    def paired(self) -> bool:
        """True if every arm served the same users, as in a simulation; else each has its own."""

    @property
    def users_decide(self) -> bool:
        """True if users alone may decide where there are too few replicates.

        The verdict is then one of these rankers as trained, not of their architectures.
        """

    def scan(self, arm: str, replicate: int) -> pl.LazyFrame:
        """Impressions with their `day`, checked for nulls."""

    def scan_pre(self, arm: str, replicate: int) -> pl.LazyFrame | None:
        """Impressions of the same users before the test, or None."""

    def users(self, arm: str, replicate: int) -> npt.NDArray[np.integer]:
        """Every user of the arm, also those whom the log did not see; in increasing order."""

    def catalogue(self, replicate: int) -> ItemTable | None:
        """What is known of the items, or None."""

    def lost_partitions(self) -> list[str]:
        """Names of files that should be there."""


def refuse_nulls(impressions: pl.LazyFrame, where: str) -> None:
    """Counts nulls, which would silently shrink a standard error; Parquet's own counts answer this.

    Raises:
        LogError: naming the place and the column; also if a file can't be read, or a number is NaN.
    """
    try:
        floats = [name for name, kind in impressions.collect_schema().items() if kind.is_float()]
        counts = impressions.select(
            pl.all().null_count(), *(pl.col(name).is_nan().sum().alias(f"{name} NaN")
                                     for name in floats)
        ).collect(engine="streaming")  # fmt: skip
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{where}: {error}") from error
    for name, count in counts.row(0, named=True).items():
        if count:
            column, _, kind = name.partition(" ")
            raise LogError(f"{where}: {column} holds {count} {kind or 'nulls'}, must hold none.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RunLogs:
    """The logs of an A/B run of the simulator and what is needed to read them.

    Attributes:
        log: the folder that holds `impressions/`.
        items: for each replicate, its catalogue.
        user_ids: for each replicate, int [U]: every user of its world, also those whom no arm saw.
        arms: the arms to compare, control included.
        control: the arm that the others are compared with.
        replicates: R; they are numbered from 0.
        days: days of the run, numbered from 0.
        burn_in_days: the first of them, shown but not counted.
        alpha: the level of every test and interval.
        fixed_k: how many of a day's first impressions the fixed-k diversity looks at.
        aa_arm: the arm that is a retrained copy of control; None where there is none.
    """

    log: Path
    items: Mapping[int, ItemTable]
    user_ids: Mapping[int, npt.NDArray[np.integer]]
    arms: tuple[str, ...]
    control: str
    replicates: int
    days: int
    burn_in_days: int
    alpha: float = 0.05
    fixed_k: int = 20
    aa_arm: str | None = None

    def __post_init__(self) -> None:
        if self.control not in self.arms:
            raise unknown_name("control", self.control, self.arms)
        if self.aa_arm is not None and self.aa_arm not in self.arms:
            raise unknown_name("aa_arm", self.aa_arm, self.arms)
        require(self.aa_arm != self.control, "aa_arm", self.aa_arm, "another arm than control")
        require(len(set(self.arms)) == len(self.arms), "arms", self.arms, "unique")
        require(self.replicates >= 1, "replicates", self.replicates, ">= 1")
        require(0 <= self.burn_in_days < self.days, "burn_in_days", self.burn_in_days,
                f"in [0, days) == [0, {self.days})")  # fmt: skip
        require(0 < self.alpha < 1, "alpha", self.alpha, "in (0, 1)")
        require(self.fixed_k >= 2, "fixed_k", self.fixed_k, ">= 2")
        for replicate in range(self.replicates):
            require(replicate in self.items, "items", sorted(self.items), f"given for {replicate}")
            users = self.user_ids.get(replicate, np.empty(0, np.int32))
            require(len(users) >= 2, f"len(user_ids[{replicate}])", len(users), ">= 2")
            unique = len(np.unique(users))
            require(unique == len(users), f"len(user_ids[{replicate}])", len(users),
                    f"the {unique} of its unique ids")  # fmt: skip

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms but control and its copy, in their order."""
        return tuple(arm for arm in self.arms if arm not in (self.control, self.aa_arm))

    @property
    def paired(self) -> bool:
        """Every arm of a run serves the same users."""
        return True

    @property
    def users_decide(self) -> bool:
        """A run compares architectures: replicates decide, or nobody."""
        return False

    def users(self, arm: str, replicate: int) -> npt.NDArray[np.integer]:  # noqa: ARG002 (Logs)
        """The users of the world, in increasing order."""
        return np.sort(self.user_ids[replicate])

    def catalogue(self, replicate: int) -> ItemTable:
        """The items of the world."""
        return self.items[replicate]

    def lost_partitions(self) -> list[str]:
        """Files that are not there although some arm and day of the same replicate has the shard.

        A whole day, arm or replicate without a file is named as one folder.
        """
        lost = []
        for replicate in range(self.replicates):
            found = {
                (arm, day): {path.name for path in self._files(arm, replicate, day)}
                for arm in self.arms
                for day in range(self.days)
            }
            shards = set().union(*found.values())
            for (arm, day), names in found.items():
                folder = self._folder(arm, replicate, day).relative_to(self.log / "impressions")
                if names:
                    lost += [f"{folder}/{name}" for name in sorted(shards - names)]
                else:
                    lost.append(str(folder))
        return lost

    def scan(self, arm: str, replicate: int) -> pl.LazyFrame:
        """The impressions of one world under one arm, with their `day`, lazily; checked first.

        Raises:
            LogError: if a file can't be read, lacks a column, or holds a null.
        """
        days = []
        for day in range(self.days):
            files = self._files(arm, replicate, day)
            if files:
                frame = pl.scan_parquet(files, hive_partitioning=False).select(COLUMNS)
                days.append(frame.with_columns(pl.lit(day, pl.Int32).alias("day")))
        if not days:
            return pl.LazyFrame(schema={**dict.fromkeys(COLUMNS, pl.Int64), "day": pl.Int32})
        impressions = pl.concat(days)
        refuse_nulls(impressions, f"impressions of arm={arm}/replicate={replicate}")
        return impressions

    def scan_pre(self, arm: str, replicate: int) -> pl.LazyFrame | None:  # noqa: ARG002 (Logs)
        """The warm-up log, which all arms of a replicate share; None where there is none.

        Raises:
            LogError: as `scan`.
        """
        files = self._files(PRE_PERIOD, replicate, 0)
        if not files:
            return None
        impressions = pl.scan_parquet(files, hive_partitioning=False).select(COLUMNS)
        refuse_nulls(impressions, f"impressions of arm={PRE_PERIOD}/replicate={replicate}")
        return impressions

    def _folder(self, arm: str, replicate: int, day: int) -> Path:
        place = Path(f"arm={arm}") / f"replicate={replicate}" / f"day={day:03d}"
        return self.log / "impressions" / place

    def _files(self, arm: str, replicate: int, day: int) -> list[Path]:
        return sorted(self._folder(arm, replicate, day).glob("shard=*.parquet"))


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


PERIOD = re.compile(r"(\d{4}-\d\d-\d\d):(\d{4}-\d\d-\d\d)")
"""FROM:TO, both included."""


def calendar_of(
    frames: Mapping[tuple[str, int], tuple[pl.LazyFrame, pl.LazyFrame | None]], pre: str | None
) -> tuple[int, tuple[int, int] | None]:
    """The test's first day, and the first and last day before it, as days since 1970."""
    spans = [
        frame.select(pl.col("day").min().alias("low"), pl.col("day").max().alias("high"))
        .collect(engine="streaming")
        .row(0)
        for frame, _ in frames.values()
    ]
    low = min(span[0] for span in spans if span[0] is not None)
    high = max(span[1] for span in spans if span[1] is not None)
    if pre is None:
        return low, None
    dates = PERIOD.fullmatch(pre)
    if dates:
        begin, end = (_day_of(text) for text in dates.groups())
        require(begin <= end, "pre", pre, "FROM before TO")
    else:
        begin, end = low, low + int(pre) - 1
        require(int(pre) >= 1, "pre", pre, ">= 1 day")
    if not (low <= end < high):
        raise ConfigError(f"pre == {pre!r}, must leave days before and after it in the logs.")
    return end + 1, (begin, end)


def _day_of(text: str) -> int:
    try:
        date = datetime.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"pre == {text!r}, must be a date as 2026-01-31.") from None
    moment = datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000) // DAY_MS

"""The input of an analysis: a run's folder, or anybody's log files; computes no metric.

`run_logs` opens a run: one file per (arm, replicate, day, shard), the partitions by name:
`impressions/arm=twin/replicate=0/day=000/shard=00.parquet`. `open_own_logs` opens anybody's: finds
files, names columns, checks values, says who is in which arm and which day is which.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import Config, require, setting
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_items
from ifa_ray.data.run_folder import WARMUP
from ifa_ray.errors import ConfigError, LogError, unknown_name
from ifa_ray.schema import ACTIONS, DAY_MS

REQUIRED = ("play_time_ms", "time_ms")
"""Without these there is no test. `day` (a number) may stand for `time_ms`."""

OPTIONAL = ("request_id", "video_id", "position", "duration_ms", *ACTIONS)
"""Each makes more metrics possible."""

WARMUP_DAYS = -1  # days by the clock
_CLOCK_DAY = (pl.col("time_ms") // DAY_MS).cast(pl.Int32)

World = tuple[str, int]  # an arm and a replicate
Users = npt.NDArray[np.integer]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Logs(Config):
    """The logs of an A/B test: what is read, and how it is compared.

    Attributes:
        frames: the impressions of each arm and replicate, with their `day`; checked for nulls.
        pre_frames: the same of the time before the test, where it is known.
        users: every user of the arm, also those whom the log did not see; increasing.
        catalogues: what is known of each replicate's items, or None.
        lost: names of files or days that should be there.
        replicates: R, independent worlds with models of their own; 1 for a test on a platform.
        days: of the test, numbered from 0; the first `burn_in_days` are shown but not counted.
        paired: every arm served the same users, as in a simulation; else each has its own.
        users_decide: whether users alone may decide where there are too few replicates; the verdict
            is then one of these rankers as trained, not of their architectures.
        aa_arm: a retrained copy of control, whose "effect" is the floor of what can be seen.
    """

    frames: Mapping[World, pl.LazyFrame]
    pre_frames: Mapping[World, pl.LazyFrame]
    users: Mapping[World, Users]
    catalogues: Mapping[int, ItemTable | None]
    lost: tuple[str, ...]
    arms: tuple[str, ...]
    control: str
    replicates: int
    days: int
    paired: bool
    users_decide: bool
    burn_in_days: int = setting(0, "first days of the test, shown and not counted", ge=0)
    aa_arm: str | None = setting(None, "an arm that is a copy of the control: the noise floor")
    alpha: float = setting(0.05, "level of tests and intervals", gt=0, lt=1)
    fixed_k: int = setting(20, "first impressions of a day that fixed-k diversity looks at", ge=2)

    def check(self) -> None:
        """Checks rules between settings."""
        for field in ("control", "aa_arm"):
            if getattr(self, field) not in (None, *self.arms):
                raise unknown_name(field, getattr(self, field), self.arms)
        require(self.aa_arm != self.control, "aa_arm", self.aa_arm, "another arm than control")
        rule = f"< days == {self.days}"
        require(self.burn_in_days < self.days, "burn_in_days", self.burn_in_days, rule)

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that get a verdict: neither control nor its copy."""
        return tuple(arm for arm in self.arms if arm not in (self.control, self.aa_arm))


def run_logs(
    log: Path,
    *,
    items: Mapping[int, ItemTable],
    user_ids: Mapping[int, Users],
    arms: tuple[str, ...],
    control: str,
    replicates: int,
    days: int,
    burn_in_days: int,
    fixed_k: int,
    aa_arm: str | None = None,
) -> Logs:
    """The logs of a run of the simulator, in the folder that holds `impressions/`.

    `items` and `user_ids` are each replicate's: its catalogue, and every user of its world, also
    those whom no arm saw. The rest is as in `Logs`.

    Raises:
        LogError: if a file can't be read, lacks a column, or holds a null.
    """
    frames: dict[World, pl.LazyFrame] = {}
    pre_frames: dict[World, pl.LazyFrame] = {}
    lost: list[str] = []
    for r in range(replicates):
        before = {WARMUP_DAYS: _day_files(log, WARMUP, r, 0)}
        if before[WARMUP_DAYS]:
            pre = _scan_days(before, WARMUP, r)
            pre_frames |= {(arm, r): pre for arm in arms}
        found = {(arm, day): _day_files(log, arm, r, day) for arm in arms for day in range(days)}
        shards = {path.name for files in found.values() for path in files}
        for (arm, day), files in found.items():
            folder = f"arm={arm}/replicate={r}/day={day:03d}"
            missing = sorted(shards - {path.name for path in files})
            lost += [f"{folder}/{name}" for name in missing] if files else [folder]
        for arm in arms:
            frames[arm, r] = _scan_days({d: found[arm, d] for d in range(days)}, arm, r)
    return Logs(
        frames=frames,
        pre_frames=pre_frames,
        users={(arm, r): np.sort(user_ids[r]).astype(np.int64) for arm, r in frames},
        catalogues=items,
        lost=tuple(lost),
        arms=arms,
        control=control,
        replicates=replicates,
        days=days,
        paired=True,
        users_decide=False,  # a run compares architectures: replicates decide, or nobody
        burn_in_days=burn_in_days,
        fixed_k=fixed_k,
        aa_arm=aa_arm,
    )


def _day_files(log: Path, arm: str, replicate: int, day: int) -> list[Path]:
    folder = log / "impressions" / f"arm={arm}" / f"replicate={replicate}" / f"day={day:03d}"
    return sorted(folder.glob("shard=*.parquet"))


def _scan_days(files: Mapping[int, list[Path]], arm: str, replicate: int) -> pl.LazyFrame:
    columns = (*REQUIRED, *OPTIONAL)
    frames = [
        pl.scan_parquet(paths, hive_partitioning=False).select(
            pl.col("user_id").cast(pl.Int64),
            *columns,
            (_CLOCK_DAY if day == WARMUP_DAYS else pl.lit(day, pl.Int32)).alias("day"),
        )
        for day, paths in files.items()
        if paths
    ]
    if not frames:
        names = ("user_id", *columns)
        return pl.LazyFrame(schema={**dict.fromkeys(names, pl.Int64), "day": pl.Int32})
    impressions = pl.concat(frames)
    _refuse_nulls(impressions, f"impressions of arm={arm}/replicate={replicate}")
    return impressions


def _refuse_nulls(impressions: pl.LazyFrame, where: str) -> None:
    """Counts nulls, which would silently shrink a standard error; Parquet's own counts answer this.

    Raises:
        LogError: naming the place and the column; also if a file can't be read, or a number is NaN.
    """
    try:
        floats = [name for name, kind in impressions.collect_schema().items() if kind.is_float()]
        nans = [pl.col(name).is_nan().sum().alias(f"{name} NaN") for name in floats]
        counts = impressions.select(pl.all().null_count(), *nans).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{where}: {error}") from error
    for name, count in counts.row(0, named=True).items():
        if count:
            column, _, kind = name.partition(" ")
            raise LogError(f"{where}: {column} holds {count} {kind or 'nulls'}, must hold none.")


def open_own_logs(
    logs: Sequence[str],
    *,
    unit: str = "user",
    paired: bool = False,
    control: str | None = None,
    pre: str | None = None,
    items: ItemTable | None = None,
    aa_arm: str | None = None,
    burn_in_days: int = 0,
    alpha: float = 0.05,
    fixed_k: int = 20,
) -> Logs:
    """Opens the logs of a test, one for each arm; checks them first.

    `logs` are `PATH` or `NAME=PATH`, Parquet or CSV files or folders of them; the same name again
    is another replicate of the arm. `unit` is the column whose values were assigned to arms; `user`
    stands for `user_id`. The first arm is control by default. `pre` is the time before the test: a
    number of first days, `FROM:TO` (dates, UTC, both included), or a path of its own log. The rest
    is as in `Logs`.

    Raises:
        LogError: on unreadable files, absent columns, nulls, units in two arms, or no common unit.
        ConfigError: on settings that don't fit each other.
    """
    unit = "user_id" if unit == "user" else unit
    opened = _by_arm(logs, unit)
    arms = tuple(opened)
    require(len(arms) >= 2, "logs", ", ".join(arms), "of at least two arms")
    counts = {len(frames) for frames in opened.values()}
    if len(counts) > 1:
        listed = ", ".join(f"{arm} {len(frames)}" for arm, frames in opened.items())
        raise LogError(f"replicates differ: {listed}; every arm must have as many logs.")
    whole = {(arm, r): frame for arm, own in opened.items() for r, frame in enumerate(own)}
    pre_log = None
    if pre is not None and not pre.isdigit() and not _PERIOD.fullmatch(pre):
        rule = "a number of days, FROM:TO as 2026-01-01:2026-01-14, or the path of a log"
        require(Path(pre).exists(), "pre", pre, rule)
        pre_log = _open_log(Path(pre), unit)
    numbered = _numbered([*whole.values(), *([] if pre_log is None else [pre_log])])
    whole = dict(zip(whole, numbered, strict=False))
    pre_log = None if pre_log is None else numbered[-1]
    # One pass each; everything about the calendar follows from these.
    seen = {key: _unique(frame, "day") for key, frame in whole.items()}
    span = int(min(days[0] for days in seen.values())), int(max(days[-1] for days in seen.values()))
    low, end = _before(pre, *span) if pre is not None and pre_log is None else (0, span[0] - 1)
    first = end + 1
    frames = {
        key: frame.filter(pl.col("day") >= first).with_columns(
            (pl.col("day") - first).cast(pl.Int32)
        )
        for key, frame in whole.items()
    }
    if pre_log is not None:
        pre_frames = dict.fromkeys(whole, pre_log)
    elif pre is not None:
        inside = pl.col("day").is_between(low, end)
        pre_frames = {key: frame.filter(inside) for key, frame in whole.items()}
    else:
        pre_frames = {}
    users = {key: _unique(frame, "user_id") for key, frame in frames.items()}
    _check_units(users, arms, paired=paired)
    replicates = counts.pop()
    lost = []
    for r in range(replicates):
        days = set().union(*(seen[arm, r].tolist() for arm in arms))
        number = f" (replicate {r})" if replicates > 1 else ""
        for arm in arms:
            missing = sorted(day - first for day in days.difference(seen[arm, r]) if day >= first)
            lost += [f"{arm}{number} day {day}" for day in missing]
        if paired:
            union = np.unique(np.concatenate([users[arm, r] for arm in arms]))
            users |= {(arm, r): union for arm in arms}
    return Logs(
        frames=frames,
        pre_frames=pre_frames,
        users=users,
        catalogues=dict.fromkeys(range(replicates), items),
        lost=tuple(lost),
        arms=arms,
        control=control or arms[0],
        replicates=replicates,
        days=span[1] - first + 1,
        paired=paired,
        users_decide=True,  # a platform has no replicates, and its users are a sample of all users
        burn_in_days=burn_in_days,
        aa_arm=aa_arm,
        alpha=alpha,
        fixed_k=fixed_k,
    )


def parse_log(text: str) -> tuple[str | None, Path]:
    """Reads `NAME=PATH` or `PATH`; a path that exists as it stands, `=` included, is a path."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists() or "/" in name:
        return None, Path(text)
    require(bool(name.strip()), "log", text, "NAME=PATH or PATH")
    return name.strip(), Path(rest)


def open_items(path: Path) -> ItemTable:
    """Reads a catalogue: the contract's Parquet, or a CSV with `video_id`, `author_id`, `category`.

    Raises:
        LogError: if it can't be read or lacks a column.
    """
    if path.suffix != ".csv":
        return read_items(path)
    try:
        table = pl.read_csv(path)
        table = table.select(pl.col("video_id", "author_id", "category").cast(pl.Int32))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{path}: {error}") from error
    if any(table.null_count().row(0)):
        raise LogError(f"{path} holds nulls, must hold none.")
    columns = {f"{column.name}_N": column.to_numpy() for column in table.sort("video_id")}
    count = len(table)
    return ItemTable(
        **columns,
        duration_ms_N=np.zeros(count, np.int32),
        upload_ms_N=np.zeros(count, np.int64),
        content_ND=np.zeros((count, 0), np.float32),
    )


def _by_arm(logs: Sequence[str], unit: str) -> dict[str, list[pl.LazyFrame]]:
    opened: dict[str, list[pl.LazyFrame]] = {}
    unnamed = set()
    for text in logs:
        name, path = parse_log(text)
        arm = name or path.stem
        if (name is None and arm in opened) or arm in unnamed:
            raise ConfigError(
                f"log == {text!r}, must be another name than {arm!r}, which another log has: "
                "give NAME=PATH; the same NAME again is another replicate."
            )
        if name is None:
            unnamed.add(arm)
        opened.setdefault(arm, []).append(_open_log(path, unit))
    return opened


def _open_log(path: Path, unit: str) -> pl.LazyFrame:
    """A file, or a folder of files of one kind; with `user_id` and `day` (since 1970, or its own).

    Raises:
        LogError: on absent columns, nulls, NaN, negative times, flags that are not 0 or 1, no row.
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
    for name in (unit, *REQUIRED):
        if name in schema or (name == "time_ms" and "day" in schema):
            continue
        near = difflib.get_close_matches(name, schema.names(), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LogError(f"{path} lacks the column {name}; it has {', '.join(schema.names())}.{hint}")
    if not (schema[unit].is_integer() or schema[unit] == pl.String):
        raise LogError(f"{path}: {unit} is {schema[unit]}, must be a whole number or text.")
    names = [name for name in (*REQUIRED, *OPTIONAL) if name in schema and name != unit]
    has_clock = "time_ms" in schema
    day = _CLOCK_DAY if has_clock else _typed(path, "day", schema["day"]).cast(pl.Int32)
    frame = raw.select(
        pl.col(unit).alias("user_id"),
        *(_typed(path, name, schema[name]) for name in names),
        day.alias("day"),
    )
    _refuse_nulls(frame, str(path))
    flags = [name for name in names if name in ACTIONS]
    times = [name for name in names if name.endswith("_ms")]
    checked = frame.select("user_id", *flags, *times)
    low, high = (
        bound.collect(engine="streaming").row(0, named=True)
        for bound in (checked.min(), checked.max())
    )
    if low["user_id"] is None:
        raise LogError(f"{path}: 0 impressions, must hold at least one.")
    for name in times:
        if low[name] < 0:
            raise LogError(f"{path}: min({name}) == {low[name]}, must be >= 0.")
    for name in flags:
        if low[name] < 0 or high[name] > 1:
            raise LogError(f"{path}: {name} goes from {low[name]} to {high[name]}, must be 0 or 1.")
    return frame


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in (".parquet", ".csv"):
            raise LogError(f"{path}: its suffix is {path.suffix!r}, must be .parquet or .csv.")
        return [path]
    found = sorted(path.rglob("*.parquet")) or sorted(path.rglob("*.csv"))
    if not found:
        raise LogError(f"{path}: no such file, or no .parquet or .csv file in it.")
    return found


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


_PERIOD = re.compile(r"(\d{4}-\d\d-\d\d):(\d{4}-\d\d-\d\d)")  # FROM:TO, both included


def _before(pre: str, low: int, high: int) -> tuple[int, int]:
    """The first and last day before the test, of a log whose days go from low to high."""
    dates = _PERIOD.fullmatch(pre)
    begin, end = map(_day_of, dates.groups()) if dates else (low, low + int(pre) - 1)
    if not (begin <= end and low <= end < high):
        raise ConfigError(f"pre == {pre!r}, must leave days before and after it in the logs.")
    return begin, end


def _day_of(text: str) -> int:
    try:
        return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
    except ValueError:
        raise ConfigError(f"pre == {text!r}, must be a date as 2026-01-31.") from None


def _numbered(frames: Sequence[pl.LazyFrame]) -> list[pl.LazyFrame]:
    """Frames whose `user_id` is int64: as it is, or the place of a text among all texts."""
    kinds = {frame.collect_schema()["user_id"] for frame in frames}
    if all(kind.is_integer() for kind in kinds):
        as_int = pl.col("user_id").cast(pl.Int64)
        return [frame.with_columns(as_int) for frame in frames]
    if len(kinds) > 1:
        listed = ", ".join(sorted(map(str, kinds)))
        raise LogError(f"units of the logs are {listed}, must be of one type.")
    texts = pl.concat([frame.select("user_id").unique() for frame in frames])
    names = texts.unique().collect(engine="streaming").sort("user_id").with_row_index("number")
    numbers = names.lazy().with_columns(pl.col("number").cast(pl.Int64))
    return [
        frame.join(numbers, on="user_id").drop("user_id").rename({"number": "user_id"})
        for frame in frames
    ]


def _unique(frame: pl.LazyFrame, column: str) -> npt.NDArray[np.integer]:
    values = frame.select(pl.col(column).unique()).collect(engine="streaming")[column]
    return np.sort(values.to_numpy())


def _check_units(users: Mapping[World, Users], arms: Sequence[str], *, paired: bool) -> None:
    """Units of two arms where each should have its own, or none in common where they are shared."""
    for (arm, r), own in users.items():
        if len(own) < 2:
            raise LogError(f"{arm} has {len(own)} units in the test, must have at least 2.")
        for other in arms[: arms.index(arm)]:
            common = np.intersect1d(own, users[other, r], assume_unique=True)
            if paired and not len(common):
                raise LogError(
                    f"{other} and {arm} have no unit in common: they aren't paired. Leave out "
                    "--paired where each arm has units of its own."
                )
            if not paired and len(common):
                raise LogError(
                    f"{len(common):,} units are in both {other} and {arm} (the first is "
                    f"{common[0]}): they saw both rankers. Take them out; or, if every arm served "
                    "the same units, as a simulation does, say --paired."
                )

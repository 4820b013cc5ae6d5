"""Anybody's logs as `ifa_ray.abtest.logs.Logs`: who is in which arm, which day is which.

Knows ids, days and the rules of a test; files and columns are `ifa_ray.abtest.logs`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.abtest.logs import PERIOD, LogFile, calendar_of, check_values, open_log
from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import ConfigError, LogError, unknown_name


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnLogs:
    """Logs of a test that anybody ran; see `open_own_logs`.

    Attributes:
        frames: for each arm and replicate its impressions, `day` 0 the test's first.
        pre_frames: the same of the time before it, `day` negative or absent; None without one.
        users_of: for each arm and replicate, its users in increasing order.
        items: the catalogue; None without one.
        arms, control, aa_arm, alpha, fixed_k, paired, days, burn_in_days: as in `Logs`.
    """

    frames: Mapping[tuple[str, int], pl.LazyFrame]
    pre_frames: Mapping[tuple[str, int], pl.LazyFrame] | None
    users_of: Mapping[tuple[str, int], npt.NDArray[np.int64]]
    items: ItemTable | None
    arms: tuple[str, ...]
    control: str
    aa_arm: str | None
    paired: bool
    replicates: int
    days: int
    burn_in_days: int
    alpha: float
    fixed_k: int

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms but control and its copy."""
        return tuple(arm for arm in self.arms if arm not in (self.control, self.aa_arm))

    @property
    def users_decide(self) -> bool:
        """A platform has no replicates, and its users are a sample of all users."""
        return True

    def scan(self, arm: str, replicate: int) -> pl.LazyFrame:
        """Impressions of the test."""
        return self.frames[arm, replicate]

    def scan_pre(self, arm: str, replicate: int) -> pl.LazyFrame | None:
        """Impressions before it."""
        return None if self.pre_frames is None else self.pre_frames[arm, replicate]

    def users(self, arm: str, replicate: int) -> npt.NDArray[np.int64]:
        """Users that the arm saw; where arms share users, that any arm of the replicate saw."""
        return self.users_of[arm, replicate]

    def catalogue(self, replicate: int) -> ItemTable | None:  # noqa: ARG002 (Logs)
        """The items, the same in every replicate."""
        return self.items

    def lost_partitions(self) -> list[str]:
        """Days on which an arm saw nobody, though another of the same replicate did."""
        seen = {
            key: set(frame.select(pl.col("day").unique()).collect(engine="streaming")["day"])
            for key, frame in self.frames.items()
        }
        lost = []
        for replicate in range(self.replicates):
            days = set().union(*(seen[arm, replicate] for arm in self.arms))
            for arm in self.arms:
                number = f" (replicate {replicate})" if self.replicates > 1 else ""
                lost += [f"{arm}{number} day {day}" for day in sorted(days - seen[arm, replicate])]
        return lost


def parse_log(text: str) -> tuple[str | None, Path]:
    """Reads `NAME=PATH` or `PATH`; a path that exists as it stands, `=` included, is a path."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists() or "/" in name:
        return None, Path(text)
    require(bool(name.strip()), "log", text, "NAME=PATH or PATH")
    return name.strip(), Path(rest)


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
) -> OwnLogs:
    """Opens the logs of a test, one for each arm; checks them first.

    Args:
        logs: `PATH` or `NAME=PATH` of each arm, Parquet or CSV files or folders of them. The same
            name again is another replicate of the arm.
        unit: the column whose values were assigned to arms; `user` stands for `user_id`.
        paired: every arm served the same units.
        control: the arm that the others are compared with; the first by default.
        pre: the time before the test: a number of first days, `FROM:TO` (dates, UTC, both
            included), or a path of its own log.
        items: the catalogue.
        aa_arm: an arm that is a copy of control.
        burn_in_days: first days that are shown and not counted.
        alpha: of tests and intervals.
        fixed_k: impressions of a day that fixed-k diversity looks at.

    Raises:
        LogError: on unreadable files, absent columns, nulls, units in two arms, or no common unit.
        ConfigError: on settings that don't fit each other.
    """
    require(0 < alpha < 1, "alpha", alpha, "in (0, 1)")
    require(fixed_k >= 2, "fixed_k", fixed_k, ">= 2")
    opened = _by_arm(logs, "user_id" if unit == "user" else unit)
    arms = tuple(opened)
    require(len(arms) >= 2, "logs", ", ".join(arms), "of at least two arms")
    if control is not None and control not in arms:
        raise unknown_name("control", control, arms)
    if aa_arm is not None and aa_arm not in arms:
        raise unknown_name("aa", aa_arm, arms)
    control = control or arms[0]
    require(aa_arm != control, "aa", aa_arm, "another arm than the control")
    counts = {len(files) for files in opened.values()}
    if len(counts) > 1:
        listed = ", ".join(f"{arm} {len(files)}" for arm, files in opened.items())
        raise LogError(f"replicates differ: {listed}; every arm must have as many logs.")
    files = {(arm, r): file for arm, own in opened.items() for r, file in enumerate(own)}
    pre_file = _pre_path(pre, "user_id" if unit == "user" else unit)
    frames = _number_units(files, pre_file)
    first, pre_span = calendar_of(frames, pre if pre_file is None else None)
    tests = {
        key: frame.filter(pl.col("day") >= first).with_columns(
            (pl.col("day") - first).cast(pl.Int32)
        )
        for key, (frame, _) in frames.items()
    }
    users = {key: _units(frame) for key, frame in tests.items()}
    _check_units(users, arms, paired=paired)
    replicates = counts.pop()
    if paired:
        for r in range(replicates):
            union = np.unique(np.concatenate([users[arm, r] for arm in arms]))
            users |= {(arm, r): union for arm in arms}
    days = 1 + max(
        int(frame.select(pl.col("day").max()).collect(engine="streaming").item() or 0)
        for frame in tests.values()
    )
    require(0 <= burn_in_days < days, "burn_in", burn_in_days, f"in [0, days) == [0, {days})")
    pre_frames = None
    if pre_file is not None:
        pre_frames = {key: own_pre for key, (_, own_pre) in frames.items() if own_pre is not None}
    elif pre_span is not None:
        low, high = pre_span
        pre_frames = {
            key: frame.filter(pl.col("day").is_between(low, high))
            for key, (frame, _) in frames.items()
        }
    return OwnLogs(
        frames=tests, pre_frames=pre_frames, users_of=users, items=items, arms=arms,
        control=control, aa_arm=aa_arm, paired=paired, replicates=replicates, days=days,
        burn_in_days=burn_in_days, alpha=alpha, fixed_k=fixed_k,
    )  # fmt: skip


def _by_arm(logs: Sequence[str], unit: str) -> dict[str, list[LogFile]]:
    opened: dict[str, list[LogFile]] = {}
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
        opened.setdefault(arm, []).append(open_log(path, unit))
    for files in opened.values():
        for file in files:
            check_values(file)
    return opened


def _pre_path(pre: str | None, unit: str) -> LogFile | None:
    if pre is None or pre.isdigit() or PERIOD.fullmatch(pre):
        return None
    if not Path(pre).exists():
        raise ConfigError(
            f"pre == {pre!r}, must be a number of days, FROM:TO as 2026-01-01:2026-01-14, or the "
            "path of a log."
        )
    file = open_log(Path(pre), unit)
    check_values(file)
    return file


def _number_units(
    files: Mapping[tuple[str, int], LogFile], pre: LogFile | None
) -> dict[tuple[str, int], tuple[pl.LazyFrame, pl.LazyFrame | None]]:
    """Frames whose `user_id` is int64: as it is, or the place of a text among all texts."""
    every = [*files.values(), *([pre] if pre else [])]
    kinds = {str(file.unit_type) for file in every}
    if len(kinds) > 1 and not all(file.unit_type.is_integer() for file in every):
        raise LogError(f"units of the logs are {', '.join(sorted(kinds))}, must be of one type.")
    if every[0].unit_type.is_integer():
        own_pre = None if pre is None else _int_unit(pre.frame)
        return {key: (_int_unit(file.frame), own_pre) for key, file in files.items()}
    texts = pl.concat([file.frame.select("user_id").unique() for file in every])
    names = texts.unique().collect(engine="streaming").sort("user_id").with_row_index("number")
    numbers = names.lazy()

    def numbered(frame: pl.LazyFrame) -> pl.LazyFrame:
        joined = frame.join(numbers, on="user_id").drop("user_id")
        return joined.with_columns(pl.col("number").cast(pl.Int64).alias("user_id")).drop("number")

    own_pre = None if pre is None else numbered(pre.frame)
    return {key: (numbered(file.frame), own_pre) for key, file in files.items()}


def _int_unit(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(pl.col("user_id").cast(pl.Int64))


def _units(frame: pl.LazyFrame) -> npt.NDArray[np.int64]:
    ids = frame.select(pl.col("user_id").unique()).collect(engine="streaming")["user_id"]
    return np.sort(ids.to_numpy())


def _check_units(
    users: Mapping[tuple[str, int], npt.NDArray[np.int64]], arms: Sequence[str], *, paired: bool
) -> None:
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

"""What an analysis reads, and where a run of the simulator keeps it; computes no metric.

`Logs` is all that the analysis knows of a log. `RunLogs` is a run's folder, one file per (arm,
replicate, day, shard), the partitions by name:
`impressions/arm=twin/replicate=0/day=000/shard=00.parquet`. Anybody's own files are
`ifa_ray.abtest.own_logs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import LogError, unknown_name
from ifa_ray.schema import ACTIONS

__all__ = ["COLUMNS", "Logs", "RunLogs", "refuse_nulls"]

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
        """Whether every arm served the same users, as in a simulation; else each has its own."""

    @property
    def users_decide(self) -> bool:
        """Whether users alone may decide where there are too few replicates.

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

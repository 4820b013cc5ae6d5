"""Where a run's impressions lie and what they must look like; computes no metric.

One file per (arm, replicate, day, shard), the partitions by name:
`impressions/arm=twin/replicate=0/day=000/shard=00.parquet`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.errors import LogError, unknown_name
from ifa_ray.schema import ACTIONS

__all__ = ["COLUMNS", "RunLogs"]

COLUMNS = (
    "request_id", "user_id", "video_id", "time_ms", "position", *ACTIONS, "play_time_ms",
)  # fmt: skip
"""What the analysis reads of the impressions."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RunLogs:
    """The logs of an A/B run and what is needed to read them.

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

    def __post_init__(self) -> None:
        if self.control not in self.arms:
            raise unknown_name("control", self.control, self.arms)
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
        """The arms but control, in their order."""
        return tuple(arm for arm in self.arms if arm != self.control)

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
        where = f"impressions of arm={arm}/replicate={replicate}"
        try:
            # Nulls would silently shrink a standard error. Parquet's own counts answer this.
            nulls = impressions.select(pl.all().null_count()).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{where}: {error}") from error
        for column, count in nulls.row(0, named=True).items():
            if count:
                raise LogError(f"{where}: {column} holds {count} nulls, must hold none.")
        return impressions

    def _folder(self, arm: str, replicate: int, day: int) -> Path:
        place = Path(f"arm={arm}") / f"replicate={replicate}" / f"day={day:03d}"
        return self.log / "impressions" / place

    def _files(self, arm: str, replicate: int, day: int) -> list[Path]:
        return sorted(self._folder(arm, replicate, day).glob("shard=*.parquet"))

"""Where a run keeps its log, models and commits, and what counts as committed.

Knows paths, JSON and checksums; not what is in the files, and no Ray. The folder is the only thing
that the world, the trainers and the rankers share: each writes whole files under their final names
by renaming, and a day of a shard exists once its commit file does. So any process may be killed at
any moment, and whoever comes next sees either all of a shard's day or none of it.

    RUN/config.json                                    what the run is; a resumed run must agree
    RUN/worlds/replicate=0/items.parquet               the catalogue, as observed
    RUN/log/{impressions,requests,timings}/arm=twin/replicate=0/day=000/shard=00.parquet
    RUN/state/arm=twin/replicate=0/day=000/shard=00.npz     hidden user state at the day's end
    RUN/commits/arm=twin/replicate=0/day=000/shard=00.json  checksums of the shard's day
    RUN/models/twin/replicate=0/version=00000/              checkpoints, one folder a version
    RUN/gates/                                              why each version was published, or not
    RUN/training_times/                                     seconds that each version took
    RUN/parts.json                                          each start of the driver
    RUN/train/, RUN/.ray-home/                              Ray Train's own files, Ray's token
    RUN/result.json, RUN/report.html, RUN/report.md, RUN/report.csv

Timings, training times and parts are measurements: all else repeats byte for byte.

The prehistory of a replicate, which all its arms share, is day 0 of the pseudo arm `warmup`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifa_ray.data.tables import sha256_of, written_whole
from ifa_ray.errors import LogError

WARMUP = "warmup"
TABLES = ("impressions", "requests", "timings")


def is_run(path: Path) -> bool:
    """True if a folder is that of a run: it has a log."""
    return RunFolder(path).log.is_dir()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


@dataclasses.dataclass(frozen=True, order=True)
class ShardDay:
    """One day of one shard of users in one world; `arm` and `replicate` name the world."""

    arm: str
    replicate: int
    day: int
    shard: int

    @property
    def path(self) -> Path:
        """The Hive-style path below a table's folder, without its suffix."""
        return (
            Path(f"arm={self.arm}")
            / f"replicate={self.replicate}"
            / f"day={self.day:03d}"
            / f"shard={self.shard:02d}"
        )


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The layout of one run below `root`, and its commit protocol."""

    root: Path

    @property
    def config(self) -> Path:
        """The run's config."""
        return self.root / "config.json"

    @property
    def parts(self) -> Path:
        """Each start of the run's driver."""
        return self.root / "parts.json"

    @property
    def log(self) -> Path:
        """The folder of the log's tables."""
        return self.root / "log"

    @property
    def result(self) -> Path:
        """Every number of the finished run."""
        return self.root / "result.json"

    @property
    def report(self) -> Path:
        """The result as one HTML page."""
        return self.root / "report.html"

    def items(self, replicate: int) -> Path:
        """The catalogue of a replicate's worlds."""
        return self.root / "worlds" / f"replicate={replicate}" / "items.parquet"

    def models(self, arm: str, replicate: int) -> Path:
        """The folder of an arm's model versions in one replicate."""
        return self.root / "models" / arm / f"replicate={replicate}"

    def training_time(self, arm: str, replicate: int, version: int) -> Path:
        """The seconds that a version took to train: a measurement, so not in the checkpoint."""
        folder = self.root / "training_times" / f"arm={arm}" / f"replicate={replicate}"
        return folder / f"version={version:05d}.json"

    def gate(self, arm: str, replicate: int, version: int) -> Path:
        """The decision to publish a version or not; not part of the checkpoint, which it judges."""
        folder = self.root / "gates" / f"arm={arm}" / f"replicate={replicate}"
        return folder / f"version={version:05d}.json"

    def table(self, table: str, key: ShardDay) -> Path:
        """One file of one of `TABLES`."""
        return (self.log / table / key.path).with_suffix(".parquet")

    def state(self, key: ShardDay) -> Path:
        """The hidden user state at the end of a shard's day."""
        return (self.root / "state" / key.path).with_suffix(".npz")

    def commit_file(self, key: ShardDay) -> Path:
        """The file whose existence commits a shard's day."""
        return (self.root / "commits" / key.path).with_suffix(".json")

    def commit(self, key: ShardDay, summary: Mapping[str, Any]) -> None:
        """Commits a shard's day, after its files were written: checksums and a summary."""
        files = {name: sha256_of(path) for name, path in self._checked_files(key).items()}
        record = {"sha256": files, "summary": dict(summary)}
        write_atomically(self.commit_file(key), json.dumps(record, sort_keys=True).encode())

    def is_committed(self, key: ShardDay) -> bool:
        """True if a shard's day exists."""
        return self.commit_file(key).exists()

    def summary(self, key: ShardDay) -> dict[str, Any]:
        """The summary given to `commit`.

        Raises:
            LogError: if the commit file is missing or damaged.
        """
        return self._record(key)["summary"]

    def verify(self, key: ShardDay) -> None:
        """Checks a committed day's files against their checksums.

        Raises:
            LogError: naming the file that is missing, truncated or was changed.
        """
        expected = self._record(key)["sha256"]
        for name, path in self._checked_files(key).items():
            if not path.exists():
                raise LogError(f"{path}: missing, but committed. Restore it, or start a new run.")
            if sha256_of(path) != expected.get(name):
                raise LogError(
                    f"{path}: its checksum is not the committed one: the file is truncated or was "
                    "changed. Restore it, or start a new run; nothing was overwritten."
                )

    def _checked_files(self, key: ShardDay) -> dict[str, Path]:
        # No ranker was timed in the prehistory.
        tables = [table for table in TABLES if key.arm != WARMUP or table != "timings"]
        return {**{name: self.table(name, key) for name in tables}, "state": self.state(key)}

    def _record(self, key: ShardDay) -> dict[str, Any]:
        path = self.commit_file(key)
        try:
            record = json.loads(path.read_bytes())
            if not (isinstance(record["sha256"], dict) and isinstance(record["summary"], dict)):
                raise TypeError
        except FileNotFoundError:
            raise LogError(f"{path}: missing, the day is not committed.") from None
        except (ValueError, KeyError, TypeError):
            raise LogError(
                f"{path}: not a commit record; it is truncated or was changed."
            ) from None
        return record

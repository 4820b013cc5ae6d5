"""The log of a run's folder as one stream of training samples: every shard of every day, checked.

Knows the layout of a run and what can be wrong with it: a shard that is damaged, missing or there
twice is named. Told to skip such shards, it counts them, and rebuilds later histories by time,
because watermarks count impressions that are lost. Knows nothing of models.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_impressions, read_items, read_requests
from ifa_ray.data.run_folder import WARMUP, RunFolder
from ifa_ray.data.tables import Columns, sha256_of
from ifa_ray.errors import ConfigError, LogError, unknown_name
from ifa_ray.schema import TrainingSample
from ifa_ray.training.samples import LogFollower

__all__ = ["SampleStream", "read_run"]

_NAMED = 5  # skipped shards that a note names; all are counted


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SampleStream:
    """What a folder has to teach.

    Attributes:
        items: the catalogue.
        samples: in order of time.
        notes: what a reader of its results must know, one sentence each.
    """

    items: ItemTable
    samples: list[TrainingSample]
    notes: tuple[str, ...]


def read_run(
    path: Path | str,
    arm: str | None = None,
    replicate: int = 0,
    *,
    max_history: int,
    max_requests: int | None = None,
    skip_damaged: bool = False,
) -> SampleStream:
    """Reads the warm-up and all days of one arm's log, every shard.

    Args:
        path: the folder of a run, or of a log that is a warm-up alone.
        arm: whose days follow the warm-up; `warmup` is none. None needs no choice: the warm-up
            where nothing else was logged, or a single arm.
        replicate: of which world.
        max_history: behaviours beyond the latest so many are left out.
        max_requests: cap, from the first on; None is all.
        skip_damaged: whether shards that cannot be used are left out, counted and named in a note,
            instead of ending the reading. Histories then lack what was lost.

    Raises:
        LogError: as `read_table`; where a shard is missing, or is a copy of another; and where the
            arm has no log of that replicate.
        ConfigError: if the arm is unknown, with the near miss, or one must be chosen.
    """
    require(max_requests is None or max_requests >= 1, "max_requests", max_requests, ">= 1")
    folder = RunFolder(Path(path))
    requests_root = folder.log / "requests"
    arms = sorted(entry.name.removeprefix("arm=") for entry in requests_root.glob("arm=*"))
    if arm is None:
        arm = _only_arm(arms, requests_root)
    if arm not in arms:
        raise unknown_name("arm", arm, arms)
    reader = _Reader(folder, LogFollower(max_history=max_history), skip_damaged)
    samples: list[TrainingSample] = []
    num_days = 0
    # The warm-up is the beginning of every arm's log.
    for name in dict.fromkeys((WARMUP, arm)):
        for shards in reader.days(Path(f"arm={name}") / f"replicate={replicate}"):
            num_days += 1
            samples += reader.day(shards)
    if not samples:
        raise LogError(f"{requests_root}: arm {arm}, replicate {replicate} has no requests.")
    used = samples[:max_requests]
    what = "the warm-up alone" if arm == WARMUP else f"arm {arm}, {num_days} days with the warm-up"
    note = (
        f"Run: replicate {replicate}, {what}; "
        f"{len(used):,} of {len(samples):,} sampled requests used, from the first on."
    )
    items = read_items(folder.items(replicate))
    return SampleStream(items=items, samples=used, notes=(note, *reader.notes()))


def _only_arm(arms: list[str], root: Path) -> str:
    lived = [name for name in arms if name != WARMUP]
    if len(lived) > 1:
        raise ConfigError(f"arm == None, must be one of {', '.join(arms)}: {root} holds several.")
    if not arms:
        raise LogError(f"{root}: no arm has logged anything.")
    return lived[0] if lived else WARMUP


class _Reader:
    """Reads shards in order, and remembers what was wrong."""

    def __init__(self, folder: RunFolder, follower: LogFollower, skip_damaged: bool) -> None:
        self._folder, self._follower, self._skip = folder, follower, skip_damaged
        self._skipped: list[str] = []
        self._read_from: dict[int, Path] = {}

    def days(self, world: Path) -> Iterator[list[Path]]:
        """The shards of each day of one arm, as paths below a table's folder.

        Every day has every shard, and days have no gaps: what is not there was lost.
        """
        found = {
            path.relative_to(self._folder.log / table)
            for table in ("impressions", "requests")
            for path in (self._folder.log / table / world).glob("day=*/*.parquet")
        }
        shards = sorted({path.name for path in found})
        numbers = sorted({int(path.parent.name.removeprefix("day=")) for path in found})
        for day in range(numbers[0], numbers[-1] + 1) if numbers else ():
            yield [world / f"day={day:03d}" / shard for shard in shards]

    def day(self, shards: Sequence[Path]) -> list[TrainingSample]:
        """A day's samples by time; the request id settles equal times."""
        samples = []
        for shard in shards:
            try:
                samples += self._shard(shard)
            except LogError as error:
                if not self._skip:
                    raise
                self._skipped.append(f"{shard} ({error})")
        return sorted(samples, key=lambda s: (s.request.time_ms, s.request.request_id))

    def notes(self) -> Iterator[str]:
        """What was left out."""
        if self._skipped:
            named = "; ".join(self._skipped[:_NAMED])
            more = len(self._skipped) - _NAMED
            yield (
                f"{len(self._skipped)} damaged shards skipped, and what they held is in no "
                f"history: {named}{f'; and {more} more' if more > 0 else ''}."
            )

    def _shard(self, shard: Path) -> list[TrainingSample]:
        impressions = read_impressions(self._whole("impressions", shard))
        path = self._whole("requests", shard)
        requests = read_requests(path)
        self._refuse_copies(path, requests)
        try:
            self._follower.append(impressions)
            # A watermark counts impressions, and those of a skipped shard are not here.
            samples = self._follower.samples(requests, impressions, by_time=bool(self._skipped))
        except LogError as error:
            raise LogError(f"{path}: {error}") from None
        self._read_from.update(dict.fromkeys(requests["request_id"].tolist(), path))
        return samples

    def _whole(self, table: str, shard: Path) -> Path:
        """The file of a table, as it was committed, if it was."""
        path = self._folder.log / table / shard
        if not path.exists():
            raise LogError(f"{path}: missing, though other days or tables have this shard.")
        commit = (self._folder.root / "commits" / shard).with_suffix(".json")
        if commit.exists():
            try:
                expected = json.loads(commit.read_bytes())["sha256"][table]
            except (ValueError, KeyError, TypeError):
                raise LogError(f"{commit}: not a commit record; it is damaged.") from None
            if sha256_of(path) != expected:
                raise LogError(f"{path}: its checksum is not the committed one: it was changed.")
        return path

    def _refuse_copies(self, path: Path, requests: Columns) -> None:
        for request_id in requests["request_id"].tolist():
            other = self._read_from.get(request_id)
            if other is not None:
                raise LogError(
                    f"{path}: request {request_id} is in {other} too, must be in one shard: is one "
                    "a copy of the other?"
                )

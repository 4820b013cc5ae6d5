"""A folder on disk as one stream of training samples, in order of time.

Knows which reader a folder is for (`SOURCES`) and the layout of a run (`log/`); knows nothing of
models. A log is read whole into memory: this is for evaluation, not for following a growing one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_impressions, read_items, read_requests
from ifa_ray.data.log_tables import LogTables, ReadSettings, evenly_spaced
from ifa_ray.data.readers.ebnerd import is_ebnerd, read_ebnerd
from ifa_ray.data.readers.kuairand import is_kuairand, read_kuairand
from ifa_ray.data.readers.movielens import LABEL_RULES, is_movielens, read_movielens
from ifa_ray.data.run_folder import WARMUP, RunFolder, is_run
from ifa_ray.data.tables import Columns, sha256_of
from ifa_ray.errors import ConfigError, LogError, unknown_name
from ifa_ray.plugins import load_adapter
from ifa_ray.schema import TrainingSample
from ifa_ray.training.samples import LogFollower

# The last `=` of it; a path may hold others, as those of a run do.
_WITH_ADAPTER = re.compile(r"(.+)=([\w.]+:\w+)")


def read_stream(
    path: Path | str,
    *,
    arm: str | None,
    replicate: int,
    num_sampled: int,
    max_history: int,
    max_requests: int | None,
    seed: int,
    skip_damaged: bool = False,
) -> SampleStream:
    """Reads a folder of a known format, or one by an adapter of the caller's.

    Args:
        path: of the folder; or `PATH=package.module:function`, an adapter (docs/adapters.md).
        arm: of a run, whose log to read; see `read_run`.
        replicate: of a run.
        num_sampled: drawn candidates beside the shown ones, where a log has no candidate sets.
        max_history: behaviours beyond the latest so many are left out.
        max_requests: cap; None is all. A run is cut after so many, other logs are thinned evenly.
        seed: of draws.
        skip_damaged: see `read_run`; no other format has shards that could be left out.

    Raises:
        LogError: if the folder is of no known format, or is damaged.
        ConfigError: if an adapter cannot be imported or gives something else than tables.
    """
    settings = ReadSettings(
        num_sampled=num_sampled, max_history=max_history, max_requests=max_requests, seed=seed
    )
    folder, adapter = split_adapter(path)
    require(not skip_damaged or (adapter is None and is_run(folder)), "skip_damaged", True,
            f"False for {path}: only the log of a run has shards that can be skipped")  # fmt: skip
    if adapter is not None:
        return stream_of(tables_of_adapter(folder, adapter, settings), settings)
    if skip_damaged:
        return read_run(
            folder, arm, replicate, max_history=max_history, max_requests=max_requests,
            skip_damaged=True,
        )  # fmt: skip
    for source in SOURCES:
        if source.recognises(folder):
            return source.read(folder, settings, arm, replicate)
    known = " nor ".join(f"{source.holds} ({source.name})" for source in SOURCES)
    raise LogError(f"{folder}: holds neither {known}.")


def stream_of(tables: LogTables, settings: ReadSettings) -> SampleStream:
    """The samples of a log that is in memory.

    Raises:
        LogError: if its tables do not fit together, or a candidate is not in the catalogue.
    """
    follower = LogFollower(max_history=settings.max_history)
    follower.append(tables.impressions)
    samples = follower.samples(tables.requests, tables.impressions)
    for sample in samples:
        unknown = sample.request.candidates_C[tables.items.rows(sample.request.candidates_C) == 0]
        if len(unknown):
            raise LogError(
                f"request {sample.request.request_id} of the log: candidate {unknown[0]} is not "
                f"in the catalogue of {len(tables.items)} items."
            )
    if not samples:
        raise LogError("the log has no requests, must have at least one.")
    samples.sort(key=lambda each: (each.request.time_ms, each.request.request_id))
    kept = evenly_spaced(np.arange(len(samples)), settings.max_requests)
    return SampleStream(items=tables.items, samples=[samples[i] for i in kept], notes=tables.notes)


def tables_of_adapter(folder: Path, spec: str, settings: ReadSettings) -> LogTables:
    """Calls an adapter.

    Raises:
        ConfigError: if it cannot be imported or gives something else than tables.
    """
    tables = load_adapter(spec)(folder, settings)
    if not isinstance(tables, LogTables):
        found = type(tables).__name__
        raise ConfigError(f"adapter == {spec!r} returned a {found}, must return LogTables.")
    return tables


def split_adapter(path: Path | str) -> tuple[Path, str | None]:
    """`PATH=package.module:function` in two; a path that exists is a path, whatever its name."""
    match = _WITH_ADAPTER.fullmatch(str(path))
    if match is None or Path(path).exists():
        return Path(path), None
    return Path(match[1]), match[2]


def _read_movielens(path: Path, settings: ReadSettings, _arm: str | None, _r: int) -> SampleStream:
    num_sampled = settings.num_sampled
    log = read_movielens(
        path, num_sampled=num_sampled, max_history=settings.max_history,
        max_requests=settings.max_requests, seed=settings.seed,
    )  # fmt: skip
    if not log.samples:
        raise LogError(
            f"{path}: none of {log.num_ratings} ratings makes a request: histories "
            f"or catalogue are too short for {num_sampled} sampled films."
        )
    rules = "; ".join(f"{name}: {rule}" for name, rule in LABEL_RULES.items())
    share = len(log.samples) / max(1, log.num_eligible)
    notes = (
        f"MovieLens: {log.num_ratings:,} ratings of {len(log.items):,} films; "
        f"{len(log.samples):,} of {log.num_eligible:,} possible requests used ({share:.1%}), "
        "evenly spaced in time.",
        f"Candidates: the rated film and {num_sampled} that the user had not rated, drawn "
        "uniformly among films rated before by anybody; drawn anew for each seed.",
        f"Labels: {rules}.",
    )
    return SampleStream(items=log.items, samples=log.samples, notes=notes)


def _read_kuairand(path: Path, settings: ReadSettings, _arm: str | None, _r: int) -> SampleStream:
    return stream_of(read_kuairand(path, settings), settings)


def _read_ebnerd(path: Path, settings: ReadSettings, _arm: str | None, _r: int) -> SampleStream:
    return stream_of(read_ebnerd(path, settings), settings)


def _read_run(path: Path, settings: ReadSettings, arm: str | None, replicate: int) -> SampleStream:
    return read_run(
        path, arm, replicate,
        max_history=settings.max_history, max_requests=settings.max_requests,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Source:
    """One format: its name, what a folder of it holds, how to tell, how to read."""

    name: str
    holds: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadSettings, str | None, int], SampleStream]


SOURCES: tuple[Source, ...] = (
    Source("MovieLens", "ratings.csv", is_movielens, _read_movielens),
    Source("KuaiRand", "log_standard_..._pure.csv, _1k.csv or _27k_part1.csv", is_kuairand,
           _read_kuairand),
    Source("EB-NeRD", "behaviors.parquet", is_ebnerd, _read_ebnerd),
    Source("a run", "log/", is_run, _read_run),
)  # fmt: skip
"""Every format that is known by its files; the first that recognises a folder reads it."""


def run_replicates(path: Path | str) -> tuple[int, ...]:
    """The replicates that have a log in a run's folder; none in any other folder."""
    folders = RunFolder(split_adapter(path)[0]).log.glob("requests/arm=*/replicate=*")
    return tuple(sorted({int(entry.name.removeprefix("replicate=")) for entry in folders}))


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

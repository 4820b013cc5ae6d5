"""A folder on disk as one stream of training samples, in order of time.

Knows which reader a folder is for (`SOURCES`) and the layout of a run (`log/`); knows nothing of
models. A log is read whole into memory: this is for evaluation, not for following a growing one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_impressions, read_items, read_requests
from ifa_ray.data.log_tables import LogTables, ReadSettings, evenly_spaced
from ifa_ray.data.readers.ebnerd import is_ebnerd, read_ebnerd
from ifa_ray.data.readers.kuairand import is_kuairand, read_kuairand
from ifa_ray.data.readers.movielens import LABEL_RULES, is_movielens, read_movielens
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, is_run
from ifa_ray.errors import ConfigError, LogError, unknown_name
from ifa_ray.plugins import load_adapter
from ifa_ray.schema import TrainingSample
from ifa_ray.training.samples import LogFollower

# The last `=` of it; a path may hold others, as those of a run do.
_WITH_ADAPTER = re.compile(r"(.+)=([\w.]+:\w+)")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SampleStream:
    """What a folder has to teach.

    Attributes:
        items: the catalogue.
        samples: in order of time.
        notes: for readers of its results, one sentence each.
    """

    items: ItemTable
    samples: list[TrainingSample]
    notes: tuple[str, ...]


def read_stream(
    path: Path | str,
    *,
    arm: str | None,
    replicate: int,
    num_sampled: int,
    max_history: int,
    max_requests: int | None,
    seed: int,
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

    Raises:
        LogError: if the folder is of no known format, or is damaged.
        ConfigError: if an adapter cannot be imported or gives something else than tables.
    """
    settings = ReadSettings(
        num_sampled=num_sampled, max_history=max_history, max_requests=max_requests, seed=seed
    )
    folder, adapter = split_adapter(path)
    if adapter is not None:
        return stream_of(tables_of_adapter(folder, adapter, settings), settings)
    for is_of_format, read in SOURCES.values():
        if is_of_format(folder):
            return read(folder, settings)
    if is_run(folder):
        return read_run(folder, arm, replicate, max_history=max_history, max_requests=max_requests)
    raise LogError(f"{folder}: holds neither {' nor '.join(SOURCES)} nor log/ (a run).")


def stream_of(tables: LogTables, settings: ReadSettings) -> SampleStream:
    """The samples of a log that is in memory."""
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
    samples = _by_time(samples)
    kept = evenly_spaced(np.arange(len(samples)), settings.max_requests)
    return SampleStream(items=tables.items, samples=[samples[i] for i in kept], notes=tables.notes)


def tables_of_adapter(folder: Path, spec: str, settings: ReadSettings) -> LogTables:
    """Calls an adapter."""
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


def _read_movielens(path: Path, settings: ReadSettings) -> SampleStream:
    log = read_movielens(path, **settings.to_dict())
    if not log.samples:
        raise LogError(
            f"{path}: none of {log.num_ratings} ratings makes a request: histories "
            f"or catalogue are too short for {settings.num_sampled} sampled films."
        )
    rules = "; ".join(f"{name}: {rule}" for name, rule in LABEL_RULES.items())
    share = len(log.samples) / max(1, log.num_eligible)
    notes = (
        f"MovieLens: {log.num_ratings:,} ratings of {len(log.items):,} films; "
        f"{len(log.samples):,} of {log.num_eligible:,} possible requests used ({share:.1%}), "
        "evenly spaced in time.",
        f"Candidates: the rated film and {settings.num_sampled} that the user had not rated, drawn "
        "uniformly among films rated before by anybody; drawn anew for each seed.",
        f"Labels: {rules}.",
    )
    return SampleStream(items=log.items, samples=log.samples, notes=notes)


SOURCES: dict[str, tuple[Callable[[Path], bool], Callable[[Path, ReadSettings], SampleStream]]] = {
    "ratings.csv (MovieLens)": (is_movielens, _read_movielens),
    "log_standard_..._pure.csv, _1k.csv or _27k_part1.csv (KuaiRand)": (
        is_kuairand,
        lambda path, settings: stream_of(read_kuairand(path, settings), settings),
    ),
    "behaviors.parquet (EB-NeRD)": (
        is_ebnerd,
        lambda path, settings: stream_of(read_ebnerd(path, settings), settings),
    ),
}
"""Formats that are known by their files, beside a run: how to tell and how to read each."""


def run_replicates(path: Path | str) -> tuple[int, ...]:
    """The replicates that have a log in a run's folder; none in any other folder."""
    folders = RunFolder(split_adapter(path)[0]).log.glob("requests/arm=*/replicate=*")
    return tuple(sorted({int(entry.name.removeprefix("replicate=")) for entry in folders}))


def read_run(
    path: Path | str,
    arm: str | None = None,
    replicate: int = 0,
    *,
    max_history: int,
    max_requests: int | None = None,
) -> SampleStream:
    """Reads the warm-up and all days of one arm's log, every shard.

    Args:
        path: the folder of a run, or of a log that is a warm-up alone.
        arm: whose days follow the warm-up; `warmup` is none. None needs no choice: the warm-up
            where nothing else was logged, or a single arm.
        replicate: of which world.
        max_history: behaviours beyond the latest so many are left out.
        max_requests: cap, from the first on; None is all.

    Raises:
        LogError: as `read_table`; where a shard is missing or was changed since its commit; and
            where the arm has no log of that replicate.
        ConfigError: if the arm is unknown, with the near miss, or one must be chosen.
    """
    require(max_requests is None or max_requests >= 1, "max_requests", max_requests, ">= 1")
    folder, follower = RunFolder(Path(path)), LogFollower(max_history=max_history)
    requests_root = folder.log / "requests"
    arms = sorted(entry.name.removeprefix("arm=") for entry in requests_root.glob("arm=*"))
    if arm is None:
        learned = [name for name in arms if name != WARMUP]
        if len(learned) > 1:
            raise ConfigError(
                f"arm == None, must be one of {', '.join(arms)}: {requests_root} holds several."
            )
        arm = learned[0] if learned else WARMUP
    if arm not in arms:
        raise unknown_name("arm", arm, arms)
    samples: list[TrainingSample] = []
    num_days = 0
    # The warm-up is the beginning of every arm's log.
    for name in dict.fromkeys((WARMUP, arm)):
        for keys in _days(folder, name, replicate):
            num_days += 1
            for key in keys:
                if folder.is_committed(key):
                    folder.verify(key)
            samples += read_day(folder, keys, follower)
    if not samples:
        raise LogError(f"{requests_root}: arm {arm}, replicate {replicate} has no requests.")
    ids, counts = np.unique([each.request.request_id for each in samples], return_counts=True)
    if (counts > 1).any():
        raise LogError(f"{requests_root}: request {ids[counts > 1][0]} is there twice.")
    used = samples[:max_requests]
    what = "the warm-up alone" if arm == WARMUP else f"arm {arm}, {num_days} days with the warm-up"
    note = (
        f"Run: replicate {replicate}, {what}; "
        f"{len(used):,} of {len(samples):,} sampled requests used, from the first on."
    )
    return SampleStream(items=read_items(folder.items(replicate)), samples=used, notes=(note,))


def read_day(
    folder: RunFolder, keys: Iterable[ShardDay], follower: LogFollower, append: bool = True
) -> list[TrainingSample]:
    """The samples of a day's shards, by time; its impressions join the histories once."""
    samples = []
    for key in keys:
        path = folder.table("requests", key)
        impressions = read_impressions(folder.table("impressions", key))
        requests = read_requests(path)
        try:
            if append:
                follower.append(impressions)
            samples += follower.samples(requests, impressions)
        except LogError as error:
            raise LogError(f"{path}: {error}") from None
    return _by_time(samples)


def _by_time(samples: list[TrainingSample]) -> list[TrainingSample]:
    """Samples by time; the request id settles equal times."""
    return sorted(samples, key=lambda each: (each.request.time_ms, each.request.request_id))


def _days(folder: RunFolder, arm: str, replicate: int) -> Iterator[list[ShardDay]]:
    """The shards of each day: every day has every shard, and days have no gaps."""
    names = folder.log.glob(f"*/arm={arm}/replicate={replicate}/day=*/shard=*.parquet")
    found = [(int(path.parent.name[4:]), int(path.stem[6:])) for path in names]
    days, shards = ({pair[i] for pair in found} for i in (0, 1))
    for day in range(min(days), max(days) + 1) if days else ():
        yield [ShardDay(arm, replicate, day, shard) for shard in sorted(shards)]

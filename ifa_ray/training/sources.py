"""A folder on disk as one stream of training samples, in order of time.

Knows the layouts of a MovieLens folder (`ratings.csv`) and of a run (`log/`); knows nothing of
models. Both are read whole into memory: this is for evaluation, not for following a growing log.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ifa_ray.config import require
from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import read_impressions, read_items, read_requests
from ifa_ray.data.movielens import LABEL_RULES, read_movielens
from ifa_ray.data.run_folder import WARMUP, RunFolder
from ifa_ray.errors import ConfigError, LogError, unknown_name
from ifa_ray.schema import TrainingSample
from ifa_ray.training.samples import LogFollower

__all__ = ["SampleStream", "read_run", "read_stream", "run_replicates"]


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
    """Reads a MovieLens folder or a run's folder.

    Args:
        path: of the folder.
        arm: of a run, whose log to read; see `read_run`.
        replicate: of a run.
        num_sampled: films beside the rated one, in a MovieLens request.
        max_history: behaviours beyond the latest so many are left out.
        max_requests: cap; None is all. MovieLens is thinned evenly, a run is cut after so many.
        seed: of MovieLens' draws.

    Raises:
        LogError: if the folder is neither, or is damaged.
    """
    path = Path(path)
    if (path / "ratings.csv").exists():
        log = read_movielens(
            path, num_sampled=num_sampled, max_history=max_history, max_requests=max_requests,
            seed=seed,
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
    if (path / "log").is_dir():
        return read_run(path, arm, replicate, max_history=max_history, max_requests=max_requests)
    raise LogError(
        f"{path}: holds neither ratings.csv (a MovieLens folder) nor log/ (the folder of a run)."
    )


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
        LogError: as `read_table`, and where the arm has no log of that replicate.
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
    follower = LogFollower(max_history=max_history)
    samples: list[TrainingSample] = []
    num_days = 0
    # The warm-up is the beginning of every arm's log.
    for name in dict.fromkeys((WARMUP, arm)):
        root = requests_root / f"arm={name}" / f"replicate={replicate}"
        for day in sorted(root.glob("day=*")):
            num_days += 1
            samples += _read_day(folder, day, follower)
    if not samples:
        raise LogError(f"{requests_root}: arm {arm}, replicate {replicate} has no requests.")
    used = samples[:max_requests]
    what = "the warm-up alone" if arm == WARMUP else f"arm {arm}, {num_days} days with the warm-up"
    note = (
        f"Run: replicate {replicate}, {what}; "
        f"{len(used):,} of {len(samples):,} sampled requests used, from the first on."
    )
    return SampleStream(items=read_items(folder.items(replicate)), samples=used, notes=(note,))


def run_replicates(path: Path | str) -> tuple[int, ...]:
    """The replicates that have a log in a run's folder; none in any other folder."""
    folders = RunFolder(Path(path)).log.glob("requests/arm=*/replicate=*")
    return tuple(sorted({int(entry.name.removeprefix("replicate=")) for entry in folders}))


def _only_arm(arms: list[str], root: Path) -> str:
    lived = [name for name in arms if name != WARMUP]
    if len(lived) > 1:
        raise ConfigError(f"arm == None, must be one of {', '.join(arms)}: {root} holds several.")
    if not arms:
        raise LogError(f"{root}: no arm has logged anything.")
    return lived[0] if lived else WARMUP


def _read_day(folder: RunFolder, day: Path, follower: LogFollower) -> list[TrainingSample]:
    """A day's samples by time; the request id settles equal times."""
    samples = []
    for path in sorted(day.glob("*.parquet")):
        impressions = read_impressions(
            folder.log / "impressions" / path.relative_to(folder.log / "requests")
        )
        follower.append(impressions)
        samples += follower.samples(read_requests(path), impressions)
    return sorted(samples, key=lambda s: (s.request.time_ms, s.request.request_id))

"""Small logs in the layout of a run, for tests that train on files."""

import itertools
from pathlib import Path

import numpy as np

from ifa_ray.data.items import ItemTable
from ifa_ray.data.log import write_impressions, write_items, write_requests
from ifa_ray.data.run_folder import WARMUP, RunFolder, ShardDay, write_atomically
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS
from ifa_ray.training.driver import GateConfig
from ifa_ray.training.offline import Keep, OfflineSettings, train_offline
from ifa_ray.training.offline_folder import OfflineFolder
from ifa_ray.training.sources import SampleStream, read_run

NUM_ITEMS, CANDIDATES, SHOWN, SHARDS = 40, 12, 3, 2
DAY_MS = 86_400_000
SMALL = "--width 8 --tower-widths 8 --max-history 50 --author-buckets 16 --user-buckets 8"


def train_arguments(log: Path, out: Path, *more: str) -> list[str]:
    """Of the command, for a small model and a version a day; later flags win."""
    flags = f"train --arm ifa {SMALL} --id-buckets 64 --publish-every day --metrics-every day"
    return [*flags.split(), "--data", str(log), "--out", str(out), *more]


def make_items(count: int = NUM_ITEMS) -> ItemTable:
    ids = np.arange(count, dtype=np.int32)
    content = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)[:count]
    return ItemTable(
        video_id_N=ids,
        author_id_N=ids // 4,
        category_N=ids % 5,
        duration_ms_N=1_000 * (ids + 1),
        upload_ms_N=np.zeros(count, np.int64),
        content_ND=content,
    )


def tables_of_day(
    key: ShardDay, num_requests: int, before: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """One user's day: of each request the first three candidates are shown, even ids clicked."""
    rng = np.random.default_rng([key.day, key.shard, len(key.arm), key.replicate])
    user, start = key.shard, (0 if key.arm == WARMUP else 1 + key.day) * DAY_MS
    candidates = np.array(
        [rng.permutation(NUM_ITEMS)[:CANDIDATES] for _ in range(num_requests)], np.int32
    ).reshape(num_requests, CANDIDATES)
    times = start + 3_600_000 * np.arange(num_requests, dtype=np.int64)
    requests = {
        "request_id": (times + user).astype(np.int64),
        "user_id": np.full(num_requests, user, np.int32),
        "time_ms": times,
        "watermark": (before + SHOWN * np.arange(num_requests)).astype(np.int32),
        "candidates": candidates,
        "channels": np.zeros((num_requests, CANDIDATES), np.int8),
    }
    shown = SHOWN * num_requests
    impressions = {name: np.zeros(shown, kind) for name, kind in IMPRESSION_COLUMNS.items()}
    impressions["request_id"] = np.repeat(requests["request_id"], SHOWN)
    impressions["user_id"] = np.full(shown, user, np.int32)
    impressions["video_id"] = candidates[:, :SHOWN].reshape(-1)
    impressions["time_ms"] = np.repeat(times, SHOWN) + np.tile(
        np.arange(1, SHOWN + 1), num_requests
    )
    impressions["position"] = np.tile(np.arange(SHOWN, dtype=np.int16), num_requests)
    for name in ACTIONS[:3]:
        impressions[name] = ((impressions["video_id"] % 2 == 0) & (rng.random(shown) < 0.9)).astype(
            np.int8
        )
    return impressions, requests


def write_run(
    root: Path, days: int = 3, per_day: int | list[int] = 6, replicates: int = 1
) -> RunFolder:
    """A run of one arm: a warm-up and days, two shards of one user each."""
    folder = RunFolder(root)
    counts = [6, *([per_day] * days if isinstance(per_day, int) else per_day)]
    for replicate, shard in itertools.product(range(replicates), range(SHARDS)):
        write_items(folder.items(replicate), make_items())
        before = 0
        for day, count in enumerate(counts, -1):
            key = ShardDay("ifa" if day >= 0 else WARMUP, replicate, max(day, 0), shard)
            impressions, requests = tables_of_day(key, count, before)
            before += SHOWN * count
            write_impressions(folder.table("impressions", key), impressions)
            write_requests(folder.table("requests", key), requests)
    return folder


def commit_all(folder: RunFolder) -> None:
    """Commits every shard, as the world does once a day is whole."""
    for path in folder.log.glob("requests/*/*/*/*.parquet"):
        arm, replicate, day, shard = (
            part.split("=")[1] for part in path.with_suffix("").parts[-4:]
        )
        key = ShardDay(arm, int(replicate), int(day), int(shard))
        for empty in (folder.table("timings", key), folder.state(key)):
            write_atomically(empty, b"")
        folder.commit(key, {})


def read(root: Path, **settings: object) -> SampleStream:
    return read_run(root, "ifa", 0, **{"max_history": 50, **settings})


def settings(data: Path, **changes: object) -> OfflineSettings:
    model = {"name": "ifa", "width": 8, "tower_widths": (8,), "max_history": 50}
    model |= {"id_buckets": 64, "author_buckets": 16, "user_buckets": 8}
    values = {"data": str(data), "arm": "ifa", "publish_every": "day", "metrics_every": "day"}
    values |= {"model": model, "training": {"batch_size": 4}} | changes
    return OfflineSettings.from_dict(values)


class Silent:
    """A listener that remembers versions."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.aucs: list[float | None] = []

    def begin(self, first: int, total: int) -> None: ...

    def learned(self, requests: int) -> None: ...

    def published(self, version: int, auc: float | None) -> None:
        self.versions.append(version)
        self.aucs.append(auc)


def train(
    out: Path, asked: OfflineSettings, stream: SampleStream, *, resume: bool = False, **more: object
) -> list[int]:
    """Trains in this process; returns the versions that were made."""
    folder, listener = OfflineFolder(out), Silent()
    values = {"gate": GateConfig(), "keep": Keep(keep=2), "listener": listener} | more
    with folder.locked():
        folder.open(asked.to_dict(), resume=resume)
        train_offline(folder, asked, stream, **values)
    return listener.versions


def contents(out: Path) -> dict[str, bytes]:
    """Every file that must repeat to the byte, by name."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.glob("**/*"))
        if path.is_file() and path.name not in ("timings.jsonl", ".lock")
    }

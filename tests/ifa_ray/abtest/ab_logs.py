"""Synthetic logs of an A/B run, written as the world would write them, for the analysis tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ifa_ray.abtest import Logs, run_logs
from ifa_ray.abtest.measure import World, measure, past_of
from ifa_ray.data.items import ItemTable
from ifa_ray.schema import ACTIONS, IMPRESSION_COLUMNS

NUM_ITEMS = 60
NUM_USERS = 40


def make_items(seed: int = 0, dim: int = 5) -> ItemTable:
    """A catalogue with ids that are neither dense nor from zero."""
    rng = np.random.default_rng(seed)
    return ItemTable(
        video_id_N=np.arange(100, 100 + 3 * NUM_ITEMS, 3).astype(np.int32),
        author_id_N=rng.integers(0, 15, NUM_ITEMS).astype(np.int32),
        category_N=rng.integers(0, 6, NUM_ITEMS).astype(np.int32),
        duration_ms_N=rng.integers(5_000, 60_000, NUM_ITEMS).astype(np.int32),
        upload_ms_N=np.zeros(NUM_ITEMS, np.int64),
        content_ND=rng.normal(size=(NUM_ITEMS, dim)).astype(np.float32),
    )


def make_day(seed: int, items: ItemTable, users: np.ndarray, lift: float = 0.0) -> dict:
    """One day's impressions as columns; `lift` scales play times."""
    rng = np.random.default_rng(seed)
    count = 12 * len(users)
    columns = {name: np.zeros(count) for name in IMPRESSION_COLUMNS}
    columns["user_id"] = np.sort(rng.choice(users, count))
    columns["video_id"] = rng.choice(items.video_id_N, count)
    columns["request_id"] = columns["user_id"] * 1000 + rng.integers(0, 3, count)
    # Some of a user's gaps are longer than half an hour, some are not.
    columns["time_ms"] = rng.permutation(count) * 40_000
    for name in ACTIONS:
        columns[name] = rng.random(count) < 0.3
    columns["play_time_ms"] = rng.integers(0, 30_000, count) * np.exp(lift)
    place = np.searchsorted(items.video_id_N, columns["video_id"])
    columns["duration_ms"] = items.duration_ms_N[place]
    return {name: np.asarray(columns[name]).astype(IMPRESSION_COLUMNS[name]) for name in columns}


def write(log: Path, arm: str, replicate: int, day: int, columns: dict, shard: int = 0) -> Path:
    """Writes one file of the impressions table."""
    folder = log / "impressions" / f"arm={arm}" / f"replicate={replicate}" / f"day={day:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shard={shard:02d}.parquet"
    types = {name: getattr(pa, kind)() for name, kind in IMPRESSION_COLUMNS.items()}
    arrays = {name: pa.array(columns[name], types[name]) for name in types}
    pq.write_table(pa.table(arrays), path)
    return path


def measured(logs: Logs, arm: str, replicate: int) -> World:
    """One world, with the yardsticks of the time before the run."""
    return measure(logs, arm, replicate, past_of(logs, replicate))


def make_run(log: Path, **settings) -> Logs:
    """A whole run, as `write_run` writes it."""
    return run_logs(**write_run(log, **settings))


def write_run(
    log: Path,
    *,
    arms: tuple[str, ...] = ("twin", "ifa"),
    replicates: int = 3,
    days: int = 3,
    burn_in_days: int = 1,
    lifts: dict[str, float] | None = None,
    same: bool = False,
    pre: bool = False,
    **settings,
) -> dict:
    """Writes a run and returns the arguments of `run_logs`; every tenth user never comes.

    `same` gives every arm the same bytes. `pre` adds a log from before the run, when every seventh
    user had not come yet.
    """
    items = {r: make_items(r) for r in range(replicates)}
    users = {r: np.arange(1, NUM_USERS + 1) for r in range(replicates)}
    for r in range(replicates):
        present = users[r][users[r] % 10 != 0]
        if pre:
            columns = make_day(9000 + r, items[r], present[present % 7 != 0])
            columns["time_ms"] = columns["time_ms"] * 20  # several days
            write(log, "warmup", r, 0, columns)
        for a, arm in enumerate(arms):
            for day in range(days):
                # Play times differ by arm in the seed of later days only: on the first day,
                # everybody comes in every arm, as in a run with common random numbers.
                seed = 1000 * r + 10 * day + (0 if same or day == 0 else a)
                lift = (lifts or {}).get(arm, 0.0)
                write(log, arm, r, day, make_day(seed, items[r], present, lift))
    return {
        "log": log, "items": items, "user_ids": users, "arms": arms, "control": arms[0],
        "replicates": replicates, "days": days, "burn_in_days": burn_in_days, "fixed_k": 5,
        **settings,
    }  # fmt: skip

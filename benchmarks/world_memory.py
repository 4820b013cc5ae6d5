"""What users cost in memory: fills histories as the loop does, and measures.

Knows `HistoryBlocks` and hidden user state as arrays; nobody lives here, so that 100,000 histories
of 10,000 take minutes: 78 CPU seconds on one core of an AMD EPYC; of 10.5 GiB of files 3.8 GiB
stayed in memory, beside 0.15 GiB of its own; a history read back from disk took 1.7 ms, and
0.05 ms when read again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.world_stages import Result
from ifa_ray.data.history_blocks import HistoryBlocks
from simulator.world import ShardState, World

__all__ = ["FULL_USERS", "measure_memory"]

FULL_USERS = 100_000
PER_ROUND = 10
READERS = 64


def measure_memory(
    world: World, num_users: int, length: int, clock: Callable[[], float] = time.process_time
) -> list[Result]:
    """Appends a slate to every user's history in turns until all are full, then reads some.

    Args:
        world: of the users whose hidden state is measured.
        num_users: how many.
        length: impressions of each.
        clock: CPU seconds.

    Returns:
        Bytes, speed and resident memory. With fewer than 100,000 users, also what so many would
        take, which is then calculated and not measured.
    """
    before = _resident_bytes()
    users = np.arange(num_users, dtype=np.int32)
    hidden = ShardState.new(world, users).to_arrays()
    hidden_bytes = sum(array.nbytes for array in hidden.values()) / num_users
    with tempfile.TemporaryDirectory(prefix="ifa-histories-") as folder:
        store = HistoryBlocks(Path(folder))
        start = clock()
        rows = np.repeat(users, PER_ROUND)
        for first in range(0, length, PER_ROUND):
            # Any ids and times will do, but they are written as the world writes them.
            ids = (rows * 31 + first) % world.config.num_items
            times = np.full(len(rows), 1_650_000_000_000 + 1_000 * first, np.int64)
            store.append_sorted(rows, ids.astype(np.int32), (rows % 3).astype(np.uint8), times)
        appended = num_users * length / (clock() - start)
        per_user = store.nbytes / num_users
        readers = np.linspace(0, num_users - 1, READERS).astype(np.int32)
        start = clock()
        for user in readers:
            assert len(store.view(int(user))) == length
        view_ms = 1e3 * (clock() - start) / len(readers)
        start = clock()
        for user in readers:
            store.view(int(user))
        again_ms = 1e3 * (clock() - start) / len(readers)
        anonymous, mapped = (
            (now - then) / 2**30 for now, then in zip(_resident_bytes(), before, strict=True)
        )
    part = f"{num_users:,} users x {length:,} impressions, in mapped files"
    results = [
        ("history", "bytes/user", per_user),
        ("history", "bytes/impression", per_user / length),
        ("hidden state", "bytes/user", hidden_bytes),
        ("appending, 10 of each user at a time", "impressions/s", appended),
        ("a history read for the first time", "ms", view_ms),
        ("and again", "ms", again_ms),
        ("memory that only this process has", "GiB", anonymous),
        ("pages of the files in memory, given back at need", "GiB", mapped),
    ]
    if num_users < FULL_USERS:
        total = FULL_USERS * (per_user + hidden_bytes) / 2**30
        results.append((f"{FULL_USERS:,} such users (calculated)", "GiB", total))
    return [Result.of(part, name, unit, [value]) for name, unit, value in results]


def _resident_bytes() -> tuple[int, int]:
    """Resident memory of this process: its own, and pages of files. Zeros where Linux is not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: line.split() for line in lines}
    own, mapped = (int(sizes[name][1]) * 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped

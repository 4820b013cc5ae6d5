"""What the A/B analysis costs: CPU seconds and peak memory of the command on logs of a given size.

Writes two synthetic logs (a catalogue and a week before the test included), runs
`python -m ifa_ray abtest` on them in a process of its own, and reads that process's own account.

    python -m benchmarks.abtest                            # 500,000 impressions
    python -m benchmarks.abtest --impressions 10000000     # the claim: under a minute and 2 GiB
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.results import write

DAY_MS = 86_400_000
ITEMS = 20_000
PER_USER_DAY = 12
DAYS = 14


def write_logs(folder: Path, impressions: int, seed: int = 0) -> dict[str, int]:
    """Writes `items.parquet`, `before.parquet` and the arms `control` and `treatment`.

    Half of the impressions are each arm's; a tenth as many are from before the test. Rows come day
    by day, as a platform writes them.

    Returns:
        Rows of each.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    pq.write_table(
        pa.table(
            {
                "video_id": pa.array(np.arange(ITEMS, dtype=np.int32)),
                "author_id": pa.array(rng.integers(0, 3_000, ITEMS).astype(np.int32)),
                "category": pa.array(rng.integers(0, 40, ITEMS).astype(np.int32)),
                "duration_ms": pa.array(rng.integers(3_000, 300_000, ITEMS).astype(np.int32)),
                "upload_ms": pa.array(np.zeros(ITEMS, np.int64)),
                "content": pa.array(
                    list(rng.normal(size=(ITEMS, 16)).astype(np.float32)), pa.list_(pa.float32())
                ),
            }
        ),
        folder / "items.parquet",
    )
    users = max(2, impressions // 2 // (PER_USER_DAY * DAYS))
    rows = {}
    for arm, days, first in (("before", range(-7, 0), 0), ("control", range(DAYS), 0),
                             ("treatment", range(DAYS), 1)):  # fmt: skip
        wanted = impressions // 10 if arm == "before" else impressions // 2
        name = folder / f"{arm}.parquet"
        writer = None
        rows[arm] = 0
        for day in days:
            count = wanted // len(days)
            ids = rng.integers(0, users, count) * 2 + first
            if arm == "before":
                ids = rng.integers(0, 2 * users, count)
            table = pa.table(_day(rng, ids, day))
            writer = writer or pq.ParquetWriter(name, table.schema)
            writer.write_table(table)
            rows[arm] += count
        if writer is not None:
            writer.close()
    return rows


def _day(rng: np.random.Generator, ids: np.ndarray, day: int) -> dict[str, Any]:
    count = len(ids)
    plays = rng.exponential(9_000, count).astype(np.int32)
    columns: dict[str, Any] = {
        "request_id": (ids.astype(np.int64) << 20) + (day + 7) * 1_000 + rng.integers(0, 3, count),
        "user_id": ids.astype(np.int32),
        "video_id": np.minimum(rng.zipf(1.3, count), ITEMS).astype(np.int32) - 1,
        "time_ms": (20_000 + day) * DAY_MS + rng.integers(0, DAY_MS, count),
        "position": rng.integers(0, 10, count).astype(np.int16),
        "play_time_ms": plays,
        "duration_ms": rng.integers(3_000, 300_000, count).astype(np.int32),
    }
    for action, rate in (("is_click", 0.4), ("long_view", 0.25), ("is_like", 0.03),
                         ("is_comment", 0.005), ("is_follow", 0.003), ("is_forward", 0.002),
                         ("is_hate", 0.001)):  # fmt: skip
        columns[action] = (rng.random(count) < rate).astype(np.int8)
    return columns


def measure(folder: Path, *, paired: bool = False) -> dict[str, Any]:
    """Runs the command on the folder of `write_logs`, in a process of its own.

    Returns:
        `wall_s`, `cpu_s` (user and system, of all threads) and `peak_gib` of it.
    """
    command = [
        sys.executable, "-m", "ifa_ray", "abtest", "--log", str(folder / "control.parquet"),
        str(folder / "treatment.parquet"), "--items", str(folder / "items.parquet"), "--pre",
        str(folder / "before.parquet"), "--out", str(folder / "report"),
    ]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(
        command + (["--paired"] if paired else []), stdout=subprocess.DEVNULL, env=os.environ
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: a health check failed, which is an answer
        raise RuntimeError(f"the command ended with status {process.returncode}")
    return {
        "wall_s": round(wall_s, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a line, and writes JSON if asked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.abtest", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--impressions", type=int, default=500_000, metavar="N",
                        help="of both arms together (default: 500000)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options = parser.parse_args(arguments)
    if options.impressions < 1_000:
        parser.error(f"impressions == {options.impressions}, must be >= 1000")
    with tempfile.TemporaryDirectory() as folder:
        rows = write_logs(Path(folder), options.impressions)
        found = measure(Path(folder))
    print(
        f"abtest of {options.impressions:,} impressions (and {rows['before']:,} before): "
        f"{found['cpu_s']} CPU s, {found['wall_s']} s, peak {found['peak_gib']} GiB"
    )
    if options.json:
        write(options.json, {"machine": describe_machine(), "rows": rows, **found})


if __name__ == "__main__":
    main()

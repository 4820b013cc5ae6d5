"""Tells how far a run is: days of arms, requests per second, and when it will end.

Knows counts and a clock, not what they count. A bar on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self, TextIO

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 5.0


class RunProgress:
    """Counts finished shard-days per arm, and requests over all.

    Args:
        units: shard-days of each arm.
        stream: where to; standard error by default, so that standard output stays data.
        clock: seconds.
    """

    def __init__(
        self,
        units: Mapping[str, int],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._total = sum(units.values())
        self._done = self._fresh = self._requests = 0
        self._days = dict.fromkeys(units, 0)
        self._started = clock()
        self._first_unit = 0.0
        self._last_line = -_LINE_EVERY_S
        self._bar = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks = {
            arm: self._bar.add_task(arm, total=count, note="") for arm, count in units.items()
        }

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line about a phase."""
        self._console.print(f"[{self._clock() - self._started:6.1f} s] {text}")

    def finished(self, arm: str, day: int, requests: int, fresh: bool = True) -> None:
        """Counts a day of one of the arm's shards; one of an earlier part is not `fresh`."""
        now = self._clock()
        self._done += 1
        if fresh:
            self._first_unit = self._first_unit or now
            self._fresh += 1
            self._requests += requests
        self._days[arm] = max(self._days[arm], day + 1)
        elapsed = now - (self._first_unit or now)
        rate = f"{self._requests / elapsed:.0f} requests/s" if elapsed > 0 else "-"
        self._bar.update(self._tasks[arm], advance=1, note=f"day {day}, {rate}")
        is_last = self._done == self._total
        if not self._bar.disable or not (is_last or now - self._last_line >= _LINE_EVERY_S):
            return
        self._last_line = now
        days = ", ".join(f"{name} day {count}" for name, count in self._days.items())
        left_s = elapsed / max(1, self._fresh) * (self._total - self._done)
        eta = f"{left_s:.0f} s" if is_last or elapsed else "-"
        self.say(
            f"{self._done}/{self._total} shard-days ({days}), {self._requests} requests, {rate}, "
            f"ETA {eta}"
        )


class PeakMemory:
    """Samples the proportional set size of this process tree on a thread.

    Proportional sizes split shared pages among their sharers, so that torch's libraries, mapped
    into ten processes, count once.
    """

    def __init__(self, every_s: float = 3.0) -> None:
        self.peak_bytes = 0
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        root = psutil.Process()
        while True:
            total = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # it ended between the listing and the look
            self.peak_bytes = max(self.peak_bytes, total)
            if self._stop.wait(self._every_s):
                return

"""What a long run says while it runs: arms, days, requests per second, and when it will end.

Knows counts and a clock, not what they count. A bar on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 5.0


class RunProgress:
    """Counts finished shard-days per arm, and requests over all.

    Args:
        arms: their names.
        units_per_arm: shard-days an arm lives in all.
        stream: where to; standard error by default, so that standard output stays data.
        clock: seconds.
    """

    def __init__(
        self,
        arms: tuple[str, ...],
        units_per_arm: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._console = Console(file=stream or sys.stderr)
        self._total = units_per_arm * len(arms)
        self._done = 0
        self._fresh = 0
        self._requests = 0
        self._days = dict.fromkeys(arms, 0)
        self._started = clock()
        self._first_unit = 0.0
        self._last_line = -_LINE_EVERY_S
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:>12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._tasks = {
                arm: self._bar.add_task(arm, total=units_per_arm, note="") for arm in arms
            }

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line about a phase."""
        self._console.print(
            f"[{self._clock() - self._started:6.1f} s] {text}", highlight=False, soft_wrap=True
        )

    def lived(self, arm: str, day: int, requests: int, fresh: bool = True) -> None:
        """A shard of the arm has lived a day, with so many requests.

        Args:
            arm: whose day.
            day: which.
            requests: made by its users.
            fresh: False if an earlier part of a resumed run had lived it: then it took no time.
        """
        now = self._clock()
        self._done += 1
        if fresh:
            self._first_unit = self._first_unit or now
            self._fresh += 1
            self._requests += requests
        self._days[arm] = max(self._days[arm], day + 1)
        if self._bar:
            self._bar.update(self._tasks[arm], advance=1, note=f"day {day}, {self._rate(now)}")
        elif now - self._last_line >= _LINE_EVERY_S or self._done == self._total:
            self._last_line = now
            days = ", ".join(f"{name} day {count}" for name, count in self._days.items())
            self.say(
                f"{self._done}/{self._total} shard-days ({days}), {self._requests} requests, "
                f"{self._rate(now)}, ETA {self._eta(now)}"
            )

    def _rate(self, now: float) -> str:
        elapsed = now - (self._first_unit or now)
        return f"{self._requests / elapsed:.0f} requests/s" if elapsed > 0 else "-"

    def _eta(self, now: float) -> str:
        elapsed = now - (self._first_unit or now)
        if self._done == self._total or not elapsed:
            return "0 s" if self._done == self._total else "-"
        return f"{elapsed / self._fresh * (self._total - self._done):.0f} s"


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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

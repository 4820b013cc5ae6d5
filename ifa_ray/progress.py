"""What a training says while it runs: a bar on a terminal, a line now and then elsewhere.

Knows counts and a clock. Everything goes to standard error, so that standard output stays data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_LINE_EVERY_S = 10.0


class TrainingProgress:
    """Counts requests, and tells how long the others will take.

    Args:
        stream: where to; standard error by default.
        clock: seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._begun = clock()
        self._trained_since = self._last_line = self._begun
        self._first = self._total = 0
        self._version_text = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("reading", total=None, eta="")

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

    def begin(self, first: int, total: int) -> None:
        """So many requests of the stream were learned before, of so many."""
        self._first, self._total = first, total
        self._trained_since = self._clock()
        if first:
            self.say(f"continuing after {first:,} of {total:,} requests")

    def learned(self, requests: int) -> None:
        """So many requests of the stream are learned."""
        now = self._clock()
        done = requests - self._first
        rate = done / max(1e-9, now - self._trained_since)
        eta = f"ETA {(self._total - requests) / rate:.0f} s" if done else "ETA -"
        text = f"{requests:,} of {self._total:,} requests, {rate:.0f} a second"
        if self._version_text:
            text += f"; {self._version_text}"
        if self._bar:
            self._bar.update(
                self._task, description=text, total=self._total, completed=requests, eta=eta
            )
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self.say(f"{requests / max(1, self._total):.0%}, {text}, {eta}")

    def published(self, version: int, auc: float | None) -> None:
        """A version passed the gate and lies in the folder."""
        self._version_text = f"version {version}"
        if auc is not None:
            self._version_text += f", AUC {auc:.4f}"

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(f"[{self._clock() - self._begun:6.1f} s] {text}", markup=False)

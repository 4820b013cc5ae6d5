"""Progress of a command: a bar on a terminal, a line now and then elsewhere.

Knows counts and a clock. Everything goes to standard error, so that standard output stays data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY_S = 10.0


class CommandProgress:
    """Tells the share that is done, and how long the rest will take.

    Args:
        stream: where to; standard error by default.
        clock: seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._begun = self._phase_begun = self._last_line = clock()
        self._last_share = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("reading", total=None, eta="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(f"[{self._clock() - self._begun:6.1f} s] {text}", markup=False)

    def tell(self, text: str, share: float | None) -> None:
        """Shows what is being done and the share of it; None is a line that is said in any case."""
        if share is None:
            self.say(text)
            return
        now = self._clock()
        if share < self._last_share:  # another phase
            self._phase_begun = now
        self._last_share = share
        # The first steps pay for what is made once, and say nothing about the others.
        left_s = (now - self._phase_begun) / max(share, 1e-9) * (1 - share)
        eta = f"ETA {left_s:.0f} s" if share >= 0.03 else "ETA -"
        if self._console.is_terminal:
            self._bar.update(self._task, description=text, total=1.0, completed=share, eta=eta)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self.say(f"{share:.0%}, {text}, {eta}")


class TrainingProgress(CommandProgress):
    """Counts the requests of a stream."""

    def begin(self, first: int, total: int) -> None:
        """Training goes on after `first` of `total` requests."""
        self._first, self._total, self._version_text = first, total, ""
        self._phase_begun = self._clock()
        if first:
            self.say(f"continuing after {first:,} of {total:,} requests")

    def learned(self, requests: int) -> None:
        """The first `requests` of the stream are learned."""
        done = requests - self._first
        rate = done / max(1e-9, self._clock() - self._phase_begun)
        text = f"{requests:,} of {self._total:,} requests, {rate:.0f} a second{self._version_text}"
        self.tell(text, done / max(1, self._total - self._first))

    def published(self, version: int, auc: float | None) -> None:
        """A version passed the gate and lies in the folder."""
        self._version_text = f"; version {version}"
        if auc is not None:
            self._version_text += f", AUC {auc:.4f}"

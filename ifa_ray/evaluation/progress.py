"""What a comparison says while it runs: a bar on a terminal, a line now and then elsewhere.

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


class EvaluationProgress:
    """Counts batches over all runs that are still to be done, then the steps of the measurement.

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
        self._phase_begun = self._begun
        self._last_line = self._begun
        self._runs = 0
        self._done: dict[tuple[str, int], int] = {}
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

    def begin(self, runs: int, finished: int) -> None:
        """So many runs are to be done; others were finished by an earlier call."""
        self._runs = runs
        self._phase_begun = self._last_line = self._clock()
        if finished:
            self._say(f"{finished} runs were finished before; {runs} are missing")

    def batch(self, model: str, seed: int, done: int, total: int) -> None:
        """A run has done so many of its batches."""
        self._done[model, seed] = done
        share = sum(self._done.values()) / max(1, self._runs * total)
        self._show(f"{model}, seed {seed}, batch {done} of {total}", share)

    def measure(self, what: str, done: int, total: int) -> None:
        """The measurement of costs has done so many of its steps."""
        if done == 1:
            self._phase_begun = self._clock()
        self._show(f"measuring costs: {what}", done / total)

    def _show(self, text: str, share: float) -> None:
        now = self._clock()
        elapsed = now - self._phase_begun
        # The first batches pay for what is made once, and say nothing about the others.
        eta = f"ETA {elapsed / share * (1 - share):.0f} s" if share >= 0.03 else "ETA -"
        if self._bar:
            self._bar.update(self._task, description=text, total=1.0, completed=share, eta=eta)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._say(f"{share:.0%}, {text}, {eta}")

    def _say(self, text: str) -> None:
        self._console.print(f"[{self._clock() - self._begun:6.1f} s] {text}", markup=False)

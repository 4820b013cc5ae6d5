"""How much memory a process and all it started take at their peak; knows psutil only."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil


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

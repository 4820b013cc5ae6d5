"""What a shadow needs from disk: its version, and the file that takes its scores.

Knows checkpoints and settings; how a shadow keeps out of the way is `ifa_ray.serving.shadow`'s.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ifa_ray.data.log import read_items
from ifa_ray.errors import CheckpointError
from ifa_ray.ranker import ModelRanker
from ifa_ray.serving.history_store import HistoryStore
from ifa_ray.serving.settings import AppSettings
from ifa_ray.serving.shadow import Shadow
from ifa_ray.serving.slots import Loaded
from ifa_ray.training.checkpoint import load_model
from ifa_ray.training.storage import newest_version, version_here

__all__ = ["LineLog", "open_shadow"]

_KEPT = 3


class LineLog:
    """Lines in a file, which is turned over when it is full; the oldest go."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Makes the folder; the file comes with the first line.

        Args:
            path: of the newest lines; older ones are in `path.1` to `path.3`.
            max_bytes: of one file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._max_bytes = path, max_bytes

    def write(self, line: str) -> None:
        """Adds a line.

        Raises:
            OSError: if it cannot be written.
        """
        data = line.encode() + b"\n"
        if self._path.exists() and self._path.stat().st_size + len(data) > self._max_bytes:
            for number in range(_KEPT - 1, -1, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
        with self._path.open("ab") as file:
            file.write(data)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def open_shadow(
    settings: AppSettings,
    place: int,
    store: HistoryStore | None,
    count: Callable[[str, int], None],
) -> Shadow | None:
    """The shadow of a slot; None where its settings name none.

    Args:
        settings: of the application.
        place: which of its slots.
        store: of histories that requests leave out.
        count: as for `Shadow`.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
    """
    slot = settings.slots[place]
    if slot.shadow is None:
        return None
    folder = slot.shadow.checkpoints or slot.checkpoints
    assert folder is not None  # SlotSettings checked it
    version = newest_version(folder) if slot.shadow.version is None else slot.shadow.version
    if version is None:
        raise CheckpointError(f"slots[{place}].shadow: {folder} holds no version=... folder.")
    items = read_items(Path(slot.items))
    with version_here(folder, version) as here:
        model = load_model(here, items)
    model = model.to("cuda" if settings.num_gpus else "cpu")
    clock = time.thread_time if settings.num_threads == 1 else time.perf_counter
    ranker = ModelRanker(model, items, version, clock, settings.precision)
    # A file of its own for each process: replicas share the folder.
    name = f"{settings.name}-slot{place}-{socket.gethostname()}-{os.getpid()}.jsonl"
    log = LineLog(Path(slot.shadow.log) / name, slot.shadow.log_bytes)
    return Shadow(
        Loaded(version, ranker),
        share=slot.shadow.share,
        queue=slot.shadow.queue,
        write=log.write,
        count=count,
        store=store,
        begin=lambda: torch.set_num_threads(settings.num_threads),
    )

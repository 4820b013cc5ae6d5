"""Versions brought to a store as a training publishes them; a store that fails stops no learning.

Knows a folder of versions and a store; what a version is, is `checkpoint`'s. The folder is the
truth. What a store has missed comes with the next version, at the training's end, when it is
resumed, or by `python -m ifa_ray versions push`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifa_ray.errors import CheckpointError
from ifa_ray.training.checkpoint import published_versions
from ifa_ray.training.storage import VersionStore

__all__ = ["StorePublisher"]


class StorePublisher:
    """A tracker of a training (`ifa_ray.training.trackers`) that copies its versions.

    Args:
        url: of the store, see `VersionStore`.
        models: folder of the versions that passed the gate.
        say: told once when the store fails, and once when it takes versions again.
    """

    def __init__(self, url: str, models: Path, say: Callable[[str], None]) -> None:
        self._store, self._models, self._say = VersionStore.at(url), models, say
        self._fails = False

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: ARG002  (versions, not rows)
        """Called when a version is published: copies all that the store lacks, oldest first."""
        self._push()

    def close(self) -> None:
        """Tries a last time where the store has failed."""
        if self._fails:
            self._push()

    def missing(self) -> list[int]:
        """Versions of the folder that the store lacks; all of them if it cannot be asked."""
        ours = published_versions(self._models)
        try:
            there = self._store.versions()
        except CheckpointError:
            return ours
        return [version for version in ours if version not in there]

    def _push(self) -> None:
        try:
            pushed = self._store.push(self._models)
        except CheckpointError as error:
            if not self._fails:
                self._say(f"not copied, and learning goes on: {error}")
            self._fails = True
            return
        if self._fails:
            self._say(f"the store takes versions again: {', '.join(map(str, pushed))}")
        self._fails = False

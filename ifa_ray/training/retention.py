"""Which versions stay on disk: the last few, and the last of every day. Decides, then deletes.

Knows version numbers, days and folders. What is deleted loses its checkpoint.json first, so that a
process killed in between leaves nothing that looks like a version.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from ifa_ray.training.checkpoint import drop_optimizer, published_versions, version_folder
from ifa_ray.training.checkpoint_files import sync_folder

__all__ = ["apply_retention", "versions_to_keep"]


def versions_to_keep(days: Mapping[int, str], last: int, daily: bool) -> tuple[set[int], set[int]]:
    """Which of the versions stay.

    Args:
        days: of each version, the day of the last request that it has learned.
        last: so many of the newest stay whole.
        daily: whether the last version of every day stays too, without its optimiser state.

    Returns:
        Those that stay whole, and those that stay with their weights alone.
    """
    whole = set(sorted(days)[-last:])
    of_day = {day: version for version, day in sorted(days.items())} if daily else {}
    return whole, set(of_day.values()) - whole


def apply_retention(root: Path, days: Mapping[int, str], last: int, daily: bool) -> list[int]:
    """Deletes what need not stay.

    Args:
        root: of the versions.
        days: of the versions that may be deleted; others below `root` are left alone.
        last: see `versions_to_keep`.
        daily: see `versions_to_keep`.

    Returns:
        The versions that were deleted.
    """
    whole, weights = versions_to_keep(days, last, daily)
    for version in weights:
        drop_optimizer(version_folder(root, version))
    gone = [v for v in published_versions(root) if v in days and v not in whole | weights]
    for version in gone:
        (version_folder(root, version) / "checkpoint.json").unlink()
    if gone:
        sync_folder(root)
    # Also what a killed process began to delete.
    for folder in root.glob("version=*"):
        if not (folder / "checkpoint.json").exists():
            shutil.rmtree(folder)
    return gone
